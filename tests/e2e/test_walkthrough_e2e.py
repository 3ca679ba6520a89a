"""The pages for those who run the federation, and README's, typed from the first command to the last, on one server.

(The researchers' pages are in test_admin_docs_e2e.py, the commands of a laptop in test_laptop_pages_e2e.py.)
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import run, typed
from provisioning import Kits, linked_environment

from conftest import ROOT, pneumonia_fl
from federation import SERVER, free_port, marked_below

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SITE = "asia-hospital"


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


def test_readme_and_results_on_real_servers(desk: Path) -> None:
    """Start and end one federation for the data of each page."""
    pages = (("README.md", "## Real servers"), ("docs/results.md", "## PneumoniaMNIST through"))
    for block in [block for page, first in pages for block in typed(page, first)]:
        said = run(block, desk)
        assert f"{SITE}: registered" in said
        assert "best global model" in said
        assert re.search(f"^ended .*{SITE}", said, flags=re.MULTILINE)


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


def test_lead_it_makes_room_and_stops(desk: Path) -> None:
    room, stop = typed("docs/quickstart-lead-it.md", "## 8.")
    assert "nothing to remove" in run(room, desk)  # the jobs of README have just ended
    assert SERVER in run(stop, desk)
    assert "nothing was running" in run(stop, desk)
