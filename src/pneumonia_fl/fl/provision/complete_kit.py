"""Complete NVFlare's kits: policies, stores, wheel, pages, rights on files, signature."""

import shutil
from pathlib import Path
from typing import Any

from pneumonia_fl.files import PRIVATE_FILE, PRIVATE_FOLDER
from pneumonia_fl.fl.kit.assets import pins, provisioning_folder
from pneumonia_fl.fl.kit.certificates import role_of
from pneumonia_fl.fl.kit.startup_kit import LOCAL_SETTINGS, Kit, open_kit
from pneumonia_fl.fl.provision.kit_readme import install_script, local_settings, page
from pneumonia_fl.fl.provision.signing import sign, verify
from pneumonia_fl.fl.provision.site_policy import AUTHORIZATION, RESOURCES, apply_policy

SCRIPTS = {".sh"}
COMMUNICATION = "comm_config.json"
"""NVFlare's settings of the network; ours let both ends of a connection notice within 20 s that it is dead."""


def finish(folder: Path, wheel: Path, policy: str | None, root_key: Any | None) -> Kit:
    """Complete a kit in place; what its owner has set in `local/` stays, unless a `policy` is named.

    `root_key` signs `startup/`; None for a kit whose key never left its site, which cannot be signed.

    Raises:
        KitError: `folder` is no kit.
        ConfigError: there is no such policy.
    """
    kit = open_kit(folder)
    _set_local(kit, policy)
    _write_tools(kit, wheel)
    if root_key is not None and verify(kit):
        sign(kit.startup, root_key)
    make_private(folder)
    return kit


def _set_local(kit: Kit, policy: str | None) -> None:
    fresh = not ((kit.local / AUTHORIZATION).exists() and (kit.local / RESOURCES).exists())
    if kit.kind != "admin" and (fresh or policy):
        apply_policy(kit.local, kit.kind, policy or "strict")
    if kit.kind != "admin" and (policy or not (kit.local / COMMUNICATION).exists()):
        shutil.copyfile(provisioning_folder() / COMMUNICATION, kit.local / COMMUNICATION)
    settings = local_settings(kit.kind)
    if settings and not (kit.local / LOCAL_SETTINGS).exists():
        (kit.local / LOCAL_SETTINGS).write_text(settings, encoding="utf-8")


def _write_tools(kit: Kit, wheel: Path) -> None:
    for old in kit.folder.glob("pneumonia_fl-*.whl"):
        old.unlink()
    shutil.copyfile(wheel, kit.folder / wheel.name)
    (kit.folder / "requirements.txt").write_text(pins(), encoding="utf-8")
    (kit.folder / "install.sh").write_text(install_script(), encoding="utf-8")
    (kit.folder / "README.md").write_text(page(kit, role_of(kit)), encoding="utf-8")
    (kit.folder / "readme.txt").unlink(missing_ok=True)


def make_private(folder: Path) -> None:
    """Make a folder and all in it private to its owner; scripts stay executable."""
    folder.chmod(PRIVATE_FOLDER)
    for path in folder.iterdir():
        if path.is_symlink() or path.name == "venv":
            continue
        if path.is_dir():
            make_private(path)
        else:
            path.chmod(PRIVATE_FOLDER if path.suffix in SCRIPTS else PRIVATE_FILE)
