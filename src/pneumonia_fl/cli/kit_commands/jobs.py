"""Jobs on a real server: `submit`, `jobs`, `watch`, `logs`, `abort`, `download`, `clone`, `resume`, `delete`."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumonia_fl.cli.options import Force, Json, Study, Timeout, seconds
from pneumonia_fl.cli.settings import InitFrom, all_overrides
from pneumonia_fl.cli.views.terminal import echo, terminal

if TYPE_CHECKING:
    from pneumonia_fl.cli.views.job_view import JobView
    from pneumonia_fl.fl.admin.session import Admin
    from pneumonia_fl.fl.admin.submit import Submitted
    from pneumonia_fl.fl.admin.watch import Ending

JobName = Annotated[
    str,
    typer.Argument(metavar="JOB", help="Job name in jobs/, a YAML file, or an exported NVFlare job folder."),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Job id, or its first characters.")]
Kit = Annotated[
    Path | None,
    typer.Option(
        "--kit",
        help="Your startup kit; default: $PNEUMONIA_FL_KIT, or the kit in kits/ if it is the only one there.",
        show_default=False,
    ),
]
NamedKit = Annotated[
    Path | None,
    typer.Option("--kit", help="Your startup kit; default: $PNEUMONIA_FL_KIT.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the job; repeatable."),
]
Rounds = Annotated[int | None, typer.Option("--rounds", "-r", min=1, help="Number of federated rounds.")]
MinSites = Annotated[
    int | None,
    typer.Option("--min-sites", min=1, help="Sites that a job needs to start and a round to count."),
]
ShipCode = Annotated[
    bool, typer.Option("--ship-code", help="Send this package's code with the job; strict sites refuse it.")
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Prepared data from which the job takes its input size.")
]
Token = Annotated[
    str | None, typer.Option("--token", help="Submission token; the same job and token start only once.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Follow the job to its end; the exit code tells how it ended.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Output folder; default: runs/JOB-ID.", show_default=False)
]


def submit(
    job: JobName,
    kit: NamedKit = None,
    study: Study = "default",
    overrides: Overrides = None,
    rounds: Rounds = None,
    init_from: InitFrom = None,
    min_sites: MinSites = None,
    ship_code: ShipCode = False,
    data: Data = None,
    token: Token = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Submit a job to the server; the connected sites take part.

    Example:

        pneumonia-fl submit fedavg --kit kits/lead@consortium.org --rounds 10 --wait
    """
    from pneumonia_fl.fl.admin.submit import JobRequest
    from pneumonia_fl.fl.admin.submit import submit as send
    from pneumonia_fl.fl.admin.watch import watch as follow

    changes = all_overrides(overrides, rounds=rounds, min_sites=min_sites, init_from=init_from)
    request = JobRequest(job, changes, data, ship_code, token)
    with session(kit, study, as_json, acts=True) as (admin, view):
        submitted = send(admin, request, view.progress)
        view.on_submitted(submitted)
        ending = follow(admin, submitted.id, view, seconds(timeout)) if wait else None
    _show_submitted(submitted, kit, as_json, ending)


def jobs(
    kit: Kit = None,
    study: Study = "default",
    mine: Annotated[bool, typer.Option("--mine", help="Only jobs that you submitted.")] = False,
    active: Annotated[bool, typer.Option("--active", help="Only jobs that have not ended.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Show at most N jobs, newest last.")] = 50,
    as_json: Json = False,
) -> None:
    """List jobs on the server with submitter, status and the reason a job is not running."""
    with session(kit, study, quiet=True) as (admin, _):
        found = [
            job
            for job in admin.jobs()
            if (not mine or job.submitter == admin.kit.name) and (not active or not job.ended)
        ][-limit:]
    if as_json:
        _print_json([job.as_dict() for job in found])
        return
    if not found:
        echo("no such jobs on the server; send one with `pneumonia-fl submit fedavg`")
        return
    from pneumonia_fl.cli.views.job_view import jobs_table

    console = terminal()
    console.print(jobs_table(found))
    for job in found:
        if job.reason:
            console.print(f"{job.id[:8]}: {job.reason}", soft_wrap=True)


def watch(
    job_id: Id, kit: Kit = None, study: Study = "default", timeout: Timeout = None, as_json: Json = False
) -> None:
    """Follow a job to its end: round, time left, and each site's state.

    Exit code: 0 complete, 5 a site never contributed, 1 failed or aborted, 3 timeout, 4 refused. Ctrl-C stops
    watching, not the job.
    """
    from pneumonia_fl.fl.admin.watch import watch as follow

    with session(kit, study, as_json) as (admin, view):
        ending = follow(admin, admin.find(job_id), view, seconds(timeout))
    if as_json:
        _print_json(ending.as_dict())
    _show_ending(ending, as_json)


def logs(
    job_id: Id,
    kit: Kit = None,
    study: Study = "default",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines until the job ends.")
    ] = False,
) -> None:
    """Print a job's log on the server. A site's log stays at the site, in KIT/JOB-ID/log.txt."""
    from pneumonia_fl.fl.admin.logs import follow_log, read_log

    with session(kit, study, quiet=True) as (admin, _):
        found = admin.find(job_id)
        parts = follow_log(admin, found) if follow else iter([read_log(admin, found)])
        for part in parts:
            echo(part, nl=False)


def abort(
    job_id: Id,
    kit: NamedKit = None,
    study: Study = "default",
    wait: Annotated[bool, typer.Option(help="Wait until the job has ended.")] = True,
    as_json: Json = False,
) -> None:
    """Stop a running job, or cancel a waiting one; the results of finished rounds are kept."""
    from pneumonia_fl.fl.admin.watch import abort as end

    with session(kit, study, as_json, acts=True) as (admin, view):
        message, job = end(admin, admin.find(job_id), view if wait else None)
    if as_json:
        _print_json({"id": job.id, "status": job.status, "reason": job.reason, "message": message})
    else:
        echo(message)


def download(
    job_id: Id,
    kit: Kit = None,
    study: Study = "default",
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Download a job's result as a run folder like the simulator's, for `evaluate`, `ui` and `runs`."""
    from pneumonia_fl.cli.views.run_view import RunView
    from pneumonia_fl.fl.admin.download import download as fetch
    from pneumonia_fl.fl.admin.download import run_path

    with session(kit, study, as_json) as (admin, view):
        job = admin.job(admin.find(job_id))
        run = fetch(admin, job.id, out or run_path(Path("runs"), job), force, view.progress)
    RunView(quiet=as_json).show_result(run, as_json)


def clone(
    job_id: Id,
    kit: NamedKit = None,
    study: Study = "default",
    init_from: InitFrom = None,
    as_json: Json = False,
) -> None:
    """Submit a job again with the same settings, as a new job."""
    from pneumonia_fl.fl.admin.submit import clone as send

    with session(kit, study, as_json, acts=True) as (admin, view):
        submitted = send(admin, admin.find(job_id), init_from, view.progress)
    _show_submitted(submitted, kit, as_json)


def resume(
    job_id: Id,
    kit: NamedKit = None,
    study: Study = "default",
    overrides: Overrides = None,
    rounds: Rounds = None,
    min_sites: MinSites = None,
    as_json: Json = False,
) -> None:
    """Continue a job that did not finish from its last global model, as a new job.

    Rounds, learning-rate schedule and metric curves continue where they stopped. --rounds is the total number.
    """
    from pneumonia_fl.fl.admin.submit import resume as send

    with session(kit, study, as_json, acts=True) as (admin, view):
        changes = all_overrides(overrides, rounds=rounds, min_sites=min_sites)
        submitted = send(admin, admin.find(job_id), changes, view.progress)
    _show_submitted(submitted, kit, as_json)


def delete(job_id: Id, kit: NamedKit = None, study: Study = "default", as_json: Json = False) -> None:
    """Delete an ended job and its result from the server."""
    with session(kit, study, quiet=True, acts=True) as (admin, _):
        found = admin.find(job_id)
        admin.delete(found)
    if as_json:
        _print_json({"id": found})
    else:
        echo(f"deleted job {found}")


@contextmanager
def session(
    kit: Path | None, study: str, quiet: bool, acts: bool = False
) -> "Iterator[tuple[Admin, JobView]]":
    """Log in, with a view for a job that is followed meanwhile."""
    from pneumonia_fl.cli.views.job_view import JobView
    from pneumonia_fl.fl.admin.session import login

    with JobView(quiet=quiet) as view, login(chosen_kit(kit, acts), study) as admin:
        yield admin, view


def chosen_kit(kit: Path | None, acts: bool) -> Path:
    """Choose the kit to log in with, and print its owner to standard error."""
    from pneumonia_fl.fl.admin.kit_selection import choose_kit, identity

    person = choose_kit(kit, acts)
    echo(identity(person), err=True)
    return person.folder


def _print_json(value: Any) -> None:
    echo(json.dumps(value, indent=2))


def _show_submitted(
    submitted: "Submitted", kit: Path | None, as_json: bool, ending: "Ending | None" = None
) -> None:
    """Print the id and the next commands; after a wait, how the job ended."""
    if as_json:
        known = asdict(submitted)
        _print_json({**known, **(ending.as_dict() if ending else {})})
    elif ending is None:
        option = f" --kit {shlex.quote(str(kit))}" if kit else ""
        echo(submitted.id)
        for command in ("watch", "logs", "download", "abort"):
            echo(f"  pneumonia-fl {command} {submitted.id[:8]}{option}", err=True)
    if ending is not None:
        _show_ending(ending, as_json)


def _show_ending(ending: "Ending", as_json: bool) -> None:
    """Print how a job ended, and exit with its code."""
    ending.check()
    if not as_json:
        remark = f" ({ending.reason})" if ending.reason else ""
        echo(f"job {ending.job.id} is complete{remark}")
        echo(f"  pneumonia-fl download {ending.job.id[:8]}", err=True)
