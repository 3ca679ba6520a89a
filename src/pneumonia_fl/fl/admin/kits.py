"""Which person's kit a command works with."""

from pathlib import Path

from pneumonia_fl.environment import KIT_VARIABLE, admin_kit
from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.admin.refusals import role
from pneumonia_fl.fl.kits import find_kits

KITS = Path("kits")
LEAD = "lead"


def choose_kit(given: Path | None, kits: Path = KITS) -> Path:
    """The kit that the user names, that of `PNEUMONIA_FL_KIT`, or the only lead's kit in `kits`.

    Raises:
        KitError: none of these, or several leads have a kit there.
    """
    chosen = given or admin_kit()
    if chosen is not None:
        return chosen
    hint = f"pass --kit KIT (a person's startup kit), or set {KIT_VARIABLE}"
    if not kits.is_dir():
        raise KitError(f"whose login? {hint}")
    leads = [kit for kit in find_kits(kits) if kit.kind == "admin" and role(kit) == LEAD]
    if len(leads) != 1:
        names = ", ".join(kit.name for kit in leads) or "none"
        raise KitError(f"whose login? Leads with a kit in {kits}: {names}; {hint}")
    return leads[0].folder
