"""YAML and JSON that somebody else wrote: what costs more than its size suggests is refused in one line."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from source_tree import MODULES, tree_of

from conftest import pneumonia_fl
from pneumonia_fl.config.job import load_job
from pneumonia_fl.config.overrides import with_overrides
from pneumonia_fl.data.manifest import INFO, read_info
from pneumonia_fl.errors import ConfigError, PneumoniaFLError
from pneumonia_fl.fl.kit.startup_kit import open_kit, read_settings
from pneumonia_fl.fl.provision.project_file.project import load_project
from pneumonia_fl.inputs.json_files import MAX_BYTES, MAX_DEPTH, parse_json
from pneumonia_fl.inputs.yaml_files import parse_yaml
from pneumonia_fl.models.checkpoint import CARD, read_card
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import read_journal
from pneumonia_fl.runs.record import RunRecord

# What is written, the line that the error names, and what it says.
REFUSED = {
    "aliases": ("a: &x [1, 1]\nb: *x", 1, "anchors and aliases"),
    "an alias of nothing": ("a: 1\nb: *x", 2, "anchors and aliases"),
    "a merge key": ("a:\n  <<: {b: 1}", 2, "not <<"),
    "a mapping merged into itself": ("train: &t {<<: *t}", 1, "anchors and aliases"),
    "an object": ("a: !!python/object/apply:os.getcwd []", 1, "tags"),
    "a tag that does not fit its value": ("a: !!timestamp never", 1, "tags"),
    "a key given twice": ("a: 1\nb: 2\na: 3", 3, "'a' occurs twice"),
    "a key given twice in other words": ("yes: 1\ntrue: 2", 2, "occurs twice"),
    "a list as a key": ("[1]: 2", 1, "a key must be a word"),
    "many brackets": ("[" * 5000, 1, "nested deeper than 20"),
    "many dashes": ("- " * 5000, 1, "nested deeper than 20"),
    "many questions": ("? " * 5000, 1, "nested deeper than 20"),
    "a long number": ("a: " + "1" * 5000, 1, "a number of more than"),
    "a long number of base 60": ("a: " + "1:" * 50_000 + "1", 1, "a number of more than"),
    "half a number": ("a: 0b_", 1, "not a number"),
    "an escape character": ("a: 1\nb: \x1b[2J", 2, "special characters"),
    "two documents": ("a: 1\n---\nb: 2", 2, "another document"),
}


@pytest.mark.parametrize(("text", "line", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_yaml_beyond_the_limits_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_yaml(text, "job.yml")
    assert str(caught.value).startswith(f"job.yml:{line}: not valid YAML: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_looks_like_a_date_stays_text() -> None:
    text = "day: 2026-11-25\nnever: 2026-13-45\nsign: =\non: 1\nlr: 1e-3\nsmall: 1.0e-3\nnone: ~"
    values = {"day": "2026-11-25", "never": "2026-13-45", "sign": "=", True: 1, "lr": "1e-3", "small": 0.001}
    assert parse_yaml(text, "job.yml") == {**values, "none": None}
    assert parse_yaml("", "job.yml") is None


READERS: dict[str, Callable[[Path], object]] = {
    "job file": load_job,
    "project.yml": load_project,
    "a kit's settings": lambda file: read_settings(file.parent),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize(
    "text", ["[" * 5000, "a: &x [1]\nb: *x", "a: " + "x" * 300_000], ids=["deep", "alias", "huge"]
)
def test_every_yaml_file_has_the_limits(tmp_path: Path, read: Callable[[Path], object], text: str) -> None:
    file = tmp_path / "pneumonia_fl.yml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"not valid YAML|larger than") as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_value_of_an_override_has_the_limits() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        with_overrides({}, ["name=" + "[" * 5000])


def test_a_runs_config_with_aliases_is_left_out_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"state": "finished"}')
    (tmp_path / "config.yml").write_text("name: &x a\nrounds: *x\n")
    assert RunRecord.read(RunFolder(tmp_path)).config == {}


def test_only_one_module_reads_yaml() -> None:
    """Others write it, and know the types of its nodes."""
    harmless = re.compile(r"safe_dump|\w*Node")
    found = {
        module.as_posix()
        for module in MODULES
        for node in ast.walk(tree_of(module))
        if (
            isinstance(node, ast.Attribute)
            and ast.unparse(node.value) == "yaml"
            and not harmless.fullmatch(node.attr)
        )
        or (isinstance(node, ast.ImportFrom) and node.module == "yaml")
    }
    assert found == {"inputs/yaml_files.py"}


DEEP = "[" * 100_000 + "]" * 100_000
NOT_SO_DEEP = '{"a": ' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1)
HUGE = json.dumps({"job": "x" * (MAX_BYTES + 1)})


def test_json_within_the_limits_is_read() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse_json(b'{"a": [1]}') == {"a": [1]}


JSON_READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "model card": (CARD, lambda file: read_card(file.parent)),
    "run.json": ("run.json", lambda file: RunFolder(file.parent).state()),
    "dataset.json": (INFO, lambda file: read_info(file.parent)),
    "a kit": ("startup/fed_client.json", lambda file: open_kit(file.parents[1])),
}


@pytest.mark.parametrize(("name", "read"), JSON_READERS.values(), ids=JSON_READERS.keys())
@pytest.mark.parametrize(
    "text", [DEEP, NOT_SO_DEEP, HUGE, "{"], ids=["deep", "deeper than 20", "huge", "broken"]
)
def test_json_beyond_the_limits_is_one_line(
    tmp_path: Path, name: str, read: Callable[[Path], object], text: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    with pytest.raises(PneumoniaFLError) as caught:
        read(file)
    assert file.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["../x", "/etc", "-rf", "a/b", ""])
def test_prepared_data_whose_site_is_no_folder_name_is_refused(
    demo_data: Path, tmp_path: Path, name: str
) -> None:
    info = json.loads((demo_data / INFO).read_text())
    (tmp_path / INFO).write_text(json.dumps(info | {"sites": [name]}))
    with pytest.raises(PneumoniaFLError, match="sites"):
        read_info(tmp_path)


def test_a_deep_line_of_a_journal_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text(DEEP + "\n")
    with pytest.raises(PneumoniaFLError, match="broken line"):
        read_journal(tmp_path / "journal.jsonl")


def test_the_report_reads_around_what_is_too_deep(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"state": "finished"}')
    (tmp_path / "metrics.json").write_text(DEEP)
    (tmp_path / "journal.jsonl").write_text(DEEP + "\n")
    found = RunRecord.read(RunFolder(tmp_path))
    assert (found.metrics, found.events) == ({}, [])
    assert any("metrics.json" in problem for problem in found.problems)


@pytest.mark.parametrize("words", [("run", "job.yml"), ("provision", "job.yml")], ids=lambda words: words[0])
def test_the_command_line_prints_one_line(tmp_path: Path, words: tuple[str, str]) -> None:
    (tmp_path / "job.yml").write_text("[" * 5000)
    done = pneumonia_fl(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: job.yml:1: ")
