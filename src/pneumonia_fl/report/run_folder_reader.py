"""What a run or comparison folder holds, read leniently: what is missing or damaged is said, never fatal."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumonia_fl.errors import ConfigError, RunError
from pneumonia_fl.inputs.json_files import MAX_RECORD_BYTES, parse_json, read_json, read_limited
from pneumonia_fl.inputs.text import printable_values
from pneumonia_fl.inputs.yaml_files import read_yaml
from pneumonia_fl.runs.journal import Event

EVALUATIONS = "evaluations"
SUMMARY = "summary.json"
_SHAPES: dict[str, dict[str, type]] = {
    "run.json": {"sites": list, "data": dict, "mlflow": dict, "rounds": int},
    "config.yml": {
        "model": dict,
        "train": dict,
        "algorithm": dict,
        "preprocess": dict,
        "init_from": dict,
        "sites": dict,
    },
    "metrics.json": {"best_round": int, "rounds": list, "sites": list, "problems": list, "missing": list},
    "model_card.json": {"data": dict, "preprocess": dict, "metrics": dict, "software": dict, "round": int},
    SUMMARY: {"arms": list, "sites": list, "seeds": list, "test": dict, "data": dict, "findings": list},
}
"""Of which kind a value must be; one of another kind counts as missing."""
_PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s/\\:;,'\"]+[/\\])+(?=[^\s/\\])")

Values = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """A run folder's files as plain values; an empty one stands for a file that is missing or damaged.

    `problems` says in one sentence each what is missing and what follows from it.
    """

    state: Values
    config: Values
    metrics: Values
    events: list[Event]
    card: Values
    evaluations: list[Values]
    cross_site: Values
    problems: list[str]

    @property
    def rounds(self) -> list[Values]:
        """The entries of `metrics.json`, by round."""
        return list(self.metrics.get("rounds", []))

    @property
    def sites(self) -> list[str]:
        """Every site that the run expected or heard of."""
        named = [*self.state.get("sites", []), *self.metrics.get("sites", []), *self.counts()]
        return sorted({str(site) for site in named} - {"test"})

    @property
    def best_round(self) -> int | None:
        """The round of the saved model."""
        value = self.card.get("round", self.metrics.get("best_round"))
        return None if value is None else int(value)

    @property
    def model_words(self) -> str:
        """Which model was saved; a mean of the last models stands as one more round."""
        averaged = self.card.get("averaged")
        return f"the mean of the last {averaged} rounds" if averaged else f"round {self.best_round}"

    @property
    def data(self) -> Values:
        """Origin of the images: what the model card says, else what the run noted when it started."""
        return {**(self.state.get("data") or {}), **(self.card.get("data") or {})}

    def own_settings(self) -> list[tuple[str, str]]:
        """What the job sets for single sites, in words."""
        found = []
        for site, values in sorted((self.config.get("sites") or {}).items()):
            told = {"weight": values.get("weight"), **(values.get("train") or {})}
            words = [f"{key} {value}" for key, value in told.items() if value is not None]
            found.append((str(site), ", ".join(words)))
        return found

    @property
    def drawn(self) -> bool:
        """Whether the images that judge the model are drawn ones: those of the test split, else of training."""
        return is_drawn(self.latest("test") or self.data)

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Images by site (or "test"), split and class; from the model card, else from the sites' own words."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for values in self.site_data().values():
            found.update(values.get("counts") or {})
        return self.data.get("counts") or found

    def site_data(self) -> dict[str, Values]:
        """What each site said about its own data, by site."""
        told = {
            str(event.get("site")): event.get("values") for event in self.events if event["event"] == "data"
        }
        return {site: values for site, values in told.items() if isinstance(values, dict)}

    def histogram_of_best(self) -> Values | None:
        """The pooled validation scores of the saved model, as the journal has them."""
        found = [
            event.get("histogram")
            for event in self.events
            if event.get("event") == "global" and event.get("round") == self.best_round
        ]
        return found[-1] if found else None

    def latest(self, split: str) -> Values | None:
        """The last evaluation on a split."""
        found = self.on(split)
        return found[-1] if found else None

    def on(self, split: str) -> list[Values]:
        """All evaluations on a split, oldest first."""
        return [values for values in self.evaluations if values.get("split") == split]


@dataclass(frozen=True)
class ComparisonFiles:
    """A comparison folder: its `summary.json`, and what is missing."""

    summary: Values
    problems: list[str]


def read_run(folder: Path) -> RunFiles:
    """Read a run folder; only `run.json` must be there.

    Raises:
        RunError: `folder` is no run folder.
    """
    problems: list[str] = []
    state = _read_json(folder / "run.json", problems, "")
    if not state and (folder / "run.json").exists():
        raise RunError(f"{folder / 'run.json'} is damaged; get the run folder again")
    if not state:
        raise RunError(
            f"{folder} is neither a run nor a comparison folder; `pneumonia-fl runs` lists the runs"
        )
    return RunFiles(
        state=state,
        config=_read_yaml(folder / "config.yml", problems),
        metrics=_read_json(folder / "metrics.json", problems, "no curves, no figures by site and no cost"),
        events=_read_journal(folder / "journal.jsonl", problems),
        card=_read_card(folder, problems),
        evaluations=_read_evaluations(folder / EVALUATIONS, problems),
        cross_site=_read_json(
            folder / "cross_site.json", problems, "no table of models by sites", quiet=True
        ),
        problems=problems,
    )


def read_comparison(folder: Path) -> ComparisonFiles:
    """Read a comparison folder.

    Raises:
        RunError: its `summary.json` is damaged.
    """
    problems: list[str] = []
    summary = _read_json(folder / SUMMARY, problems, "")
    if not summary:
        raise RunError(
            f"{folder / SUMMARY} is damaged; run `pneumonia-fl compare` again, it goes on from its parts"
        )
    arms = [arm for arm in summary.get("arms", []) if isinstance(arm, dict)]
    return ComparisonFiles({**summary, "arms": arms}, problems)


def is_drawn(data: object) -> bool:
    """Whether images are drawn by this program and no person's; `data` says in `source` where they come from."""
    return isinstance(data, dict) and "synthetic" in str(data.get("source", ""))


def without_paths(text: object) -> str:
    """`text` with every absolute path cut to its last part: a report may leave the machine."""
    return _PATH.sub("", str(text))


def _read_json(path: Path, problems: list[str], consequence: str, quiet: bool = False) -> Values:
    try:
        values = printable_values(read_json(path, MAX_RECORD_BYTES))
    except FileNotFoundError:
        if not quiet:
            problems.append(_sentence(path, "is missing", consequence))
        return {}
    except (OSError, ValueError, RecursionError):
        problems.append(_sentence(path, "cannot be read (damaged)", consequence))
        return {}
    return _shaped(path, values, problems)


def _sentence(path: Path, what: str, consequence: str) -> str:
    return f"{path.name} {what}{': ' + consequence if consequence else ''}."


def _read_card(folder: Path, problems: list[str]) -> Values:
    """The card of the best model; of the shared part where each site keeps the rest."""
    shared = folder / "model_shared" / "model_card.json"
    path = shared if shared.is_file() else folder / "model" / "model_card.json"
    return _read_json(path, problems, "the run left no best model")


def _read_yaml(path: Path, problems: list[str]) -> Values:
    try:
        values = printable_values(read_yaml(path))
    except ConfigError:
        problems.append(_sentence(path, "is missing or damaged", "the job's settings are unknown"))
        return {}
    return _shaped(path, values, problems)


def _shaped(path: Path, values: object, problems: list[str]) -> Values:
    """A mapping without the values that are of another kind than this version knows."""
    if not isinstance(values, dict):
        problems.append(_sentence(path, "holds something else than expected", "it is not used"))
        return {}
    kinds = _SHAPES.get(path.name, {})
    strange = [key for key, kind in kinds.items() if not isinstance(values.get(key, kind()), kind | None)]
    problems += [_sentence(path, f"has a {key!r} of an unknown kind", "it is not used") for key in strange]
    return {key: value for key, value in values.items() if key not in strange and value is not None}


def _read_journal(path: Path, problems: list[str]) -> list[Event]:
    """All lines that can be read; a damaged line is counted, and the others still count."""
    try:
        lines = read_limited(path, MAX_RECORD_BYTES).splitlines()
    except (OSError, ValueError):
        problems.append(
            _sentence(
                path, "is missing or too large", "no score distribution, no curves from validation data"
            )
        )
        return []
    events = [event for line in lines if (event := _event(line)) is not None]
    if len(events) < len(lines):
        problems.append(f"{len(lines) - len(events)} of {len(lines)} lines of {path.name} cannot be read.")
    return events


def _event(line: bytes) -> Event | None:
    try:
        values = printable_values(parse_json(line, MAX_RECORD_BYTES))
    except ValueError:
        return None
    return values if isinstance(values, dict) and "event" in values else None


def _read_evaluations(folder: Path, problems: list[str]) -> list[Values]:
    """Oldest first, as their numbered names say."""
    found = [
        _read_json(path, problems, "this evaluation is left out") for path in sorted(folder.glob("*.json"))
    ]
    return sorted((values for values in found if values), key=_time)


def _time(values: Values) -> float:
    """When an evaluation was made; 0 where that is not known."""
    value = values.get("time")
    return float(value) if isinstance(value, int | float) else 0.0
