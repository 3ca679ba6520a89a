"""The door of a job at the server: senders are known by their session, and answers are bounded before they are decoded.

NVFlare 2.9 verifies the token of every session; here each message is bound to the site whose token it carries. A site
asks for tasks, answers them and sends points of series, in its own name; nothing else of it passes. An answer is
bounded before it is decoded, its arrays are fetched from the site itself, and what is too large or cannot be decoded
is refused and named like any other answer that must not count, where NVFlare would end the job.

What is not bounded here: the frames of the transport (2 GB each, in the parent process as well), how many messages a
site sends, and a message that comes outside of NVFlare's streams.
"""

import io
import logging
import zipfile
from collections.abc import Callable
from typing import Any

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE
from nvflare.apis.client import Client
from nvflare.apis.fl_constant import FedEventHeader, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.fuel.f3.cellnet.cell import Adapter, Cell
from nvflare.fuel.f3.cellnet.defs import CellChannel as F3Channel
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import decode_payload, make_reply
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.blob_streamer import BlobHandler
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.f3.streaming.stream_types import BlobSizeError
from nvflare.fuel.utils.fobs import FOBSContextKey
from nvflare.private.defs import AUTH_CLIENT_NAME_FOR_SJ, CellChannel, CellMessageHeaderKeys
from nvflare.private.fed.server.server_commands import ServerCommandNames, ServerCommands
from nvflare.private.fed.server.server_runner import ServerRunner
from nvflare.private.stream_runner import TOPIC_STREAM_ABORT, TOPIC_STREAM_REQUEST
from nvflare.widgets.fed_event import FED_EVENT_TOPIC

from pneumonia_fl.errors import AnswerError
from pneumonia_fl.inputs.text import printable

MAX_MESSAGE = 1_000_000
"""Bytes of an answer without its arrays, which are fetched separately; one of ours has some 20,000."""
SLACK = 1_000_000
"""Bytes that the arrays of an answer may take beyond their own, for names and headers."""
SERVER_NAMES = ("server", AUTH_CLIENT_NAME_FOR_SJ)
MAX_EVENT_ID = 100
STREAMS = (TOPIC_STREAM_REQUEST, TOPIC_STREAM_ABORT)
SITE_EVENT = f"fed.{ANALYTIC_EVENT_TYPE}"

Refuse = Callable[[Client, str], None]
Handler = Callable[[Message], Message]

log = logging.getLogger(__name__)


class Door:
    """Stands before NVFlare's own handlers of commands, answers and events.

    Args:
        engine: NVFlare's engine of the job.
        max_arrays: bytes that the arrays of one answer may have.
        refuse: called with a site's session and a reason when its answer must not count.
    """

    def __init__(self, engine: Any, max_arrays: int, refuse: Refuse) -> None:
        self._engine, self._agent, self._cell = engine, engine.server.command_agent, engine.get_cell()
        self._refuse, self._max = refuse, max_arrays + SLACK

    def install(self) -> None:
        """Check every message of a site from now on."""
        for channel, handler in (
            (CellChannel.SERVER_COMMAND, self.command),
            (CellChannel.AUX_COMMUNICATION, self.event),
        ):
            self._cell.core_cell.register_request_cb(channel, "*", handler)
            self._read(channel, _Reader(self, handler, self._cell).call, MAX_MESSAGE)
        self._read(F3Channel.RETURN_ONLY, self._cell._process_reply, self._max)

    def _read(self, channel: str, callback: Callable[..., None], limit: int) -> None:
        streamed = BlobHandler(callback)
        streamed.max_blob_size = limit
        self._cell.byte_receiver.register_callback(channel, "*", streamed.handle_blob_cb)

    def client(self, headers: dict[str, Any]) -> Client | None:
        """Return the site that sent a message; None for the server itself.

        Raises:
            AnswerError: the sender does not belong to this job.
        """
        name, token = headers.get(CellMessageHeaderKeys.CLIENT_NAME), headers.get(CellMessageHeaderKeys.TOKEN)
        if name in SERVER_NAMES:
            return None
        client = self._engine.client_manager.clients.get(token)
        if client is None:  # a site that was restarted has a new session
            self._engine.sync_clients_from_main_process()
            client = self._engine.client_manager.clients.get(token)
        if client is None or client.name != name:
            raise AnswerError(f"a message of {printable(name, 60)}, who has no session in this job")
        return client

    def decode(self, client: Client | None, request: Message) -> None:
        """Decode a message; arrays come from its sender's own processes and are no more than `max_arrays`."""
        props: dict[str, Any] = {FOBSContextKey.PASS_THROUGH: False}
        if client:
            props[FOBSContextKey.CELL] = _Source(self._cell, client.name, self._max)
        decode_payload(request, StreamHeaderKey.PAYLOAD_ENCODING, fobs_ctx=self._cell.get_fobs_context(props))

    def refused(self, client: Client | None, topic: str, fault: Exception) -> Message:
        """Reply to a message that must go no further; an answer to a task is refused by name."""
        if client and topic == ServerCommandNames.SUBMIT_UPDATE:
            self._refuse(client, _words(fault))
            return make_reply(ReturnCode.OK)
        log.warning("refused a message %s: %s", printable(topic, 60), printable(fault))
        return make_reply(ReturnCode.INVALID_REQUEST)

    def command(self, request: Message) -> Message:
        """Allow a site to ask for tasks and answer them; every other command is the server's own."""
        client, topic = None, request.get_header(MessageHeaderKey.TOPIC)
        try:
            client = self.client(request.headers)
            if client:
                if topic not in ServerCommands.client_request_commands_names:
                    raise AnswerError(f"{client.name} sent a command that is the server's own")
                _check_names(client, request.payload)
                if topic == ServerCommandNames.SUBMIT_UPDATE:
                    _check_code(request.payload)
        except Exception as fault:
            return self.refused(client, topic, fault)
        return self._agent.execute_command(request)

    def event(self, request: Message) -> Message:
        """Accept a site's events that are points of a series, in its own name."""
        client, topic = None, request.get_header(MessageHeaderKey.TOPIC)
        try:
            client = self.client(request.headers)
            if client:
                _check_names(client, request.payload)
                if topic == FED_EVENT_TOPIC:
                    _check_event(client, request.payload)
                elif topic in STREAMS:
                    _check_stream(client, request.payload, self._cell.core_cell.my_info.fqcn)
        except Exception as fault:
            return self.refused(client, topic, fault)
        return self._agent.aux_communicate(request)


class _Reader(Adapter):
    """NVFlare's own reads whatever comes, and ends the job's process when it cannot decode an answer."""

    def __init__(self, door: Door, handler: Handler, cell: Cell) -> None:
        super().__init__(handler, cell.core_cell.my_info, cell)
        self._door = door

    def call(self, future: Any, *args: Any, **kwargs: Any) -> None:
        """Read one streamed message, hand it on, and send the reply."""
        headers, client = future.headers, None
        channel, topic = headers.get(StreamHeaderKey.CHANNEL), headers.get(StreamHeaderKey.TOPIC)
        try:
            client = self._door.client(headers)
            request = Message(headers, future.result())
            self._door.decode(client, request)
        except Exception as fault:
            response = self._door.refused(client, topic, fault)
        else:
            request.set_header(MessageHeaderKey.CHANNEL, channel)
            request.set_header(MessageHeaderKey.TOPIC, topic)
            response = self.cb(request)
        self._send_response(
            response,
            headers.get(StreamHeaderKey.STREAM_REQ_ID, ""),
            headers.get(MessageHeaderKey.REQ_ID, ""),
            channel,
            topic,
            headers.get(MessageHeaderKey.ORIGIN),
            headers.get(MessageHeaderKey.SECURE, False),
        )


class _Source:
    """The cell as the decoder of an answer sees it: it fetches from one site, and no more than allowed."""

    def __init__(self, cell: Cell, site: str, limit: int) -> None:
        self._cell, self._site, self._left, self._limit = cell, site, limit, limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cell, name)

    def __hash__(self) -> int:
        """Hash as the cell does: NVFlare registers its downloads once for each cell."""
        return hash(self._cell)

    def __eq__(self, other: object) -> bool:
        return other is self._cell or (isinstance(other, _Source) and other._cell is self._cell)

    def send_request(self, *, target: str, **options: Any) -> Message:
        """Fetch the next arrays of an answer."""
        if self._site not in target.split("."):
            raise AnswerError("its answer refers to arrays of somebody else")
        reply = self._cell.send_request(target=target, **options)
        self._left -= _size(reply.payload)
        if self._left < 0:
            raise AnswerError(
                f"its answer has more than the {self._limit} bytes that this job's model allows"
            )
        return reply


def _size(payload: Any) -> int:
    """Return the unpacked bytes of the arrays in one part of a reply."""
    parts = payload.get("data") if isinstance(payload, dict) else None
    return sum(_unpacked(part) for part in parts) if isinstance(parts, list) else 0


def _unpacked(part: bytes) -> int:
    if bytes(part[:2]) != b"PK":
        return len(part)
    with zipfile.ZipFile(io.BytesIO(part)) as packed:
        return sum(entry.file_size for entry in packed.infolist())


def _words(fault: Exception) -> str:
    if isinstance(fault, BlobSizeError):
        return f"its answer is larger than {MAX_MESSAGE} bytes without its arrays"
    return str(fault) if isinstance(fault, AnswerError) else f"its answer cannot be read: {printable(fault)}"


def _check_names(client: Client, message: object) -> None:
    """Refuse what is no message of NVFlare's, or speaks in another's name."""
    if not isinstance(message, Shareable):
        raise AnswerError(f"{client.name} sent no message of NVFlare's")
    context = message.get_peer_context()
    names = [message.get_peer_prop(ReservedKey.IDENTITY_NAME, None)]
    names += [context.get_identity_name()] if isinstance(context, FLContext) else []
    if any(name is not None and name != client.name for name in names):
        raise AnswerError("it speaks in the name of another")


def _check_event(client: Client, event: Shareable) -> None:
    """Refuse what is no point of a series, and an id that NVFlare could not remember thousands of."""
    kind, name = event.get_header(FedEventHeader.EVENT_TYPE), event.get_header(FedEventHeader.EVENT_ID)
    if kind != SITE_EVENT:
        raise AnswerError(f"{client.name} sent an event that no site may send")
    if name is not None and (not isinstance(name, str) or len(name) > MAX_EVENT_ID):
        raise AnswerError(f"{client.name} sent an event without a proper id")


def _check_stream(client: Client, part: Shareable, own: str) -> None:
    """Refuse parts of logs under other names than the sender's and this job's: NVFlare makes folders of both."""
    names = (
        part.get_peer_prop(ReservedKey.IDENTITY_NAME, None),
        part.get_peer_prop(ReservedKey.RUN_NUM, None),
    )
    if names != (client.name, own.rpartition(".")[2]):
        raise AnswerError(f"{client.name} sent a log that is not its own of this job")


def _check_code(answer: Shareable) -> None:
    """Refuse the return codes with which NVFlare ends the job of all sites."""
    code = answer.get_return_code()
    if code is not None and (not isinstance(code, str) or code in ServerRunner.ABORT_RETURN_CODES):
        raise AnswerError(f"it answered {printable(code, 60)}")
