"""A job that evaluates saved models at every site: made from model files, run in the simulator, and what it found."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pneumonia_fl.config.environment import cpu_count
from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.strict import parse
from pneumonia_fl.data.manifest import read_info
from pneumonia_fl.errors import CheckpointError, ConfigError, RunError
from pneumonia_fl.evaluation.evaluate import Evaluation, model_folder, of_model
from pneumonia_fl.files import inner_folder, write_atomic
from pneumonia_fl.fl.job.plan import plan, share_cores
from pneumonia_fl.fl.protocol.carried_models import hash_of, pack
from pneumonia_fl.fl.simulator.supervisor import simulate
from pneumonia_fl.fl.site.local_models import LOCAL
from pneumonia_fl.fl.state.site_state import MODEL
from pneumonia_fl.models.checkpoint import CARD, ModelCard, load_model
from pneumonia_fl.results.cross_site_files import matrix_of
from pneumonia_fl.runs.folder import RunFolder, start_run
from pneumonia_fl.runs.journal import JOURNAL_NAME, Event, read_journal

SOURCE = "federation"
"""Kind of source of an evaluation at the sites."""


@dataclass(frozen=True)
class Subject:
    """A saved model that is evaluated, and its weights as they travel."""

    name: str
    card: ModelCard
    weights: bytes

    @property
    def sha256(self) -> str:
        """Hash of the weights: in the job, in audit logs."""
        return hash_of(self.weights)


def subject(name: str, path: Path) -> Subject:
    """Read a saved model; a run folder stands for its best one.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    model, card = load_model(model_folder(path))
    return Subject(name, card, pack(model.state_dict()))


def model_paths(run: RunFolder, wanted: Sequence[str]) -> dict[str, Path]:
    """Return a run's models with these names: `best`, `last`, or the site whose own one it is.

    Without a name best and last, as far as they are there.

    Raises:
        RunError: it has not one of them.
    """
    there = {"best": run.model, "last": run.model_last}
    for name in (LOCAL, MODEL):  # a personal model, where the algorithm makes one, goes before
        there |= {path.parent.name: path for path in sorted(run.sites.glob(f"*/{name}"))}
    there = {name: path for name, path in there.items() if (path / CARD).is_file()}
    wanted = wanted or [name for name in ("best", "last") if name in there] or ["best"]
    if lacking := [name for name in wanted if name not in there]:
        raise RunError(f"{run.path} has no model {', '.join(lacking)}; it has: {', '.join(there) or 'none'}")
    return {name: there[name] for name in wanted}


def evaluation_job(name: str, subjects: Sequence[Subject], split: str, intervals: bool) -> JobConfig:
    """Make the job that evaluates these models.

    Raises:
        CheckpointError: they are not of one network and one input.
        ConfigError: the split is none of a site.
    """
    first = subjects[0].card
    for other in subjects[1:]:
        if (other.card.model, other.card.preprocess) != (first.model, first.preprocess):
            raise CheckpointError(
                f"the models {subjects[0].name} and {other.name} are of different networks; evaluate them apart"
            )
    models = {
        one.name: {
            "sha256": one.sha256,
            "threshold": one.card.threshold,
            "temperature": one.card.temperature,
            "offset": one.card.offset,
        }
        for one in subjects
    }
    values = {
        "name": name,
        "rounds": 1,
        "min_sites": 1,  # a site that refuses the job does not stop the others
        "tracking": (),
        "model": {"name": first.model.name, "norm": first.model.norm},
        "preprocess": first.preprocess,
        "evaluation": {"split": split, "intervals": intervals, "models": models},
    }
    return parse(JobConfig, values, "the evaluation")


def chosen(wanted: Sequence[str], there: Sequence[str]) -> tuple[str, ...]:
    """Return the sites that are wanted; all when none is named.

    Raises:
        ConfigError: one is not there.
    """
    if unknown := sorted(set(wanted) - set(there)):
        raise ConfigError(f"no site {', '.join(unknown)}; there are: {', '.join(there) or 'none'}")
    return tuple(site for site in there if site in wanted) if wanted else tuple(there)


def run_in_simulator(
    job: JobConfig,
    subjects: Sequence[Subject],
    data: Path,
    sites: Sequence[str],
    on_event: Callable[[Event], None],
) -> list[Event]:
    """Evaluate in the simulator; returns what was written down.

    Raises:
        ConfigError: the data has no such sites, or is prepared for another input.
        RunError: the simulator failed; its folder is kept, and the message names it.
    """
    info = read_info(data)
    taking_part = chosen(sites, info.sites)
    images = plan(job, info).images
    folder = Path(tempfile.mkdtemp(prefix="pneumonia-fl-"))
    run = RunFolder.create(folder / "run")
    start_run(run, job, taking_part, {})
    inner_folder(run.weights)
    for one in subjects:
        write_atomic(run.weights / f"{one.name}.safetensors", one.weights)
    threads = share_cores({site: images[site] for site in taking_part}, cpu_count())
    simulate(run, job.name, threads, data, on_event, None)
    events = read_journal(run.server_of(job.name) / JOURNAL_NAME)
    shutil.rmtree(folder, ignore_errors=True)
    return events


def found_of(one: Subject, events: Sequence[Event]) -> Evaluation | None:
    """Return the sites' results of a model, together and each alone; None when none evaluated it."""
    event = next((e for e in events if e["event"] == "evaluated" and e["model"] == one.name), None)
    if event is None:
        return None
    origin = {"source": SOURCE, "manifest_sha256": None, "sites": event["sites"]}
    origin["missing"] = matrix_of(list(events))["missing"]
    return of_model(one.card, event["split"], event["time"], origin | event["together"])
