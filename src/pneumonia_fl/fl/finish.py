"""The end of a run: collect what NVFlare left, draw the curves, complete the MLflow runs."""

from pneumonia_fl.config import JobConfig
from pneumonia_fl.data.manifest import DatasetInfo
from pneumonia_fl.fl.collect import collect
from pneumonia_fl.fl.mlflow_records import complete_mlflow
from pneumonia_fl.journal import read_journal
from pneumonia_fl.metrics import ScoreHistogram
from pneumonia_fl.runs import RunFolder


def finish(run: RunFolder, job: JobConfig, info: DatasetInfo, state: str) -> None:
    """Complete the run folder; `state` is how the run ended (see `runs.STATES`)."""
    collect(run, job, info)
    _draw(run)
    if "mlflow" in job.tracking:
        run.update_state(mlflow=complete_mlflow(run, job, state))


def _draw(run: RunFolder) -> None:
    from pneumonia_fl.report.figures import learning_curves, roc_and_calibration

    metrics = run.metrics()
    if not any(entry["global"] for entry in metrics["rounds"]):
        return
    run.figures.mkdir(exist_ok=True)
    learning_curves(metrics, run.figures / "curves.png")
    pooled = {
        event["round"]: event["histogram"]
        for event in read_journal(run.journal)
        if event["event"] == "global"
    }
    best = pooled.get(metrics["best_round"])
    if best:
        roc_and_calibration(ScoreHistogram.from_dict(best), run.figures / "roc.png")
