"""What a process is given when it starts, said as JSON: as a program, and as a function for the fork server."""

import json
import os
import random
import resource
import signal
import sys
import threading


def say() -> int:
    """Print it; the exit code is the first word."""
    json.dump(_given() | {"drawn": _drawn()}, sys.stdout)
    sys.stderr.write("and an error\n")
    return int(sys.argv[1])


def _given() -> dict[str, object]:
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return {
        "words": sys.argv,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "path": sys.path,
        "program": sys.modules["__main__"].__file__,
        "files": sorted(os.listdir("/proc/self/fd"))[:-1],  # the last is that of listing them
        "streams": [(s.encoding, s.errors, s.line_buffering, s.isatty(), s.fileno()) for s in streams],
        "signals": {s.name: str(signal.getsignal(s)).split(" at ")[0] for s in signal.Signals},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "session": (os.getsid(0), os.getpgid(0)),
        "mask": os.umask(0o77),
        "limits": [resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "threads": threading.active_count(),
        "pytest": sorted(
            {name.split(".")[0] for name in sys.modules} & {"_pytest", "pytest", "xdist", "conftest"}
        ),
    }


def _drawn() -> list[float]:
    """Random numbers of all generators that nobody has given a seed."""
    import numpy
    import torch

    return [random.random(), numpy.random.rand(), float(torch.rand(()))]


def wait() -> None:
    """Say the process id, then do nothing until a signal comes."""
    sys.stdout.write(str(os.getpid()))
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    sys.exit(say())
