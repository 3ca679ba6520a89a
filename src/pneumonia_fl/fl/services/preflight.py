"""What must be true before kits are started; the first thing that is not becomes one line that says what to do."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pneumonia_fl.config.environment import cpu_count, data_root, site_threads
from pneumonia_fl.data.store import open_site
from pneumonia_fl.errors import KitError, RunError, TimeLimitError
from pneumonia_fl.fl.doctor.certificates import load
from pneumonia_fl.fl.doctor.guards import missing
from pneumonia_fl.fl.doctor.instance import elsewhere
from pneumonia_fl.fl.doctor.network import NAME_SECONDS, through, within
from pneumonia_fl.fl.doctor.server_checks import port_error
from pneumonia_fl.fl.job.plan import share_cores
from pneumonia_fl.fl.kit.file_modes import mend
from pneumonia_fl.fl.kit.grpc_proxy import ProxyRefusal, proxy_for
from pneumonia_fl.fl.kit.startup_kit import LOCAL_SETTINGS, Kit, kit_python
from pneumonia_fl.fl.provision.signing import verify
from pneumonia_fl.fl.services.participant import Participant

PYTHON_SECONDS = 30.0


@dataclass(frozen=True)
class SitePlan:
    """What a site gets on this machine."""

    data: Path
    threads: int


def check(participants: Sequence[Participant], say: Callable[[str], None]) -> list[Participant]:
    """Return those who are to be started, which are all that do not run yet; refuse what cannot start.

    Lost file modes are mended, and `say` is told.

    Raises:
        KitError: an incomplete or changed kit, an expired certificate, a server name that nobody knows, a proxy.
        RunError: all of them run already, one of them elsewhere, or the server's port is taken.
    """
    for one in participants:
        _check_startup(one)
    running = {one.name: where for one in participants if (where := _runs(one))}
    waiting = [one for one in participants if one.name not in running]
    if not waiting:
        folder = participants[0].kit.folder
        down = _down(folder if len(participants) == 1 else folder.parent)
        raise RunError(
            f"{', '.join(running.values())}; end {'it' if len(running) == 1 else 'them'} first: {down}"
        )
    for where in running.values():
        say(where)
    for one in waiting:
        _check_kit(one, say)
    for one in waiting:
        if one.kit.kind == "server":
            _check_port(one)
    for host in dict.fromkeys(one.kit.host for one in waiting):
        _check_name(host)
    _check_proxy(waiting)
    return waiting


def site_plans(sites: Sequence[Participant], data: Path | None) -> dict[str, SitePlan]:
    """Where each site's prepared data is, and how many threads it may use.

    Data: below `data`, else where `PNEUMONIA_FL_DATA` or the kit's settings say. Threads: what the owner has set,
    else the site's share of this machine by its training images.

    Raises:
        KitError: nobody says where the data is.
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


def _data_folder(site: Participant, data: Path | None) -> Path:
    given = data or data_root()
    if given:
        return given.absolute()
    setting = site.kit.settings().data
    if setting is None:
        file = site.kit.local / LOCAL_SETTINGS
        raise KitError(
            f"site {site.name} has no data; write `data: FOLDER` into {file}, or pass --data FOLDER"
        )
    return site.kit.folder / setting


def _runs(one: Participant) -> str:
    """Say that a kit runs, with its process; "" when it does not.

    Raises:
        RunError: only a part of it runs, or it runs from another folder.
    """
    for other in elsewhere(one.kit):
        what = f"{one.name} runs already from {other.home}, process {other.process.pid}"
        raise RunError(f"{what}; it may run once only, end it first: {_down(other.home)}")
    if not (living := one.main() or one.loop() or next(iter(one.processes()), None)):
        return ""
    what = f"{one.name} runs already, process {living.pid}"
    if not (one.main() or one.loop()):
        raise RunError(f"{what}, of a start that did not end well; end it first: {_down(one.kit.folder)}")
    return what


def _down(folder: Path) -> str:
    return f"pneumonia-fl down {shlex.quote(str(folder))}"


def _check_startup(one: Participant) -> None:
    """Refuse a changed kit, whether or not the participant runs already."""
    for name in ("start.sh", "sub_start.sh"):
        if not (one.kit.startup / name).is_file():
            raise KitError(f"{one.kit.folder} lacks startup/{name}; ask the Lead IT for a new kit")
    if changed := verify(one.kit):
        names = ", ".join(changed)
        raise KitError(f"{one.kit.startup} is not as it was signed ({names}); ask the Lead IT for a new kit")


def _check_kit(one: Participant, say: Callable[[str], None]) -> None:
    if not os.access(one.kit.folder, os.W_OK):
        raise KitError(f"{one.kit.folder} is not writable for you; start as the kit's owner")
    mend(one.kit, say)
    _check_python(one.kit)
    if gap := next(missing(one.kit), ""):
        doctor = f"pneumonia-fl doctor {shlex.quote(str(one.kit.folder))}"
        raise KitError(f"{one.name} is not guarded: {gap}; `{doctor}` says what to do")
    now = datetime.now(UTC)
    for path in (one.kit.certificate, one.kit.root_certificate):
        begin, end = load(path).not_valid_before_utc, load(path).not_valid_after_utc
        if end < now:
            raise KitError(
                f"{one.name}: {path.name} has expired on {end:%Y-%m-%d}; the Lead IT renews it with "
                f"`pneumonia-fl provision --renew {one.name}`"
            )
        if begin > now:
            raise KitError(
                f"{one.name}: {path.name} is valid from {begin:%Y-%m-%d %H:%M} UTC on; set this machine's clock"
            )


def _check_python(kit: Kit) -> None:
    """Whether the kit's own environment has what it needs; NVFlare's loop would try for long."""
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


def _check_port(server: Participant) -> None:
    if error := port_error(server.kit.port):
        raise RunError(
            f"server {server.name} cannot have port {server.kit.port} ({error.strerror}); end what uses it "
            f"(`ss -ltnp 'sport = :{server.kit.port}'` names it) or provision another port"
        )


def _check_name(host: str) -> None:
    if proxy_for(host):
        return  # the proxy looks for it
    try:
        within(NAME_SECONDS, lambda: socket.getaddrinfo(host, None))
    except OSError:
        raise KitError(
            f"the server's name {host} is unknown on this machine; add it to DNS or /etc/hosts"
        ) from None
    except TimeLimitError:
        raise TimeLimitError(
            f"no answer from DNS about {host} in {NAME_SECONDS:g} s; ask your network's IT"
        ) from None


def _check_proxy(waiting: Sequence[Participant]) -> None:
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
