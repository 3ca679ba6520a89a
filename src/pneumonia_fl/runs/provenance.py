"""Origin of this program's code."""

import subprocess
from pathlib import Path

import pneumonia_fl
from pneumonia_fl.config.environment import named_environment

_HERE = Path(pneumonia_fl.__file__).resolve()
TREE_DEPTH = 2
"""Folders between the package and the top of its own source tree: `src/pneumonia_fl`."""


def git_revision() -> str | None:
    """Return the commit of the source tree this package runs from; None for an installed one.

    The environment may lie inside another repository, whose commit says nothing about this program.
    """
    if _git("rev-parse", "--show-prefix") != "src/pneumonia_fl/" or not _git("ls-files", _HERE.name):
        return None
    project = _HERE.parents[TREE_DEPTH] / "pyproject.toml"
    ours = project.is_file() and 'name = "pneumonia-fl"' in project.read_text(encoding="utf-8")
    return _git("rev-parse", "HEAD") if ours else None


def _git(*words: str) -> str | None:
    """Return what git says in this folder; None when it has nothing to say."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(_HERE.parent), *words],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
            # Without GIT_DIR and the like, which a hook sets for its own repository.
            env=named_environment(("PATH", "HOME")),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def code_origin(module: Path) -> str:
    """Log whose code runs: never its path, since people who work elsewhere read the log."""
    return "shipped with the job" if "custom" in module.parts else "as installed"
