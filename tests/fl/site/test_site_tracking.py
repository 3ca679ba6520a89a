"""Where a site's series go: its own decision, which no job knows."""

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from conftest import scalars
from pneumonia_fl.config.environment import SITE_TRACKING_VARIABLE, SiteTracking, site_tracking
from pneumonia_fl.config.strict import parse
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.kit.startup_kit import LocalSettings
from pneumonia_fl.fl.site import site_tracking as tracking
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.metrics.series import ALIVE, is_site_tag
from pneumonia_fl.runs.folder import GLOBAL, MLFLOW_STATUS
from pneumonia_fl.runs.mlflow_files import read_status, sqlite_uri


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What reaches NVFlare's writer, which needs a job to run in."""
    points: list[tuple[Any, ...]] = []

    class Writer:
        def add_scalar(self, *point: Any) -> None:
            points.append(point)

    monkeypatch.setattr(tracking, "SummaryWriter", Writer)
    return points


def write(settings: SiteTracking, folder: Path) -> None:
    for writer in tracking.series_writers(settings, "fedavg", SiteState(folder)):
        writer.add_scalar("train_loss", 0.5, 3)
        writer.close()


def test_by_default_the_server_gets_the_series_and_nothing_is_made_at_home(
    tmp_path: Path, sent: list[tuple[Any, ...]]
) -> None:
    write(SiteTracking(), tmp_path / "job")
    assert sent == [("train_loss", 0.5, 3)]
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(("where", "told"), [("site", (ALIVE, 0.0, 0)), ("both", ("train_loss", 0.5, 3))])
def test_series_at_home_and_what_the_server_hears(
    tmp_path: Path, sent: list[tuple[Any, ...]], where: Any, told: tuple[Any, ...]
) -> None:
    write(SiteTracking(where), tmp_path / "job")
    assert scalars(tmp_path / "job" / "tensorboard") == {"train_loss": [(3, 0.5)]}
    assert sent == [told]


def test_a_sign_of_life_is_no_series() -> None:
    assert not is_site_tag(ALIVE)


def test_an_mlflow_at_home_goes_on_when_the_trainer_is_started_again(
    tmp_path: Path, sent: list[tuple[Any, ...]]
) -> None:
    settings = SiteTracking("site", sqlite_uri(tmp_path / "home.db"))
    write(settings, tmp_path / "job")
    write(settings, tmp_path / "job")
    run = read_status(tmp_path / "job" / MLFLOW_STATUS).runs[GLOBAL]
    points = MlflowClient(settings.uri).get_metric_history(run, "train_loss")
    assert [(point.step, point.value) for point in points] == [(3, 0.5)] * 2
    assert sent == [(ALIVE, 0.0, 0)] * 2


@pytest.mark.parametrize("values", [{"tracking": "nowhere"}, {"tracking_uri": "http://me:secret@x"}])
def test_a_setting_that_cannot_be_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(LocalSettings, values, "local/pneumonia_fl.yml")
    assert "secret" not in str(refused.value)


def test_the_environment_says_one_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    assert site_tracking() == SiteTracking("server")
    monkeypatch.setenv(SITE_TRACKING_VARIABLE, "elsewhere")
    with pytest.raises(ConfigError, match="server, site or both"):
        site_tracking()
