"""The parts of project.yml: their keys and valid values.

A validator raises in the words that a reader of the file sees; `project.load_project` adds the line.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Self

from nvflare.apis.utils.format_check import name_check
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, model_validator

from pneumonia_fl.fl.kit.certificates import ROLES
from pneumonia_fl.inputs.names import SITE_NAME, site_problem
from pneumonia_fl.inputs.yaml_files import Place

DEFAULT_PORT = 8002
COMMON_KEYS = {"name", "type", "org"}
KEYS = {
    "server": COMMON_KEYS
    | {"fed_learn_port", "admin_port", "host_names", "default_host", "connection_security"},
    "client": COMMON_KEYS | {"capacity", "connect_to", "allow_log_streaming"},
    "admin": COMMON_KEYS | {"role", "connect_to"},
}


class Mistake(ValueError):
    """Something wrong at a place below the value that is validated, and the place of its duplicate if it has one."""

    def __init__(self, text: str, *place: str | int, twin: Place | None = None) -> None:
        super().__init__(text)
        self.place = place
        self.twin = twin


def is_int(value: object) -> bool:
    """Return whether a value is a whole number (YAML's `yes` is none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def unknown_key(key: str, what: str, known: Iterable[str], *place: str | int) -> Mistake:
    """Return the error of a key that `what`, at `place`, does not have."""
    names = ", ".join(sorted(known))
    hint = f"known: {names}" if names else "there are none"
    return Mistake(f"unknown key {key!r} in {what}; {hint}", *place, key)


def _must_be(wanted: str, fits: Callable[[Any], bool], why: str = "") -> BeforeValidator:
    def check(value: Any, info: ValidationInfo) -> Any:
        if not fits(value):
            raise ValueError(f"{info.field_name} must be {wanted}, not {value!r}{why}")
        return value

    return BeforeValidator(check)


def _checked(fits: Callable[[str], bool], text: str) -> AfterValidator:
    """Refuse a word with `text`, in which `{!r}` is replaced by it."""

    def check(word: str) -> str:
        if not fits(word):
            raise ValueError(text.format(word))
        return word

    return AfterValidator(check)


def _fits(text: str, kind: str) -> bool:
    """Match a name of this kind as a whole; NVFlare's own patterns allow a line break at the end."""
    return "\n" not in text and not name_check(text, kind)[0]


Version = Annotated[int, _must_be("3, or 4 with `studies:`", lambda value: value in (3, 4))]
Port = Annotated[int, _must_be("a port from 1 to 65535", lambda value: is_int(value) and 1 <= value <= 65535)]
Count = Annotated[int, _must_be("a whole number from 0", lambda value: is_int(value) and value >= 0)]
Truth = Annotated[bool, _must_be("true or false", lambda value: isinstance(value, bool))]
Security = Annotated[str, _must_be("mtls", lambda value: value == "mtls", ": kits are made for mutual TLS")]
ProjectName = Annotated[
    str,
    _checked(
        lambda word: SITE_NAME.fullmatch(word) is not None,
        "project name {!r}: at most 63 letters, digits, - and _, a letter or digit first",
    ),
]
Kind = Annotated[str, _checked(KEYS.__contains__, "unknown type {!r}: server, client or admin")]
Org = Annotated[
    str,
    _checked(lambda word: _fits(word, "org"), "org {!r}: letters, digits and _ only (no hyphen, no space)"),
]
Host = Annotated[
    str, _checked(lambda word: _fits(word, "host_name"), "{!r} is neither a host name nor an address")
]
Role = Annotated[str, _checked(ROLES.__contains__, f"unknown role {{!r}}: {', '.join(ROLES)}")]


class Part(BaseModel, frozen=True):
    """A mapping with known keys; a required one must not be empty."""

    what: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _has_its_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            raise ValueError(f"{cls.what} must hold `key: value` lines")
        for key in values:
            if key not in cls.model_fields:
                raise cls.unknown(key)
        for key, field in cls.model_fields.items():
            if field.is_required() and values.get(key) in (None, ""):
                raise ValueError(f"{cls.what} needs `{key}:`")
        return values

    @classmethod
    def unknown(cls, key: Any) -> Mistake:
        """Return the error of a key that this part does not have."""
        return unknown_key(key, cls.what, cls.model_fields)


class Capacity(Part):
    """GPUs that jobs may reserve at a site."""

    what = "capacity"
    num_of_gpus: Count = 0
    mem_per_gpu_in_GiB: Count = 0


class ConnectTo(Part):
    """Address at which a site or a person reaches the server, if not its own address."""

    what = "connect_to"
    host: Host
    port: Port = DEFAULT_PORT


class Participant(Part):
    """One entry below `participants:`."""

    what = "a participant"
    type: Kind
    name: str
    org: Org
    role: Role = ""
    fed_learn_port: Port = DEFAULT_PORT
    admin_port: Port = DEFAULT_PORT
    host_names: tuple[Host, ...] = ()
    default_host: Host = ""
    connection_security: Security = "mtls"
    capacity: Capacity = Capacity()
    connect_to: Annotated[
        ConnectTo | None,
        BeforeValidator(lambda value: value if isinstance(value, dict) else {"host": value}),
    ] = None
    allow_log_streaming: Truth = False

    @classmethod
    def unknown(cls, key: Any) -> Mistake:
        """Name the place of GPUs, which NVFlare ignores anywhere else."""
        if key in Capacity.model_fields:
            return Mistake(f"{key} belongs below `capacity:` of a site; NVFlare ignores it here", key)
        return super().unknown(key)

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        for key in type(self).model_fields:
            if key in self.model_fields_set - KEYS[self.type]:
                raise Mistake(f"a participant of type {self.type} has no key {key!r}", key)
        if self.type == "client" and (problem := site_problem(self.name)):
            raise Mistake(f"a site cannot be called {self.name!r}: {problem}", "name")
        wanted = {"server": "a host name", "admin": "an e-mail address"}.get(self.type)
        if wanted and not (_fits(self.name, self.type) and self.name[0].isalnum()):
            raise Mistake(
                f"name {self.name!r} of a participant of type {self.type} must be {wanted}, a letter or digit first",
                "name",
            )
        if self.type == "admin" and not self.role:
            raise ValueError(f"participant {self.name} needs `role:`")
        if {
            "fed_learn_port",
            "admin_port",
        } <= self.model_fields_set and self.admin_port != self.fed_learn_port:
            raise Mistake("admin_port must be fed_learn_port: one port is enough", "admin_port")
        return self

    @property
    def port(self) -> int:
        """Return the one port of a server."""
        return self.admin_port if "admin_port" in self.model_fields_set else self.fed_learn_port

    @property
    def hosts(self) -> tuple[str, ...]:
        """Return the names under which a server may be reached; kits use the first."""
        return tuple(dict.fromkeys((self.default_host or self.name, *self.host_names)))


class Study(Part):
    """Sites and people that a study has beside the common ones."""

    what = "a study"
    site_orgs: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    admins: tuple[str, ...] = ()


class Builder(Part):
    """One of NVFlare's builders, and what it is told."""

    what = "a builder"
    path: Any
    args: dict[str, Any] | None = None
