"""An answer of a site counts as a whole or not at all: it is refused with its reason, and the round goes on."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvflare.apis.fl_constant import ReservedKey
from nvflare.app_common.abstract.fl_model import FLModel
from servers import Surroundings, begun
from site_reports import TRAINING, answer, personal, report

from pneumonia_fl.fl.algorithms.fednova import CLASS_COUNTS, SECOND_MOMENTS, STEPS
from pneumonia_fl.fl.algorithms.scaffold import CHANGE, LOST
from pneumonia_fl.fl.protocol.messages import ABOUT_KEY
from pneumonia_fl.fl.server.controller import PooledFedAvg
from pneumonia_fl.runs.journal import Event


class Server:
    """A controller in its first round; what it publishes is kept."""

    def __init__(
        self,
        folder: Path,
        algorithm: str = "fedavg",
        factors: list[list[Any]] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.controller = PooledFedAvg(
            sites=("a", "b"), quorum=1, num_rounds=1, algorithm={"name": algorithm}, factors=factors
        )
        around = Surroundings(self.controller, folder, sites=("a", "b"))
        self.controller.fl_ctx.set_prop(
            ReservedKey.JOB_META, {"custom_props": {ABOUT_KEY: {"config": config or {}}}}
        )
        self.published, self.events = around.points, around.events
        self.job = begun(self.controller)
        self.tracker, self.selector = self.job.tracker, self.controller._selector

    def take(self, result: FLModel) -> bool:
        """Whether a result is taken in; the site is who the result says, as NVFlare has checked."""
        before = len(self.events("site"))
        self.controller.accept(result.meta["client_name"], result, "train")
        return len(self.events("site")) > before

    def average(self) -> Any:
        self.job.tasks.close_round(quorum=True)
        return self.controller.averaging.aggregate_model().params

    def close(self) -> float:
        """End the round: the new weight."""
        average = self.average()
        self.controller._select()
        return float(self.controller._server.update(self.selector.candidate, average)["weight"])


def judged(folder: Path, said: Any) -> tuple[bool, list[Event]]:
    """Whether an answer with this report counts, and what the journal says of problems."""
    server = Server(folder)
    return server.take(answer(said=said)), server.events("problem")


def test_a_whole_report_counts(tmp_path: Path) -> None:
    assert judged(tmp_path, report()) == (True, [])


def test_a_broken_report_is_refused_by_name(tmp_path: Path) -> None:
    counts, problems = judged(tmp_path, report(training={"train_samples": 5}))
    assert not counts
    assert [(problem["site"], problem["state"]) for problem in problems] == [("a", "refused")]
    assert problems[0]["problem"] == "its report is broken: training.train_loss: Field required"


def test_a_problem_of_a_site_is_named_in_one_line(tmp_path: Path) -> None:
    counts, problems = judged(tmp_path, {"problem": "no data\x1b[2J\n" + "x" * 3000})
    assert not counts
    assert problems[0]["state"] == "failed"
    assert problems[0]["problem"].isprintable()
    assert len(problems[0]["problem"]) == 200


def test_a_site_cannot_set_its_own_metrics_in_the_journal(tmp_path: Path) -> None:
    counts, problems = judged(tmp_path, report(training={**TRAINING, "auroc": 0.1}))
    assert not counts
    assert "training.auroc" in problems[0]["problem"]


def test_two_counts_of_samples_must_agree(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert not server.take(answer(NUM_STEPS_CURRENT_ROUND=8))
    assert server.events("problem")[0]["problem"] == "its two counts of samples differ"


def test_a_difference_is_no_model(tmp_path: Path) -> None:
    server, sent = Server(tmp_path), answer()
    sent.params_type = "DIFF"
    assert not server.take(sent)
    assert server.events("problem")[0]["problem"] == "it sent no full model"


@pytest.mark.parametrize("kind", ["int8", "bool", "float16", ">f4"])
def test_no_site_chooses_the_numbers_in_which_the_model_is_kept(tmp_path: Path, kind: str) -> None:
    server = Server(tmp_path)
    server.selector.begin({"weight": np.float32(0.3)}, 0)
    for site, weight in (("a", np.ones((), kind)), ("b", np.float32(0.3))):
        sent = answer(site)
        sent.params = {"weight": weight}
        assert server.take(sent)
    average = server.average()["weight"]
    assert average.dtype.str == np.dtype(np.float32).str
    assert float(average) == pytest.approx(0.65)


def test_second_moments_are_kept_in_the_numbers_of_the_model(tmp_path: Path) -> None:
    server = Server(tmp_path, "fednova")
    for site, moment in (("a", np.float16(1e-7)), ("b", np.float64(1e-9))):
        assert server.take(
            answer(site, **{STEPS: 3, CLASS_COUNTS: [4, 5], SECOND_MOMENTS: {"weight": moment}})
        )
    server.close()
    assert server.controller._server.outgoing(1, 2)[SECOND_MOMENTS]["weight"].dtype == np.float64


def test_an_answer_that_comes_again_and_again_is_named_once(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert not any(server.take(answer(said={})) for _ in range(5))
    assert len(server.events("problem")) == 1


def test_a_second_answer_that_is_refused_takes_nothing_back(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert server.take(answer("a"))
    assert not server.take(answer("a", said={}))
    assert server.tracker.accepted == ["a"]
    assert server.close() == 2.0


def test_the_data_set_of_a_site_is_fixed_by_its_first_answer(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert server.take(answer())
    server.tracker.open(1, "train")
    other = report()
    other["data"]["manifest_sha256"] = "1" * 64
    assert not server.take(answer(said=other))
    assert "not that of its first answer" in server.events("problem")[0]["problem"]
    assert len(server.events("data")) == 1


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.sampled_from([10**100, -(2**63), np.zeros(3), np.float64("nan"), object(), "x" * 10**6, float("inf")])
)  # fmt: skip
NESTED = st.recursive(
    LEAVES, lambda some: st.lists(some) | st.dictionaries(st.text() | st.integers(), some), max_leaves=8
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of a nested value, of long lists the first."""
    found = [path]
    if isinstance(value, dict):
        found += [place for key, part in value.items() for place in places(part, (*path, key))]
    elif isinstance(value, list):
        found += places(value[0], (*path, 0))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of `value` with another value in one place."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


EXTRAS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "scaffold": {CHANGE: {"weight": np.float64(0.5)}, LOST: False},
    "fednova": {STEPS: 3, CLASS_COUNTS: [4, 5], SECOND_MOMENTS: {"weight": np.float64(0.1)}},
}


def whole(algorithm: str, site: str = "a") -> dict[str, Any]:
    """What an answer carries, as one nested value."""
    sent = answer(site, report(site, personal=personal()), **EXTRAS[algorithm])
    return {"params": sent.params, "meta": sent.meta}


def result_of(sent: dict[str, Any]) -> FLModel:
    result = FLModel(params_type="FULL", params={"weight": np.float64(0.0)})
    result.params, result.meta = sent["params"], sent["meta"]
    return result


@st.composite
def hostile(draw: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
    """An algorithm, and a whole answer with any value in any place, or with one thing more in it."""
    algorithm = draw(st.sampled_from(sorted(EXTRAS)))
    sent = whole(algorithm)
    inside = [place for place in places(sent) if place and place[-1] not in ("meta", "client_name")]
    where = draw(st.sampled_from(inside))
    value = at(sent, where)
    if isinstance(value, dict) and draw(st.booleans()):
        return algorithm, changed(sent, where, value | {draw(st.text()): draw(NESTED)})
    return algorithm, changed(sent, where, draw(NESTED))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def assert_the_round_goes_on(algorithm: str, sent: dict[str, Any]) -> None:
    """The answer counts or is refused by name; then another site's counts, and the round closes with good numbers."""
    with TemporaryDirectory() as folder:
        server = Server(Path(folder), algorithm)
        counted, problems = server.take(result_of(sent)), server.events("problem")
        if not counted:
            assert [(problem["site"], problem["state"]) for problem in problems] in (
                [("a", "refused")],
                [("a", "failed")],
            )
            assert problems[0]["problem"].isprintable()
            assert 0 < len(problems[0]["problem"]) <= 500
            assert not server.events("site") + server.events("data")
            assert server.tracker.sites["a"].contributions == 0
            assert not server.selector.has_scores
        assert server.take(result_of(whole(algorithm, "b")))
        assert np.isfinite(server.close())
        assert all(np.isfinite(value) for value in server.published.values())
        assert server.job.journal.path.stat().st_size < 100_000
        assert server.events("global")[0]["values"]["n"] == (4 if counted else 2)


@pytest.mark.parametrize("algorithm", sorted(EXTRAS))
def test_a_whole_answer_counts_with_every_algorithm(algorithm: str) -> None:
    assert_the_round_goes_on(algorithm, whole(algorithm))


@settings(deadline=None, max_examples=200)
@given(hostile())
def test_any_value_in_any_place_is_refused_by_name_and_the_round_goes_on(
    sent: tuple[str, dict[str, Any]],
) -> None:
    assert_the_round_goes_on(*sent)


@pytest.mark.slow
@settings(deadline=None, max_examples=1200)
@given(hostile())
def test_many_values_in_many_places_are_refused_by_name(sent: tuple[str, dict[str, Any]]) -> None:
    assert_the_round_goes_on(*sent)


@pytest.mark.parametrize(
    ("algorithm", "extras", "words"),
    [
        ("fednova", {STEPS: 4}, "its two counts of steps differ"),
        ("fednova", {CLASS_COUNTS: [400, 500]}, "its class counts are not those of its data set"),
        ("scaffold", {LOST: "yes"}, "whether it has lost"),
        ("scaffold", {CHANGE: {"weight": np.float64(1e300)}}, "beyond"),
        ("fednova", {SECOND_MOMENTS: {"weight": np.float64(np.inf)}}, "no numbers"),
    ],
)
def test_what_an_algorithm_adds_is_checked_as_well(
    algorithm: str, extras: dict[str, Any], words: str, tmp_path: Path
) -> None:
    server, sent = Server(tmp_path, algorithm), whole(algorithm)
    assert not server.take(result_of({**sent, "meta": sent["meta"] | extras}))
    assert words in server.events("problem")[0]["problem"]
