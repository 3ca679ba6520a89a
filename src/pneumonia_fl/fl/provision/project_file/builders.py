"""The builders that project.yml may name: NVFlare makes an object of whatever class stands there."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pneumonia_fl.fl.provision.project_file.entries import Builder, Mistake, is_int, unknown_key

PREFIX = "nvflare.lighter.impl."
ROOT_DAYS = range(1, 36_501)


@dataclass(frozen=True)
class Argument:
    """Allowed argument of a builder."""

    fits: Callable[[Any], bool]
    wanted: str


@dataclass(frozen=True)
class Known:
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


BUILDERS = {
    "workspace.WorkspaceBuilder": Known("the folders"),
    "static_file.StaticFileBuilder": Known(
        "settings and start scripts",
        {
            "config_folder": _among("config"),
            "scheme": Argument(lambda value: value == "grpc", "grpc (NVFlare's own default is http)"),
        },
    ),
    "cert.CertBuilder": Known("keys and certificates", {"root_valid_days": _number(ROOT_DAYS)}),
    "he.HEBuilder": Known(
        "keys for homomorphic encryption",
        {
            "poly_modulus_degree": _among(4096, 8192, 16384, 32768),
            "coeff_mod_bit_sizes": Argument(_is_bits, "a list of whole numbers from 1 to 60"),
            "scale_bits": _number(range(1, 61)),
            "scheme": _among("CKKS", "BFV"),
        },
        optional=True,
    ),
    "signature.SignatureBuilder": Known("signatures"),
}
"""By the rest of their path, in the required order."""


def check_builders(builders: Sequence[Builder]) -> None:
    """Refuse every builder, and every argument of one, that is not in `BUILDERS`.

    Raises:
        Mistake: one is unknown, missing, in the wrong place or wrongly told.
    """
    found: list[str] = []
    for number, builder in enumerate(builders):
        found.append(_check_builder(builder, found, ("builders", number)))
    for name, known in BUILDERS.items():
        if name not in found and not known.optional:
            raise Mistake(f"builder {PREFIX}{name} is missing: it makes {known.purpose}", "builders")
    if "he.HEBuilder" in found and importlib.util.find_spec("tenseal") is None:
        raise Mistake("HEBuilder needs the package tenseal, which is not installed", "builders")


def _check_builder(builder: Builder, before: list[str], place: tuple[str, int]) -> str:
    path, order = builder.path, list(BUILDERS)
    name = str(path).removeprefix(PREFIX)
    if name not in BUILDERS or path != PREFIX + name:
        known = ", ".join(PREFIX + known for known in order)
        raise Mistake(f"unknown builder {path!r}; known: {known}", *place, "path")
    if before and order.index(name) <= order.index(before[-1]):
        text = f"{name} stands after {before[-1]}; each builder once, in this order: {', '.join(order)}"
        raise Mistake(text, *place, "path")
    _check_arguments(builder.args or {}, name, place)
    return name


def _check_arguments(given: Mapping[str, Any], name: str, place: tuple[str, int]) -> None:
    known = BUILDERS[name].arguments
    for key, value in given.items():
        if key not in known:
            raise unknown_key(key, f"the arguments of {name}", known, *place, "args")
        if not known[key].fits(value):
            raise Mistake(f"{key} of {name} must be {known[key].wanted}, not {value!r}", *place, "args", key)
    if name == "static_file.StaticFileBuilder" and "scheme" not in given:
        text = "StaticFileBuilder needs `args: {scheme: grpc}`; NVFlare's own default is http"
        raise Mistake(text, *place, "path")
