from pathlib import Path

import numpy as np
import pytest

from pneumonia_fl.errors import OutputError
from pneumonia_fl.fl.state.held_models import HeldModels


def test_models_come_back_one_by_one_and_leave_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    held = HeldModels(folder)
    for name, value in (("b", 2), ("a", 1)):
        held.put(name, {"weight": np.full((2, 3), value, np.float32).T, "count": np.asarray(value)})
    found = list(held.each())
    assert [name for name, _ in found] == ["a", "b"]
    for (_, model), value in zip(found, (1, 2), strict=True):
        assert model["weight"].tolist() == [[value] * 2] * 3
        assert (int(model["count"]), model["weight"].dtype) == (value, np.float32)
    assert list(folder.iterdir()) == []
    held.close()


def test_a_folder_that_cannot_be_made_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        HeldModels(tmp_path / "file" / "state")
