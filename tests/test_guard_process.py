"""What the guard changes in a process, in a process of its own: it replaces parts of NVFlare."""

import subprocess
import sys

ANSWERS_TOO_LARGE = """
from nvflare.fuel.f3.cellnet.cell import Adapter, Cell
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
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
        [sys.executable, "-c", ANSWERS_TOO_LARGE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.endswith("goes on\n"), done.stderr[-2000:]
