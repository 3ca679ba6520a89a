"""A run folder as one value: read once, and handed to everybody who asks something of the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pneumonia_fl.errors import RunError
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import Event, summarise_rounds
from pneumonia_fl.runs.lenient import LenientReader, Values

WITHOUT_METRICS = "no curves, no figures by site and no cost"
WITHOUT_JOURNAL = "no score distribution, no curves from validation data"


@dataclass(frozen=True)
class RunRecord:
    """Content of a run folder, as plain values; an empty one means a file that is missing or damaged.

    `problems` says in one sentence each what is missing and what follows from it.
    """

    state: Values = field(default_factory=dict)
    config: Values = field(default_factory=dict)
    metrics: Values = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    card: Values = field(default_factory=dict)
    evaluations: list[Values] = field(default_factory=list)
    cross_site: Values = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of_events(cls, events: list[Event]) -> "RunRecord":
        """Return what the journal alone says: of a run whose folder is still being made."""
        return cls(events=events, metrics=summarise_rounds(events))

    @classmethod
    def read(cls, run: RunFolder, known: "RunRecord | None" = None) -> "RunRecord":
        """Read a run folder; only `run.json` must be there.

        Args:
            run: the folder.
            known: events and metrics, when they have been read already.

        Raises:
            RunError: it is no run folder.
        """
        files = LenientReader()
        state = files.json(run.state_file, "")
        if not state and run.state_file.exists():
            raise RunError(f"{run.state_file} is damaged; get the run folder again")
        if not state:
            raise RunError(
                f"{run.path} is neither a run nor a comparison folder; `pneumonia-fl runs` lists the runs"
            )
        config = files.yaml(run.config, "the job's settings are unknown")
        return cls(
            state=state,
            config=config,
            metrics=known.metrics if known else files.json(run.metrics_file, WITHOUT_METRICS),
            events=known.events if known else files.journal(run.journal, WITHOUT_JOURNAL),
            card=files.json(run.best_card, "the run left no best model"),
            evaluations=_evaluations(run, files),
            cross_site=files.json(run.cross_site, "no table of models by sites", quiet=True),
            problems=files.problems,
        )

    @property
    def rounds(self) -> list[Values]:
        """Return the entries of `metrics.json`, by round."""
        return list(self.metrics.get("rounds", []))

    @property
    def sites(self) -> list[str]:
        """Return every site that the run expected or heard of."""
        named = [*self.state.get("sites", []), *self.metrics.get("sites", []), *self.counts()]
        return sorted({str(site) for site in named} - {"test"})

    @property
    def best_round(self) -> int | None:
        """Return the round of the saved model."""
        value = self.card.get("round", self.metrics.get("best_round"))
        return None if value is None else int(value)

    @property
    def judged(self) -> dict[int, Event]:
        """Return the sites' evaluation of each round's global model, with its pooled score histogram."""
        found = [event for event in self.of_kind("global") if isinstance(event.get("round"), int)]
        return {event["round"]: event for event in found}

    @property
    def last_judged_round(self) -> int | None:
        """Return the last round whose model the sites evaluated; an average of models is no round."""
        return max(
            (number for number, event in self.judged.items() if not event.get("averaged")), default=None
        )

    @property
    def model_words(self) -> str:
        """Describe which model was saved; an average of the last models counts as one more round."""
        averaged = self.card.get("averaged")
        return f"the mean of the last {averaged} rounds" if averaged else f"round {self.best_round}"

    @property
    def data(self) -> Values:
        """Return the origin of the images: from the model card, else from the record of the start."""
        return {**(self.state.get("data") or {}), **(self.card.get("data") or {})}

    @property
    def drawn(self) -> bool:
        """Return True when the evaluated images are synthetic: those of the test split, else of training."""
        return is_drawn(self.latest("test") or self.data)

    def of_kind(self, kind: str) -> list[Event]:
        """Return all events of a kind, oldest first."""
        return [event for event in self.events if event["event"] == kind]

    def histogram_of(self, number: int | None) -> Values | None:
        """Return the pooled validation scores of a round's model; None when no site evaluated it."""
        return None if number is None else self.judged.get(number, {}).get("histogram")

    def own_settings(self) -> list[tuple[str, str]]:
        """Describe the settings that the job overrides for single sites."""
        found = []
        for site, values in sorted((self.config.get("sites") or {}).items()):
            told = {"weight": values.get("weight"), **(values.get("train") or {})}
            words = [f"{key} {value}" for key, value in told.items() if value is not None]
            found.append((str(site), ", ".join(words)))
        return found

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return images by site (or "test"), split and class; from the card, else from the sites' reports."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for values in self.site_data().values():
            found.update(values.get("counts") or {})
        return self.data.get("counts") or found

    def site_data(self) -> dict[str, Values]:
        """Return each site's report on its own data, by site."""
        told = {str(event.get("site")): event.get("values") for event in self.of_kind("data")}
        return {site: values for site, values in told.items() if isinstance(values, dict)}

    def histogram_of_best(self) -> Values | None:
        """Return the pooled validation scores of the saved model, as the journal has them."""
        return self.histogram_of(self.best_round)

    def latest(self, split: str) -> Values | None:
        """Return the last evaluation on a split."""
        found = self.on(split)
        return found[-1] if found else None

    def on(self, split: str) -> list[Values]:
        """Return all evaluations on a split, oldest first."""
        return [values for values in self.evaluations if values.get("split") == split]


def best_metrics(metrics: Mapping[str, Any]) -> Values | None:
    """Return the pooled validation metrics of the best global model from what `metrics.json` holds."""
    best = metrics["best_round"]
    return next((entry["global"] for entry in metrics["rounds"] if entry["round"] == best), None)


def is_drawn(data: object) -> bool:
    """Return True for synthetic images; `source` in `data` names their origin."""
    return isinstance(data, dict) and "synthetic" in str(data.get("source", ""))


def _evaluations(run: RunFolder, files: LenientReader) -> list[Values]:
    """Read the evaluations, oldest first by their numbered names."""
    paths = sorted(run.evaluations.glob("*.json"))
    found = [files.json(path, "this evaluation is left out") for path in paths]
    return sorted((values for values in found if values), key=_time)


def _time(values: Values) -> float:
    """Return the time of an evaluation; 0 where it is unknown."""
    value = values.get("time")
    return float(value) if isinstance(value, int | float) else 0.0
