"""A packed model: what arrives is near what was sent, exact where it must be, and nothing else is read."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.protocol.exchange_codec import ROW, SCALES, Codec, Format, digest
from pneumonia_fl.fl.protocol.update_checks import array_bytes
from pneumonia_fl.models.architectures import build_model

TRAINED = {"conv", "linear", "bias", "scalar"}
FORMS = st.sampled_from(["int8", "float16"])
NUMBERS = st.floats(-1e6, 1e6, width=32)


def codec(form: str) -> Codec:
    return Codec(form, TRAINED)  # type: ignore[arg-type]


def model(seed: int = 0, spread: float = 1.0) -> dict[str, Any]:
    """Every kind of array: rows with and without scales of their own, vectors, scalars, statistics, a counter."""
    rng = np.random.default_rng(seed)
    shapes = {"conv": (4, 1, 3, 3), "linear": (2, ROW), "bias": (2,), "scalar": (), "running_mean": (4,)}
    values: dict[str, Any] = {
        name: np.asarray(spread * rng.normal(size=shape), np.float32) for name, shape in shapes.items()
    }
    values["running_var"] = np.asarray(rng.uniform(1e-4, 9, 4), np.float32)
    values["num_batches_tracked"] = np.asarray(rng.integers(0, 2**40), np.int64)
    values["empty"] = np.zeros((0, 3), np.float32)
    return values


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    shapes = {"conv": (3, 2, 2), "linear": (2, ROW), "bias": (5,), "scalar": (), "running_mean": (5,)}
    return {
        name: draw(arrays.arrays(np.float32, shape, elements=NUMBERS)) for name, shape in shapes.items()
    } | {"num_batches_tracked": np.asarray(draw(st.integers(0, 2**62)), np.int64)}


@given(models(), models(), FORMS)
def test_the_sender_knows_bit_by_bit_what_the_receiver_unpacks(
    new: dict[str, Any], held: dict[str, Any], form: str
) -> None:
    packed, received = codec(form).pack(new, held)
    assert digest(codec(form).unpack(packed, held)) == digest(received)
    for name, value in held.items():
        assert (received[name].shape, received[name].dtype) == (value.shape, value.dtype)
    assert received["num_batches_tracked"] == new["num_batches_tracked"]


@given(models(), models())
def test_int8_is_off_by_half_a_step_of_the_row_at_most(new: dict[str, Any], held: dict[str, Any]) -> None:
    _, received = codec("int8").pack(new, held)
    for name, rows in (("linear", 2), ("conv", 1)):
        difference = (new[name] - held[name]).reshape(rows, -1)
        step = np.abs(difference).max(axis=1, keepdims=True) / 127
        rounding = 1e-6 * (np.abs(new[name]) + np.abs(held[name])).reshape(rows, -1) + 1e-30
        off = np.abs(received[name] - new[name]).reshape(rows, -1)
        assert (off <= 0.5001 * step + rounding).all()


@pytest.mark.parametrize(("form", "exponent"), [("int8", -8), ("float16", -11)])
def test_the_error_is_relative_to_the_difference_and_not_to_the_weight(form: Format, exponent: int) -> None:
    held = model(spread=100.0)
    change = model(1, spread=1e-4)
    new = held | {name: held[name] + change[name] for name in TRAINED}
    _, received = codec(form).pack(new, held)
    for name in TRAINED:
        moved = np.abs(new[name] - held[name]).max()
        assert np.abs(received[name] - new[name]).max() <= 1.01 * moved * 2.0**exponent + 1e-5


@pytest.mark.parametrize("form", ["int8", "float16"])
def test_a_variance_stays_positive_however_far_it_falls(form: Format) -> None:
    held = model() | {"running_var": np.asarray([1.0006, 1, 70_000, 1e-6], np.float32)}
    new = model() | {"running_var": np.asarray([1e-4, 1e-4, 1e-4, 1e5], np.float32)}
    _, received = codec(form).pack(new, held)
    np.testing.assert_allclose(received["running_var"], new["running_var"], rtol=1e-3, atol=3e-6)
    assert (received["running_var"] >= 0).all()


@pytest.mark.parametrize("form", ["int8", "float16"])
def test_the_same_model_arrives_as_it_is(form: Format) -> None:
    _, received = codec(form).pack(model(), model())
    assert all(np.array_equal(received[name], model()[name]) for name in TRAINED)


@pytest.mark.parametrize(("form", "most"), [("int8", 0.2535), ("float16", 0.5003)])
def test_what_travels_is_a_quarter_and_half(form: Format, most: float) -> None:
    network = build_model("small_resnet", norm="batch", size=64, seed=1)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    packed, _ = Codec(form, {name for name, _ in network.named_parameters()}).pack(state, state)
    assert array_bytes(packed) <= most * array_bytes(state)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e13])
@pytest.mark.parametrize("name", ["linear", "bias", "running_mean"])
def test_numbers_that_are_none_are_not_packed(value: float, name: str) -> None:
    broken = model()
    broken[name].ravel()[0] = value
    with pytest.raises(AnswerError, match=f"{name} has values that are no numbers"):
        codec("int8").pack(broken, model())


DAMAGE: dict[str, Any] = {
    "no dict": list,
    "a part is missing": lambda packed: {SCALES: packed[SCALES]},
    "a part more": lambda packed: {**packed, "more": packed[SCALES]},
    "too many numbers": lambda packed: {**packed, "int8": np.zeros(10**6, np.int8)},
    "too few numbers": lambda packed: {**packed, "int8": packed["int8"][:-1]},
    "another shape": lambda packed: {**packed, "int8": packed["int8"][None]},
    "another kind": lambda packed: {**packed, "int8": packed["int8"].astype(np.int16)},
    "objects": lambda packed: {**packed, "int8": packed["int8"].astype(object)},
    "no array": lambda packed: {**packed, "int8": packed["int8"].tolist()},
    "a scale that is none": lambda packed: changed(packed, SCALES, np.nan),
    "an infinite scale": lambda packed: changed(packed, SCALES, np.inf),
    "a negative scale": lambda packed: changed(packed, SCALES, -1),
    "a scale like a bomb": lambda packed: changed(packed, SCALES, 1e30),
    "a float16 that is none": lambda packed: changed(packed, "float16", np.nan),
    "an infinite float16": lambda packed: changed(packed, "float16", np.inf),
}


def changed(packed: dict[str, Any], kind: str, value: float) -> dict[str, Any]:
    array = packed[kind].copy()
    array[0] = value
    return {**packed, kind: array}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_packed_model_of_this_job_is_refused(damage: str) -> None:
    packed, _ = codec("int8").pack(model(1), model())
    with pytest.raises(AnswerError, match="its packed model"):
        codec("int8").unpack(DAMAGE[damage](packed), model())


def test_models_with_other_numbers_names_or_kinds_have_other_digests() -> None:
    base = model()
    others = [
        {**base, "bias": base["bias"] + 1},
        {**base, "other": base["bias"]},
        {**base, "bias": base["bias"].astype(np.float64)},
        {**base, "linear": base["linear"].reshape(ROW, 2)},
        {name: value for name, value in base.items() if name != "scalar"},
    ]
    assert digest(dict(reversed(base.items()))) == digest(base)
    assert digest(base) not in {digest(other) for other in others}
