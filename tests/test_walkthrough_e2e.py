"""The pages for those who run the federation, and README's, typed from the first command to the last, on one server.

(The researchers' pages are in test_admin_docs_e2e.py, the commands of a laptop in test_readme.py.)
"""

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT, pneumonia_fl
from federation import SERVER, free_port, marked_below
from provisioning import Kits
from test_provision_install import linked_environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
BASH = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
SITE = "asia-hospital"
# What the pages do with large data, with files of the reader's own, or without end.
FASTER = {
    "--size 64": "--size 32",
    "images=600": "images=120,size=32,sites=3",
    "images=200": "images=60,size=32,sites=1",
    "--rounds 3": "--rounds 1 --set train.local_epochs=1",
    "tail -f": "tail",
    "--source /srv/x-rays": "--source synthetic:images=60,size=32,sites=1",
    "/srv/prepared": "../prepared",
}


@pytest.fixture(scope="module")
def desk(original_kits: Kits, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with project.yml, and at the end nothing that runs."""
    folder = tmp_path_factory.mktemp("desk")
    port = f"fed_learn_port: {free_port()}"
    (folder / "project.yml").write_text(
        (ROOT / "project.yml").read_text().replace("fed_learn_port: 8002", port)
    )
    yield folder
    pneumonia_fl("down", folder / "kits", "--yes")
    assert marked_below(folder) == {}


def typed(page: str, first: str = "", last: str = "") -> list[str]:
    """The blocks of commands of a page between two headings, made faster."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = text[text.index(first) : text.index(last) if last else None]
    for slow, fast in FASTER.items():
        text = text.replace(slow, fast)
    return [block for block in BASH.findall(text) if "../shared" not in block]


def run(block: str, folder: Path) -> str:
    """Run commands in a shell that stops at the first failure; return what was printed."""
    offline = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"} if "install.sh" in block else {}
    environment = {**os.environ, **offline}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=420, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_lead_it(desk: Path) -> None:
    """All but the last step: the next tests need the server."""
    said = ""
    for block in typed("docs/quickstart-lead-it.md", "## 1.", "## 8."):
        if "./install.sh" in block:
            linked_environment(desk / "kits" / SERVER / "venv")
        said += run(block, desk)
    assert f"{SITE}: registered" in said
    assert "africa-hospital: registered" in said
    assert f"{SERVER} runs already" in said


def test_site_it(desk: Path) -> None:
    """On another machine: from the archive that the Lead IT has packed, with the upgrade and the new identity."""
    run(f"pneumonia-fl down kits/{SITE}", desk)
    machine = desk / "machine"
    machine.mkdir()
    for name in (f"{SITE}.tar.gz", "asia-startup.tar.gz"):
        (desk / "kits" / name).rename(machine / name)
    kit = desk / "kits" / SITE
    with tarfile.open(machine / "upgrade.tar.gz", "w:gz") as archive:
        for path in (kit / "requirements.txt", *kit.glob("*.whl")):
            archive.add(path, path.name)
    linked_environment(machine / SITE / "venv")
    settings = "printf 'data: ../prepared\\n' > local/pneumonia_fl.yml\n"
    install, prepare, *rest = typed("docs/quickstart-site-it.md")
    said = run("".join([install, prepare, settings, *rest]), machine)
    assert said.count(f"{SITE}: registered") == 3
    assert not (machine / SITE).exists()


def test_readme_on_real_servers(desk: Path) -> None:
    """With the kits of the Lead IT's page: `up` starts the one that does not run."""
    (block,) = typed("README.md", "## On real servers", "## What is in here")
    said = run(block, desk)
    assert f"{SITE}: registered" in said
    assert "best global model" in said


def test_lead_it_makes_room_and_stops(desk: Path) -> None:
    room, stop = typed("docs/quickstart-lead-it.md", "## 8.")
    assert "nothing to remove" in run(room, desk)  # the job of README has just ended
    assert "nothing was running" in run(stop, desk)
