"""Table of allowed messages by sender and receiver. All others are neither delivered nor passed on.

NVFlare 2.9 has one network of cells in which every cell may send any request to every other, through the server or
the parent in between; whether it is served depends on headers that the sender writes. Here the speaker is what the
connection has proved, and requests are those that this application's federation needs. Kept whole: replies, and what
a stream's receiver sends back to its sender.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from nvflare.fuel.utils.admin_name_utils import is_valid_admin_client_name

SERVER = "server"
"""The name of the server's cell, and the first part of its jobs' names."""

JOB_PARTS, TRAINER_PARTS = 2, 3


class Role(Enum):
    """Role of a cell, by its name: `server`, `server.JOB`, `SITE`, `SITE.JOB`, `SITE.JOB.TRAINER`, or a person's."""

    PERSON = "a person"
    SERVER = "the server"
    SERVER_JOB = "a job on the server"
    SITE = "a site"
    SITE_JOB = "a site's job"
    TRAINER = "a site's trainer"


@dataclass(frozen=True)
class Cell:
    """A cell's name in its parts."""

    name: str
    role: Role
    root: str
    """The participant: `server`, a site, or a person's session."""
    job: str
    """The job's id; "" where there is none."""

    def holds(self, other: "Cell") -> bool:
        """Return True when `other` is this cell or a cell below it."""
        return other.name == self.name or other.name.startswith(f"{self.name}.")


def cell(name: str) -> Cell:
    """Parse a cell's name."""
    parts = name.split(".")
    if is_valid_admin_client_name(name):
        role = Role.PERSON
    elif parts[0] == SERVER:
        role = Role.SERVER if len(parts) < JOB_PARTS else Role.SERVER_JOB
    else:
        role = (Role.SITE, Role.SITE_JOB, Role.TRAINER)[min(len(parts), TRAINER_PARTS) - 1]
    return Cell(name, role, parts[0], parts[1] if len(parts) >= JOB_PARTS else "")


_GOODBYE = {"cellnet.channel": {"bye"}}
_DOWNLOADS = {"download_service__": {"download_service__download", "download_service__source_failure"}}
_OBJECTS = {"ObjectStreamer.Request", "ObjectStreamer.Abort"}
_LOOK = {
    "_net_manager": {
        "cells", "peers", "route", "conns", "speed", "echo", "msg_stats", "list_pools", "show_pool",
        "comm_config", "config_vars", "process_info", "heartbeat",
    }
}  # fmt: skip
"""NVFlare's requests for diagnosis that change nothing; those that stop cells or turn them elsewhere are not here."""
ANY = {"*"}

REQUESTS: Mapping[tuple[Role, Role], Mapping[str, set[str]]] = {
    (Role.PERSON, Role.SERVER): {
        "task": {"challenge", "register", "quit"},
        "hci_channel": {"command"},
        "aux_communication": _OBJECTS,
        **_DOWNLOADS,
        **_GOODBYE,
    },
    (Role.SERVER, Role.PERSON): {
        "hci_channel": ANY,
        "aux_communication": _OBJECTS,
        **_DOWNLOADS,
        **_GOODBYE,
    },
    (Role.SITE, Role.SERVER): {
        "task": {"challenge", "register", "quit", "heart_beat", "report_job_failure"},
        **_GOODBYE,
    },
    (Role.SERVER, Role.SITE): {"admin": ANY, **_LOOK, **_GOODBYE},
    (Role.SITE_JOB, Role.SERVER): _GOODBYE,
    (Role.SERVER, Role.SITE_JOB): {**_LOOK, **_GOODBYE},
    (Role.SITE_JOB, Role.SERVER_JOB): {
        "server_command": {"get_task", "submit_update"},
        "aux_communication": {
            "__job_heartbeat__", "__sync_runner__", "__task_check__", "fed.event",
        },
        **_DOWNLOADS,
    },
    (Role.SERVER_JOB, Role.SITE_JOB): {
        "aux_communication": {
            "__end_run__", "__do_task__", "__abort_task__", "__msg_root_deleted__", "fed.event",
        },
        **_DOWNLOADS,
    },
    (Role.TRAINER, Role.SERVER_JOB): _DOWNLOADS,
    (Role.SERVER_JOB, Role.TRAINER): _DOWNLOADS,
    (Role.SERVER_JOB, Role.SERVER): {
        "server_parent_listener": {"get_clients", "update_run_status", "heartbeat"},
        **_GOODBYE,
    },
    (Role.SERVER, Role.SERVER_JOB): {"server_command": ANY, **_LOOK, **_GOODBYE},
    (Role.SITE_JOB, Role.SITE): {"admin": {"train.notify_job_status"}, **_GOODBYE},
    (Role.SITE, Role.SITE_JOB): {"client_command": ANY, **_GOODBYE},
    (Role.TRAINER, Role.SITE_JOB): {"client_api": ANY, **_DOWNLOADS, **_GOODBYE},
    (Role.SITE_JOB, Role.TRAINER): {"client_api": ANY, **_DOWNLOADS, **_GOODBYE},
}  # fmt: skip
"""From whom to whom: for each channel of NVFlare its topics."""


def objection(origin: Cell, destination: Cell, subject: tuple[str, str], *, is_request: bool) -> str:
    """Return why a message from `origin` to `destination` is not delivered; "" when it is.

    Args:
        origin: the speaker, as its connection has proved.
        destination: for whom it is.
        subject: channel and topic, those of the content where the message is part of a stream.
        is_request: False for replies and for the flow control of streams.
    """
    allowed = REQUESTS.get((origin.role, destination.role))
    if allowed is None or not _belong_together(origin, destination):
        return f"{origin.role.value} says nothing to {destination.role.value}"
    channel, topic = subject
    topics = allowed.get(channel, set()) if is_request else ANY
    if topic in topics or topics is ANY:
        return ""
    return f"{origin.role.value} may not ask this of {destination.role.value}"


def _belong_together(one: Cell, other: Cell) -> bool:
    """Return True when two cells may talk: they have the same job, and are not two different sites."""
    same_job = one.job == other.job or not (one.job and other.job)
    return same_job and (one.root == other.root or SERVER in (one.root, other.root))
