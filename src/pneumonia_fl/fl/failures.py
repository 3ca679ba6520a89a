"""Finding, in NVFlare's logs, the one line that says why a run failed."""

from pathlib import Path

from pneumonia_fl.errors import RunError, SiteError
from pneumonia_fl.fl.messages import SITE_ERROR


def explain(workspace: Path) -> RunError | None:
    """The first site's own error in the logs below `workspace`, else the server's; None when there is no word."""
    logs = sorted(workspace.rglob("log.txt"))
    for log in logs:
        for line in _lines(log):
            if SITE_ERROR in line:
                return SiteError(f"site {_site(workspace, log)}: {line.split(SITE_ERROR, 1)[1].strip()}")
    for log in logs:
        for line in _lines(log):
            if " - ERROR - " in line:
                return RunError(line.split(" - ERROR - ", 1)[1].strip())
    return None


def _site(workspace: Path, log: Path) -> str:
    """Logs lie in `<workspace>/<job>/<site>/…`."""
    return log.relative_to(workspace).parts[1]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()
