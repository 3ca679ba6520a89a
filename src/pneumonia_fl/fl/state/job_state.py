"""The server's own state of a job, so that the job can be resumed after a crash.

NVFlare 2.9 has no job resume. After every round the last global model, the best one and the
journal are written here; the folder goes when the job is done.

<server kit>/pneumonia_fl_state/<job id>/
    model.safetensors    the last global model      journal.jsonl   events up to then
    best.safetensors     the best one so far        mlflow.json     the job's runs in MLflow
    extra.safetensors    the algorithm's own        result.json     how the job ended
    state.json           round, steps, submitter    kept-….safetensors  the models to average
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from pneumonia_fl.errors import RunError
from pneumonia_fl.files import write_atomic
from pneumonia_fl.runs.folder import MLFLOW_STATUS
from pneumonia_fl.runs.journal import JOURNAL_NAME

STATE_FOLDER = "pneumonia_fl_state"
RESULT = "result.json"
JOB_ID = re.compile(r"[0-9A-Za-z_-]{1,80}")
COPIED = (JOURNAL_NAME, MLFLOW_STATUS)

Parameters = dict[str, Any]


class JobState:
    """The kept state of one job.

    Args:
        workspace: root of the server's workspace, which is its kit.
        job_id: NVFlare's id of the job.
    """

    def __init__(self, workspace: Path, job_id: str) -> None:
        if not JOB_ID.fullmatch(job_id):
            raise RunError(f"{job_id!r} is not a job id")
        self.folder = workspace / STATE_FOLDER / job_id

    def save(
        self,
        model: Parameters,
        best: Parameters | None,
        values: dict[str, Any],
        run_dir: Path,
        extra: Parameters,
    ) -> None:
        """Write the state after a round; `values` (small, JSON) last, because they say which round it is."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self.folder / "model.safetensors", _packed(model))
        if best is not None:
            write_atomic(self.folder / "best.safetensors", _packed(best))
        if extra:
            write_atomic(self.folder / "extra.safetensors", _packed(extra))
        for name in COPIED:
            if (run_dir / name).is_file():
                write_atomic(self.folder / name, (run_dir / name).read_bytes())
        write_atomic(self.folder / "state.json", json.dumps(values).encode())

    def keep(self, model: Parameters, number: int, last: int) -> None:
        """Save the model after `number` rounds, and delete old ones so that `last` remain."""
        if not last:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self.folder / f"kept-{number:04}.safetensors", _packed(model))
        for file in self._kept()[:-last]:
            file.unlink()

    def kept(self) -> Iterator[Parameters]:
        """Load the saved models one after the other, oldest first."""
        return (load_file(file) for file in self._kept())

    def kept_count(self) -> int:
        """Return the number of saved models."""
        return len(self._kept())

    def take_kept(self, other: "JobState") -> None:
        """Copy the saved models of another job."""
        for file in other._kept():
            file.rename(self.folder / file.name)

    def _kept(self) -> list[Path]:
        return sorted(self.folder.glob("kept-*.safetensors"))

    def load(self, submitter: str) -> tuple[Parameters, Parameters | None, dict[str, Any]]:
        """Load the last model, the best one (None: not yet) and the values.

        Raises:
            RunError: there is nothing to resume from, or the job is another user's.
        """
        try:
            values = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            model = load_file(self.folder / "model.safetensors")
        except OSError:
            raise RunError(
                f"job {self.folder.name} has no state to resume from: it finished, or no round was done"
            ) from None
        if values["submitter"] != submitter:
            raise RunError(f"job {self.folder.name} was submitted by somebody else")
        best = self.folder / "best.safetensors"
        return model, load_file(best) if best.is_file() else None, values

    def rounds(self) -> int:
        """Return the number of completed rounds; 0 when there is nothing to resume from."""
        file = self.folder / "state.json"
        return int(json.loads(file.read_text(encoding="utf-8"))["round"]) if file.is_file() else 0

    def load_extra(self) -> Parameters:
        """Load the algorithm's own arrays; empty when it has none."""
        extra = self.folder / "extra.safetensors"
        return load_file(extra) if extra.is_file() else {}

    def belongs_to(self, submitter: str) -> bool:
        """Return True when there is a state, and `submitter` may resume from it."""
        file = self.folder / "state.json"
        return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["submitter"] == submitter

    def copy_records(self, run_dir: Path) -> None:
        """Copy journal and MLflow run ids into the run folder of the resumed job."""
        for name in COPIED:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, run_dir / name)

    def finish(self, result: dict[str, Any], keep: bool) -> None:
        """Write how the job ended; unless `keep`, remove everything that only a resume would need."""
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self.folder / RESULT, json.dumps(result).encode())

    def result(self) -> dict[str, Any] | None:
        """Return what `finish` wrote; None when the job did not get so far."""
        file = self.folder / RESULT
        if not file.is_file():
            return None
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return values

    def remove(self) -> None:
        """Delete the job's state."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _packed(parameters: Parameters) -> bytes:
    """Encode parameters for safetensors, which takes arrays only: NumPy turns 0-d results into scalars."""
    content: bytes = save({name: np.asarray(value) for name, value in parameters.items()})
    return content
