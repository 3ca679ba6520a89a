"""The real Kaggle client, in a process of its own, against a stand-in server on 127.0.0.1."""

import io
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from kaggle_stand_in import Behaviour, StandIn, environment
from speed import scaled

from pneumonia_fl.data.sources.kaggle import ARCHIVE, MARKER

TOKEN = "KGAT_s3cret-token-of-ada"
KEY = "0123456789abcdefs3cretkey"
CLI = "from pneumonia_fl.cli.main import main; main()"
DRIVER = """
import sys
from pathlib import Path
from pneumonia_fl.data.sources import kaggle
from pneumonia_fl.errors import PneumoniaFLError
kaggle._READ_SECONDS = 0.5
for _ in range(int(sys.argv[2])):
    try:
        print(kaggle.fetch(Path(sys.argv[1]), retries=0))
    except PneumoniaFLError as error:
        print(f"{type(error).__name__}: {error}")
"""


def small_zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for index in range(40):
            file.writestr(f"chest_xray/train/NORMAL/IM-{index:04d}-0001.jpeg", bytes([index]) * 100_000)
    return data.getvalue()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def python(env: dict[str, str], code: str, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )
    for secret in (TOKEN, KEY):
        assert secret not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def command(env: dict[str, str], out: Path) -> subprocess.CompletedProcess[str]:
    return python(env, CLI, "data", "fetch", "--out", str(out))


def fetch(env: dict[str, str], out: Path, times: int = 1) -> list[str]:
    """Return a line for each call of `fetch` in one process: the path, or the error."""
    return python(env, DRIVER, str(out), str(times)).stdout.splitlines()


def test_the_command_downloads_with_a_token(tmp_path: Path, home: Path) -> None:
    behaviour = Behaviour(small_zip())
    with StandIn(behaviour) as server:
        done = command(server.environment(home) | {"KAGGLE_API_TOKEN": TOKEN}, tmp_path / "out")
    archive = tmp_path / "out" / ARCHIVE
    assert done.returncode == 0, done.stderr
    assert archive.read_bytes() == behaviour.archive
    assert str(archive) in done.stdout
    assert "download" in done.stderr
    assert f"Bearer {TOKEN}" in behaviour.authorizations


def test_the_command_names_all_ways_to_give_credentials(tmp_path: Path, home: Path) -> None:
    with StandIn(Behaviour(small_zip())) as server:
        done = command(server.environment(home), tmp_path / "out")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    for way in ("error: ", "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "~/.kaggle/"):
        assert way in done.stderr
    assert not (tmp_path / "out").exists(), "nothing was downloaded, so nothing is left behind"


def test_a_whole_zip_is_left_alone(tmp_path: Path, home: Path) -> None:
    behaviour = Behaviour(small_zip())
    (tmp_path / ARCHIVE).write_bytes(behaviour.archive)
    with StandIn(behaviour) as server:
        lines = fetch(server.environment(home), tmp_path)
    assert lines == [str(tmp_path / ARCHIVE)]
    assert behaviour.requests == []


def test_username_and_key_stay_secret_when_the_client_is_verbose(tmp_path: Path, home: Path) -> None:
    behaviour = Behaviour(small_zip())
    with StandIn(behaviour) as server:
        env = server.environment(home) | {"KAGGLE_USERNAME": "ada", "KAGGLE_KEY": KEY, "VERBOSE": "true"}
        done = python(env, DRIVER, str(tmp_path), "1")
    assert done.stdout.splitlines() == [str(tmp_path / ARCHIVE)]
    assert done.stderr == ""
    assert behaviour.authorizations[-1].startswith("Basic ")


def test_the_clients_own_file_works(tmp_path: Path, home: Path) -> None:
    (home / ".kaggle").mkdir()
    (home / ".kaggle" / "kaggle.json").write_text(f'{{"username": "ada", "key": "{KEY}"}}')
    with StandIn(Behaviour(small_zip())) as server:
        assert fetch(server.environment(home), tmp_path) == [str(tmp_path / ARCHIVE)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is no JSON"),
        (b"[]", "it holds something else"),
        (b'["ada", "key"]', "it holds something else"),
        (b'"ada"', "it holds something else"),
        (f'{{"username": "ada", "key": "{KEY}"}}'.encode("utf-16"), "it is no UTF-8"),
        (f'{{"username": "ada", "key": "{KEY}"}}'.encode("utf-8-sig"), "it is no JSON"),
        (f'{{"user": "ada", "token": "{KEY}"}}'.encode(), "no username and no key there"),
        (b'{"username": "ada"}', "no key there"),
        (b'{"username": "ada", "key": null}', "no key there"),
        (b'{"username": 3, "key": ["x"]}', "no username and no key there"),
        (b'{"username": "ada", "ke', "it is no JSON"),
    ],
)
def test_a_broken_file_is_named_with_what_it_must_hold(
    content: bytes, problem: str, tmp_path: Path, home: Path
) -> None:
    (home / ".kaggle").mkdir()
    file = home / ".kaggle" / "kaggle.json"
    file.write_bytes(content)
    with StandIn(Behaviour(small_zip())) as server:
        (line,) = fetch(server.environment(home), tmp_path)
    assert line.startswith(f'FetchError: {file} must hold {{"username": "…", "key": "…"}}')
    assert problem in line


def test_a_broken_file_does_not_matter_beside_a_token(tmp_path: Path, home: Path) -> None:
    (home / ".kaggle").mkdir()
    (home / ".kaggle" / "kaggle.json").write_bytes(b"\xff\xfe")
    with StandIn(Behaviour(small_zip())) as server:
        lines = fetch(server.environment(home) | {"KAGGLE_API_TOKEN": TOKEN}, tmp_path)
    assert lines == [str(tmp_path / ARCHIVE)]


def test_without_a_home_folder_the_message_says_so(tmp_path: Path, home: Path) -> None:
    env = {key: value for key, value in environment(home, 9).items() if key != "HOME"}
    nobody = "import pwd; pwd.getpwuid = lambda uid: {}[uid]\n"
    words = ["data", "fetch", "--out", str(tmp_path / "out")]
    for some in (words, words[:2]):
        done = python(env, nobody + CLI, *some)
        assert done.returncode == 1
        assert done.stderr.startswith("error: no home folder is known")
        assert "set HOME" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_broken_download_is_taken_up_where_it_broke(tmp_path: Path, home: Path) -> None:
    behaviour = Behaviour(small_zip(), break_after=3_000_000)
    with StandIn(behaviour) as server:
        env = server.environment(home) | {"KAGGLE_API_TOKEN": TOKEN}
        (broken,) = fetch(env, tmp_path)
        kept = (tmp_path / ARCHIVE).stat().st_size
        unfinished = (tmp_path / MARKER).exists()
        behaviour.break_after = None
        lines = fetch(env, tmp_path)
    assert broken.startswith("FetchError: no connection to Kaggle, or it broke off")
    assert f"{kept:,} bytes are kept" in broken
    assert unfinished
    assert 0 < kept <= 3_000_000
    assert f"bytes={kept}-" in behaviour.ranges
    assert lines == [str(tmp_path / ARCHIVE)]
    assert (tmp_path / ARCHIVE).read_bytes() == behaviour.archive


def test_what_is_no_whole_zip_is_downloaded_again(tmp_path: Path, home: Path) -> None:
    behaviour = Behaviour(small_zip())
    (tmp_path / ARCHIVE).write_bytes(behaviour.archive[:-30] + b"x" * 100_000)
    with StandIn(behaviour) as server:
        fetch(server.environment(home) | {"KAGGLE_API_TOKEN": TOKEN}, tmp_path)
    assert (tmp_path / ARCHIVE).read_bytes() == behaviour.archive


def test_a_damaged_download_is_removed(tmp_path: Path, home: Path) -> None:
    archive = bytearray(small_zip())
    archive[500] ^= 0xFF
    with StandIn(Behaviour(bytes(archive))) as server:
        (line,) = fetch(server.environment(home) | {"KAGGLE_API_TOKEN": TOKEN}, tmp_path)
    assert "the download is damaged and was removed" in line
    assert not (tmp_path / ARCHIVE).exists()


def test_refusals_say_what_to_do(tmp_path: Path, home: Path) -> None:
    advice = {401: "make a new token", 403: "accept the terms", 404: "has moved", 429: "wait", 500: "later"}
    with StandIn(Behaviour(statuses=list(advice))) as server:
        env = server.environment(home) | {"KAGGLE_USERNAME": "ada", "KAGGLE_KEY": KEY}
        lines = fetch(env, tmp_path, times=len(advice))
    assert len(lines) == len(advice)
    for line, (status, words) in zip(lines, advice.items(), strict=True):
        assert line.startswith("FetchError: ")
        assert f"({status})" in line
        assert words in line


def test_an_expired_token_is_refused_as_such(tmp_path: Path, home: Path) -> None:
    with StandIn(Behaviour(token_is_active=False)) as server:
        (line,) = fetch(server.environment(home) | {"KAGGLE_API_TOKEN": TOKEN}, tmp_path)
    assert "refused the credentials (401)" in line


def test_silence_ends_in_a_time_out(tmp_path: Path, home: Path) -> None:
    behaviour = Behaviour(small_zip(), hang=threading.Event())
    with StandIn(behaviour) as server:
        (line,) = fetch(server.environment(home) | {"KAGGLE_API_TOKEN": TOKEN}, tmp_path)
        behaviour.hang.set()
    assert line.startswith("FetchError: Kaggle did not answer in time")


def test_without_a_connection_the_message_says_so(tmp_path: Path, home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        env = environment(home, taken.getsockname()[1])
        (line,) = fetch(env | {"KAGGLE_API_TOKEN": TOKEN}, tmp_path)
    assert line.startswith("FetchError: no connection to Kaggle")
