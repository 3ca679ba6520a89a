"""Nobody takes what all need, or ends what is another's: connections at the server's listener, and streams.

NVFlare 2.9 has room for a hundred connections, and 64 threads in which a stream is waited for from its first part on.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
from nvflare.fuel.f3.drivers.grpc_driver import Servicer
from nvflare.fuel.f3.streaming.byte_receiver import RxTask
from nvflare.fuel.f3.streaming.byte_streamer import ByteStreamer
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey

from pneumonia_fl.fl.guard.protocol import Cell, Role
from pneumonia_fl.fl.parent.audit_log import tell_refusal

MOST_CONNECTIONS = 20
"""Of one certificate: a site has one, and one for each job that it takes part in; a person one for each session."""


def limit_connections() -> None:
    """Limit the connections of each certificate to this process to `MOST_CONNECTIONS`."""
    serve, held, lock = Servicer.Stream, Counter[str](), threading.Lock()

    def stream(self: Any, requests: Any, context: Any) -> Iterator[Any]:
        names = context.auth_context().get("x509_common_name") or [b""]
        certificate = names[0].decode(errors="replace")
        with lock:
            held[certificate] += 1
            crowded = held[certificate] > MOST_CONNECTIONS
        try:
            if crowded:
                tell_refusal(certificate, "connection", f"has {MOST_CONNECTIONS} connections already")
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many connections")
            yield from serve(self, requests, context)
        finally:
            with lock:
                held[certificate] -= 1

    Servicer.Stream = stream


MOST_UNFINISHED = 20
"""Streams of one participant to a process that have begun and not ended."""
_LOCK = threading.Lock()


def begin_stream(core_cell: Any, origin: Cell, message: Any) -> str:
    """Register the stream of a part with NVFlare; return why not when its sender has too many unfinished."""
    with _LOCK:
        with RxTask.map_lock:
            known = (origin.name, message.get_header(StreamHeaderKey.STREAM_ID)) in RxTask.rx_task_map
            tasks = [task for task in RxTask.rx_task_map.values() if not (task.completed or task.failed)]
        if not known and sum(task.origin.split(".")[0] == origin.root for task in tasks) >= MOST_UNFINISHED:
            return f"has {MOST_UNFINISHED} streams that have not ended"
        RxTask.find_or_create_task(message, core_cell)  # here, so that no other thread begins one in between
    return ""


def steers_another(origin: Cell, relayed: bool, message: Any) -> str:
    """Refuse a stream message that is not from the stream's receiver: NVFlare finds streams by number alone.

    Args:
        origin: who says it.
        relayed: whether it came from the server or the parent, which may say that a receiver is out of reach.
        message: flow control of a stream, or its end.
    """
    task = ByteStreamer.tx_task_map.get(message.get_header(StreamHeaderKey.STREAM_ID))
    if task is None or task.target == origin.name or (relayed and origin.role in (Role.SERVER, Role.SITE)):
        return ""
    return "is not the receiver of this stream"
