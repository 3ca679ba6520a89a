"""The signature over `startup/`: every change is found, NVFlare starts no edited kit, provisioning mends it."""

import shutil
from pathlib import Path

import pytest
from provisioning import SERVER, SITES, Kits, start_once

from conftest import pneumonia_fl
from pneumonia_fl.fl.kit.startup_kit import open_kit
from pneumonia_fl.fl.provision.signing import verify

LEAD = "lead@consortium.org"


@pytest.mark.parametrize("name", [SERVER, SITES[0], LEAD])
def test_every_change_of_a_startup_file_is_found(kits: Kits, name: str) -> None:
    kit = open_kit(kits.out / name)
    assert verify(kit) == []
    for path in [path for path in kit.startup.iterdir() if path.name not in ("signature.json", "rootCA.pem")]:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert verify(kit) == [path.name]
        path.unlink()
        assert verify(kit) == [path.name]
        path.write_bytes(content)
    (kit.startup / "more.json").write_text("{}")
    assert verify(kit) == ["more.json"]
    (kit.startup / "more.json").unlink()
    (kit.startup / "signature.json").unlink()
    assert verify(kit) == ["signature.json"]


def test_a_signature_of_another_root_fits_nothing(kits: Kits, tmp_path: Path) -> None:
    other = pneumonia_fl("provision", kits.project, "--out", tmp_path / "other", "--wheel", kits.wheel)
    assert other.returncode == 0, other.stderr
    kit = open_kit(kits.out / SITES[0])
    shutil.copy(tmp_path / "other" / SITES[0] / "startup" / "rootCA.pem", kit.root_certificate)
    assert set(verify(kit)) == {path.name for path in kit.startup.iterdir()} - {"signature.json"}


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "file"), [(SERVER, "fed_server.json"), (SITES[0], "fed_client.json"), (SITES[0], "client.crt")]
)
def test_nvflare_does_not_start_an_edited_kit(kits: Kits, name: str, file: str) -> None:
    path = kits.out / name / "startup" / file
    path.write_bytes(path.read_bytes() + b"\n")
    done = start_once(kits.out / name)
    assert done.returncode == 1
    said = done.stdout.splitlines()
    assert said[said.index("The following files are not secure content.") + 1] == file


def test_provisioning_again_mends_an_edited_kit(kits: Kits) -> None:
    kit = open_kit(kits.out / SITES[0])
    settings = kit.startup / "fed_client.json"
    settings.write_text(settings.read_text() + " ")
    (kits.out / SITES[2] / "startup" / "signature.json").unlink()
    made = kits.made()
    assert {made[SITES[0]]["change"], made[SITES[2]]["change"]} == {"updated"}
    assert verify(kit) == []
    assert verify(open_kit(kits.out / SITES[2])) == []
