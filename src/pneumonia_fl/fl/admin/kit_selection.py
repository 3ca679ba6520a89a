"""Choose the person's kit of a command: no command acts with a key that the user has not named."""

from pathlib import Path

from pneumonia_fl.config.environment import KIT_VARIABLE, admin_kit
from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.kit.certificates import role_of
from pneumonia_fl.fl.kit.startup_kit import Kit, find_kits, open_kit

KITS = Path("kits")


def choose_kit(given: Path | None, acts: bool, kits: Path = KITS) -> Kit:
    """Return the kit that the user names, that of `PNEUMONIA_FL_KIT`, or the only one in `kits`.

    Args:
        given: `--kit`.
        acts: whether the command changes something on the server; then the user must name the kit.
        kits: where to look; a folder with a second kit, of whomever, is no person's own.

    Raises:
        KitError: none of these, or it is not a person's kit.
    """
    if chosen := given or admin_kit():
        return open_person(chosen)
    found = [] if acts or not kits.is_dir() else find_kits(kits)
    if len(found) != 1 or found[0].kind != "admin":
        raise KitError(f"no kit selected: pass --kit KIT (your own startup kit), or set {KIT_VARIABLE}")
    return found[0]


def open_person(folder: Path) -> Kit:
    """Open a person's kit.

    Raises:
        KitError: the folder is no kit, or that of a server or site.
    """
    kit = open_kit(folder)
    if kit.kind != "admin":
        raise KitError(f"{folder} is the kit of a {kit.kind}; give the kit of a person (name@…)")
    return kit


def identity(kit: Kit) -> str:
    """Return as whom the kit logs in, for people: `as lead@consortium.org (lead)`."""
    return f"as {kit.name} ({role_of(kit) or 'no role'})"
