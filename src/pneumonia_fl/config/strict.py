"""The base of all settings, and what is wrong with those that somebody gave."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from pneumonia_fl.config.overrides import fields_of
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.names import did_you_mean

Settings = TypeVar("Settings", bound="Strict")


class Strict(BaseModel):
    """A frozen value in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_word_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `on` and `no`, which YAML makes true and false of, and Pydantic 1 and 0."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError(f"write a number, not {str(value).lower()} (in YAML also on, off, yes and no)")
        return value


def parse(kind: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    """Validate `values` as `kind`; every problem is named with its key and `source`.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range or a contradiction.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(_problem(kind, item) for item in error.errors(include_url=False))
        raise ConfigError(f"{source}: {problems}") from None


def _problem(kind: type[Strict], item: Mapping[str, Any]) -> str:
    # Pydantic's mark of a fault that lies in a key itself.
    where = ".".join(str(part) for part in item["loc"] if part != "[key]") or "job"
    if item["type"] == "extra_forbidden":
        return f"unknown key {where!r}{_meant(kind, where)}"
    if item["type"] == "string_type" and isinstance(item["input"], bool | int | float):
        return f"{where}: YAML reads this text as {item['input']!r}; put it in quotes"
    if item["type"] == "value_error":
        # Of a whole section; showing it would show a secret that does not belong there.
        return f"{where}: {item['msg'].removeprefix('Value error, ')}"
    return f"{where}: {item['msg']} (got {item['input']!r})"


def _meant(kind: type[Strict], key: str) -> str:
    """Return which setting was probably meant: of that name elsewhere, described so beside it, of a similar name."""
    fields = dict(fields_of(kind))
    section, _, name = key.rpartition(".")
    words = name.replace("_", " ").lower()
    beside = [known for known in fields if known.rpartition(".")[0] == section]
    sure = [known for known in beside if known.lower() == key.lower()]
    sure += [known for known in fields if known.rpartition(".")[2] == name]
    sure += [known for known in beside if words in (fields[known].description or "").lower()]
    sure += [known for known in fields if len(name) > 3 and name in known.rpartition(".")[2]]
    if sure:
        return f"; did you mean {sure[0]}?"
    return did_you_mean(key, beside) or did_you_mean(key, fields)
