from typing import Any

import pytest
from dataset_infos import SITES, three_sites
from hypothesis import given
from hypothesis import strategies as st

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.config.strict import parse
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.job.plan import plan, share_cores, sites_at_once


def job(**values: Any) -> JobConfig:
    return parse(JobConfig, {"name": "job"} | values, "job.yml")


def test_all_sites_take_part_with_their_training_images() -> None:
    planned = plan(job(), three_sites())
    assert planned.sites == SITES
    assert planned.images == dict.fromkeys(SITES, 40)


def test_the_input_is_what_the_data_was_prepared_with() -> None:
    assert plan(job(), three_sites()).job.preprocess == Preprocess(size=64, interpolation="box")


def test_a_job_keeps_its_normalisation_and_takes_the_decoding_from_the_data() -> None:
    wanted = {"normalisation": "fixed", "mean": 0.5}
    planned = plan(job(preprocess=wanted), three_sites())
    assert planned.job.preprocess == Preprocess(size=64, interpolation="box", normalisation="fixed", mean=0.5)


def test_another_size_than_the_prepared_one_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"preprocess\.size 224, .*prepared with 64; .*--size 224"):
        plan(job(preprocess={"size": 224}), three_sites())


def test_another_filter_than_the_prepared_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"preprocess\.interpolation bicubic, .*prepared with box"):
        plan(job(preprocess={"interpolation": "bicubic"}), three_sites())


def test_clients_are_the_first_sites() -> None:
    assert plan(job(), three_sites(), clients=2).sites == ("north", "south")


@pytest.mark.parametrize("clients", [0, 4])
def test_more_clients_than_sites_are_refused(clients: int) -> None:
    with pytest.raises(ConfigError, match=f"{clients} clients wanted, .*has 3: north, south, west"):
        plan(job(), three_sites(), clients)


def test_min_sites_above_the_sites_that_take_part_is_refused() -> None:
    assert plan(job(min_sites=3), three_sites()).sites == SITES
    with pytest.raises(ConfigError, match=r"min_sites is 3, but 2 sites take part; lower min_sites"):
        plan(job(min_sites=3), three_sites(), clients=2)


def test_equal_sites_share_the_cores() -> None:
    assert share_cores({"a": 100, "b": 100}, cores=8) == {"a": 4, "b": 4}


def test_a_site_with_most_images_gets_most_cores() -> None:
    assert share_cores({"a": 900, "b": 50, "c": 50}, cores=2) == {"a": 2, "b": 1, "c": 1}


def test_many_sites_work_as_many_at_a_time_as_there_are_cores() -> None:
    assert (sites_at_once(8, cores=2), sites_at_once(9, cores=2), sites_at_once(300, cores=2)) == (8, 2, 2)


def test_sites_that_take_turns_have_one_thread_each() -> None:
    images = {"large": 10_000, **{f"small-{number}": 1 for number in range(8)}}
    assert set(share_cores(images, cores=2).values()) == {1}


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 10**6), min_size=1), st.integers(1, 256))
def test_every_site_has_a_thread_and_none_has_more_than_there_are(images: dict[str, int], cores: int) -> None:
    threads = share_cores(images, cores)
    assert threads.keys() == images.keys()
    assert all(1 <= count <= cores for count in threads.values())
    assert sum(threads.values()) <= cores + len(images)
