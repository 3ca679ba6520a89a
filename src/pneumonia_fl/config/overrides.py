"""Settings as `a.b=value` words: what a user writes after `--set`, and the flat list that records show."""

import re
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.yaml_files import parse_yaml

_LEADING_ZERO = re.compile(r"\s*[-+]?0[0-9_]+\s*")
_NULL = {"", "~", "null"}


def with_overrides(
    values: Mapping[str, Any], overrides: Iterable[str], kind: type[BaseModel] | None = None
) -> dict[str, Any]:
    """Return `values` with each `a.b=value` set; the value is read as YAML.

    Where `kind` has a text the value is literal text, unless in quotes: also `on`, `null` and `2026`.
    """
    fields = dict(fields_of(kind)) if kind else {}
    result = dict(values)
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {text!r}: write key=value, for example train.lr=0.001")
        key = key.strip()
        _set_path(result, key.split("."), _read(fields.get(key), value, f"{key}={value}"), text)
    return result


def flatten(value: BaseModel | Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the text of every setting that is set by its dotted key: for people and records, not to be read back."""
    texts: dict[str, str] = {}
    # Not `dict(value)`: of a model that has the fields in the order in which they were set.
    keys = type(value).model_fields if isinstance(value, BaseModel) else value
    for key in keys:
        item = getattr(value, key) if isinstance(value, BaseModel) else value[key]
        if isinstance(item, BaseModel | Mapping):
            texts |= flatten(item, f"{prefix}{key}.")
        elif item is not None:
            texts[f"{prefix}{key}"] = str(item).lower() if isinstance(item, bool) else str(item)
    return texts


def fields_of(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted key and the field of every setting, sections included."""
    for name, field in kind.model_fields.items():
        yield f"{prefix}{name}", field
        for part in _parts(field):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from fields_of(part, f"{prefix}{name}.")


def _parts(field: FieldInfo) -> tuple[Any, ...]:
    """Return the types that a field accepts: the members of a union, else its one type."""
    union = get_origin(field.annotation) in (Union, UnionType)
    return get_args(field.annotation) if union else (field.annotation,)


def _read(field: FieldInfo | None, value: str, text: str) -> object:
    parts = _parts(field) if field else ()
    if str in parts and not value.lstrip().startswith(("'", '"')):
        return None if type(None) in parts and value.strip() in _NULL else value.strip()
    if _LEADING_ZERO.fullmatch(value):
        raise ConfigError(f"--set {text!r}: write the number without the leading zero")
    try:
        return parse_yaml(value, text)
    except ConfigError:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML; put it in quotes") from None


def _set_path(values: dict[str, Any], keys: list[str], value: object, text: str) -> None:
    for key in keys[:-1]:
        child = values.get(key)
        if child is not None and not isinstance(child, Mapping):
            raise ConfigError(f"--set {text!r}: {key!r} has no settings below it")
        values[key] = dict(child or {})
        values = values[key]
    values[keys[-1]] = value
