"""What `ps` shows of a process that was forked."""

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path

from setproctitle import setproctitle

from pneumonia_fl.config.environment import variables


def show_as(words: Sequence[str]) -> None:
    """Show `words` as the command line, and leave /proc's environment as it is: marks are looked up there."""
    if words:
        with variables({"SPT_NOENV": "1"}):
            setproctitle(" ".join(words))
        _separate(words)


def _separate(words: Sequence[str]) -> None:
    """Have /proc show a command line's words one by one, as of a process that was executed."""
    if sys.platform == "linux":
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        begin, end = int(fields[45]), int(fields[46])  # `arg_start` and `arg_end`, proc(5)
        line = "\0".join(words).encode()
        # Else there is no room for the 0 at the end, by which the kernel knows words.
        if len(line) < end - begin:
            ctypes.memmove(begin, line, len(line))
