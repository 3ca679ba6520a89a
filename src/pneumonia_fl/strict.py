"""The base of all settings."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A frozen value in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
