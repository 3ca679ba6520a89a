import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from speed import scaled
from typer.testing import CliRunner
from xrays import content, jpeg, kaggle_files, write_folder

from conftest import ROOT
from pneumonia_fl.cli.commands.data import app
from pneumonia_fl.cli.views.progress_bars import amount, progress_bars
from pneumonia_fl.data.manifest import read_manifest
from pneumonia_fl.errors import ConfigError, DataError, PneumoniaFLError

SCRIPT = ROOT / "scripts" / "prepare_data.py"


def data(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, PneumoniaFLError):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    source = write_folder(tmp_path / "x rays", kaggle_files())
    code, _ = data("prepare", "--source", source, "--out", tmp_path / "out dir", "--sites", 2, "--size", 16)
    assert code == 0
    return tmp_path / "out dir"


def test_prepare_prints_counts_and_what_to_type_next(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", kaggle_files())
    out = tmp_path / "out dir"
    code, text = data("prepare", "--source", source, "--out", out, "--sites", "north,south", "--size", 16)
    assert code == 0
    for word in ("north", "south", "train", "val", "test", "NORMAL", "PNEUMONIA", "CC BY 4.0", "Kermany"):
        assert word in text
    assert "left out: 0 not trusted, 0 exact copies" in text
    assert text.endswith(f"Next: pneumonia-fl run fedavg --data '{out}'\n")


def test_a_single_site_is_told_how_its_startup_kit_finds_the_data(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", kaggle_files())
    words = ["--source", source, "--out", tmp_path / "out", "--sites", "asia-hospital", "--size", 16]
    last = data("prepare", *words)[1].splitlines()[-1]
    assert last.startswith(
        f"Next: as site asia-hospital, write `data: {tmp_path / 'out'}` into local/pneumonia_fl.yml"
    )


def test_what_was_not_used_or_recognised_is_said(tmp_path: Path) -> None:
    files = {
        name.replace("chest_xray/train/", ""): data
        for name, data in kaggle_files().items()
        if "train" in name
    }
    source = write_folder(tmp_path / "x", files | {"COVID19/a.png": b"x", "NORMAL/scan.jpeg": jpeg(1)})
    text = data("prepare", "--source", source, "--out", tmp_path / "out", "--sites", 2, "--size", 16)[1]
    assert "not used: 1 in no class folder: COVID19 (quarantine.csv)" in text
    assert "no split recognised (train, val, test)" in text
    assert "patient unknown for 1 of 25 images (4.0%)" in text
    assert "no split recognised" in data("check", tmp_path / "out")[1]


def test_folders_can_be_mapped_to_classes(tmp_path: Path) -> None:
    files = {name.replace("PNEUMONIA", "BACTERIA"): data for name, data in kaggle_files().items()}
    source = write_folder(tmp_path / "x", files)
    words = ["prepare", "--source", source, "--out", tmp_path / "out", "--sites", 2, "--size", 16]
    with pytest.raises(DataError, match=r"no PNEUMONIA images .*BACTERIA: 24"):
        data(*words)
    assert "not used" not in data(*words, "--classes", "pneumonia=bacteria")[1]


def test_names_that_are_no_utf8_are_escaped_everywhere(tmp_path: Path) -> None:
    files = {os.fsencode(tmp_path / "x" / name): image for name, image in kaggle_files().items()}
    normal = os.fsencode(tmp_path / "x/chest_xray/train/NORMAL/")
    files |= {normal + b"/M\xfcller\r.jpeg": jpeg(1), normal + b"/kaputt\xe9.jpeg": b"no"}
    for name, bytes_ in files.items():
        os.makedirs(os.path.dirname(name), exist_ok=True)
        Path(os.fsdecode(name)).write_bytes(bytes_)
    out = tmp_path / "out"
    code, _ = data("prepare", "--source", tmp_path / "x", "--out", out, "--sites", 2, "--size", 16)
    assert (code, data("check", out)[0]) == (0, 0)
    row = next(row for row in read_manifest(out) if "ller" in row.image)
    assert (row.image, row.patient) == (r"chest_xray/train/NORMAL/M\xfcller\r.jpeg", r"M\xfcller\r")
    assert r'kaputt\xe9.jpeg,"text' in (out / "quarantine.csv").read_text(encoding="utf-8")


def test_prepare_as_json_prints_nothing_else(tmp_path: Path) -> None:
    words = ["--source", "synthetic:images=60,size=32", "--out", tmp_path / "out", "--size", 16, "--json"]
    code, text = data("prepare", *words)
    assert code == 0
    info = json.loads(text)
    assert info["partition"] == "natural"
    assert info["sites"] == ["site-1", "site-2", "site-3"]


def test_synthetic_has_as_many_hospitals_as_sites(tmp_path: Path) -> None:
    words = ["--source", "synthetic:images=60,size=32", "--out", tmp_path / "out", "--size", 16, "--json"]
    assert len(json.loads(data("prepare", *words, "--sites", 5)[1])["sites"]) == 5


def test_check_ends_with_1_when_something_is_wrong(prepared: Path) -> None:
    code, text = data("check", prepared)
    assert code == 0
    assert "ok   complete: 48 images of 2 sites" in text
    (prepared / "site-2" / "images.npy").unlink()
    code, text = data("check", prepared, "--json")
    assert code == 1
    findings = json.loads(text)
    assert findings["ok"] is False
    assert "fail" in {finding["level"] for finding in findings["findings"]}


def test_show_writes_pictures_beside_the_data(prepared: Path) -> None:
    before = content(prepared)
    code, text = data("show", prepared)
    pictures = [Path(line) for line in text.splitlines()]
    assert code == 0
    assert len(pictures) == 3
    assert all(path.is_absolute() and path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert content(prepared) == before


def test_show_writes_where_it_is_told(prepared: Path, tmp_path: Path) -> None:
    data("show", prepared, "--out", tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--source", "/nowhere"], DataError, "does not exist"),
        (["--source", "synthetic", "--size", "4"], ConfigError, "--size"),
        (["--source", "synthetic", "--sites", "test"], ConfigError, "reserved"),
        (["--source", "synthetic", "--partition", "fair"], ConfigError, "--partition"),
    ],
)
def test_known_errors_come_from_our_tree(
    tmp_path: Path, words: list[str], error: type[PneumoniaFLError], message: str
) -> None:
    with pytest.raises(error, match=message):
        data("prepare", *words, "--out", tmp_path / "out")


def test_the_script_is_the_same_command(tmp_path: Path) -> None:
    words = ["--source", "synthetic:images=60,size=32", "--size", "16", "--out"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    data("prepare", *words, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_bars_appear_on_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        progress("decode", 3, 4)
        progress("decode", 4, 4)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "4/4" in captured.err


@pytest.mark.parametrize("quiet", [True, False])
def test_no_bar_no_output(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    with progress_bars(quiet) as progress:
        if quiet:
            progress("decode", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_amounts_are_counts_or_megabytes() -> None:
    assert amount("decode", 1203, 5216) == "1,203/5,216"
    assert amount("download", 1_500_000, None) == "1.5 MB"
    assert amount("download", 1_500_000, 2_000_000) == "1.5/2.0 MB"
