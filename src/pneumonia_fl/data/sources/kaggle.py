"""Download of the public data set with Kaggle's own client; nothing else imports that client.

The client authenticates while it is imported, prints, calls `exit()` and sets no time limits of its own. All
of that is contained here: what it prints (which may show credentials) is thrown away, and what goes wrong
becomes one line.
"""

import io
import logging
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from pneumonia_fl.data.sources.zip_archive import check_archive
from pneumonia_fl.errors import ArchiveError, ConfigError, FetchError, OutputError
from pneumonia_fl.files import output_errors, private_folder
from pneumonia_fl.inputs.json_files import parse_json, read_limited
from pneumonia_fl.inputs.paths import expanded
from pneumonia_fl.progress import Progress, silent

DATASET = "paultimothymooney/chest-xray-pneumonia"
PAGE = f"https://www.kaggle.com/datasets/{DATASET}"
ARCHIVE = "chest-xray-pneumonia.zip"
# The client's name for its note about a download that is not finished.
MARKER = f"{ARCHIVE}.kaggle-partial"
RETRIES = 4
"""How often the client takes up a broken download by itself, after 2, 4, 8 and 16 seconds."""

_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_POLL_SECONDS = 0.2
_TOKEN_PAGE = "https://www.kaggle.com/settings"  # noqa: S105
_NO_CREDENTIALS = (
    f"no Kaggle credentials: make a token at {_TOKEN_PAGE}, then set KAGGLE_API_TOKEN, or KAGGLE_USERNAME "
    "and KAGGLE_KEY, or keep the client's own file, ~/.kaggle/access_token or ~/.kaggle/kaggle.json"
)
_REFUSALS = {
    401: f"Kaggle refused the credentials (401): wrong or expired; make a new token at {_TOKEN_PAGE}",
    403: f"Kaggle refused the download (403): sign in at {PAGE}, accept the terms there, and check that the "
    "token may download data sets",
    404: f"Kaggle does not know the data set (404): see whether {PAGE} has moved",
    429: "Kaggle is asked too often (429); wait some minutes and run again",
}


def default_folder() -> Path:
    """Return where the data set is kept unless another place is asked for."""
    return _home() / ".cache" / "pneumonia-fl"


def fetch(folder: Path, progress: Progress = silent, retries: int = RETRIES) -> Path:
    """Return the data set's zip in `folder`, downloading it, or the rest of it, where it is missing.

    Raises:
        FetchError: no credentials, refused, not found, no connection, or broken off.
        OutputError: `folder` is full or not writable.
    """
    archive = folder / ARCHIVE
    _home()
    private_folder(folder)
    with output_errors(folder):
        if archive.exists() and not (folder / MARKER).exists():
            if _is_whole(archive):
                return archive
            archive.unlink()
    try:
        with _watch(archive, progress) as total, _client_errors(archive), _time_limits(), _silence():
            _download(folder, total, retries)
    except FetchError:
        with suppress(OSError):  # a folder with a part of the archive in it stays
            folder.rmdir()
        raise
    _verify(archive, progress)
    return archive


def _is_whole(archive: Path) -> bool:
    try:
        return bool(check_archive(archive))
    except ArchiveError:
        return False


def _verify(archive: Path, progress: Progress) -> None:
    """Read everything once, so that a damaged download is found now and not as quarantined images."""
    try:
        check_archive(archive)
        with zipfile.ZipFile(archive) as file:
            names = file.namelist()
            for done, name in enumerate(names):
                with file.open(name) as entry:
                    while entry.read(2**20):
                        pass
                progress("verify", done + 1, len(names))
    except (zipfile.BadZipFile, EOFError, OSError, ArchiveError):
        archive.unlink(missing_ok=True)
        raise FetchError(
            "the download is damaged and was removed; run `pneumonia-fl data fetch` again"
        ) from None


def _download(folder: Path, total: list[int], retries: int) -> None:
    api = _sign_in()
    transfer = api.download_file

    def download(response: Any, outfile: str, client: Any, quiet: bool = True, resume: bool = False) -> None:
        size = int(response.headers.get("Content-Length") or 0)
        total.append(size)
        there = Path(outfile).stat().st_size if Path(outfile).exists() else 0
        if size - there > shutil.disk_usage(folder).free:
            raise OutputError(
                f"{folder} has no room for {size:,} bytes; free some space or choose another --out"
            )
        transfer(response, outfile, client, quiet, resume, max_retries=retries, timeout=_READ_SECONDS)

    api.download_file = download
    api.dataset_download_files(DATASET, path=str(folder), quiet=True)


def _home() -> Path:
    """Return the home folder; without one the Kaggle client would make a folder named `~`."""
    try:
        return expanded("~")
    except ConfigError:
        raise FetchError("no home folder is known, where Kaggle's client keeps its file; set HOME") from None


def _sign_in() -> Any:
    try:
        from kaggle.api.kaggle_api_extended import KaggleApi
        from kagglesdk.kaggle_env import get_access_token_from_env
        from requests import exceptions
    except OSError as error:
        raise FetchError(
            f"Kaggle's client cannot make {error.filename} for its settings: {error.strerror}"
        ) from None
    api = KaggleApi()
    file = Path(api.config)
    problem, usable = _credentials_problem(file)
    if not usable:  # the client would stop at it, whatever the environment says
        raise FetchError(problem)
    try:
        api.authenticate()
    except SystemExit:
        token, _ = get_access_token_from_env()
        raise FetchError(_REFUSALS[401] if token else problem or _NO_CREDENTIALS) from None
    except exceptions.RequestException:
        raise
    except (ValueError, TypeError, AttributeError):  # it read its files, and they hold something else
        token_file = file.parent / "access_token"
        raise FetchError(problem or f"{token_file} is no token; make a new one at {_TOKEN_PAGE}") from None
    return api


def _credentials_problem(file: Path) -> tuple[str, bool]:
    """Explain what is wrong with the client's own file, and whether the client can work without it."""
    needs = f'{file} must hold {{"username": "…", "key": "…"}} in UTF-8, as {_TOKEN_PAGE} makes it'
    try:
        values = parse_json(read_limited(file).decode())
    except FileNotFoundError:
        return "", True
    except OSError as error:
        return f"{needs}; it cannot be read: {error.strerror}", True
    except UnicodeDecodeError:
        return f"{needs}; it is no UTF-8", True
    except ValueError:
        return f"{needs}; it is no JSON", True
    if not isinstance(values, dict):
        return f"{needs}; it holds something else", not values
    wrong = [key for key in ("username", "key") if not (isinstance(values.get(key), str) and values[key])]
    return (f"{needs}; no {' and no '.join(wrong)} there" if wrong else ""), not (
        wrong and values.keys() & set(wrong)
    )


@contextmanager
def _client_errors(archive: Path) -> Iterator[None]:
    """Convert the client's errors to one line; its own texts may hold signed addresses."""
    from requests import exceptions

    try:
        yield
    except exceptions.HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        raise FetchError(
            _REFUSALS.get(code, f"Kaggle answered with an error ({code}); try again later")
        ) from None
    except exceptions.Timeout:
        raise FetchError(f"Kaggle did not answer in time; {_resume(archive)}") from None
    except exceptions.RequestException:
        raise FetchError(f"no connection to Kaggle, or it broke off; {_resume(archive)}") from None
    except ValueError:
        raise FetchError(f"Kaggle sent something else than the data set; {_resume(archive)}") from None
    except OSError as error:
        with output_errors(archive.parent):
            raise error from None


def _resume(archive: Path) -> str:
    there = f"{archive.stat().st_size:,} bytes are kept; " if archive.exists() else ""
    return f"{there}check the network or proxy and run again"


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the client's prints and debug logs, which show headers and signed addresses."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextmanager
def _time_limits() -> Iterator[None]:
    """Set a time limit on the client's requests that have none: by default they wait without limit."""
    from requests import Session

    send = Session.send

    def send_in_time(self: Session, request: Any, **options: Any) -> Any:
        options["timeout"] = options.get("timeout") or (_CONNECT_SECONDS, _READ_SECONDS)
        return send(self, request, **options)

    Session.send = send_in_time  # type: ignore[method-assign]
    try:
        yield
    finally:
        Session.send = send  # type: ignore[method-assign]


@contextmanager
def _watch(archive: Path, progress: Progress) -> Iterator[list[int]]:
    """Report the growing file to `progress`; the list takes the size when it becomes known."""
    total: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(_POLL_SECONDS):
            if total:
                progress("download", archive.stat().st_size if archive.exists() else 0, total[-1] or None)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield total
    finally:
        done.set()
        watcher.join()
        if total and archive.exists():
            progress("download", archive.stat().st_size, total[-1] or None)
