"""project.yml, checked before NVFlare sees it: every error names its line.

NVFlare itself accepts much of what is wrong (an unknown key, the scheme http, GPUs outside `capacity:`) and
answers the rest with a pattern.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvflare.apis.utils.format_check import name_check

from pneumonia_fl.fl.provision.marked import Marked, read_marked

TOP_KEYS = {
    "api_version", "name", "description", "participants", "builders", "studies",
    "connection_security", "allow_log_streaming",
}  # fmt: skip
COMMON_KEYS = {"name", "type", "org"}
KEYS = {
    "server": COMMON_KEYS
    | {"fed_learn_port", "admin_port", "host_names", "default_host", "connection_security"},
    "client": COMMON_KEYS | {"capacity", "connect_to", "allow_log_streaming"},
    "admin": COMMON_KEYS | {"role", "connect_to"},
}
CAPACITY_KEYS = {"num_of_gpus", "mem_per_gpu_in_GiB"}
ROLES = ("project_admin", "org_admin", "lead", "member")
RESERVED_SITES = {"server", "all", "client"}
BUILDERS = {
    "workspace.WorkspaceBuilder": "the folders",
    "static_file.StaticFileBuilder": "settings and start scripts",
    "cert.CertBuilder": "keys and certificates",
    "signature.SignatureBuilder": "signatures",
}
PREFIX = "nvflare.lighter.impl."
DEFAULT_PORT = 8002


@dataclass(frozen=True)
class Participant:
    """One entry below `participants:`."""

    name: str
    type: str
    org: str
    role: str = ""
    last_line: int = 0
    """Where its entry ends in project.yml, line number from 1."""
    indent: int = 0
    """Column of its `-`, from 0."""


@dataclass(frozen=True)
class Project:
    """A project.yml that holds together."""

    file: Path
    name: str
    port: int
    hosts: tuple[str, ...]
    """Names under which the server may be reached; the first is what kits use."""
    participants: tuple[Participant, ...] = field(default=())

    @property
    def server(self) -> Participant:
        """The only server."""
        return self.of_type("server")[0]

    def of_type(self, kind: str) -> list[Participant]:
        """Participants of one type, in the file's order."""
        return [participant for participant in self.participants if participant.type == kind]


def load_project(file: Path) -> Project:
    """Read and check project.yml.

    Raises:
        ConfigError: something in it is wrong; the message names the line.
    """
    root = read_marked(file)
    top = root.fields(TOP_KEYS, "project.yml")
    _check_version(root, top)
    _check_security(top)
    name = _check_name(root.need(top, "name", "the project"))
    people = root.need(top, "participants", "the project")
    entries = [(item, _entry(item)) for item in people.items()]
    participants = tuple(_participant(item, fields) for item, fields in entries)
    _check_distinct(entries)
    server = _only_server(people, entries)
    if not any(participant.type == "client" for participant in participants):
        people.fail("there is no site: add a participant with `type: client`")
    _check_builders(root.need(top, "builders", "the project"))
    return Project(file, name, _port(server), _hosts(server), participants)


def _check_version(root: Marked, top: dict[str, Marked]) -> None:
    version = root.need(top, "api_version", "the project")
    if version.value not in (3, 4):
        version.fail(f"api_version must be 3, or 4 with `studies:`, not {version.value!r}")
    if "studies" in top and version.value != 4:
        version.fail("`studies:` needs api_version 4")


def _check_security(fields: dict[str, Marked]) -> None:
    security = fields.get("connection_security")
    if security and security.value != "mtls":
        security.fail(
            f"connection_security must be mtls, not {security.value!r}: kits are made for mutual TLS"
        )


def _check_name(name: Marked) -> str:
    bad, _ = name_check(str(name.value), "client")
    if bad or len(str(name.value)) > 63:
        name.fail(f"project name {name.value!r}: at most 63 letters, digits, - and _")
    return str(name.value)


def _entry(item: Marked) -> dict[str, Marked]:
    fields = item.fields(set.union(*KEYS.values(), CAPACITY_KEYS), "a participant")
    kind = item.need(fields, "type", "a participant")
    if kind.value not in KEYS:
        kind.fail(f"unknown type {kind.value!r}: server, client or admin")
    for key, value in fields.items():
        if key in CAPACITY_KEYS and kind.value == "client":
            value.fail(f"{key} belongs below `capacity:`; NVFlare ignores it here")
        if key not in KEYS[kind.value]:
            value.fail(f"a participant of type {kind.value} has no key {key!r}")
    return fields


def _participant(item: Marked, fields: dict[str, Marked]) -> Participant:
    name = item.need(fields, "name", "a participant")
    org = item.need(fields, "org", f"participant {name.value}")
    kind = str(fields["type"].value)
    _check_participant_name(name, kind)
    if name_check(str(org.value), "org")[0]:
        org.fail(f"org {org.value!r}: letters, digits and _ only (no hyphen, no space)")
    role = _role(item, fields) if kind == "admin" else ""
    if "capacity" in fields:
        _check_capacity(fields["capacity"])
    column = item.node.start_mark.column - 2
    return Participant(str(name.value), kind, str(org.value), role, item.last_line, max(column, 0))


def _check_participant_name(name: Marked, kind: str) -> None:
    bad, _ = name_check(str(name.value), kind)
    wanted = {
        "server": "a host name",
        "client": "letters, digits, - and _",
        "admin": "an e-mail address",
    }
    if bad:
        name.fail(f"name {name.value!r} of a participant of type {kind} must be {wanted[kind]}")
    if kind == "client" and str(name.value).lower() in RESERVED_SITES:
        name.fail(f"a site cannot be called {name.value!r}: NVFlare uses that word")


def _role(item: Marked, fields: dict[str, Marked]) -> str:
    role = item.need(fields, "role", f"participant {fields['name'].value}")
    if role.value not in ROLES:
        role.fail(f"unknown role {role.value!r}: {', '.join(ROLES)}")
    return str(role.value)


def _check_capacity(capacity: Marked) -> None:
    for key, value in capacity.fields(CAPACITY_KEYS, "capacity").items():
        if not _is_int(value.value) or value.value < 0:
            value.fail(f"{key} must be a whole number from 0, not {value.value!r}")


def _check_distinct(entries: list[tuple[Marked, dict[str, Marked]]]) -> None:
    seen: dict[str, int] = {}
    for _, fields in entries:
        name = fields["name"]
        first = seen.setdefault(str(name.value).lower(), name.line)
        if first != name.line:
            name.fail(f"there are two participants called {name.value!r} (the first on line {first})")


def _only_server(people: Marked, entries: list[tuple[Marked, dict[str, Marked]]]) -> dict[str, Marked]:
    servers = [fields for _, fields in entries if fields["type"].value == "server"]
    if not servers:
        people.fail("there is no server: add a participant with `type: server`")
    if len(servers) > 1:
        servers[1]["name"].fail(f"a second server, {servers[1]['name'].value}: a federation has one")
    _check_security(servers[0])
    return servers[0]


def _port(server: dict[str, Marked]) -> int:
    ports = {key: server[key] for key in ("fed_learn_port", "admin_port") if key in server}
    for key, port in ports.items():
        if not _is_int(port.value) or not 1 <= port.value <= 65535:
            port.fail(f"{key} must be a port from 1 to 65535, not {port.value!r}")
    numbers = {port.value for port in ports.values()}
    if len(numbers) > 1:
        server["admin_port"].fail("admin_port must be fed_learn_port: one port is enough")
    return int(next(iter(numbers), DEFAULT_PORT))


def _hosts(server: dict[str, Marked]) -> tuple[str, ...]:
    first = server.get("default_host", server["name"])
    more = list(server["host_names"].items()) if "host_names" in server else []
    for host in [first, *more]:
        if name_check(str(host.value), "host_name")[0]:
            host.fail(f"{host.value!r} is neither a host name nor an address")
    return tuple(dict.fromkeys(str(host.value) for host in [first, *more]))


def _check_builders(builders: Marked) -> None:
    found: dict[str, dict[str, Marked]] = {}
    for item in builders.items():
        fields = item.fields({"path", "args"}, "a builder")
        path = item.need(fields, "path", "a builder")
        _check_importable(path)
        found[str(path.value)] = fields
    for name, purpose in BUILDERS.items():
        if PREFIX + name not in found:
            builders.fail(f"builder {PREFIX}{name} is missing: it makes {purpose}")
    _check_scheme(found[PREFIX + "static_file.StaticFileBuilder"])


def _check_importable(path: Marked) -> None:
    module, _, name = str(path.value).rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        found = None
    if found is None:
        path.fail(f"NVFlare has no builder {path.value!r}")


def _check_scheme(static: dict[str, Marked]) -> None:
    args = dict(_pairs(static["args"])) if "args" in static else {}
    scheme = args.get("scheme", static["path"])
    if "scheme" not in args or scheme.value != "grpc":
        scheme.fail("StaticFileBuilder needs `args: {scheme: grpc}`; NVFlare's own default is http")


def _pairs(mapping: Marked) -> Iterator[tuple[str, Marked]]:
    for key, value in mapping.node.value:
        yield str(key.value), Marked(value, mapping.file)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
