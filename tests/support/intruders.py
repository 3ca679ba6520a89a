"""Cells of people and hospitals that ask for what is not theirs, in the least form that shows that it is refused.

Run as a program, in a process of its own: NVFlare leaves sockets and threads behind.

    python intruders.py KIT FQCN URL ORIGIN SITE     prints {what is asked for: NVFlare's return code}
"""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import CellChannel, MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import new_cell_message
from nvflare.private.admin_defs import Message
from nvflare.private.defs import RequestHeader, SysCommandTopic, TrainingTopic
from speed import scaled

from pneumonia_fl.fl.kit.startup_kit import Kit, open_kit

ANSWER_SECONDS = 2.0
CONNECT_SECONDS = 15.0
REFUSED = {ReturnCode.TIMEOUT, ReturnCode.COMM_ERROR, ReturnCode.TARGET_UNREACHABLE}
SITE_COMMANDS = {
    "shell": (SysCommandTopic.SHELL, "ls", "ls local"),
    "shutdown": (TrainingTopic.SHUTDOWN, "shutdown", ""),
    "deploy": (TrainingTopic.DEPLOY, "submit_job", b""),
    "start": (TrainingTopic.START_JOB, "submit_job", ""),
}
"""What a site does when its server says so: topic, command and body."""
SERVER_REQUESTS = {"get_clients": {}, "update_run_status": {"execution_error": True}}
"""What the server does when a job of its own says so: topic and body."""


def ask(kit: Path, name: str, url: str, origin: str, site: str) -> "dict[str, str]":
    """Ask for everything, as a cell called `name` at `url` that says it is `origin`; the return codes."""
    words = [sys.executable, __file__, *map(str, (kit, name, url, origin, site))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=scaled(120), check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return answers


def person() -> str:
    """A name for the cell of a person's session."""
    return f"_admin_{uuid.uuid4()}"


def credentials(kit: Kit) -> dict[str, str]:
    """A kit's certificate as NVFlare's cells want it."""
    name = "server" if kit.kind == "server" else "client"
    files = {"ca_cert": "rootCA.pem", "client_cert": f"{name}.crt", "client_key": f"{name}.key"}
    return {key: str(kit.startup / file) for key, file in files.items()}


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


def _main(kit: Kit, name: str, url: str, origin: str, site: str) -> dict[str, str]:
    flare_decomposers.register()
    parent, root = (url, None) if url.startswith("stcp") else (None, url)
    cell: Any = Cell(fqcn=name, root_url=root, parent_url=parent, secure=True, credentials=credentials(kit))
    if origin:
        core = cell.core_cell
        core.add_outgoing_request_filter("*", "*", lambda m: m.set_header(MessageHeaderKey.ORIGIN, origin))
    cell.start()
    _connect(cell)
    requests = [
        (what, CellChannel.CLIENT_MAIN, site, _command(*words)) for what, words in SITE_COMMANDS.items()
    ]
    for topic, body in SERVER_REQUESTS.items():
        message = new_cell_message({"job_id": str(uuid.uuid4())}, body)
        requests.append((topic, CellChannel.SERVER_PARENT_LISTENER, "server", message))
    replies = {
        what: cell.send_request(
            channel=channel, topic=what, target=target, request=message, timeout=ANSWER_SECONDS
        )
        for what, channel, target, message in requests
    }
    return {what: str(reply.get_header(MessageHeaderKey.RETURN_CODE)) for what, reply in replies.items()}


def _connect(cell: Any) -> None:
    """Wait for a connection; there is none where the other end hangs up."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while not cell.core_cell.agents and time.monotonic() < deadline:
        time.sleep(0.1)


def _command(topic: str, name: str, body: object) -> Any:
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


if __name__ == "__main__":
    folder, *rest = sys.argv[1:]
    sys.stdout.write(f"{json.dumps(_main(open_kit(Path(folder)), *rest))}\n")
    sys.stdout.flush()
    os._exit(0)  # NVFlare's threads would keep it
