"""What a command imports: the packages of others, as Python itself tells them when it runs the command."""

import subprocess
import sys
from importlib.util import find_spec

from speed import scaled

from conftest import CLI


def packages_of(*words: object) -> set[str]:
    """Packages that the installed command imports for these words, whatever its exit code; those of this
    interpreter's start (a `sitecustomize`) do not count."""
    return _imported(str(CLI), *map(str, words)) - _imported("-c", "pass")


def _imported(*words: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
    )
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    others = (name for name in names - sys.stdlib_module_names if not name.startswith("_"))
    return {name for name in others if find_spec(name)}  # Python also tells what was looked for in vain
