"""Having sites evaluate saved models, from the command line: hospitals with a kit, else the simulator."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia_fl.cli.options import seconds

if TYPE_CHECKING:
    from pneumonia_fl.config.job import JobConfig
    from pneumonia_fl.fl.admin.watch import Ending
    from pneumonia_fl.fl.simulator.evaluation_job import Subject
    from pneumonia_fl.runs.journal import Event

STAGE = "evaluated by sites"


@dataclass(frozen=True)
class Judges:
    """Evaluators: sites of prepared data in the simulator, or real hospitals."""

    data: Path | None
    """None: hospitals."""
    kit: Path | None
    """None: that of `PNEUMONIA_FL_KIT`."""
    study: str
    sites: Sequence[str]
    """None named: all."""
    timeout: float | None
    """Minutes."""
    quiet: bool


@dataclass(frozen=True)
class Judged:
    """Result of an evaluation."""

    events: "list[Event]"
    ending: "Ending | None"
    """None in the simulator."""

    def check(self) -> None:
        """Raise what stands for a bad end.

        Raises:
            RunError: the job failed, or a site neither evaluated nor has opted out.
        """
        from pneumonia_fl.errors import IncompleteError
        from pneumonia_fl.results.finalize import outcome

        if self.ending is not None:
            self.ending.check()
            return
        state, reason = outcome(self.events)
        if state != "finished":
            raise IncompleteError(f"the evaluation is INCOMPLETE: {reason}")


def ask_sites(job: "JobConfig", subjects: "Sequence[Subject]", judges: Judges) -> Judged:
    """Have the sites evaluate the models, and show their progress."""
    if judges.data is None:
        return _ask_hospitals(job, subjects, judges)
    from pneumonia_fl.cli.views.progress_bars import progress_bars
    from pneumonia_fl.fl.simulator.evaluation_job import run_in_simulator

    done = 0
    with progress_bars(judges.quiet) as progress:

        def on_event(event: "Event") -> None:
            nonlocal done
            done += event["event"] in ("cross_site", "cross_site_missing")
            progress(STAGE, done, None)

        progress("starting NVFlare", 0, None)
        events = run_in_simulator(job, subjects, judges.data.absolute(), judges.sites, on_event)
    return Judged(events, None)


def _ask_hospitals(job: "JobConfig", subjects: "Sequence[Subject]", judges: Judges) -> Judged:
    from pneumonia_fl.cli.kit_commands.jobs import session
    from pneumonia_fl.fl.admin.evaluations import run_at_sites

    with session(judges.kit, judges.study, judges.quiet, acts=True) as (admin, view):
        ending, events = run_at_sites(admin, job, subjects, judges.sites, view, seconds(judges.timeout))
    return Judged(events, ending)
