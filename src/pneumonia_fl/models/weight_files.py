"""Reading weights out of files: safetensors, or PyTorch's own, known by their content and not by their names.

Nothing that a file says is executed, and a file that is something else is called by its name.
"""

import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pneumonia_fl.errors import CheckpointError
from pneumonia_fl.inputs.file_kinds import HEAD, foreign

_AGAIN = "download or copy it again"
_ZIP = b"PK\x03\x04"
_TORCH = (_ZIP, b"\x80")
"""Begin a zip file, or the pickle of older versions."""
# Where other programs keep the state dict of a checkpoint; NVFlare: "model".
_INSIDE = ("model", "state_dict", "model_state_dict", "net", "weights")
_DEEPEST = 3
# What wrappers put before each key: data parallel, torch.compile, Lightning.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def read_weights(path: Path) -> Mapping[str, Any]:
    """Return the state dict in a file, also out of a checkpoint that holds one; its values may be anything.

    Raises:
        CheckpointError: the file is missing, broken, something else, or more than weights (it is not executed).
    """
    head = check_kind(path)
    content = _inner(_load_torch(path)) if head.startswith(_TORCH) else _load_safetensors(path, head)
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict")
    return content


def check_kind(path: Path) -> bytes:
    """Return the first bytes of a file that may hold weights.

    Raises:
        CheckpointError: it is missing, or something else.
    """
    head = _head(path)
    if head.startswith(_TORCH) and path.suffix == ".safetensors":
        raise CheckpointError(f"{path} is no safetensors file but perhaps PyTorch's; if so, rename it to .pt")
    if head.startswith(_ZIP):
        _check_zip(path)
    elif not head.startswith(_TORCH) and (words := foreign(head)):
        raise CheckpointError(f"{path} is no model: it is {words}")
    return head


def unwrapped(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return `state` without what a wrapper put before all its keys, where the `wanted` keys are the rest."""
    while state and set(state) != set(wanted):
        prefix = next((prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in state)), "")
        if not prefix:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a file of weights")
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except FileNotFoundError:
        raise CheckpointError(f"{path} not found") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None


def _check_zip(path: Path) -> None:
    """Refuse a zip that `torch.save` did not make."""
    try:
        with zipfile.ZipFile(path) as file:
            names = {name.rpartition("/")[2] for name in file.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise CheckpointError(f"{path} is cut off or damaged; {_AGAIN}") from None
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript program; ask for the model's state dict as .safetensors"
        )
    if "data.pkl" not in names:
        raise CheckpointError(
            f"{path} is a zip file without PyTorch's weights; unpack it and give what is inside"
        )


def _load_safetensors(path: Path, head: bytes) -> dict[str, Tensor]:
    length = struct.unpack("<Q", head[:8].ljust(8, b"\0"))[0]
    if head[8:9] == b"{" and length < 100_000_000 and path.stat().st_size < 8 + length:
        raise CheckpointError(f"{path} is cut off; {_AGAIN}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged, or neither a safetensors nor a PyTorch file ({_line(error)}); {_AGAIN}"
        ) from None


def _load_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # About pickle protocols; a file that torch.save did not write fails with its own message.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds more than weights and could run code, so it was not opened; "
            "ask for a .safetensors file"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # torch's reader raises nearly anything on damaged bytes
        raise CheckpointError(f"{path} is damaged or no PyTorch file ({_line(error)}); {_AGAIN}") from None


def _inner(content: Any) -> Any:
    """Return the state dict in a checkpoint."""
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        content = next((content[key] for key in _INSIDE if isinstance(content.get(key), Mapping)), content)
    return content


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
