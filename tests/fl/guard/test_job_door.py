"""Who sends is known by the session, sites do what sites do, and no answer can end the server's process of a job."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nvflare.apis.client import Client
from nvflare.apis.fl_constant import FedEventHeader, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.fuel.f3.cellnet.defs import Encoding, MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.utils import fobs
from nvflare.private.defs import CellChannel, CellMessageHeaderKeys

from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.guard.job_door import SITE_EVENT, SLACK, Door, _Reader, _Source

ANSWER, EVENT = "submit_update", "fed.event"


class Agent:
    """NVFlare's handlers behind the door: they note what reaches them."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    def execute_command(self, request: Message) -> Message:
        self.reached.append(request.get_header(MessageHeaderKey.TOPIC))
        return Message({MessageHeaderKey.RETURN_CODE: ReturnCode.OK})

    aux_communicate = execute_command


class Cell:
    """The job's cell: it keeps what is sent through it, and has arrays of any site."""

    def __init__(self, part: bytes = b"") -> None:
        self.core_cell = SimpleNamespace(my_info=SimpleNamespace(fqcn="server.a-job"))
        self.sent: list[Message] = []
        self.part = part

    def get_fobs_context(self, props: dict[str, Any] | None = None) -> dict[str, Any]:
        return dict(props or {})

    def send_blob(self, channel: str, topic: str, target: str, message: Message, *_: Any, **__: Any) -> Any:
        self.sent.append(message)
        return SimpleNamespace(add_done_callback=lambda *_, **__: None)

    def send_request(self, target: str, **_: Any) -> Message:
        return Message({}, {"data": [self.part]})


class Engine:
    """A job with two sites."""

    def __init__(self) -> None:
        self.server = SimpleNamespace(command_agent=Agent())
        clients = {f"token of {name}": Client(name, f"token of {name}") for name in ("asia", "europe")}
        self.client_manager = SimpleNamespace(clients=clients)
        self.cell = Cell()

    def get_cell(self) -> Cell:
        return self.cell

    def sync_clients_from_main_process(self) -> None:
        pass


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def refusals() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def door(engine: Engine, refusals: list[tuple[str, str]]) -> Door:
    return Door(engine, 1000, lambda client, reason: refusals.append((client.name, reason)))


def headers(topic: str, name: str = "asia", token: str = "token of asia") -> dict[str, Any]:
    return {
        MessageHeaderKey.TOPIC: topic,
        CellMessageHeaderKeys.CLIENT_NAME: name,
        CellMessageHeaderKeys.TOKEN: token,
    }


def said(by: str = "asia", event: str = SITE_EVENT) -> Shareable:
    message, peer = Shareable(), FLContext()
    peer.set_prop(ReservedKey.IDENTITY_NAME, by, private=False)
    message.set_peer_context(peer)
    message.set_peer_props({ReservedKey.IDENTITY_NAME: by})
    message.set_header(FedEventHeader.EVENT_TYPE, event)
    return message


def code(reply: Message) -> str:
    return str(reply.get_header(MessageHeaderKey.RETURN_CODE))


def test_what_a_site_says_in_its_own_name_passes(door: Door, engine: Engine) -> None:
    assert code(door.command(Message(headers("get_task"), said()))) == ReturnCode.OK
    assert code(door.command(Message(headers(ANSWER), said()))) == ReturnCode.OK
    assert code(door.event(Message(headers(EVENT), said()))) == ReturnCode.OK
    assert code(door.event(Message(headers("task_check"), said()))) == ReturnCode.OK
    assert engine.server.command_agent.reached == ["get_task", ANSWER, EVENT, "task_check"]


def test_commands_of_the_server_pass(door: Door, engine: Engine) -> None:
    assert code(door.command(Message(headers("abort", "server", "its own"), Shareable()))) == ReturnCode.OK
    assert engine.server.command_agent.reached == ["abort"]


@pytest.mark.parametrize(
    ("topic", "who", "message"),
    [
        ("abort", {}, said()),
        ("get_task", {"name": "europe"}, said("europe")),
        ("get_task", {"token": "made up"}, said()),
        ("get_task", {"name": None}, said()),
        ("get_task", {}, said("europe")),
        ("get_task", {}, {"no": "shareable"}),
    ],
    ids=["server's command", "another's name", "no session", "no name", "another's context", "no message"],
)
def test_a_command_is_refused(
    door: Door, engine: Engine, topic: str, who: dict[str, Any], message: Any
) -> None:
    assert code(door.command(Message(headers(topic, **who), message))) == ReturnCode.INVALID_REQUEST
    assert engine.server.command_agent.reached == []


@pytest.mark.parametrize(
    "message",
    [said("europe"), said("global"), said(event="_fatal_system_error"), said(event="_end_run"), None],
    ids=["another site", "global", "the end of the job", "the end of the run", "nothing"],
)
def test_an_event_is_refused(door: Door, engine: Engine, message: Any) -> None:
    assert code(door.event(Message(headers(EVENT), message))) == ReturnCode.INVALID_REQUEST
    assert engine.server.command_agent.reached == []


@pytest.mark.parametrize("event_id", ["x" * 1000, 5, b"id", ["id"]])
def test_an_event_has_an_id_that_nvflare_can_remember(door: Door, engine: Engine, event_id: Any) -> None:
    """NVFlare keeps the last 10,000 ids of every site."""
    message = said()
    message.set_header(FedEventHeader.EVENT_ID, event_id)
    assert code(door.event(Message(headers(EVENT), message))) == ReturnCode.INVALID_REQUEST
    assert engine.server.command_agent.reached == []


def streaming(**peer: str) -> Shareable:
    """A part of a site's log."""
    message = said()
    message.set_peer_props({ReservedKey.IDENTITY_NAME: "asia", ReservedKey.RUN_NUM: "a-job", **peer})
    return message


@pytest.mark.parametrize(
    "peer", [{ReservedKey.RUN_NUM: ".."}, {ReservedKey.RUN_NUM: "other"}, {ReservedKey.IDENTITY_NAME: ""}]
)
def test_a_site_sends_its_log_of_this_job_only(door: Door, engine: Engine, peer: dict[str, str]) -> None:
    """NVFlare makes folders of the names that such a message says."""
    request = Message(headers("ObjectStreamer.Request"), streaming(**peer))
    assert code(door.event(request)) == ReturnCode.INVALID_REQUEST
    nobody = streaming()
    nobody.set_peer_props({ReservedKey.RUN_NUM: "a-job"})
    assert code(door.event(Message(headers("ObjectStreamer.Request"), nobody))) == ReturnCode.INVALID_REQUEST
    assert engine.server.command_agent.reached == []
    assert code(door.event(Message(headers("ObjectStreamer.Request"), streaming()))) == ReturnCode.OK


@pytest.mark.parametrize("rc", ["UNSAFE_JOB", "RUN_MISMATCH", "TASK_UNKNOWN", 5])
def test_an_answer_with_which_nvflare_would_end_the_job_is_refused_by_name(
    door: Door, engine: Engine, refusals: list[tuple[str, str]], rc: Any
) -> None:
    failed = said()
    failed.set_return_code(rc)
    assert code(door.command(Message(headers(ANSWER), failed))) == ReturnCode.OK
    assert refusals == [("asia", f"it answered {rc}")]
    assert engine.server.command_agent.reached == []


def streamed(door: Door, engine: Engine, future: Any) -> str:
    """Hand a streamed answer to the door; the code of the reply."""
    _Reader(door, door.command, engine.cell).call(future)
    (reply,) = engine.cell.sent
    return code(reply)


def stream(**more: Any) -> dict[str, Any]:
    return {
        **headers(ANSWER),
        StreamHeaderKey.CHANNEL: CellChannel.SERVER_COMMAND,
        StreamHeaderKey.TOPIC: ANSWER,
        StreamHeaderKey.STREAM_REQ_ID: "1",
        StreamHeaderKey.PAYLOAD_ENCODING: Encoding.FOBS,
        **more,
    }


@pytest.mark.parametrize("payload", [b"", b"\xff" * 50, fobs.dumps({"no": "shareable"})])
def test_an_answer_that_cannot_be_decoded_is_refused_by_name_and_the_job_lives(
    door: Door, engine: Engine, refusals: list[tuple[str, str]], payload: bytes
) -> None:
    future = SimpleNamespace(headers=stream(), result=lambda: payload)
    assert streamed(door, engine, future) == ReturnCode.OK
    assert [site for site, _ in refusals] == ["asia"]
    assert engine.server.command_agent.reached == []


def test_an_answer_that_can_be_decoded_reaches_nvflare(door: Door, engine: Engine) -> None:
    payload = fobs.dumps(make_reply("OK"))
    future = SimpleNamespace(headers=stream(), result=lambda: payload)
    assert streamed(door, engine, future) == ReturnCode.OK
    assert engine.server.command_agent.reached == [ANSWER]


def test_a_stream_of_nobody_is_not_decoded(door: Door, engine: Engine) -> None:
    def unread() -> bytes:
        raise AssertionError("it was read")

    future = SimpleNamespace(headers=stream(**headers(ANSWER, token="made up")), result=unread)
    assert streamed(door, engine, future) == ReturnCode.INVALID_REQUEST


def test_arrays_are_fetched_from_the_answering_site_only() -> None:
    source = _Source(Cell(b"x" * 10), "asia", 100)
    assert source.send_request(target="asia.a-job.trainer").payload
    with pytest.raises(AnswerError, match="somebody else"):
        source.send_request(target="europe.a-job")


def test_arrays_beyond_what_the_model_allows_are_refused_while_they_come() -> None:
    source = _Source(Cell(b"x" * 400), "asia", 1000)
    for _ in range(2):
        source.send_request(target="asia.a-job")
    with pytest.raises(AnswerError, match="more than the 1000 bytes"):
        source.send_request(target="asia.a-job")


def test_packed_arrays_count_as_they_are_unpacked() -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, zeros=np.zeros(1_000_000))
    assert len(packed.getvalue()) < SLACK / 10
    with pytest.raises(AnswerError, match="more than the"):
        _Source(Cell(packed.getvalue()), "asia", SLACK).send_request(target="asia.a-job")


def test_a_download_is_registered_once_for_the_cell() -> None:
    cell = Cell()
    assert {_Source(cell, "asia", 1): True}[cell]
    assert {cell: True}[_Source(cell, "europe", 1)]
