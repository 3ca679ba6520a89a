"""Starts an NVFlare program for a site or an org that is called like a number or a truth word (`007`, `no`).

NVFlare 2.9 reads `--set uid=007` as 7 and `uid=no` as false, and the site does not start. Only the start scripts and
job processes of such kits go through here.
"""

import runpy
import secrets
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from nvflare.fuel.f3.streaming import stream_utils
from nvflare.fuel.utils import argument_utils

NAMES = ("uid", "org")
"""What NVFlare's start scripts say of a kit's owner."""
PROGRAMS = "nvflare.private.fed.app."


def is_misread(value: str) -> bool:
    """Return True when NVFlare would read a name as a number or a truth value."""
    return bool(argument_utils.parse_vars([f"name={value}"])["name"] != value)


def needs_us(settings: Iterable[str]) -> bool:
    """Return True when one of the settings `uid=…` and `org=…` would be misread."""
    pairs = (setting.partition("=") for setting in settings)
    return any(is_misread(value) for key, _, value in pairs if key in NAMES)


def main() -> None:
    """Run the module that the first word names, with the words after it."""
    read = argument_utils.parse_vars

    def parse_vars(items: list[str]) -> dict[str, Any]:
        pairs = (item.partition("=") for item in items or [])
        return {**read(items), **{key: value for key, _, value in pairs if key in NAMES}}

    for module in list(sys.modules.values()):  # `import nvflare` has handed it to others already
        if getattr(module, "parse_vars", None) is read:
            setattr(module, "parse_vars", parse_vars)  # noqa: B010 - a module has no such attribute for mypy
    run_program(sys.argv[1:])


def run_program(words: Sequence[str]) -> None:
    """Do in this process what `python -m WORDS` does: the module is the main program, with the words after it."""
    number_streams_anew()
    sys.argv = list(words)
    sys.modules.pop(words[0], None)  # a fork server has imported it; `runpy` would warn
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def number_streams_anew() -> None:
    """Draw the number of this process's first stream, as NVFlare does when it is imported.

    A receiver takes streams of one number for the same, also those of different senders; and all processes that are
    forked from one have imported NVFlare at the same moment.
    """
    base = stream_utils.MILLION
    stream_utils.sid_base = int(time.time() * base) + secrets.randbelow(base)
