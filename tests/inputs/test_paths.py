from pathlib import Path

import pytest

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.paths import expanded


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x") == expanded(Path("~/x")) == tmp_path / "x"
    assert expanded("~") == tmp_path
    assert expanded("a~b/~") == Path("a~b/~")


def test_an_unknown_users_home_is_one_plain_error() -> None:
    with pytest.raises(ConfigError, match="~nosuch/x: no home folder is known for ~nosuch"):
        expanded("~nosuch/x")
