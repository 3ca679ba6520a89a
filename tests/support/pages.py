"""The pages as scripts: their commands in the order in which they stand, with fewer and smaller images and rounds."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from speed import scaled

from conftest import ROOT

BASH = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
SYNTHETIC = "synthetic:images=120,size=32,sites=3"
FASTER = {
    r"synthetic:images=200 ": "synthetic:images=60,size=32,sites=1 ",
    r"synthetic:images=\d+ ": f"{SYNTHETIC} ",
    r"--source kaggle": f"--source {SYNTHETIC}",
    r"--source (chest_xray|pneumoniamnist\.npz)": f"--source {SYNTHETIC}",
    r"--source path/to/x-rays": "--source synthetic:images=80,size=32,sites=2",
    r"--source /srv/x-rays": "--source synthetic:images=60,size=32,sites=1",
    r"/srv/prepared": "../prepared",
    r"--size (64|128)\b": "--size 32",
    r"(?<=-fl )((?:run|compare) (?!.*--from).*)": r"\1 --rounds 1 --set train.local_epochs=1",
    r"--rounds [2-9]": "--rounds 1",
    r"--seeds 3": "--seeds 1",
    r"tail -f": "tail",
}
"""What the pages do with large data, with files of the reader's own, or without end; the last of two options counts."""
NAMED = re.compile(r"\b(?:data|runs)/[\w-]+")
"""Data and runs as the pages name them."""
NOT_TYPED = {
    "pneumonia-fl data fetch": "downloads 1.2 GB with somebody's login at Kaggle; test_kaggle.py has a stand-in",
    "source .venv/bin/activate": "the tests run in the environment already",
}


class Desk:
    """Commands that were typed, so that one that stands on two pages under other folders' names is typed once."""

    def __init__(self) -> None:
        self._made: dict[str, list[Path]] = {}

    def knows(self, command: str, folder: Path) -> bool:
        """Whether a command with the same options was typed before; what it made then is copied into `folder`."""
        mine = [folder / name for name in NAMED.findall(command)]
        before = self._made.setdefault(NAMED.sub("NAME", command), mine)
        if before == mine or not all(path.exists() for path in before):
            return False
        for source, target in zip(before, mine, strict=True):
            if not target.exists():
                shutil.copytree(source, target)
        return True


def typed(page: str, first: str = "", last: str = "") -> list[str]:
    """The blocks of commands of a page between two headings, made faster."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = text[text.index(first) : text.index(last) if last else None]
    return [_faster(block) for block in BASH.findall(text)]


def demo() -> list[str]:
    """What `make demo` types once everything is installed, made faster."""
    recipe = (
        (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndemo: setup\n")[2].partition("\n\n")[0]
    )
    return [_faster(line.strip().replace("@", "").replace("$(BIN)/", "")) for line in recipe.splitlines()]


def _faster(commands: str) -> str:
    for slow, fast in FASTER.items():
        commands = re.sub(slow, fast, commands)
    return commands


def run(commands: str, folder: Path) -> str:
    """Run commands in a shell that stops at the first failure; return what was printed."""
    offline = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"} if "install.sh" in commands else {}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder, env=_environment() | offline, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=scaled(900), check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{commands}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def look(command: str, folder: Path) -> str:
    """Run a command that shows something until Ctrl-C; return what it printed."""
    with subprocess.Popen(
        [*shlex.split(command), "--port", "0"],
        cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as viewer:  # fmt: skip
        assert viewer.stdout is not None
        said = []
        for line in viewer.stdout:
            said.append(line)
            if "http://" in line:
                viewer.terminate()  # ends it as Ctrl-C does, which a shell in the background has switched off
    assert any("http://" in line for line in said), f"{command}\n{''.join(said)}"
    return "".join(said)


def _environment() -> dict[str, str]:
    """As in a terminal where the environment is active."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
