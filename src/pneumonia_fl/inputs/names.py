"""Names from people, files and other machines: what a site may be called, how a name becomes part of a path."""

import difflib
import re
from collections.abc import Iterable

SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""A site's folder, its client in NVFlare, its series in TensorBoard; never what a command takes for an option."""
RESERVED_SITES = frozenset({"all", "client", "global", "server", "server_job", "test"})
"""What a site cannot be called, in any case: `all`, `client`, `server` and `server_job` are NVFlare's words, `global`
is the series of the pooled metrics, `test` the folder of the official test set."""
JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""How NVFlare names a job, and the job's folders."""
WEIGHTS_HASH = re.compile(r"sha256:[0-9a-f]{64}")
"""Of a model's file. Bare, NVFlare would take the digits for a password in a job, and warn."""
_OTHER = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST = 80


def site_problem(name: str) -> str:
    """Return why a site cannot be called `name`; empty when it can."""
    if not SITE_NAME.fullmatch(name):
        return "use at most 63 letters, digits, - and _, a letter or digit first"
    return "that word is reserved; choose another name" if name.lower() in RESERVED_SITES else ""


def path_word(name: str, otherwise: str) -> str:
    """Return `name` as one part of a path, of letters, digits, - and _ only; `otherwise` when nothing is left."""
    return _OTHER.sub("-", name).strip("-")[:_LONGEST] or otherwise


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?`, to end a message about an unknown `word`; "" when no name in `known` is like it."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the name in `known` that is most like `word`, or ""; upper and lower case count as alike."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return names[near[0]] if near else ""
