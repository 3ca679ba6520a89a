from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia_fl.data.prepare.partition import (
    MIN_PATIENTS,
    Partition,
    PatientGroup,
    assign_sites,
    check_sites,
    parse_partition,
    parse_sites,
    split_train_val,
)
from pneumonia_fl.errors import ConfigError, DataError

SUBTYPES = {0: ["normal"], 1: ["bacterial", "viral", "unknown"]}


def crowd(normal: int, bacterial: int, viral: int, images: int = 2) -> list[PatientGroup]:
    kinds = [(0, "normal")] * normal + [(1, "bacterial")] * bacterial + [(1, "viral")] * viral
    return [
        PatientGroup(f"p{index:04d}", images, label, kind, index % 3)
        for index, (label, kind) in enumerate(kinds)
    ]


@st.composite
def patients(draw: st.DrawFn, least: int = 4) -> list[PatientGroup]:
    labels = draw(st.lists(st.integers(0, 1), min_size=least, max_size=60))
    return [
        PatientGroup(f"p{i}", draw(st.integers(1, 9)), label, draw(st.sampled_from(SUBTYPES[label])))
        for i, label in enumerate(labels)
    ]


@st.composite
def partitions(draw: st.DrawFn, sites: int) -> Partition:
    number = st.floats(0.05, 100)
    return draw(
        st.one_of(
            st.just(Partition("iid")),
            st.builds(lambda alpha: Partition("dirichlet", (alpha,)), number),
            st.lists(number, min_size=sites, max_size=sites).map(lambda v: Partition("quantity", tuple(v))),
        )
    )


@given(data=st.data(), seed=st.integers(0, 2**32), people=patients())
@settings(max_examples=150, deadline=None)
def test_every_patient_gets_one_site_and_every_site_enough_patients(
    data: st.DataObject, seed: int, people: list[PatientGroup]
) -> None:
    sites = [f"site-{i}" for i in range(data.draw(st.integers(1, len(people) // MIN_PATIENTS)))]
    partition = data.draw(partitions(len(sites)))
    chosen = assign_sites(people, sites, partition, seed)
    assert set(chosen) == {group.patient for group in people}
    sizes = Counter(chosen.values())
    assert set(sizes) == set(sites)
    assert min(sizes.values()) >= MIN_PATIENTS
    shuffled = data.draw(st.permutations(people))
    assert assign_sites(shuffled, sites, partition, seed) == chosen


@given(
    data=st.data(),
    seed=st.integers(0, 2**32),
    fraction=st.floats(0.01, 0.5),
    site=st.integers(0, 9),
    people=patients(least=2),
)
@settings(max_examples=150, deadline=None)
def test_each_class_trains_and_validates_where_it_can(
    data: st.DataObject, seed: int, fraction: float, site: int, people: list[PatientGroup]
) -> None:
    val = split_train_val(people, fraction, seed, site)
    everyone = {group.patient for group in people}
    assert val < everyone
    assert val
    for label in (0, 1):
        mine = {group.patient for group in people if group.label == label}
        if len(mine) >= 2:
            assert 1 <= len(mine & val) < len(mine)
    assert split_train_val(data.draw(st.permutations(people)), fraction, seed, site) == val


def shares(chosen: dict[str, str], people: list[PatientGroup], subtype: str) -> dict[str, float]:
    mine = [chosen[group.patient] for group in people if group.subtype == subtype]
    return {site: mine.count(site) / len(mine) for site in sorted(set(chosen.values()))}


def test_iid_gives_every_site_the_same_mixture() -> None:
    people = crowd(90, 120, 60)
    chosen = assign_sites(people, ["a", "b", "c"], Partition("iid"), 1)
    for subtype in ("normal", "bacterial", "viral"):
        assert shares(chosen, people, subtype) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})


def test_quantity_gives_sites_their_part_of_every_class() -> None:
    people = crowd(60, 60, 60)
    chosen = assign_sites(people, ["a", "b", "c"], parse_partition("quantity:3,2,1"), 1)
    for subtype in ("normal", "viral"):
        assert shares(chosen, people, subtype) == pytest.approx(
            {"a": 1 / 2, "b": 1 / 3, "c": 1 / 6}, abs=0.02
        )


def test_subtype_skews_bacterial_against_viral_and_leaves_normals_even() -> None:
    people = crowd(90, 90, 90)
    chosen = assign_sites(people, ["a", "b", "c"], Partition("subtype"), 1)
    bacterial, viral = shares(chosen, people, "bacterial"), shares(chosen, people, "viral")
    assert bacterial["a"] > 0.55
    assert bacterial["c"] < 0.1
    assert viral["c"] > 0.55
    assert viral["a"] < 0.1
    assert shares(chosen, people, "normal")["b"] == pytest.approx(1 / 3)


def test_natural_keeps_hospitals_together() -> None:
    people = crowd(20, 20, 20)
    chosen = assign_sites(people, ["a", "b"], Partition("natural"), 1)
    assert all(chosen[group.patient] == "ab"[(group.hospital or 0) % 2] for group in people)


def test_small_alpha_skews_labels_and_large_alpha_does_not() -> None:
    people = crowd(300, 300, 0)

    def spread(alpha: float) -> float:
        chosen = assign_sites(people, ["a", "b", "c"], Partition("dirichlet", (alpha,)), 3)
        parts = [shares(chosen, people, "normal"), shares(chosen, people, "bacterial")]
        return sum(abs(parts[0][site] - parts[1][site]) for site in "abc")

    assert spread(0.2) > 0.4
    assert spread(1000) < 0.1


def test_a_tiny_site_is_filled_up_in_a_large_set() -> None:
    people = crowd(300, 300, 0)
    chosen = assign_sites(people, ["a", "b", "c"], parse_partition("quantity:1000,1000,1"), 3)
    assert Counter(chosen.values())["c"] == 20


def test_another_seed_gives_another_partition() -> None:
    people = crowd(30, 30, 30)
    first, second = (assign_sites(people, ["a", "b"], Partition("iid"), seed) for seed in (1, 2))
    assert first != second


def test_two_patients_of_different_classes_still_train_and_validate() -> None:
    assert split_train_val(crowd(1, 1, 0), 0.15, 1, 0) == {"p0001"}


def test_more_sites_than_patients_can_fill_are_refused() -> None:
    with pytest.raises(DataError, match="5 patients are too few for 3 sites"):
        assign_sites(crowd(3, 2, 0), ["a", "b", "c"], Partition("iid"), 1)
    with pytest.raises(DataError, match="it needs two"):
        split_train_val(crowd(1, 0, 0), 0.15, 1, 0)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("quantity:1,2", "2 numbers for 3 sites"),
        ("subtype", "does not name bacterial and viral"),
        ("natural", "does not name hospitals"),
    ],
)
def test_a_partition_that_does_not_fit_is_refused(text: str, error: str) -> None:
    people = [PatientGroup(f"p{i}", 1, i % 2, "unknown") for i in range(20)]
    with pytest.raises(ConfigError, match=error):
        assign_sites(people, ["a", "b", "c"], parse_partition(text), 1)


def test_natural_needs_enough_hospitals() -> None:
    with pytest.raises(DataError, match="3 hospitals, too few for 4 sites"):
        assign_sites(crowd(10, 10, 10), list("abcd"), Partition("natural"), 1)


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.5", "quantity:5,3,2", "subtype", "natural"])
def test_partitions_are_read_and_written_alike(text: str) -> None:
    assert str(parse_partition(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "random", "iid:3", "subtype:1", "quantity", "quantity:", "quantity:1,,2", "quantity:1,0"),
        *("dirichlet", "dirichlet:0", "dirichlet:-1", "dirichlet:x", "dirichlet:nan", "dirichlet:inf"),
        "dirichlet:1,2",
    ],
)
def test_other_partitions_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--partition"):
        parse_partition(text)


def test_sites_are_a_number_or_names() -> None:
    assert parse_sites("3") == ("site-1", "site-2", "site-3")
    assert parse_sites("europe-hospital, asia_2") == ("europe-hospital", "asia_2")


@pytest.mark.parametrize(
    "text", ["0", "", "a,", "a,A", "test", "a,Server", "../x", "a b", "-x", "x" * 64, "a/b", "global"]
)
def test_other_site_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--sites"):
        check_sites(parse_sites(text))
