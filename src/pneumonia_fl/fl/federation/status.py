"""How the participants on this machine are."""

from pathlib import Path
from typing import Any

from pneumonia_fl.fl.federation.launch import end
from pneumonia_fl.fl.federation.participant import Participant, find_participants
from pneumonia_fl.fl.federation.startup import read_startup
from pneumonia_fl.fl.federation.tracking import answers, tracking_uri_of


def status(folder: Path) -> list[dict[str, Any]]:
    """One entry for each server and site kit at or below `folder`.

    Returns:
        name, kind, kit, running, pid, since (seconds since the epoch), ready (the server serves, the site is
        registered and connected), jobs (ids that have a process here), log, startup_log; of a site also connected
        (to the server, now); of a server also port, mlflow (URI) and mlflow_answers.
    """
    return [_describe(one) for one in find_participants(folder)]


def down(folder: Path) -> list[str]:
    """End every server and site at or below `folder` and what they have started; return who was running."""
    participants = find_participants(folder)
    running = [one.name for one in participants if one.running()]
    end(participants)
    return running


def _describe(one: Participant) -> dict[str, Any]:
    loop, main = one.loop(), one.main()
    alive = loop is not None and main is not None
    entry: dict[str, Any] = {
        "name": one.name,
        "kind": one.kit.kind,
        "kit": str(one.kit.folder),
        "running": alive,
        "pid": main.pid if main else None,
        "since": round(main.create_time(), 1) if main else None,
        "ready": alive and read_startup(one).ready,
        "jobs": one.jobs(),
        "log": str(one.log),
        "startup_log": str(one.startup_log),
    }
    if one.kit.kind == "server":
        uri = tracking_uri_of(one)
        return entry | {
            "port": one.kit.port,
            "mlflow": uri,
            "mlflow_answers": uri is not None and answers(uri),
        }
    connected = alive and one.connected()
    return entry | {"connected": connected, "ready": entry["ready"] and connected}
