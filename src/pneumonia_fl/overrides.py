"""Settings as `a.b=value` words: on the command line, and as arguments of the sites' training script."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.yaml_files import parse_yaml


def with_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `values` with each `a.b=value` set; the value is read as YAML."""
    result = dict(values)
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {text!r}: write key=value, for example train.lr=0.001")
        _set_path(result, key.strip().split("."), _yaml_value(value, text), text)
    return result


def flatten(value: BaseModel | Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return every setting as an `a.b=value` word, without spaces or quotes: safe for any argument splitter."""
    words: list[str] = []
    # Not `dict(value)`: of a model that has the fields in the order in which they were set.
    keys = type(value).model_fields if isinstance(value, BaseModel) else value
    for key in keys:
        item = getattr(value, key) if isinstance(value, BaseModel) else value[key]
        if isinstance(item, BaseModel | Mapping):
            words += flatten(item, f"{prefix}{key}.")
        elif isinstance(item, Mapping):
            words += [f"{prefix}{key}.{name}={_scalar(one)}" for name, one in item.items()]
        elif item is not None:
            words.append(f"{prefix}{key}={_scalar(item)}")
    return words


def _scalar(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _yaml_value(value: str, text: str) -> object:
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
