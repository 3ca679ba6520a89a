"""Check the requirements of kits before they are started; the first failure becomes one line with its fix."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pneumonia_fl.config.environment import cpu_count, site_threads
from pneumonia_fl.data.store import open_site
from pneumonia_fl.errors import KitError, RunError
from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.doctor import kit_files as files
from pneumonia_fl.fl.doctor.guards import guards
from pneumonia_fl.fl.doctor.identity_checks import certificate, clock, key_pair
from pneumonia_fl.fl.doctor.instance import twice
from pneumonia_fl.fl.doctor.network import server_name, through
from pneumonia_fl.fl.doctor.server_checks import port
from pneumonia_fl.fl.job.plan import share_cores
from pneumonia_fl.fl.kit.certificates import ASK_FOR_A_NEW_KIT
from pneumonia_fl.fl.kit.file_modes import mend
from pneumonia_fl.fl.kit.grpc_proxy import ProxyRefusal, proxy_for
from pneumonia_fl.fl.kit.startup_kit import LOCAL_SETTINGS, Kit, down_command, kit_python
from pneumonia_fl.fl.services.participant import Service

PYTHON_SECONDS = 30.0


@dataclass(frozen=True)
class SitePlan:
    """A site's data and threads on this machine."""

    data: Path
    threads: int


def check(services: Sequence[Service], say: Callable[[str], None]) -> list[Service]:
    """Return those who are to be started, which are all that do not run yet; refuse what cannot start.

    Lost file modes are mended, and `say` is told.

    Raises:
        KitError: an incomplete or changed kit, one of the doctor's checks fails, or a proxy is in the way.
        RunError: all of them run already, or one of them elsewhere.
    """
    for one in services:
        _check_startup(one)
    running = {one.name: where for one in services if (where := _runs(one))}
    waiting = [one for one in services if one.name not in running]
    if not waiting:
        folder = services[0].kit.folder
        down = down_command(folder if len(services) == 1 else folder.parent)
        raise RunError(
            f"{', '.join(running.values())}; end {'it' if len(running) == 1 else 'them'} first: {down}"
        )
    for where in running.values():
        say(where)
    for kit in (one.kit for one in waiting):
        _examine(kit, files.writable)
        mend(kit, say)
        _check_python(kit)
        _examine(kit, guards, clock, certificate, key_pair)
    for kit in (one.kit for one in waiting):
        if kit.kind == "server":
            _examine(kit, port)
        if not proxy_for(kit.host):  # else the proxy looks for it
            _examine(kit, server_name)
    _check_proxy(waiting)
    return waiting


def site_plans(sites: Sequence[Service], data: Path | None) -> dict[str, SitePlan]:
    """Return each site's prepared data and number of threads.

    Data: below `data`, else where `PNEUMONIA_FL_DATA` or the kit's settings say. Threads: what the owner has set,
    else the site's share of this machine by its training images.

    Raises:
        KitError: the data folder is not configured.
        DataError: there is no prepared data of that site.
    """
    folders = {site.name: _data_folder(site, data) for site in sites}
    infos = {name: open_site(folder, name).info for name, folder in folders.items()}
    images = {name: sum(info.counts[name].get("train", {}).values()) for name, info in infos.items()}
    shares = share_cores(images, cpu_count())
    threads = {
        site.name: site_threads(site.name) or site.kit.settings().threads or shares[site.name]
        for site in sites
    }
    return {name: SitePlan(folder, threads[name]) for name, folder in folders.items()}


def _data_folder(site: Service, data: Path | None) -> Path:
    if found := data or site.kit.data_folder():
        return found.absolute()
    file = site.kit.local / LOCAL_SETTINGS
    raise KitError(f"site {site.name} has no data; write `data: FOLDER` into {file}, or pass --data FOLDER")


def _runs(one: Service) -> str:
    """Describe the process of a running kit; "" when it does not run.

    Raises:
        RunError: only a part of it runs, or it runs from another folder.
    """
    for refusal in twice(one.kit):
        raise RunError(refusal)
    if not (living := one.main() or one.loop() or next(iter(one.processes()), None)):
        return ""
    what = f"{one.name} runs already, process {living.pid}"
    if not (one.main() or one.loop()):
        raise RunError(
            f"{what}, of a start that did not end well; end it first: {down_command(one.kit.folder)}"
        )
    return what


def _check_startup(one: Service) -> None:
    """Refuse a changed kit, whether or not the service runs already."""
    for name in ("start.sh", "sub_start.sh"):
        if not (one.kit.startup / name).is_file():
            raise KitError(f"{one.kit.folder} lacks startup/{name}; {ASK_FOR_A_NEW_KIT}")
    _examine(one.kit, files.signature)


def _examine(kit: Kit, *checks: Callable[[Kit], Iterable[Finding]]) -> None:
    """Refuse a kit in the words of the first of the doctor's checks that fails."""
    for finding in chain.from_iterable(check(kit) for check in checks):
        if finding.level == "fail":
            whose = "" if kit.name in finding.message else f"{kit.name}: "
            raise KitError(f"{whose}{finding.message}")


def _check_python(kit: Kit) -> None:
    """Require the packages in the kit's own environment; NVFlare's loop would retry for long."""
    python, again = kit_python(kit), shlex.quote(str(kit.folder / "install.sh"))
    if python == Path(sys.executable):
        return
    code = "import importlib.util as u; print(*[n for n in ('nvflare', 'pneumonia_fl', 'torch') if not u.find_spec(n)])"
    try:
        done = subprocess.run(
            [str(python), "-c", code], capture_output=True, text=True, timeout=PYTHON_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise KitError(
            f"{python} does not run ({getattr(error, 'strerror', None) or error}); run {again}"
        ) from None
    if lacking := done.stdout.split():
        raise KitError(f"{python} has no {', '.join(lacking)}; run {again}")


def _check_proxy(waiting: Sequence[Service]) -> None:
    """Refuse a proxy that cannot lead to the server; one whose server is down may."""
    here = {one.kit.port for one in waiting if one.kit.kind == "server"}
    for kit in (one.kit for one in waiting if one.kit.kind == "site"):
        if (proxy := proxy_for(kit.host)) is None:
            continue
        what = proxy.way(kit.host, kit.port)
        if kit.port in here:
            raise KitError(f"{what}, but the server is on this machine; {proxy.cure(kit.host)}")
        try:
            through(proxy, kit).close()
        except ProxyRefusal as error:
            if error.status < 500:
                raise KitError(f"{what}, which {error.strerror}; {proxy.cure(kit.host)}") from None
