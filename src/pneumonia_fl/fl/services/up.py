"""Starting a federation from its kits, until every site is registered."""

import time
from collections.abc import Callable
from pathlib import Path

from pneumonia_fl.errors import KitError, RefusedError, RunError, TimeLimitError
from pneumonia_fl.fl.services.launch import POLL_SECONDS, end, start_server, start_site
from pneumonia_fl.fl.services.mlflow_server import Tracking, answers, start_tracking
from pneumonia_fl.fl.services.participant import Service, find_services
from pneumonia_fl.fl.services.preflight import check, site_plans
from pneumonia_fl.fl.services.startup_log import read_startup

Say = Callable[[str], None]
"""Told each thing that has happened, in words."""
READY_WORDS = {"server": "server is up", "site": "registered"}


def up(folder: Path, data: Path | None, timeout: float, say: Say) -> None:
    """Start every server and site kit at or below `folder` that does not run yet, and wait until they are ready.

    Whatever goes wrong, and on Ctrl-C, everything that was started is ended again.

    Args:
        folder: one kit, or a folder of kits.
        data: prepared data set with a folder per site; None: each site's own setting.
        timeout: seconds until everything must be ready.
        say: told what happens.

    Raises:
        KitError, DataError, RunError: something is wrong before or while starting.
        TimeLimitError: not everybody was ready in time.
    """
    everybody = find_services(folder)
    services = check(everybody, say)
    plans = site_plans([one for one in services if one.kit.kind == "site"], data)
    deadline = time.monotonic() + timeout
    try:
        trackings: list[Tracking] = []
        # NVFlare's loop idles for five seconds before it starts anything: MLflow's start fits in there.
        for one in services:
            if one.kit.kind == "server":
                trackings.append(start_tracking(one))
                start_server(one, trackings[-1].uri, trackings[-1].login)
            else:
                start_site(one, plans[one.name])
        _wait(services, trackings, deadline, timeout, say)
        _ask_servers(folder, everybody, services, deadline, say)
        _tell_tracking(trackings, say)
    except BaseException:
        end(services)
        raise


def _wait(
    services: list[Service], trackings: list[Tracking], deadline: float, timeout: float, say: Say
) -> None:
    started = time.monotonic()
    waiting = list(services)
    while waiting:
        for one in list(waiting):
            state = read_startup(one)
            if state.died:
                raise RunError(f"{one.name} ended while it started: {state.error}; see {one.startup_log}")
            if state.ready:
                waiting.remove(one)
                say(f"{one.name}: {READY_WORDS[one.kit.kind]} ({time.monotonic() - started:.1f} s)")
        _check_tracking(trackings)
        if waiting and time.monotonic() > deadline:
            raise TimeLimitError(f"not ready after {timeout:.0f} s: {_words(waiting)}")
        time.sleep(POLL_SECONDS if waiting else 0)


def _words(waiting: list[Service]) -> str:
    return "; ".join(f"{one.name} ({read_startup(one).error}; see {one.startup_log})" for one in waiting)


def _check_tracking(trackings: list[Tracking]) -> None:
    for one in trackings:
        if problem := one.failed():
            raise RunError(f"MLflow ended while it started: {problem}; see {one.log}")


def _ask_servers(
    folder: Path, everybody: list[Service], started: list[Service], deadline: float, say: Say
) -> None:
    """Ask each server whether it knows the new sites, where the Lead IT's kit lies beside the others."""
    from pneumonia_fl.fl.admin.kit_selection import identity
    from pneumonia_fl.fl.services.registration import lead_it_kit, wait_for_sites

    sites = {one.name for one in started if one.kit.kind == "site"}
    for server in (one for one in everybody if one.kit.kind == "server"):
        person = lead_it_kit(folder, server.kit)
        if person is None or not sites:
            continue
        say(f"asking the server {identity(person)}")
        try:
            wait_for_sites(person, sites, deadline)
        except (
            KitError,
            RefusedError,
        ) as error:  # it is the person's kit; the sites say that they are registered
            say(f"the server was not asked: {error}")


def _tell_tracking(trackings: list[Tracking], say: Say) -> None:
    for one in trackings:
        ready = "ready" if answers(one.uri) else "still starting"
        say(f"MLflow: {one.uri} ({ready})")
