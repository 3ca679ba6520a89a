"""What the guard changes in a process, in a process of its own: it replaces parts of NVFlare."""

import subprocess
import sys
import uuid
from types import SimpleNamespace

import pytest
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, MessageType
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.byte_receiver import RxTask
from nvflare.fuel.f3.streaming.byte_streamer import ByteStreamer
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, STREAM_DATA_TOPIC, StreamHeaderKey
from nvflare.fuel.utils.constants import Mode
from nvflare.private.defs import CellMessageHeaderKeys, ClientType
from speed import scaled

from pneumonia_fl.fl.guard.arrivals import Arrival, read
from pneumonia_fl.fl.guard.components import registers_as_another
from pneumonia_fl.fl.guard.crowd import MOST_UNFINISHED, begin_stream, steers_another
from pneumonia_fl.fl.guard.protocol import cell
from pneumonia_fl.fl.parent.audit_log import peer_of

MEMBER, SITE, OTHER_SITE = "researcher@europe-hospital.org", "asia-hospital", "us-hospital"

ANSWERS_TOO_LARGE = """
from nvflare.fuel.f3.cellnet.cell import Adapter, Cell
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, STREAM_DATA_TOPIC, StreamHeaderKey
from nvflare.fuel.utils.constants import Mode
from nvflare.fuel.f3.streaming.stream_types import BlobSizeError, StreamFuture
from pneumonia_fl.fl.guard.components import ServerGuard

ServerGuard()
cell = Cell(fqcn="server.job", root_url="tcp://localhost:1", secure=False, credentials={})
cell._process_stream_error(Message({StreamHeaderKey.ERROR_TYPE: BlobSizeError.__name__}))
reply = StreamFuture(1)
reply.set_exception(BlobSizeError("too large"))
Adapter(None, cell.core_cell.my_info, cell)._handle_reply_stream_done(reply)
print("goes on", flush=True)
"""


def test_a_site_that_finds_a_message_too_large_does_not_end_the_servers_job() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS_TOO_LARGE],
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
    )
    assert done.stdout.endswith("goes on\n"), done.stderr[-2000:]


def registration(certificate: str, name: str, kind: str) -> str:
    own, peer = cell("server"), cell(f"_admin_{uuid.uuid4()}" if "@" in certificate else certificate)
    arrival = Arrival(own, peer, certificate, True, False, peer, own, ("task", "register"), True)
    headers = {CellMessageHeaderKeys.CLIENT_NAME: name, CellMessageHeaderKeys.CLIENT_TYPE: kind}
    return registers_as_another(arrival, Message(headers))


@pytest.mark.parametrize(
    ("certificate", "name", "kind"),
    [
        (MEMBER, MEMBER, ClientType.REGULAR),
        (MEMBER, MEMBER, ClientType.RELAY),
        (SITE, SITE, ClientType.ADMIN),
        (SITE, SITE, ClientType.RELAY),
        (SITE, OTHER_SITE, ClientType.REGULAR),
        (MEMBER, SITE, ClientType.ADMIN),
    ],
)
def test_nobody_registers_as_what_their_certificate_is_not(certificate: str, name: str, kind: str) -> None:
    assert registration(certificate, name, kind)


def test_a_person_and_a_site_register() -> None:
    assert registration(MEMBER, MEMBER, ClientType.ADMIN) == ""
    assert registration(SITE, SITE, ClientType.REGULAR) == ""


def part(site: str, stream: int) -> str:
    origin = cell(f"{site}.job")
    headers = {MessageHeaderKey.ORIGIN: origin.name, StreamHeaderKey.STREAM_ID: stream}
    return begin_stream(None, origin, Message(headers))


def test_streams_that_never_end_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RxTask, "rx_task_map", {})
    assert not any(part(SITE, stream) for stream in range(MOST_UNFINISHED))
    assert "streams that have not ended" in part(SITE, MOST_UNFINISHED)
    assert part(SITE, 0) == part(OTHER_SITE, 0) == ""
    RxTask.rx_task_map[(f"{SITE}.job", 0)].completed = True
    assert part(SITE, MOST_UNFINISHED) == ""


class _Stream:
    """What NVFlare knows of a stream that this process sends."""

    target = f"{SITE}.job"


@pytest.mark.parametrize(
    ("origin", "relayed", "steers"),
    [
        (f"{SITE}.job", True, False),
        (f"{OTHER_SITE}.job", True, True),
        ("server", True, False),
        ("server", False, True),
    ],
)
def test_word_about_a_stream_from_others_than_its_receiver(
    origin: str, relayed: bool, steers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ByteStreamer.tx_task_map, 7, _Stream())
    assert bool(steers_another(cell(origin), relayed, Message({StreamHeaderKey.STREAM_ID: 7}))) == steers
    assert steers_another(cell(origin), relayed, Message({StreamHeaderKey.STREAM_ID: 8})) == ""


class _Connection:
    """A connection from a site to the server."""

    connector = SimpleNamespace(mode=Mode.PASSIVE, handle="outside")

    def get_conn_properties(self) -> dict[str, str]:
        return {"peer_cn": SITE}


@pytest.mark.parametrize(
    "headers",
    [
        {MessageHeaderKey.ORIGIN: ["x"]},
        {MessageHeaderKey.TOPIC: "x" * 501},
        {MessageHeaderKey.CHANNEL: 7},
        {
            MessageHeaderKey.CHANNEL: STREAM_CHANNEL,
            MessageHeaderKey.TOPIC: STREAM_DATA_TOPIC,
            StreamHeaderKey.CHANNEL: {},
        },
    ],
)
def test_headers_that_are_none_of_nvflares(headers: dict[str, object]) -> None:
    core = SimpleNamespace(get_fqcn=lambda: "server", int_listener=None)
    message = Message({MessageHeaderKey.MSG_TYPE: MessageType.REQ, MessageHeaderKey.ORIGIN: SITE} | headers)
    with pytest.raises(ValueError, match="is no text of at most 500 characters"):
        read(core, peer_of(SITE, _Connection().get_conn_properties()), _Connection(), message)
