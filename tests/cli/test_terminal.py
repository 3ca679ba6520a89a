"""What others wrote reaches a terminal as text: it is no markup, stops no command, and moves nothing on the screen."""

import ast
import io
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from job_metas import ID, meta, result, site, snapshot
from rich.console import Console
from rich.table import Table
from run_folders import write_json, write_run
from typer.testing import CliRunner
from xrays import SPEC, kaggle_files, write_zip

import pneumonia_fl
from pneumonia_fl.cli.main import app
from pneumonia_fl.cli.views.compare_view import CompareView
from pneumonia_fl.cli.views.job_view import JobView, jobs_table
from pneumonia_fl.cli.views.progress_bars import progress_bars
from pneumonia_fl.cli.views.run_view import RunView
from pneumonia_fl.cli.views.terminal import echo, printed, terminal
from pneumonia_fl.cli.views.terminal_tables import rounds_table
from pneumonia_fl.config.sections import ModelConfig
from pneumonia_fl.errors import CheckpointError, RunError
from pneumonia_fl.fl.admin.job_record import record
from pneumonia_fl.inputs.text import TEXT_LIMIT, VALUE_LIMIT, printable_values
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import CARD, ModelCard, read_card, save_model
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import JournalReader

MARKUP, CONTROL = "x [/nope] [red]y :smile:", "a\x1b]0;title\x07\x1b[2J\u202eb"
HARMLESS = "a ]0;title  [2J b"
OTHERS = MARKUP + CONTROL
CLI = Path(pneumonia_fl.__file__).parent / "cli"
BUILDERS = {"Console", "TextColumn", "Panel", "Markdown"}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Everything printed, without line breaks of a narrow table."""
    both = capsys.readouterr()
    text = both.out + both.err
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    return " ".join(text.split())


@pytest.mark.parametrize("file", sorted(CLI.glob("*.py")), ids=lambda path: path.name)
def test_commands_print_through_one_place(file: Path) -> None:
    if file.name == "terminal.py":
        return
    calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    dotted = {ast.unparse(call) for call in calls if isinstance(call, ast.Attribute)}
    assert not names & {*BUILDERS, "print"}
    assert not dotted & {"typer.echo", "typer.secho", "click.echo", "sys.stdout.write", "sys.stderr.write"}


@pytest.mark.parametrize("tty", [False, True], ids=["pipe", "terminal"])
def test_tables_and_lines_show_text_as_it_is(tty: bool) -> None:
    out = io.StringIO()
    console = terminal(file=out)
    console._force_terminal = tty
    table = Table(MARKUP, title=MARKUP, caption=OTHERS)
    table.add_row(OTHERS)
    console.print(table)
    console.print(OTHERS)
    console.rule(MARKUP)
    shown = " ".join(out.getvalue().split())
    assert shown.count("[/nope]") == 6
    assert ":smile:" in shown
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown


def test_lines_keep_their_breaks_and_nothing_that_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    echo("first\nsecond " + CONTROL)
    assert capsys.readouterr().out == f"first\nsecond {HARMLESS}\n"
    assert printed(Path("ü/胸")) == "ü/胸"


@pytest.mark.parametrize("drawing", [False, True], ids=["pipe", "terminal"])
def test_watching_a_job_survives_what_a_site_says(drawing: bool, capsys: pytest.CaptureFixture[str]) -> None:
    job = record(meta("FINISHED:COMPLETED", name=OTHERS, submitter_name=MARKUP, **result(reason=OTHERS)))
    with JobView() as view:
        view._drawing = drawing
        view.progress(MARKUP, 1, 2)
        view.on_submitted(SimpleNamespace(id=ID, name=OTHERS, sites=(MARKUP, OTHERS)))  # type: ignore[arg-type]
        view.on_job(job, OTHERS)
        view.on_snapshot(snapshot(sites={OTHERS: site(state="failed", problem=OTHERS)}, reason=OTHERS))
        view._console.print(view._render())
        view._console.print(jobs_table([job]))
    assert "[/nope]" in said(capsys)


@pytest.mark.parametrize("drawing", [False, True], ids=["pipe", "terminal"])
def test_watching_a_run_survives_what_a_site_says(
    drawing: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = SimpleNamespace(name=MARKUP, rounds=2, model=SimpleNamespace(name="small_resnet"))
    with RunView() as view:
        view._bars.disable = not drawing
        view._console._force_terminal = drawing
        view.progress(MARKUP, 1, None)
        view.started(SimpleNamespace(job=config, sites=(OTHERS, "b")), RunFolder(tmp_path / MARKUP))  # type: ignore[arg-type]
        for event in (
            {"event": "round_started", "round": 0, "task": "train"},
            {"event": "settling", "round": 0},
            {"event": "cross_site_started", "model": MARKUP},
            {"event": "stopped_early", "reason": OTHERS},
        ):
            view.on_event(event)
        view._bars.refresh()
    assert "[/nope]" in said(capsys)


def test_bars_and_comparisons_survive_markup(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arms = [SimpleNamespace(name=MARKUP, skipped=OTHERS), SimpleNamespace(name=OTHERS, skipped="")]
    with CompareView() as view:
        view.planned(SimpleNamespace(arms=arms, seeds=(1,)), tmp_path, 1, 2)  # type: ignore[arg-type]
        view.trained(OTHERS, None)
    with progress_bars() as progress:
        progress(MARKUP, 1, 2)
    assert "[/nope]" in said(capsys)


def spoilt_run(folder: Path) -> Path:
    """A run folder from somebody else, with a model whose card wants to be more than text."""
    run = write_run(folder / "run [b]", sites=(MARKUP, "b"), rounds=1)
    state = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", {**state, "job": OTHERS, "started": time.time(), "reason": OTHERS})
    card = ModelCard(job="x", round=1, seed=7, model=ModelConfig(), preprocess=SPEC)
    save_model(run / "model", build_model(size=16, seed=5).state_dict(), card)
    values = json.loads((run / "model" / CARD).read_text())
    write_json(
        run / "model" / CARD, {**values, "job": OTHERS, "operating_point": OTHERS, "limitations": OTHERS}
    )
    return run


def run_cli(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "\u202e" not in done.output
    return done.output


def test_runs_evaluate_and_report_survive_a_run_of_somebody_else(tmp_path: Path) -> None:
    run = spoilt_run(tmp_path)
    archive = write_zip(tmp_path / "x-rays [b].zip", kaggle_files(patients=6))
    assert "[/nope]" in " ".join(run_cli("runs", "--root", tmp_path).split())
    assert "[/nope]" in run_cli("evaluate", run, "--source", archive)
    assert "report: " in run_cli("report", run)
    for file in ("report.html", "model_card.md"):
        content = (run / file).read_text(encoding="utf-8")
        assert "\x1b" not in content
        assert "\u202e" not in content


def test_the_table_of_rounds_survives_a_sites_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    terminal().print(rounds_table(RunFolder(spoilt_run(tmp_path)).metrics()))
    assert "[/nope]" in said(capsys)


def test_what_comes_in_is_made_printable(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text(json.dumps({"event": "problem", "site": CONTROL, "problem": "x" * 3000}) + "\n")
    (event,) = JournalReader(journal).new_events()
    assert event["site"].isprintable()
    assert len(event["problem"]) == VALUE_LIMIT
    job = record(meta(name=CONTROL, submitter_name=CONTROL))
    assert (job.name + job.submitter).isprintable()
    assert printable_values({CONTROL: [CONTROL, 1.5, None, True]}) == {
        "a ]0;title [2J b": ["a ]0;title [2J b", 1.5, None, True]
    }


@pytest.mark.parametrize("content", ["{half", "[" * 5000, '"text"', '{"a": ' * 400 + "1" + "}" * 400])
def test_a_run_file_that_is_damaged_or_deep_stops_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        RunFolder(tmp_path / "run").state()


@pytest.mark.parametrize("field", ["job", "operating_point", "intended_use", "limitations", "disclaimer"])
def test_a_long_field_of_a_card_is_cut_and_one_without_end_is_refused(field: str, tmp_path: Path) -> None:
    card = ModelCard(job="x", round=1, seed=7, model=ModelConfig(), preprocess=SPEC)
    values: dict[str, Any] = json.loads(card.model_dump_json())
    write_json(tmp_path / CARD, {**values, field: "x" * (VALUE_LIMIT + 1)})
    assert len(getattr(read_card(tmp_path), field)) in (TEXT_LIMIT, VALUE_LIMIT)
    write_json(tmp_path / CARD, {**values, field: "x" * 2_000_000})
    with pytest.raises(CheckpointError, match="larger than 1000 kB"):
        read_card(tmp_path)


def test_the_texts_of_a_card_are_printable_when_it_is_made_and_when_it_is_read(tmp_path: Path) -> None:
    card = ModelCard(
        job=CONTROL, round=1, seed=7, model=ModelConfig(), preprocess=SPEC, software={CONTROL: CONTROL}
    )
    assert (card.job + "".join(card.software)).isprintable()
    write_json(tmp_path / CARD, {**json.loads(card.model_dump_json()), "limitations": CONTROL})
    assert read_card(tmp_path).limitations.isprintable()


def test_a_console_of_richs_own_would_stop(tmp_path: Path) -> None:
    """What the tests above would see without `terminal`."""
    with pytest.raises(Exception, match="nope"):
        Console(file=io.StringIO()).print(MARKUP)
