"""Sites and orgs that are called like numbers or truth words keep their names in NVFlare's programs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from provisioning import SITES, Kits

from pneumonia_fl.fl.entrypoints import MODULE
from pneumonia_fl.fl.kit.start import needs_us


@pytest.mark.parametrize("name", ["007", "no", "yes", "true", "1e3", "nan", "1_000", "y"])
def test_a_name_arrives_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "shows.py").write_text(
        "import sys\nfrom nvflare.private.fed.app.fl_conf import parse_vars\nprint(parse_vars(sys.argv[1:]))\n"
    )
    settings = ["secure_train=true", f"uid={name}", f"org={name}", "n=3"]
    assert needs_us(settings)
    done = subprocess.run(
        [sys.executable, "-m", MODULE, "shows", *settings],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ast.literal_eval(done.stdout) == {"secure_train": True, "uid": name, "org": name, "n": 3}


def test_other_names_need_nothing() -> None:
    assert not needs_us(["secure_train=true", "uid=asia-hospital", "org=asia_hospital", "n=3", "-m"])


def test_only_the_kits_of_such_sites_start_differently(kits: Kits) -> None:
    kits.made("--add-site", "no:norway_hospital", "--add-site", "zero:007")
    scripts = {
        name: (kits.out / name / "startup/sub_start.sh").read_text() for name in ("no", "zero", SITES[0])
    }
    assert [MODULE in script for script in scripts.values()] == [True, True, False]
    assert {made["change"] for made in kits.made().values()} == {"unchanged"}
