"""Checks of data on this machine beside a kit: a site's prepared X-rays, and a person's runs."""

import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from pneumonia_fl.config.environment import DATA_VARIABLE, SITE_TRACKING_VARIABLE, data_root, site_tracking
from pneumonia_fl.data.manifest import CLASS_NAMES, INFO
from pneumonia_fl.data.prepare.validate import check
from pneumonia_fl.data.store import SiteData, open_site
from pneumonia_fl.errors import DataError
from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.doctor.instance import started_with
from pneumonia_fl.fl.kit.startup_kit import SITE_STATE_FOLDER, Kit
from pneumonia_fl.inputs.paths import expanded

_PREPARE = "prepare it with `pneumonia-fl data prepare`"


def data(kit: Kit) -> Iterator[Finding]:
    """Check that the site's data is configured, prepared for this site, complete and fit for training.

    A running site's data is what it was started with.
    """
    running = started_with(kit, DATA_VARIABLE)
    root = expanded(running) if running else kit.data_folder()
    if root is None:
        yield Finding(
            "fail", f"no data folder: write `data: DIR` into {kit.local}/pneumonia_fl.yml; {_PREPARE}"
        )
        return
    try:
        found = open_site(root, kit.name)
    except DataError as error:
        named = DATA_VARIABLE if running or data_root() else "local/pneumonia_fl.yml"
        yield Finding("fail", f"{error} ({named} says {root})")
        return
    yield _counts(found)
    folder = root / kit.name if (root / kit.name / INFO).is_file() else root
    yield from _open_to_others([folder, *folder.iterdir()], "X-rays and patients' ids")
    yield from check(folder)


def tracking(kit: Kit) -> Iterator[Finding]:
    """Report where the site's own series go."""
    where = started_with(kit, SITE_TRACKING_VARIABLE) or site_tracking().where
    if where == "server":
        where = kit.settings().tracking
    places = {
        "server": "to the server",
        "site": f"to {kit.folder / SITE_STATE_FOLDER} only",
        "both": "to both",
    }
    yield Finding("ok", f"this site's series go {places.get(where, where)}")


def runs(folder: Path) -> Iterator[Finding]:
    """Check that other users of this machine cannot read the runs in `folder`."""
    files = [file for state in sorted(folder.glob("*/run.json")) for file in (state.parent, state)]
    findings = list(_open_to_others(files, "models and results"))
    yield from findings or [Finding("ok", f"no run in {folder.absolute()} can be read by everybody")]


def _open_to_others(paths: Iterable[Path], what: str) -> Iterator[Finding]:
    found = next((path for path in paths if _readable_by_all(path)), None)
    if found is not None:
        folder = found if found.is_dir() else found.parent
        cure = f"run `chmod -R o= {shlex.quote(str(folder))}`"
        yield Finding("warn", f"every user of this machine can read {folder} ({what}); {cure}")


def _readable_by_all(path: Path) -> bool:
    """Return True when all users may read it and enter every folder above it; a group is the owner's choice."""
    way = path.resolve()
    return bool(way.stat().st_mode & stat.S_IROTH) and all(
        folder.stat().st_mode & stat.S_IXOTH for folder in way.parents
    )


def _counts(found: SiteData) -> Finding:
    splits = found.info.counts.get(found.name, {})
    words = [
        f"{split} {' + '.join(_count(classes, name) for name in CLASS_NAMES)}"
        for split, classes in splits.items()
    ]
    return Finding("ok", f"{found.name}: {', '.join(words)}")


def _count(classes: dict[str, int], name: str) -> str:
    return f"{classes.get(name, 0):,} {name}"
