"""Check whether the kit runs already: from this folder, or the same identity from another one."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import psutil

from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.kit.kit_processes import LOOP_FILE, KitProcess, kit_processes, main_of, processes_of
from pneumonia_fl.fl.kit.startup_kit import Kit, down_command


def instance(kit: Kit) -> Iterator[Finding]:
    """Check `daemon_pid.fl` and the machine's processes of this kit."""
    if kit.kind == "admin":
        return
    yield from (Finding("fail", refusal) for refusal in twice(kit))
    if main := main_of(kit):
        yield Finding("ok", f"it runs from this kit, process {main.pid}; start.sh starts no second one")
        yield from _moved(kit)
        return
    yield from _left_over(kit) or _pid_file(kit)
    yield Finding("ok", "it does not run from this kit")


def twice(kit: Kit) -> Iterator[str]:
    """Report each other folder from which the same identity runs; it must be stopped first."""
    for other in _elsewhere(kit):
        what = f"{kit.name} runs already from {other.home}, process {other.process.pid}"
        yield f"{what}; a {kit.kind} must not run twice, stop that one first: {down_command(other.home)}"


def _elsewhere(kit: Kit) -> list[KitProcess]:
    """Find processes of the same identity in other folders: the server would alternate between them."""
    folder = kit.folder.resolve()
    found = {
        one.home: one  # the youngest: those before it only started it
        for one in kit_processes()
        if one.runs == kit.kind and one.home != folder and _same_certificate(kit, one.home)
    }
    return list(found.values())


def started_with(kit: Kit, variable: str) -> str | None:
    """Return an environment variable of the running kit; None when it is not set or the kit does not run."""
    main = main_of(kit)
    with contextlib.suppress(psutil.Error, OSError):
        return main.environ().get(variable) or None if main else None
    return None


def _moved(kit: Kit) -> Iterator[Finding]:
    """Report a kit that was renamed while it runs: NVFlare looks for its files at the old path."""
    folder = kit.folder.resolve()
    if any(one.runs and one.started != folder for one in processes_of(kit)):
        again = f"`{down_command(kit.folder)}`, then `up`"
        yield Finding("warn", f"the kit was moved while it runs, and its next job would fail; {again}")


def _left_over(kit: Kit) -> list[Finding]:
    """Report processes whose parent process is gone."""
    found = processes_of(kit)
    if not found:
        return []
    if any(one.is_loop for one in found):
        pid = found[0].process.pid
        return [Finding("warn", f"start.sh is starting it, process {pid}; look again in some seconds")]
    cure = f"run `{down_command(kit.folder)}`"
    return [Finding("fail", f"process {found[0].process.pid} of an earlier start is left; {cure}")]


def _pid_file(kit: Kit) -> Iterator[Finding]:
    file = kit.folder / LOOP_FILE
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8", errors="replace").strip()
    pid = int(text) if text.isdecimal() else 0
    if not pid or not psutil.pid_exists(pid):
        yield Finding("warn", f"{file} is left over: its process {text} is gone; start.sh will remove it")
    else:
        cure = f"start.sh would not start beside it: `rm {shlex.quote(str(file))}`"
        yield Finding("fail", f"{file} names process {pid}, which is another program; {cure}")


def _same_certificate(kit: Kit, folder: Path) -> bool:
    """Compare the certificates: another project may have a participant of the same name."""
    try:
        return (folder / "startup" / kit.certificate.name).read_bytes() == kit.certificate.read_bytes()
    except OSError:  # gone, or another user's kit, which only they can read
        return False
