"""The builders that project.yml may name: NVFlare makes an object of whatever class stands there."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pneumonia_fl.fl.provision.project_file.yaml_lines import Marked

PREFIX = "nvflare.lighter.impl."
ROOT_DAYS = range(1, 36_501)


@dataclass(frozen=True)
class Argument:
    """What a builder may be told."""

    fits: Callable[[Any], bool]
    wanted: str


@dataclass(frozen=True)
class Builder:
    """One of NVFlare's builders."""

    purpose: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    optional: bool = False


def _among(*values: object) -> Argument:
    return Argument(lambda value: value in values, " or ".join(str(value) for value in values))


def _number(numbers: range) -> Argument:
    wanted = f"a whole number from {numbers[0]} to {numbers[-1]}"
    return Argument(lambda value: is_int(value) and value in numbers, wanted)


def _is_bits(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 20 and all(is_int(v) and 0 < v <= 60 for v in value)


def is_int(value: object) -> bool:
    """Return whether a value is a whole number (YAML's `yes` is none)."""
    return isinstance(value, int) and not isinstance(value, bool)


BUILDERS = {
    "workspace.WorkspaceBuilder": Builder("the folders"),
    "static_file.StaticFileBuilder": Builder(
        "settings and start scripts",
        {
            "config_folder": _among("config"),
            "scheme": Argument(lambda value: value == "grpc", "grpc (NVFlare's own default is http)"),
        },
    ),
    "cert.CertBuilder": Builder("keys and certificates", {"root_valid_days": _number(ROOT_DAYS)}),
    "he.HEBuilder": Builder(
        "keys for homomorphic encryption",
        {
            "poly_modulus_degree": _among(4096, 8192, 16384, 32768),
            "coeff_mod_bit_sizes": Argument(_is_bits, "a list of whole numbers from 1 to 60"),
            "scale_bits": _number(range(1, 61)),
            "scheme": _among("CKKS", "BFV"),
        },
        optional=True,
    ),
    "signature.SignatureBuilder": Builder("signatures"),
}
"""By the rest of their path, in the order in which they must stand."""


def check_builders(builders: Marked) -> None:
    """Refuse every builder, and every argument of one, that is not in `BUILDERS`.

    Raises:
        ConfigError: one is unknown, missing, in the wrong place or wrongly told; the message names its line.
    """
    found: list[str] = []
    for item in builders.items():
        found.append(_check_builder(item, found))
    for name, builder in BUILDERS.items():
        if name not in found and not builder.optional:
            builders.fail(f"builder {PREFIX}{name} is missing: it makes {builder.purpose}")
    if "he.HEBuilder" in found and importlib.util.find_spec("tenseal") is None:
        builders.fail("HEBuilder needs the package tenseal, which is not installed")


def _check_builder(item: Marked, before: list[str]) -> str:
    fields = item.fields({"path", "args"}, "a builder")
    path = item.need(fields, "path", "a builder")
    name = str(path.value).removeprefix(PREFIX)
    order = list(BUILDERS)
    if name not in BUILDERS or path.value != PREFIX + name:
        path.fail(f"unknown builder {path.value!r}; known: {', '.join(PREFIX + known for known in order)}")
    if before and order.index(name) <= order.index(before[-1]):
        path.fail(f"{name} stands after {before[-1]}; each builder once, in this order: {', '.join(order)}")
    _check_arguments(fields, name, BUILDERS[name].arguments)
    return name


def _check_arguments(fields: dict[str, Marked], name: str, known: Mapping[str, Argument]) -> None:
    args = fields.get("args")
    given = args.fields(set(known), f"the arguments of {name}") if args and args.value is not None else {}
    for key, value in given.items():
        if not known[key].fits(value.value):
            value.fail(f"{key} of {name} must be {known[key].wanted}, not {value.value!r}")
    if name == "static_file.StaticFileBuilder" and "scheme" not in given:
        fields["path"].fail("StaticFileBuilder needs `args: {scheme: grpc}`; NVFlare's own default is http")
