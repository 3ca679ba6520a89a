"""Display of a running job: rounds, sites, time left; then a table and the paths."""

import json
import shlex
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TimeElapsedColumn
from rich.text import Text

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.cli.views.site_bars import SiteBars
from pneumonia_fl.cli.views.terminal import echo, terminal, text_column
from pneumonia_fl.cli.views.terminal_tables import rounds_table
from pneumonia_fl.fl.admin.job_record import age
from pneumonia_fl.fl.job.plan import Plan
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import Event


class RunView:
    """Follows a run on the terminal; without a terminal it prints a line per round; `quiet` prints nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = terminal(stderr=True, quiet=quiet)
        self._bars = Progress(
            text_column("{task.description}"),
            BarColumn(bar_width=24),
            text_column("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._sites = SiteBars(self._bars, ())
        self._rounds = 0
        self._trained_since: float | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Show work outside the rounds."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, note="")
            self._say(f"{stage} …")
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def started(self, planned: Plan, run: RunFolder) -> None:
        """Name the run and put up the bars."""
        job = planned.job
        self._rounds = job.rounds
        self._console.print(
            Text.assemble(
                (job.name, "bold"), f": {job.rounds} rounds, {len(planned.sites)} sites, {job.model.name}"
            )
        )
        self._console.print(f"run folder: {run.path}", soft_wrap=True)
        self._tasks["job"] = self._bars.add_task("starting NVFlare", total=job.rounds, note="")
        self._sites = SiteBars(self._bars, planned.sites)
        self._say("starting NVFlare …")

    def on_event(self, event: Event) -> None:
        """Move the bars."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _on_round_started(self, event: Event) -> None:
        number = event["round"]
        final = event["task"] == "validate"
        name = "evaluating the final model" if final else f"round {number + 1}/{self._rounds}"
        self._bars.update(
            self._tasks["job"], description=name, completed=number, note=self._time_left(number)
        )
        self._sites.begin("evaluating" if final else "evaluating, then training")

    def _on_settling(self, event: Event) -> None:
        name = f"round {event['round'] + 1}/{self._rounds}: batch norm's statistics"
        self._bars.update(self._tasks["job"], description=name)

    def _on_cross_site_started(self, event: Event) -> None:
        self._bars.update(
            self._tasks["job"], description=f"the model of {event['model']} at all sites", note=""
        )
        self._sites.begin("evaluating")

    def _on_cross_site(self, event: Event) -> None:
        self._on_site(event)

    def _on_loss(self, event: Event) -> None:
        # Not from the first round's start, which waits for the trainers to load PyTorch.
        self._trained_since = self._trained_since or time.monotonic()
        self._sites.trained(event["site"], event["value"])

    def _on_site(self, event: Event) -> None:
        self._sites.done(event["site"])

    def _on_global(self, event: Event) -> None:
        """Note a global model's metrics; they arrive with the results of the round trained from it."""
        values, number = event["values"], event["round"]
        text = f"global AUROC {_number(values['auroc'])}  loss {values['loss']:.3f}"
        self._bars.update(self._tasks["job"], completed=min(number + 1, self._rounds), note=text)
        if number:
            best = "  (best so far)" if event["best"] else ""
            left = self._time_left(number + 1)
            averaged = event.get("averaged")
            name = f"mean of the last {averaged}" if averaged else f"of round {number}/{self._rounds}"
            line = f"model {name}: {text}{best}  {left}"
            self._console.print(line, soft_wrap=True)

    def _on_stopped_early(self, event: Event) -> None:
        self._console.print(event["reason"], soft_wrap=True)

    def _time_left(self, done: int) -> str:
        if not done or self._trained_since is None or done >= self._rounds:
            return ""
        seconds = (time.monotonic() - self._trained_since) / done * (self._rounds - done)
        return f"about {age(seconds)} left"

    def _say(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, soft_wrap=True)

    def show_result(self, run: RunFolder, as_json: bool) -> None:
        """Print the table of rounds, the paths and the commands that open them; or all of it as JSON."""
        if as_json:
            echo(json.dumps({"run": str(run.path), **run.state(), **run.metrics()}, indent=2))
            return
        console = terminal()
        console.print(rounds_table(run.metrics()))
        _print_paths(console, run)
        _print_tracking(console, run)
        console.print(DISCLAIMER, style="dim")


def _print_paths(console: Console, run: RunFolder) -> None:
    parts = {"run": run.path, "best model": run.model, "curves": run.curves}
    parts |= {"report": run.report, "logs": run.logs}
    for name, path in parts.items():
        if path.exists():
            console.print(f"{name + ':':<13}{path}", soft_wrap=True)


def _print_tracking(console: Console, run: RunFolder) -> None:
    """Print the commands that open this run's records, or why there are none."""
    if run.tb_events.is_dir():
        console.print(f"TensorBoard: {viewer_command('tensorboard', run.path)}", soft_wrap=True)
    mlflow: dict[str, Any] = run.state().get("mlflow") or {}
    if run.mlflow_db.is_file():
        console.print(f"MLflow:      {viewer_command('mlflow', run.path)}", soft_wrap=True)
    elif mlflow.get("uri"):
        console.print(f"MLflow: {mlflow['uri']}", soft_wrap=True)
    if mlflow.get("error"):
        console.print(
            f"MLflow at {mlflow['uri']} did not take everything ({mlflow['undelivered']} points are missing): "
            f"{mlflow['error']}. All metrics are kept in {run.metrics_file}.",
            style="yellow",
            soft_wrap=True,
        )


def viewer_command(tool: str, folder: Path) -> str:
    """Return the command that opens a run or a sweep in a viewer, as a line for a shell."""
    return shlex.join(["pneumonia-fl", "ui", tool, str(folder)])


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
