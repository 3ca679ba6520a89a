"""Preparations that cannot end well: what is said, and what is left behind."""

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from speed import scaled
from xrays import content, kaggle_files, prepare_small, write_folder

from pneumonia_fl.data.prepare.output_folder import PARTIAL, held
from pneumonia_fl.data.prepare.validate import check
from pneumonia_fl.errors import ConfigError, DataError, OutputError, PneumoniaFLError


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "xrays", kaggle_files())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sites": [f"s{i}" for i in range(30)]}, DataError, "too few for 30 sites"),
        ({"sites": ["a", "a"]}, ConfigError, "named twice"),
        ({"partition": "fair"}, ConfigError, "--partition"),
        ({"val_fraction": 0.0}, ConfigError, "--val-fraction"),
        ({"val_fraction": 0.9}, ConfigError, "--val-fraction"),
        ({"partition": "natural"}, ConfigError, "does not name hospitals"),
    ],
)
def test_a_wrong_setting_leaves_nothing_behind(
    xrays: Path, tmp_path: Path, options: dict[str, object], error: type[PneumoniaFLError], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare_small(xrays, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    source = str(write_folder(tmp_path / "x", {"NORMAL/IM-1-1.png": b"no", "PNEUMONIA/IM-2-1.png": b"no"}))
    with pytest.raises(
        DataError, match=r"no readable images to train on; the first problem: NORMAL/IM-1-1.png"
    ):
        prepare_small(source, tmp_path / "out")


@pytest.mark.parametrize("folder", ["train/PNEUMONIA", "val/NORMAL", "test/NORMAL"])
def test_a_class_that_loses_all_its_images_is_an_error(folder: str, tmp_path: Path) -> None:
    files = kaggle_files(patients=8)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n"
    source = write_folder(
        tmp_path / "src", {name: pointer if folder in name else data for name, data in files.items()}
    )
    with pytest.raises(
        DataError, match=f"none of the {folder.replace('/', ' ')} images can be used.*Git LFS"
    ):
        prepare_small(source, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_an_existing_data_set_is_replaced_by_force_only(xrays: Path, tmp_path: Path) -> None:
    prepare_small(xrays, tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(OutputError, match="--force replaces it"):
        prepare_small(xrays, tmp_path / "out", seed=8)
    assert content(tmp_path / "out") == before
    prepare_small(xrays, tmp_path / "out", sites=["elsewhere", "far"], seed=8, force=True)
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {
        "elsewhere",
        "far",
        "test",
    }


def test_a_failing_replacement_keeps_the_old_data_set(xrays: Path, tmp_path: Path) -> None:
    prepare_small(xrays, tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(DataError):
        prepare_small(xrays, tmp_path / "out", sites=[f"s{i}" for i in range(30)], force=True)
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("force", [True, False])
def test_other_peoples_files_are_never_touched(xrays: Path, tmp_path: Path, force: bool) -> None:
    out = write_folder(tmp_path / "out", {"thesis/chapter1.tex": b"x"})
    with pytest.raises(OutputError, match=r"holds other files \(thesis\)"):
        prepare_small(xrays, out, force=force)
    assert content(out) == {"thesis/chapter1.tex": b"x"}


def test_a_file_as_output_is_refused(xrays: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        prepare_small(xrays, tmp_path / "out")


def test_an_unwritable_output_is_one_line(xrays: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        folder = Path("/proc/pneumonia-fl")  # Even the administrator cannot write here.
        if not folder.parent.is_dir():
            pytest.skip("the administrator can write everywhere on this machine")
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        folder = tmp_path / "locked" / "out"
    with pytest.raises(OutputError) as caught:
        prepare_small(xrays, folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, workers: int) -> None:
    source = str(write_folder(tmp_path / "x", kaggle_files(40, 2)))
    with largest_file(20_000), pytest.raises(OutputError, match=r"no space left for .*out; free some space"):
        prepare_small(source, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("folder", [".", "north"])
def test_data_that_somebody_reads_is_not_replaced(xrays: Path, tmp_path: Path, folder: str) -> None:
    prepare_small(xrays, tmp_path / "out")
    before = content(tmp_path / "out")
    with held(tmp_path / "out" / folder), held(tmp_path / "out"):
        with pytest.raises(
            OutputError, match=r"is in use by .*; wait until that ends, or choose another --out"
        ):
            prepare_small(xrays, tmp_path / "out", seed=8, force=True)
        assert content(tmp_path / "out") == before
    prepare_small(xrays, tmp_path / "out", seed=8, force=True)


SLOW = """
import sys, time
from pathlib import Path
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.prepare.pipeline import prepare
from pneumonia_fl.data.sources.open_source import open_source
def pause(stage, done, total):
    print(stage, flush=True)
    time.sleep(60)
if __name__ == "__main__":
    prepare(open_source(sys.argv[1]), Path(sys.argv[2]), ["north", "south"], "iid", Preprocess(size=16),
            seed=7, workers=2, progress=pause)
"""


def interrupt(source: str, out: Path, script: Path, number: signal.Signals) -> int:
    """Start a preparation in a process group of its own and send it a signal while it decodes."""
    script.write_text(SLOW)
    words = [sys.executable, str(script), source, str(out)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "decode\n"
        os.kill(process.pid, number)
        process.wait(scaled(20))
        group = process.pid
    deadline = time.monotonic() + scaled(10)
    while _alive(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(group)
    return process.returncode


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_leaves_no_half_data_set_and_no_process(tmp_path: Path) -> None:
    source = str(write_folder(tmp_path / "x", kaggle_files(40, 2)))
    assert interrupt(source, tmp_path / "out", tmp_path / "slow.py", signal.SIGINT) != 0
    assert not (tmp_path / "out").exists()


def test_a_second_preparation_names_the_first_and_leaves_it_alone(tmp_path: Path) -> None:
    source = str(write_folder(tmp_path / "x", kaggle_files(40, 2)))
    (tmp_path / "slow.py").write_text(SLOW)
    words = [sys.executable, str(tmp_path / "slow.py"), source, str(tmp_path / "out")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "decode\n"
        for force in (True, False):
            with pytest.raises(OutputError, match=rf"in use by process {process.pid} \(.*slow.py"):
                prepare_small(source, tmp_path / "out", force=force)
        assert (tmp_path / "out" / PARTIAL).is_dir()
        process.terminate()


def test_a_killed_preparation_is_completed_by_running_it_again(tmp_path: Path) -> None:
    source = str(write_folder(tmp_path / "x", kaggle_files(40, 2)))
    interrupt(source, tmp_path / "out", tmp_path / "slow.py", signal.SIGKILL)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [PARTIAL]
    (finding,) = check(tmp_path / "out")
    assert "interrupted preparation; run it again" in finding.message
    prepare_small(source, tmp_path / "out")
    prepare_small(source, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_preparation_that_stopped_while_moving_is_completed_too(xrays: Path, tmp_path: Path) -> None:
    prepare_small(xrays, tmp_path / "whole")
    prepare_small(xrays, tmp_path / "out")
    (tmp_path / "out" / PARTIAL).mkdir()
    (tmp_path / "out" / "dataset.json").rename(tmp_path / "out" / PARTIAL / "dataset.json")
    prepare_small(xrays, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
