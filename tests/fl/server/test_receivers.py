"""Of a site the receivers keep points of known series only, in the name of a site of the job."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsData, AnalyticsDataType
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import EventScope, FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.utils.analytix_utils import create_analytic_dxo

from conftest import ROOT, scalars, texts
from pneumonia_fl.fl.server import receivers
from pneumonia_fl.fl.server.receivers import JournalReceiver, MLflowReceiver, TensorBoardReceiver, site_point
from pneumonia_fl.metrics.series import ALIASES, GLOBAL_ALIASES, SITE_ALIASES
from pneumonia_fl.results.cross_site_files import as_markdown
from pneumonia_fl.runs.journal import read_journal

SITES = ("asia", "europe")


class Engine:
    """A job's engine: its folder and its sites."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_workspace(self) -> Any:
        return SimpleNamespace(get_run_dir=lambda _: str(self.folder), get_root_dir=lambda: str(self.folder))

    def get_clients(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in (*SITES, "global")]


def context(folder: Path, data: Shareable | None = None, origin: str = "") -> FLContext:
    found = FLContext()
    found.set_prop(ReservedKey.ENGINE, Engine(folder), private=True, sticky=False)
    found.set_prop(ReservedKey.RUN_NUM, "a-job", private=True, sticky=False)
    if data is not None:
        data.set_peer_props({ReservedKey.IDENTITY_NAME: origin})
        found.set_prop(FLContextKey.EVENT_DATA, data, private=True, sticky=False)
        found.set_prop(FLContextKey.EVENT_SCOPE, EventScope.FEDERATION, private=True, sticky=False)
    return found


def point(tag: Any = "train_loss", value: Any = 0.5, step: Any = 3) -> Shareable:
    """A point as a site's bytes may make it, checked by nobody on the way."""
    data = {"track_key": tag, "track_value": value, "global_step": step}
    sent = DXO(DataKind.ANALYTIC, data=data)
    sent.set_meta_prop("analytics_data_type", AnalyticsDataType.SCALAR)
    return sent.to_shareable()


def test_a_point_as_ours_is_known() -> None:
    sent = create_analytic_dxo("validation_auc", 0.9, AnalyticsDataType.SCALAR, global_step=2).to_shareable()
    found = site_point(sent)
    assert isinstance(found, AnalyticsData)
    assert (found.tag, found.value, found.step) == ("validation_auc", 0.9, 2)


@pytest.mark.parametrize(
    "sent",
    [
        point("../../../../x"),
        point("global/validation_auc"),
        point("x" * 10**6),
        point(value=float("nan")),
        point(value=float("inf")),
        point(value=1e300),
        point(value="0.5"),
        point(value=True),
        point(value=10**400),
        point(step=-1),
        point(step=10**12),
        point(step=None),
        point(step="3"),
        point(step=True),
        create_analytic_dxo(
            "train_loss", {"a": 1.0}, AnalyticsDataType.SCALARS, global_step=1
        ).to_shareable(),
        create_analytic_dxo("train_loss", "text", AnalyticsDataType.TEXT, global_step=1).to_shareable(),
        DXO(DataKind.ANALYTIC, data={"x": 1}).to_shareable(),
        Shareable(),
        None,
    ],
)
def test_what_the_schema_does_not_know_is_no_point(sent: Any) -> None:
    assert site_point(sent) is None


def journal(folder: Path, *sent: tuple[str, Shareable]) -> list[tuple[str, float]]:
    """Origins and values that a receiver has kept of what was sent."""
    receiver = JournalReceiver()
    receiver.handle_event(EventType.START_RUN, context(folder))
    for origin, data in sent:
        receiver.handle_event(f"fed.{ANALYTIC_EVENT_TYPE}", context(folder, data, origin))
    return [(event["site"], event["value"]) for event in read_journal(folder / "journal.jsonl")]


@pytest.mark.parametrize(
    ("origin", "tag", "names"),
    [
        ("asia", "validation_accuracy", {"val_acc", "local_accuracy", "validation_accuracy"}),
        ("asia", "train_loss", {"Train Loss", "train_loss"}),
        ("", "validation_accuracy", {"val_acc", "global_accuracy", "global/validation_accuracy"}),
        ("", "round_train_loss", {"global/train_loss"}),
    ],
)
def test_series_go_on_under_earlier_names_where_a_job_wants_them(
    tmp_path: Path, origin: str, tag: str, names: set[str]
) -> None:
    for wanted in (True, False):
        receiver = TensorBoardReceiver(aliases=wanted)
        folder = tmp_path / str(wanted)
        receiver.handle_event(EventType.START_RUN, context(folder))
        where = context(folder, point(tag), origin) if origin else own_event(folder, point(tag))
        receiver.handle_event(f"fed.{ANALYTIC_EVENT_TYPE}" if origin else ANALYTIC_EVENT_TYPE, where)
        receiver.finalize(where)
        found = scalars(folder / "tb_events" / (origin or "global"))
        assert found.keys() >= names if wanted else found.keys() == {tag}
        assert all(series == [(3, 0.5)] for series in found.values())


def own_event(folder: Path, data: Shareable) -> FLContext:
    """An event of the server itself."""
    found = context(folder)
    found.set_prop(FLContextKey.EVENT_DATA, data, private=True, sticky=False)
    found.set_prop(FLContextKey.EVENT_SCOPE, EventScope.LOCAL, private=True, sticky=False)
    return found


def test_the_cross_site_matrix_is_a_table_in_tensorboard_and_no_cards(tmp_path: Path) -> None:
    found = {
        "sites": ["asia", "europe"],
        "cells": {"best": {"asia": {"auroc": 0.9}, "europe": {"auroc": None}}},
    }
    table = create_analytic_dxo("cross_site", as_markdown(found), AnalyticsDataType.TEXT, global_step=2)
    receiver = TensorBoardReceiver()
    receiver.handle_event(EventType.START_RUN, context(tmp_path))
    for sent in (table.to_shareable(), point("cross_site/best/asia")):
        receiver.handle_event(ANALYTIC_EVENT_TYPE, own_event(tmp_path, sent))
    receiver.finalize(context(tmp_path))
    assert scalars(tmp_path / "tb_events" / "global") == {}
    assert texts(tmp_path / "tb_events" / "global")["cross_site"][0].splitlines() == [
        "| AUROC of the model | on asia | on europe |", "| --- | --- | --- |", "| best | 0.900 | n/a |",
    ]  # fmt: skip


def test_every_earlier_name_stands_in_the_reference() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text()
    for table in (ALIASES, SITE_ALIASES, GLOBAL_ALIASES):
        for tag, names in table.items():
            assert all(f"`{name}`" in page for name in (tag, *names))


def test_mlflow_takes_the_same_names_and_no_text(tmp_path: Path) -> None:
    receiver = MLflowReceiver(aliases=True)
    taken: list[str] = []
    receiver._sink = SimpleNamespace(put=lambda origin, tag, value, step: taken.append(tag))  # type: ignore[assignment]
    receiver.save(context(tmp_path), point("validation_auc"), "asia")
    text = create_analytic_dxo("cross_site", "| a |", AnalyticsDataType.TEXT, global_step=1).to_shareable()
    receiver.save(context(tmp_path), text, "global")
    assert taken == ["validation_auc", "val_auc", "Validation AUC"]


def test_only_sites_of_the_job_are_kept_and_no_site_is_global(tmp_path: Path) -> None:
    senders = ("asia", "global", "nobody", "../asia", "")
    assert journal(tmp_path, *((name, point()) for name in senders)) == [("asia", 0.5)]


def test_a_site_that_floods_is_no_longer_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "MAX_POINTS", 3)
    sent = [("asia", point(step=step)) for step in range(9)] + [("europe", point())]
    assert journal(tmp_path, *sent) == [("asia", 0.5)] * 3 + [("europe", 0.5)]


@pytest.mark.parametrize("kind", [JournalReceiver, MLflowReceiver, TensorBoardReceiver])
def test_every_receiver_asks_the_same_schema(kind: Any, tmp_path: Path) -> None:
    receiver = kind()
    kept: list[str] = []
    receiver._initialized = True
    receiver.save = lambda shareable, fl_ctx, record_origin: kept.append(record_origin)
    for origin, sent in (
        ("asia", point()),
        ("asia", point("../x")),
        ("global", point()),
        ("europe", point(value=2)),
    ):
        receiver.handle_event(f"fed.{ANALYTIC_EVENT_TYPE}", context(tmp_path, sent, origin))
    assert kept == ["asia", "europe"]
