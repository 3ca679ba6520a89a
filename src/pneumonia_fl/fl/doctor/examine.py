"""All checks of a machine or a kit, run side by side, so that a dead network costs seconds and not minutes."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pneumonia_fl.errors import PneumoniaFLError
from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.doctor import guards, identity_checks, instance, network, policy
from pneumonia_fl.fl.doctor import kit_files as files
from pneumonia_fl.fl.doctor import server_checks as server
from pneumonia_fl.fl.doctor import site_checks as site
from pneumonia_fl.fl.doctor import software as machine
from pneumonia_fl.fl.kit.startup_kit import Kit
from pneumonia_fl.progress import Progress, silent

DEADLINE_SECONDS = 8.5
"""What all checks together may take; every network check has a shorter limit of its own."""


@dataclass(frozen=True)
class Check:
    """One thing to look at; `run` gives its findings one by one."""

    name: str
    run: Callable[[], Iterable[Finding]]


@dataclass
class Result:
    """Findings of a check so far."""

    check: str
    findings: list[Finding] = field(default_factory=list)
    bug: Exception | None = None


def examine(kit: Kit | None, progress: Progress = silent) -> list[Result]:
    """Examine a kit and its machine, or the machine alone.

    Nothing is changed, and nothing that fails ends the others. All checks together end within
    `DEADLINE_SECONDS`; what is not finished then is a failed finding.
    """
    checks = list(_checks(kit))
    deadline = time.monotonic() + DEADLINE_SECONDS
    running = [_start(check) for check in checks]
    for number, (thread, result) in enumerate(running):
        progress("checking", number, len(checks))
        thread.join(max(0.0, deadline - time.monotonic()))
        if result.bug is not None:
            raise result.bug
        if thread.is_alive():
            late = f"not finished after {DEADLINE_SECONDS:g} s; a disk or a network does not answer"
            result.findings.append(Finding("fail", late))
    progress("checking", len(checks), len(checks))
    return [result for _, result in running]


def _checks(kit: Kit | None) -> Iterator[Check]:
    folder = kit.folder if kit else Path.cwd()
    yield Check("software", lambda: machine.software(kit))
    yield Check("disk", lambda: machine.disk(folder))
    if kit is None:
        return
    yield Check("clock", lambda: identity_checks.clock(kit))
    yield Check("certificate", lambda: identity_checks.certificate(kit))
    yield Check("key", lambda: identity_checks.key(kit))
    yield Check("signature", lambda: files.signature(kit))
    yield Check("files", lambda: files.rights(kit))
    yield Check("instance", lambda: instance.instance(kit))
    yield Check("network", lambda: network.network(kit))
    yield from _checks_of_role(kit)


def _checks_of_role(kit: Kit) -> Iterator[Check]:
    if kit.kind == "server":
        yield Check("port", lambda: server.port(kit))
        yield Check("tracking", lambda: server.tracking(kit))
    if kit.kind == "site":
        yield Check("data", lambda: site.data(kit))
        yield Check("tracking", lambda: site.tracking(kit))
    if kit.kind == "admin":
        yield Check("runs", lambda: site.runs(Path("runs")))
    else:
        yield Check("policy", lambda: policy.policy(kit))
        yield Check("guards", lambda: guards.guards(kit))


def _start(check: Check) -> tuple[threading.Thread, Result]:
    """Run a check in a thread that cannot keep the program alive."""
    result = Result(check.name)
    thread = threading.Thread(target=_run, args=(check, result), name=f"doctor-{check.name}", daemon=True)
    thread.start()
    return thread, result


def _run(check: Check, result: Result) -> None:
    try:
        for finding in check.run():
            result.findings.append(finding)
    except (PneumoniaFLError, OSError) as error:
        result.findings.append(Finding("fail", str(error)))
    except Exception as error:
        result.bug = error
