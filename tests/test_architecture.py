"""docs/architecture.md names every room and only files that exist."""

import re

from conftest import ROOT
from test_layers import PACKAGE, ROOMS

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
IN_KITS = {"local/pneumonia_fl.yml", "local/resources.json", "startup/start.sh"}
NAMES = set(re.findall(r"`([\w./]+)`", PAGE))


def test_every_room_is_in_the_table_in_the_order_of_imports() -> None:
    table = PAGE.partition("## Rooms")[2].partition("\n## ")[0]
    listed = [name for name in re.findall(r"`([\w/]+)`", table) if name in ROOMS]
    assert listed == ROOMS


def test_every_path_on_the_page_exists() -> None:
    paths = {name for name in NAMES if "/" in name}
    assert len(paths) > 50
    assert {name for name in paths if not is_there(name)} == IN_KITS | {"jobs/NAME.yml"}


def is_there(name: str) -> bool:
    return any((top / path).exists() for top in (PACKAGE, ROOT) for path in (name, f"{name}.py"))
