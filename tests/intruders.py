"""Cells of people and hospitals that ask for what is not theirs, in the least form that shows that it is refused."""

import socket
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import CellChannel, MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import new_cell_message
from nvflare.private.admin_defs import Message
from nvflare.private.defs import RequestHeader, SysCommandTopic, TrainingTopic

from pneumonia_fl.fl.kits import Kit, open_kit

ANSWER_SECONDS = 2.0
CONNECT_SECONDS = 15.0


def command(topic: str, name: str, body: object = "") -> Any:
    """A command to a site that says it is from the site's own IT."""
    message = Message(topic, body)
    headers = {
        RequestHeader.ADMIN_COMMAND: name,
        RequestHeader.REQUIRE_AUTHZ: "true",
        RequestHeader.USER_NAME: "it@asia-hospital.org",
        RequestHeader.USER_ORG: "asia_hospital",
        RequestHeader.USER_ROLE: "org_admin",
    }
    for key, value in headers.items():
        message.set_header(key, value)
    return new_cell_message({}, message)


SITE_COMMANDS = {
    "shell": lambda: command(SysCommandTopic.SHELL, "ls", "ls local"),
    "shutdown": lambda: command(TrainingTopic.SHUTDOWN, "shutdown"),
    "deploy": lambda: command(TrainingTopic.DEPLOY, "submit_job", b""),
    "start": lambda: command(TrainingTopic.START_JOB, "submit_job"),
}
"""What a site does when its server says so."""
SERVER_REQUESTS = {
    "tokens": ("get_clients", {}),
    "run status": ("update_run_status", {"execution_error": True}),
}
"""What the server does when a job of its own says so."""


def credentials(kit: Kit) -> dict[str, str]:
    """A kit's certificate as NVFlare's cells want it."""
    name = "server" if kit.kind == "server" else "client"
    startup = kit.startup
    return {
        "ca_cert": str(startup / "rootCA.pem"),
        "client_cert": str(startup / f"{name}.crt"),
        "client_key": str(startup / f"{name}.key"),
    }


@contextmanager
def cell_of(folder: Path, name: str = "") -> Iterator[Any]:
    """A cell that is connected to the server with the certificate of the kit in `folder`.

    Its name is a person's session when the kit is a person's, else below the site's.
    """
    flare_decomposers.register()
    kit = open_kit(folder)
    name = name or (f"_admin_{uuid.uuid4()}" if kit.kind == "admin" else f"{kit.name}.{uuid.uuid4()}")
    cell = Cell(
        fqcn=name, root_url=f"grpc://{kit.host}:{kit.port}", secure=True, credentials=credentials(kit)
    )
    cell.start()
    try:
        yield cell
    finally:
        cell.stop()
        cell.core_cell.ALL_CELLS.pop(name, None)


def say_origin(cell: Any, origin: str) -> None:
    """Have the cell's next requests say that they are from somebody else."""
    cell.core_cell.add_outgoing_request_filter(
        "*", "*", lambda message: message.set_header(MessageHeaderKey.ORIGIN, origin)
    )


def ask_site(cell: Any, site: str, what: str) -> str:
    """Send a command to a site; the return code."""
    return _ask(cell, CellChannel.CLIENT_MAIN, what, site, SITE_COMMANDS[what]())


def ask_server(cell: Any, what: str, job: str) -> str:
    """Send the server what only its own jobs send; the return code."""
    topic, payload = SERVER_REQUESTS[what]
    message = new_cell_message({"job_id": job}, payload)
    return _ask(cell, CellChannel.SERVER_PARENT_LISTENER, topic, "server", message)


def _ask(cell: Any, channel: str, topic: str, target: str, request: Any) -> str:
    reply = cell.send_request(
        channel=channel, topic=topic, target=target, request=request, timeout=ANSWER_SECONDS
    )
    return str(reply.get_header(MessageHeaderKey.RETURN_CODE))


REFUSED = {ReturnCode.TIMEOUT, ReturnCode.COMM_ERROR, ReturnCode.TARGET_UNREACHABLE}


def internal_port(kit: Path) -> int:
    """The port on which a running kit listens for its own processes."""
    marker = "created backbone internal listener for "
    lines = [line for line in (kit / "log.txt").read_text().splitlines() if marker in line]
    return int(lines[-1].rpartition(":")[2])


def handshake(port: int, kit: Path, seconds: float) -> str:
    """Connect to an internal listener with a kit's certificate; the TLS version."""
    one = credentials(open_kit(kit))
    context = ssl.create_default_context(cafile=one["ca_cert"])
    context.check_hostname = False
    context.load_cert_chain(one["client_cert"], one["client_key"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=seconds) as plain,
        context.wrap_socket(plain) as tls,
    ):
        return str(tls.version())
