"""What only a site needs: its prepared X-rays."""

from collections.abc import Iterator
from pathlib import Path

from pneumonia_fl.data.check import Finding, check
from pneumonia_fl.data.manifest import CLASS_NAMES, INFO
from pneumonia_fl.data.store import SiteData, open_site
from pneumonia_fl.environment import DATA_VARIABLE, data_root
from pneumonia_fl.errors import DataError
from pneumonia_fl.fl.doctor.instance import started_with
from pneumonia_fl.fl.kits import Kit

_PREPARE = "prepare it with `pneumonia-fl data prepare`"


def data(kit: Kit) -> Iterator[Finding]:
    """Whether the site's data is named, prepared for this site, whole and fit for training.

    A running site's data is what it was started with.
    """
    running = started_with(kit, DATA_VARIABLE)
    root = Path(running) if running else data_root() or _setting(kit)
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
    yield from check(root / kit.name if (root / kit.name / INFO).is_file() else root)


def _setting(kit: Kit) -> Path | None:
    """The kit's own setting; a relative one is meant from the kit's folder."""
    setting = kit.settings().data
    return None if setting is None else kit.folder / setting


def _counts(found: SiteData) -> Finding:
    splits = found.info.counts.get(found.name, {})
    words = [
        f"{split} {' + '.join(_count(classes, name) for name in CLASS_NAMES)}"
        for split, classes in splits.items()
    ]
    return Finding("ok", f"{found.name}: {', '.join(words)}")


def _count(classes: dict[str, int], name: str) -> str:
    return f"{classes.get(name, 0):,} {name}"
