"""Progress of the sites in a round: a bar each, or of many sites one bar and the few that are behind."""

from collections.abc import Sequence

from rich.progress import Progress, TaskID

from pneumonia_fl.runs.journal import LOSS_POINTS

FEW_SITES = 12
"""Up to this many sites have a line each."""
NAMED = 3
"""How many of the sites that are behind are named."""


class SiteBars:
    """Shows where each site is in its round."""

    def __init__(self, bars: Progress, sites: Sequence[str]) -> None:
        self._bars = bars
        self._points = dict.fromkeys(sites, 0)
        self._single: dict[str, TaskID] = {}
        self._all: TaskID | None = None
        self._words = "waiting"
        if len(sites) > FEW_SITES:
            self._all = bars.add_task(f"  {len(sites):,} sites", total=len(sites), note="waiting")
        else:
            self._single = {
                site: bars.add_task(f"  {site}", total=LOSS_POINTS, note="waiting") for site in sites
            }

    def begin(self, words: str) -> None:
        """Set all sites to the beginning of a task."""
        self._words = words
        self._points = dict.fromkeys(self._points, 0)
        for task in self._single.values():
            self._bars.reset(task, note=words)
        self._show_all()

    def trained(self, site: str, loss: float) -> None:
        """Note one of the `LOSS_POINTS` reports of a site's round."""
        self._points[site] = min(self._points.get(site, 0) + 1, LOSS_POINTS - 1)
        if site in self._single:
            self._bars.update(self._single[site], advance=1, note=f"training loss {loss:.3f}")
        self._show_all()

    def done(self, site: str) -> None:
        """Note a site's result."""
        self._points[site] = LOSS_POINTS
        if site in self._single:
            self._bars.update(self._single[site], completed=LOSS_POINTS, note="done")
        self._show_all()

    def _show_all(self) -> None:
        if self._all is not None:
            done = sum(points == LOSS_POINTS for points in self._points.values())
            self._bars.update(self._all, completed=done, note=self._summary(done))

    def _summary(self, done: int) -> str:
        """Describe all sites: how many are done, at work and waiting, and which of those at work have done least."""
        busy = sorted((points, site) for site, points in self._points.items() if 0 < points < LOSS_POINTS)
        waiting = len(self._points) - done - len(busy)
        parts = [f"{done:,} done", f"{len(busy):,} training" if busy else "", f"{waiting:,} {self._words}"]
        behind = [f"{site} {points}/{LOSS_POINTS}" for points, site in busy[:NAMED]]
        words = ", ".join(part for part in (parts if waiting else parts[:2]) if part)
        return f"{words} ({', '.join(behind)})" if behind else words
