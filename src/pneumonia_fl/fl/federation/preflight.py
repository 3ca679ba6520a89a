"""What must be true before kits are started; the first thing that is not becomes one line that says what to do."""

import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pneumonia_fl.data.store import open_site
from pneumonia_fl.environment import cpu_count, data_root, site_threads
from pneumonia_fl.errors import KitError, RunError
from pneumonia_fl.fl.doctor.certificates import load
from pneumonia_fl.fl.doctor.guards import missing
from pneumonia_fl.fl.federation.participant import Participant
from pneumonia_fl.fl.kits import LOCAL_SETTINGS
from pneumonia_fl.fl.plan import share_cores
from pneumonia_fl.fl.provision.signing import verify


@dataclass(frozen=True)
class SitePlan:
    """What a site gets on this machine."""

    data: Path
    threads: int


def check(participants: Sequence[Participant]) -> None:
    """Refuse what cannot start.

    Raises:
        KitError: an incomplete or changed kit, an expired certificate, a server name that nobody knows.
        RunError: a kit runs already, or the server's port is taken.
    """
    for one in participants:
        _check_kit(one)
        if one.running():
            folder = shlex.quote(str(one.kit.folder))
            raise RunError(f"{one.name} runs already; end it first: pneumonia-fl down {folder}")
    for one in participants:
        if one.kit.kind == "server":
            _check_port(one)
    for host in dict.fromkeys(one.kit.host for one in participants):
        _check_name(host)


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


def _check_kit(one: Participant) -> None:
    for name in ("start.sh", "sub_start.sh"):
        if not (one.kit.startup / name).is_file():
            raise KitError(f"{one.kit.folder} lacks startup/{name}; ask the Lead IT for a new kit")
    if one.kit.kind == "server" and any(c.isspace() for c in str(one.kit.folder.resolve())):
        # NVFlare resolves links in the command lines of the server's jobs, and does not quote them.
        raise KitError(
            f"{one.kit.folder}: NVFlare cannot start a server's jobs in a path with a space; move the kit"
        )
    if changed := verify(one.kit):
        names = ", ".join(changed)
        raise KitError(f"{one.kit.startup} is not as it was signed ({names}); ask the Lead IT for a new kit")
    if gap := next(missing(one.kit), ""):
        raise KitError(
            f"{one.name} is not guarded: {gap}; `pneumonia-fl doctor {one.kit.folder}` says what to do"
        )
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


def _check_port(server: Participant) -> None:
    port = server.kit.port
    with socket.socket() as probe:
        # As NVFlare's server would: connections that are about to close do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise RunError(
                f"server {server.name} cannot have port {port} ({error.strerror}); end what uses it "
                f"(`ss -ltnp 'sport = :{port}'` names it) or provision another port"
            ) from None


def _check_name(host: str) -> None:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        raise KitError(
            f"the server's name {host} is unknown on this machine; add it to DNS or /etc/hosts"
        ) from None
