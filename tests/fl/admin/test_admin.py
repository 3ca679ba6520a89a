"""A job on a real server in words: what needs no server."""

import re
from pathlib import Path
from typing import Any

import pytest
from doctor_kits import PERSON, SERVER, SITE, Project, provision
from job_metas import ID, meta, result, site, snapshot

from conftest import pneumonia_fl
from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.errors import IncompleteError, KitError, PneumoniaFLError, RefusedError, RunError
from pneumonia_fl.fl.admin.download import run_path
from pneumonia_fl.fl.admin.job_record import NO_WORD, WORDS, age, find_job_id, missing_sites, record
from pneumonia_fl.fl.admin.job_status import changes, position, seconds_left, site_cells
from pneumonia_fl.fl.admin.kit_selection import choose_kit, identity
from pneumonia_fl.fl.admin.session import keep_inside
from pneumonia_fl.fl.admin.submit import expected_sites, resolve
from pneumonia_fl.fl.admin.watch import ending
from pneumonia_fl.fl.protocol.messages import ABORT_KEY, OPTED_OUT, RESULT_KEY

REFUSED = [
    "a: NVFLARE_ERROR: site policy 'strict' refuses code",
    "b: NVFLARE_ERROR: site policy 'strict' refuses code",
    "c: ask: us",
]
LOG = """\
2026-11-22 10:58:22,025 - CoreCell - INFO - server: created backbone
2026-11-22 10:58:24,100 - ServerRunner - ERROR - [identity=x, run=y] - cannot build the workflow
Traceback (most recent call last):
  File "encoder.py", line 180, in default
TypeError: Object of type Average is not JSON serializable
2026-11-22 10:58:25,061 - MPM - INFO - MPM: Good Bye!
"""


ABORT = {ABORT_KEY: {"by": "lead@consortium.org"}}


@pytest.mark.parametrize(
    ("given", "words", "why"),
    [
        (meta("SUBMITTED"), "submitted", ""),
        (
            meta("SUBMITTED", schedule_history=["2026-11-22 10:58:21: connected sites (3) < min_sites (4)"]),
            "waiting for sites",
            "3 sites connected, 4 needed",
        ),
        (meta("RUNNING", schedule_history=["2026-11-22 10:58:21: scheduled"]), "running", ""),
        (meta("FINISHED:COMPLETED", **result()), "finished", ""),
        (meta("FINISHED:COMPLETED", **result(missing=["b"])), "INCOMPLETE", "never contributed: b"),
        (
            meta("FINISHED:ABNORMAL", **result()),
            "finished",
            "all rounds done, but a site was lost at the end",
        ),
        (meta("FINISHED:ABNORMAL"), "ended abnormally", ""),
        (meta("FINISHED:ABORTED", **result("stopped", reason="aborted")), "aborted", ""),
        (meta("FINISHED:ABORTED", **result("stopped", reason="no quorum")), "failed", "no quorum"),
        (meta("RUNNING", **ABORT), "aborting", "ended by lead@consortium.org"),
        (meta("FINISHED:ABORTED", **ABORT), "aborted", "ended by lead@consortium.org"),
        (meta("FINISHED:ABNORMAL", **ABORT), "aborted", "ended by lead@consortium.org"),
        (
            meta("FINISHED:ABORTED", **ABORT, **result("stopped", reason="aborted")),
            "aborted",
            "ended by lead@consortium.org",
        ),
        (
            meta("FINISHED:ABORTED", **ABORT, **result()),
            "finished",
            "all rounds were done when lead@consortium.org aborted it",
        ),
        (meta("FINISHED:EXECUTION_EXCEPTION", **{RESULT_KEY: {"done": 2}}), "failed", NO_WORD),
        (
            meta("FINISHED:COMPLETED", **result(missing=["a", "b"], why={"b": "no answer in time"})),
            "INCOMPLETE",
            "never contributed: a, b (no answer in time)",
        ),
        (
            meta("FINISHED:COMPLETED", job_deploy_detail=["b: 'strict' forbids it"], **result(missing=["b"])),
            "INCOMPLETE",
            "never contributed: b ('strict' forbids it)",
        ),
        (meta("FINISHED:ABANDONED"), "interrupted", "the server ended before the job did"),
        (
            meta(
                "FINISHED:CAN_NOT_SCHEDULE", schedule_history=["2026-11-22 10:58:21: missing required site c"]
            ),
            "never scheduled",
            "missing required site c",
        ),
        (
            meta("FINISHED:FAILED_TO_RUN", job_deploy_detail=["server: OK", "a: BYOC not permitted"]),
            "failed to start",
            "a: BYOC not permitted",
        ),
        (
            meta("FINISHED:FAILED_TO_RUN", job_deploy_detail=["server: OK", *REFUSED, "num_ok_sites 0 < 2"]),
            "failed to start",
            "a, b: site policy 'strict' refuses code; c: ask: us",
        ),
        (meta("SOMETHING_NEW"), "something new", ""),
    ],
)
def test_status_and_reason_are_plain_words(given: dict[str, Any], words: str, why: str) -> None:
    job = record(given)
    assert (job.status, job.reason) == (words, why)


def test_every_status_of_nvflare_has_words() -> None:
    from nvflare.apis.job_def import RunStatus

    assert {status.value for status in RunStatus} == set(WORDS)


def test_record_reads_times_rounds_and_sites() -> None:
    job = record(meta())
    assert job.duration == pytest.approx(52.95, abs=0.01)
    assert job.started_at == pytest.approx(1795344768.83, abs=0.01)
    assert (job.rounds, job.sites, job.resumed_from, job.ours) == (3, ("a", "b"), None, True)
    long = record(meta(duration="1 day, 2:00:03.5"))
    assert long.duration == pytest.approx(86400 + 7203.5)


def test_record_of_a_foreign_job_that_has_not_started() -> None:
    details = ["server: OK", "site-1: OK"]
    job = record(meta("SUBMITTED", start_time="", duration="N/A", custom_props={}, job_deploy_detail=details))
    assert (job.started_at, job.duration, job.rounds, job.ours) == (None, None, None, False)
    assert job.sites == ("site-1",)


def test_missing_sites_are_those_that_are_not_connected() -> None:
    assert missing_sites(record(meta()), ["b", "c"]) == ["a"]


def test_an_id_may_be_shortened_while_it_is_unambiguous() -> None:
    ids = ["abcd1111", "abcd2222", "abcd"]
    assert find_job_id("abcd1", ids) == "abcd1111"
    assert find_job_id("abcd", ids) == "abcd", "a whole id is never ambiguous"
    for wanted, message in (("abc", "too short"), ("ffff", "no job ffff"), ("abcd2222x", "no job")):
        with pytest.raises(RefusedError, match=message):
            find_job_id(wanted, ids)
    with pytest.raises(RefusedError, match="abcd1111 or abcd2222"):
        find_job_id("abcd", ids[:2])


@pytest.mark.parametrize(
    ("given", "how", "error"),
    [
        (meta("FINISHED:COMPLETED", **result()), "complete", None),
        (meta("FINISHED:ABNORMAL", **result()), "complete", None),
        (meta("FINISHED:COMPLETED", **result(missing=["b"])), "incomplete", IncompleteError),
        (meta("FINISHED:ABORTED"), "aborted", RunError),
        (meta("FINISHED:ABORTED", **result("stopped", reason="no sign from any site")), "failed", RunError),
        (meta("FINISHED:ABANDONED"), "failed", RunError),
        (meta("FINISHED:FAILED_TO_RUN", job_deploy_detail=REFUSED), "refused", RefusedError),
        (meta("FINISHED:FAILED_TO_RUN"), "failed", RunError),
        (meta("FINISHED:FAILED_TO_RUN", job_deploy_detail=["a: no reply"]), "failed", RunError),
    ],
)
def test_exit_code_tells_how_a_job_ended(
    given: dict[str, Any], how: str, error: type[PneumoniaFLError] | None
) -> None:
    end = ending(record(given), lambda: "")
    assert end.how == how
    if error is None:
        end.check()
        return
    with pytest.raises(error) as caught:
        end.check()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def test_a_failure_without_words_is_explained_by_the_last_error_of_the_log() -> None:
    end = ending(record(meta("FINISHED:EXECUTION_EXCEPTION")), lambda: LOG)
    assert end.reason == "TypeError: Object of type Average is not JSON serializable"
    assert "pneumonia-fl logs" in record(meta("FINISHED:EXECUTION_EXCEPTION")).reason
    own = ending(record(meta("FINISHED:EXECUTION_EXCEPTION", **result("stopped", reason="x"))), lambda: LOG)
    assert own.reason == "x"


def test_an_interrupted_job_says_how_to_go_on() -> None:
    with pytest.raises(RunError, match="pneumonia-fl resume 88479463"):
        ending(record(meta("FINISHED:ABANDONED")), lambda: "").check()


def test_time_left_is_the_mean_of_the_rounds_that_are_done() -> None:
    # Two rounds took 120 s, and 10 s of the third of five are over: three times 60, less 10.
    assert seconds_left(snapshot()) == pytest.approx(170)
    assert seconds_left(snapshot(round=0, round_started=0.0)) is None
    assert seconds_left(snapshot(task="validate", round=5)) is None
    assert seconds_left(snapshot(task="settle", round=1)) == pytest.approx(170), "its training is over"
    assert seconds_left(snapshot(now=10_000.0)) == 0
    resumed = snapshot(start_round=1, started=60.0)
    assert seconds_left(resumed) == pytest.approx(170), "rounds of the earlier job took no time in this one"


def test_position_counts_rounds_from_one() -> None:
    assert position(snapshot()) == "round 3/5"
    assert position(snapshot(task="settle")) == "round 3/5: batch norm's statistics"
    assert position(snapshot(task="validate", round=5)) == "evaluating the final model"
    assert position(snapshot(state="stopped", reason="no quorum")) == "stopped: no quorum"


def test_changes_name_what_is_new_once() -> None:
    first = snapshot()
    answered = site(state="answered", accepted_round=2, contributions=3, auroc=0.91234, heard=129.0)
    late = site(state="late", problem="no answer in time")
    second = snapshot(sites={"a": answered, "b": late})
    assert changes(None, first)[0].startswith("round 3/5")
    assert changes(first, second) == ["  a: round 3 accepted, AUROC 0.9123", "  b: late: no answer in time"]
    assert changes(second, second) == []


def test_changes_of_an_evaluation_speak_of_no_round() -> None:
    first = snapshot(rounds=0, task="validate")
    answered = site(state="answered", accepted_round=0, contributions=9, auroc=0.91234, heard=129.0)
    second = {**first, "sites": {"a": answered, "b": {**answered, "auroc": None, "problem": OPTED_OUT}}}
    assert changes(first, second) == ["  a: evaluated, AUROC 0.9123", f"  b: {OPTED_OUT}"]


def test_a_sites_row_says_when_it_was_heard_of() -> None:
    answered = site(state="answered", accepted_round=1, contributions=2, auroc=0.5, heard=65.0)
    assert site_cells(answered, snapshot()) == ("answered", "2", "2", "0.5000", "1:05 ago")
    assert site_cells(site(), snapshot()) == ("waiting", "–", "0", "n/a", "never")


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0 s"), (59.9, "59 s"), (61, "1:01"), (3723, "1:02:03")])
def test_age(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_a_job_expects_the_sites_that_are_connected() -> None:
    assert expected_sites(JobConfig(name="x"), ["a", "b"]) == ("a", "b")
    assert expected_sites(JobConfig(name="x", min_sites=3), ["a", "b"]) == (), "it waits for others"
    with pytest.raises(RunError, match="no site is connected"):
        expected_sites(JobConfig(name="x"), [])


def test_input_size_comes_from_the_job_the_data_or_the_default(demo_data: Path) -> None:
    assert resolve(JobConfig(name="x"), None).preprocess == Preprocess()
    own = JobConfig(name="x", preprocess=Preprocess(size=48))
    assert resolve(own, None).preprocess == Preprocess(size=48)
    from_data = resolve(JobConfig(name="x"), demo_data).preprocess
    assert from_data is not None
    assert from_data.size == 32


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The kits of a server, a site and a lead."""
    return provision(tmp_path_factory.mktemp("made") / "project")


@pytest.fixture
def kits(made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the lead's kit alone."""
    monkeypatch.delenv("PNEUMONIA_FL_KIT", raising=False)
    made.copy(PERSON, tmp_path / "kits")
    return tmp_path / "kits"


def test_the_kit_that_is_named_is_taken(kits: Path, made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for acts in (False, True):
        assert choose_kit(kits / PERSON, acts, Path("none")).name == PERSON
    monkeypatch.setenv("PNEUMONIA_FL_KIT", str(kits / PERSON))
    assert choose_kit(None, True, Path("none")).name == PERSON
    with pytest.raises(KitError, match="the kit of a site"):
        choose_kit(made.kits / SITE, False, kits)


def test_ones_own_kit_alone_in_the_folder_may_look(kits: Path) -> None:
    assert identity(choose_kit(None, False, kits)) == f"as {PERSON} (lead)"


def test_no_kit_acts_unnamed(kits: Path) -> None:
    with pytest.raises(KitError, match="no kit selected: pass --kit"):
        choose_kit(None, True, kits)


@pytest.mark.parametrize("other", [SERVER, SITE])
def test_among_the_kits_of_others_none_is_chosen(kits: Path, made: Project, other: str) -> None:
    made.copy(other, kits)
    with pytest.raises(KitError, match="no kit selected: pass --kit"):
        choose_kit(None, False, kits)


def test_without_any_kit_the_user_is_asked_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PNEUMONIA_FL_KIT", raising=False)
    with pytest.raises(KitError, match="no kit selected: pass --kit"):
        choose_kit(None, False, tmp_path / "kits")


ACTS = [
    ("submit", "smoke"),
    ("abort", ID),
    ("delete", ID),
    ("clone", ID),
    ("resume", ID),
    ("run", "smoke", "--env", "prod"),
]


@pytest.mark.parametrize("words", ACTS, ids=lambda words: words[0])
def test_a_command_that_acts_needs_a_named_kit(kits: Path, words: tuple[str, ...]) -> None:
    done = pneumonia_fl(*words, cwd=kits.parent)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no kit selected: pass --kit")


def test_a_command_that_looks_says_as_whom(kits: Path) -> None:
    done = pneumonia_fl("jobs", "--json", cwd=kits.parent)
    assert (done.returncode, done.stdout) == (3, ""), "nobody serves"
    assert done.stderr.startswith(f"as {PERSON} (lead)\nerror: nothing listens at ")


NAMES = ["../../marks/name", "/etc/x", "..", "", "a\nb", "\x1b[2J", "x" * 5000, "runs\\..\\x", "-rf", "ä/ö"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("job_id", [ID, "../../..", ""])
def test_a_jobs_name_stays_below_the_folder_of_runs(tmp_path: Path, name: str, job_id: str) -> None:
    path = run_path(tmp_path / "runs", record(meta(name=name, job_id=job_id)))
    assert path.resolve().parent == tmp_path / "runs"
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", path.name)
    path.mkdir(parents=True)


class Transfers:
    """NVFlare's part of a login that fetches files: it notes where they go."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def download_file(self, source: str, reference: str, file: str) -> int:
        self.made.append(file)
        return 1


def test_a_server_puts_no_file_beside_a_download(tmp_path: Path) -> None:
    api, here = Transfers(), tmp_path / "here"
    keep_inside(api, here)
    for name in ("ID__tx/../../x", "ID__tx/../x", "../there/x", str(tmp_path / "x"), "/x"):
        with pytest.raises(RunError, match="names a file outside"):
            api.download_file("server", "reference", str(here / name))
    assert api.made == []
    assert api.download_file("server", "reference", str(here / "ID__tx" / "job.zip")) == 1


def test_a_good_name_stays_as_it_is(tmp_path: Path) -> None:
    assert run_path(tmp_path, record(meta())) == tmp_path / f"smoke-{ID[:8]}"


@pytest.mark.parametrize(
    "about", [{"config": [1], "sites": 5}, {"config": {"rounds": "x"}}, {"sites": "abc"}, [], 7]
)
def test_a_job_that_says_nonsense_of_itself_does_not_spoil_the_list(about: object) -> None:
    job = record(meta(custom_props={"pneumonia_fl": about}))
    assert (job.rounds, job.sites) == (None, ())
