"""A message as it arrived, and the place in NVFlare where it is judged.

NVFlare's own filters are asked after it has read the headers, and only some of them before a message is passed on.
Every message of a process, for itself or to pass on, goes through `CoreCell.process_message`; so that is replaced, in
the processes that a component of ours has been made in, before any cell exists. (NVFlare has no hook at this place.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, MessageType
from nvflare.fuel.f3.streaming.stream_const import (
    STREAM_CHANNEL,
    STREAM_DATA_TOPIC,
    StreamDataType,
    StreamHeaderKey,
)
from nvflare.fuel.utils.constants import Mode

from pneumonia_fl.fl.guard.crowd import begin_stream, steers_another
from pneumonia_fl.fl.guard.protocol import Cell, cell, objection
from pneumonia_fl.fl.parent.audit_log import Peer, on_behalf_of, peer_of, tell_refusal

RETURNS = "return_only"
"""NVFlare's channel for replies that are streams."""
MOST_TEXT = 500
"""Characters of a cell's name, a channel or a topic; NVFlare counts messages by them and never forgets one."""


@dataclass(frozen=True)
class Arrival:
    """A message with what its connection says of the sender."""

    own: Cell
    """This process's cell."""
    peer: Cell
    """The cell at the other end of the connection."""
    certificate: str
    """The name in the peer's certificate; "" where the connection shows none."""
    accepted: bool
    """The peer has connected to us; False where we have connected to it."""
    internal: bool
    """It came over the internal listener, from a process of this machine."""
    origin: Cell
    destination: Cell
    subject: tuple[str, str]
    """Channel and topic, those of the content where the message is part of a stream."""
    is_request: bool

    @property
    def action(self) -> str:
        """Return the audit log's action: what the message asks of whom."""
        return f"{'/'.join(self.subject)} to {self.destination.name}"


Judge = Callable[[Arrival, Any], str]
"""Given a message as it arrived, and NVFlare's message; returns why it is refused, or ""."""


def put_in_front(judge: Judge) -> None:
    """Pass every message of this process to `judge` before NVFlare; drop and audit what it refuses."""
    deliver = CoreCell.process_message

    def process_message(self: Any, endpoint: Any, connection: Any, app_id: int, message: Any) -> None:
        peer = peer_of(endpoint.name, connection.get_conn_properties())
        with on_behalf_of(peer):  # lines in the audit log name the connection
            if endpoint.name == self.get_fqcn() or _may_pass(judge, self, peer, connection, message):
                deliver(self, endpoint, connection, app_id, message)

    CoreCell.process_message = process_message


def _may_pass(judge: Judge, core_cell: Any, peer: Peer, connection: Any, message: Any) -> bool:
    """Check a message; audit a refusal."""
    message.remove_header(MessageHeaderKey.CONN_URL)  # a cell never connects to where a message tells it to
    sender, action = peer.certificate or peer.endpoint, "message"
    try:
        arrival = read(core_cell, peer, connection, message)
        action = arrival.action
        if not arrival.accepted:  # relayed by the server or the parent, who has judged who it is from
            sender = arrival.origin.root
        reason = judge(arrival, message) or objection(
            arrival.origin, arrival.destination, arrival.subject, is_request=arrival.is_request
        )
        if not reason and arrival.destination == arrival.own:
            reason = _stream_objection(core_cell, arrival, message)
    except (ValueError, TypeError) as error:
        reason = f"is not a message of NVFlare's: {error}"
    if reason:
        tell_refusal(sender, action, reason)
    return not reason


def read(core_cell: Any, peer: Peer, connection: Any, message: Any) -> Arrival:
    """Read a message's headers.

    Raises:
        ValueError: its headers are not what NVFlare sends.
    """
    connector, listener = connection.connector, core_cell.int_listener
    subject, is_request = _subject(message)
    return Arrival(
        own=cell(core_cell.get_fqcn()),
        peer=cell(peer.endpoint),
        certificate=peer.certificate,
        accepted=connector.mode == Mode.PASSIVE,
        internal=listener is not None and connector.handle == listener.handle,
        origin=cell(_text(message, MessageHeaderKey.ORIGIN)),
        destination=cell(_text(message, MessageHeaderKey.DESTINATION)),
        subject=subject,
        is_request=is_request,
    )


def _subject(message: Any) -> tuple[tuple[str, str], bool]:
    """Return channel and topic of the content, and True when it is a request."""
    channel, topic = _text(message, MessageHeaderKey.CHANNEL), _text(message, MessageHeaderKey.TOPIC)
    if _text(message, MessageHeaderKey.MSG_TYPE) != MessageType.REQ:
        return (channel, topic), False
    if channel != STREAM_CHANNEL:
        return (channel, topic), True
    ended = message.get_header(StreamHeaderKey.DATA_TYPE) == StreamDataType.ERROR
    if topic != STREAM_DATA_TOPIC or (ended and StreamHeaderKey.CHANNEL not in message.headers):
        return (channel, topic), False  # flow control, or the sender has given up
    channel, topic = _text(message, StreamHeaderKey.CHANNEL), _text(message, StreamHeaderKey.TOPIC)
    return (channel, topic), channel != RETURNS


def _stream_objection(core_cell: Any, arrival: Arrival, message: Any) -> str:
    """Return why a part or a control message of a stream is refused."""
    headers = message.headers
    if headers.get(MessageHeaderKey.CHANNEL) != STREAM_CHANNEL:
        return ""
    if headers.get(MessageHeaderKey.TOPIC) != STREAM_DATA_TOPIC:
        return steers_another(arrival.origin, not arrival.accepted, message)
    # Word that the sender has given up begins no stream.
    return "" if StreamHeaderKey.ERROR_MSG in headers else begin_stream(core_cell, arrival.origin, message)


def _text(message: Any, key: str) -> str:
    value = message.get_header(key)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise ValueError(f"the header {key} is no text of at most {MOST_TEXT} characters")
    return value
