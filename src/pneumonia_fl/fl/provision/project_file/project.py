"""project.yml, checked before NVFlare sees it: every error names its line.

NVFlare itself accepts much of what is wrong (an unknown key, the scheme http, GPUs outside `capacity:`) and
answers the rest with a pattern.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvflare.apis.utils.format_check import name_check

from pneumonia_fl.fl.kit.certificates import ROLES
from pneumonia_fl.fl.provision.project_file.builders import check_builders, is_int
from pneumonia_fl.fl.provision.project_file.studies import check_studies
from pneumonia_fl.fl.provision.project_file.yaml_lines import Marked, read_marked
from pneumonia_fl.inputs.names import SITE_NAME, site_problem

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
    values: dict[str, Any] = field(default_factory=dict, repr=False)
    """All that the file says, for NVFlare: what was checked, and not what the file may say a moment later."""

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
    _check_plain(top)
    name = _check_name(root.need(top, "name", "the project"))
    people = root.need(top, "participants", "the project")
    entries = [(item, _entry(item)) for item in people.items()]
    participants = tuple(_participant(item, fields) for item, fields in entries)
    _check_distinct(entries)
    if "studies" in top:
        orgs = {kind: {p.name: p.org for p in participants if p.type == kind} for kind in KEYS}
        check_studies(top["studies"], orgs["client"], orgs["admin"].keys())
    server = _only_server(people, entries)
    if not any(participant.type == "client" for participant in participants):
        people.fail("there is no site: add a participant with `type: client`")
    check_builders(root.need(top, "builders", "the project"))
    return Project(file, name, _port(server), _hosts(server), participants, root.value)


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


def _check_plain(fields: dict[str, Marked]) -> None:
    """Check what the project and its participants have in common."""
    _check_security(fields)
    if "description" in fields:
        fields["description"].text()
    streaming = fields.get("allow_log_streaming")
    if streaming and not isinstance(streaming.value, bool):
        streaming.fail(f"allow_log_streaming must be true or false, not {streaming.value!r}")


def _check_name(name: Marked) -> str:
    if not SITE_NAME.fullmatch(name.text()):
        name.fail(
            f"project name {name.value!r}: at most 63 letters, digits, - and _, a letter or digit first"
        )
    return name.text()


def _entry(item: Marked) -> dict[str, Marked]:
    fields = item.fields(set.union(*KEYS.values(), CAPACITY_KEYS), "a participant")
    kind = item.need(fields, "type", "a participant")
    if kind.text() not in KEYS:
        kind.fail(f"unknown type {kind.value!r}: server, client or admin")
    for key, value in fields.items():
        if key in CAPACITY_KEYS and kind.value == "client":
            value.fail(f"{key} belongs below `capacity:`; NVFlare ignores it here")
        if key not in KEYS[kind.value]:
            value.fail(f"a participant of type {kind.value} has no key {key!r}")
    _check_plain(fields)
    return fields


def _participant(item: Marked, fields: dict[str, Marked]) -> Participant:
    name = item.need(fields, "name", "a participant")
    org = item.need(fields, "org", f"participant {name.value}")
    kind = str(fields["type"].value)
    _check_participant_name(name, kind)
    if not _fits(org, "org"):
        org.fail(f"org {org.value!r}: letters, digits and _ only (no hyphen, no space)")
    role = _role(item, fields) if kind == "admin" else ""
    if "capacity" in fields:
        _check_capacity(fields["capacity"])
    if "connect_to" in fields:
        _check_connect_to(fields["connect_to"])
    column = item.node.start_mark.column - 2
    return Participant(str(name.value), kind, str(org.value), role, item.last_line, max(column, 0))


def _check_participant_name(name: Marked, kind: str) -> None:
    if kind == "client":
        if problem := site_problem(name.text()):
            name.fail(f"a site cannot be called {name.value!r}: {problem}")
        return
    wanted = {"server": "a host name", "admin": "an e-mail address"}
    if not _fits(name, kind) or not name.text()[0].isalnum():
        name.fail(
            f"name {name.value!r} of a participant of type {kind} must be {wanted[kind]}, "
            "a letter or digit first"
        )


def _fits(value: Marked, kind: str) -> bool:
    """Whether NVFlare takes a text for a name of this kind; its own patterns let a line break at the end through."""
    return "\n" not in value.text() and not name_check(value.text(), kind)[0]


def _role(item: Marked, fields: dict[str, Marked]) -> str:
    role = item.need(fields, "role", f"participant {fields['name'].value}")
    if role.value not in ROLES:
        role.fail(f"unknown role {role.value!r}: {', '.join(ROLES)}")
    return str(role.value)


def _check_connect_to(target: Marked) -> None:
    if target.is_mapping():
        fields = target.fields({"host", "port"}, "connect_to")
        if "port" in fields:
            _check_port(fields["port"], "port")
        target = target.need(fields, "host", "connect_to")
    _check_host(target)


def _check_capacity(capacity: Marked) -> None:
    for key, value in capacity.fields(CAPACITY_KEYS, "capacity").items():
        if not is_int(value.value) or value.value < 0:
            value.fail(f"{key} must be a whole number from 0, not {value.value!r}")


def _check_distinct(entries: list[tuple[Marked, dict[str, Marked]]]) -> None:
    seen: dict[str, int] = {}
    for _, fields in entries:
        name, lowered = fields["name"], fields["name"].text().lower()
        if lowered in seen:
            name.fail(f"there are two participants called {name.value!r} (the first on line {seen[lowered]})")
        seen[lowered] = name.line


def _only_server(people: Marked, entries: list[tuple[Marked, dict[str, Marked]]]) -> dict[str, Marked]:
    servers = [fields for _, fields in entries if fields["type"].value == "server"]
    if not servers:
        people.fail("there is no server: add a participant with `type: server`")
    if len(servers) > 1:
        servers[1]["name"].fail(f"a second server, {servers[1]['name'].value}: a federation has one")
    return servers[0]


def _port(server: dict[str, Marked]) -> int:
    ports = {key: server[key] for key in ("fed_learn_port", "admin_port") if key in server}
    for key, port in ports.items():
        _check_port(port, key)
    numbers = {port.value for port in ports.values()}
    if len(numbers) > 1:
        server["admin_port"].fail("admin_port must be fed_learn_port: one port is enough")
    return int(next(iter(numbers), DEFAULT_PORT))


def _check_port(port: Marked, key: str) -> None:
    if not is_int(port.value) or not 1 <= port.value <= 65535:
        port.fail(f"{key} must be a port from 1 to 65535, not {port.value!r}")


def _hosts(server: dict[str, Marked]) -> tuple[str, ...]:
    first = server.get("default_host", server["name"])
    more = list(server["host_names"].items()) if "host_names" in server else []
    for host in [first, *more]:
        _check_host(host)
    return tuple(dict.fromkeys(host.text() for host in [first, *more]))


def _check_host(host: Marked) -> None:
    if not _fits(host, "host_name"):
        host.fail(f"{host.value!r} is neither a host name nor an address")
