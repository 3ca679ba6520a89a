"""Model files: weights as safetensors beside a `model_card.json` that says what they are and how to use them.

Reading never executes what a file says: safetensors hold numbers only, and a PyTorch file is opened with
`weights_only=True`. Both files are written atomically, the card last: a folder with a card is complete.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from pneumonia_fl import DISCLAIMER, INTENDED_USE
from pneumonia_fl.config.sections import ModelConfig, Origin, Preprocess
from pneumonia_fl.config.strict import Strict
from pneumonia_fl.data.manifest import CLASS_NAMES
from pneumonia_fl.errors import CheckpointError
from pneumonia_fl.files import output_errors, private_folder, write_atomic
from pneumonia_fl.inputs.file_kinds import foreign
from pneumonia_fl.inputs.json_files import read_limited
from pneumonia_fl.inputs.text import VALUE_LIMIT, printable
from pneumonia_fl.metrics.platt import Scaling
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.weight_files import check_kind, read_weights, unwrapped

WEIGHTS = "model.safetensors"
CARD = "model_card.json"
LIMITATIONS = (
    "Trained on one hospital's children with labels of pneumonia or normal only: it knows no other disease, "
    "no adults, no other scanner's images. Probabilities and threshold hold for the validation data; where "
    "pneumonia is rarer or rarely seen normals come, it calls too many images pneumonia."
)


CARD_BYTES = 1_000_000
"""More is no model card."""
Line = Annotated[str, AfterValidator(printable)]
Prose = Annotated[str, AfterValidator(lambda text: printable(text, VALUE_LIMIT))]


class DataSummary(Strict):
    """Origin of the training images."""

    source: Line = Field(description="Kind of source, never a path.")
    licence: Prose
    credit: Prose
    manifest_sha256: Line
    counts: dict[Line, dict[Line, dict[Line, int]]] = Field(description="Images by site, split and class.")


class ModelCard(Strict):
    """Facts that a person or a program needs to use the weights beside the card.

    Version 1 had no temperature (1.0) and no operating point (its threshold is Youden's), version 2 no offset (0.0),
    version 3 no origin (None).
    """

    version: Literal[1, 2, 3, 4] = 4
    job: Line = Field(description="Name of the job that trained the model.")
    round: int = Field(ge=0, description="Round after which these weights were the global model, from 1.")
    averaged: int = Field(
        0, ge=0, description="Average of this many last global models, evaluated as one more round; 0: none."
    )
    seed: int
    init_from: Origin | None = Field(None, description="The saved model with which the training began.")
    model: ModelConfig
    preprocess: Preprocess
    classes: tuple[Line, Line] = Field(CLASS_NAMES, description="Meaning of the two logits.")
    temperature: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="P(pneumonia) = sigmoid((difference of the logits - offset) / this); fitted on validation.",
    )
    offset: float = Field(
        0.0, allow_inf_nan=False, description="Difference of the logits at which P(pneumonia) is one half."
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="P(pneumonia) from which the answer is pneumonia; chosen on validation."
    )
    operating_point: Line = Field("", description="The rule by which the threshold was chosen.")
    metrics: dict[Line, float | int | None] = Field({}, description="On the pooled validation split.")
    data: DataSummary | None = None
    software: dict[Line, Line] = Field({}, description="Versions of the packages that trained it.")
    intended_use: Prose = INTENDED_USE
    limitations: Prose = LIMITATIONS
    disclaimer: Prose = DISCLAIMER

    @property
    def scaling(self) -> Scaling:
        """Return the scaling that turns margins into probabilities."""
        return Scaling(self.temperature, self.offset)


def save_model(folder: Path, state: Mapping[str, Tensor], card: ModelCard) -> None:
    """Write `model.safetensors` and `model_card.json` into `folder`, which is made if need be.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    private_folder(folder)
    with output_errors(folder):
        # Old weights under a new card, or the reverse, must never be seen: the card goes first, comes last.
        (folder / CARD).unlink(missing_ok=True)
    # safetensors refuses views and channels-last strides.
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    write_atomic(folder / WEIGHTS, save(tensors))
    write_atomic(folder / CARD, card.model_dump_json(indent=2).encode())


def load_model(path: Path) -> tuple[nn.Module, ModelCard]:
    """Rebuild a saved model, in evaluation mode, from its folder or one of its files.

    A PyTorch file (`.pt`, `.pth`) works too when a model card lies beside it.

    Raises:
        CheckpointError: a file is missing, broken or unsafe, or the weights do not fit the card's model.
    """
    folder, weights = (path, path / WEIGHTS) if path.is_dir() else (path.parent, path)
    weights = folder / WEIGHTS if weights.name == CARD else weights
    if weights.is_file():
        check_kind(weights)  # before the lack of a card is blamed
    card = read_card(folder)
    state = load_state(weights)
    model = build_model(card.model.name, card.model.norm, card.preprocess.size, seed=0)
    load_into(model, unwrapped(state, model.state_dict()), weights.name)
    return model.eval(), card


def read_card(folder: Path) -> ModelCard:
    """Read the model card in `folder`.

    Raises:
        CheckpointError: it is missing, is no model card, or is of a version unknown to this program.
    """
    path = folder / CARD
    try:
        content = read_limited(path, CARD_BYTES)
        if not content.lstrip().startswith(b"{") and (words := foreign(content)):
            raise CheckpointError(f"{path} is not a model card: it is {words}")
        return ModelCard.model_validate_json(content)
    except FileNotFoundError:
        raise CheckpointError(f"{CARD} not found in {folder}; point to the folder that a run wrote") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        raise CheckpointError(f"{path}: {_card_problem(error)}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not a model card ({error})") from None


def load_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors or PyTorch file: bare, or in a checkpoint such as NVFlare's.

    Raises:
        CheckpointError: the file is missing, broken, or holds anything but tensors (it is not executed).
    """
    state = read_weights(path)
    wrong = [str(k) for k, value in state.items() if not (isinstance(k, str) and isinstance(value, Tensor))]
    if wrong:
        raise CheckpointError(f"{path} holds no state dict: {_some(wrong)} is not a tensor")
    return dict(state)


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str = "the received model") -> None:
    """Load weights strictly: same keys, same shapes; numbers are cast to the model's own types.

    (NVFlare returns averaged counters such as `num_batches_tracked` as floats.)

    Raises:
        CheckpointError: names what is missing, unexpected or of another shape; the model is then unchanged.
    """
    target = model.state_dict()
    problems = _differences(state, target)
    if problems:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict({key: state[key].to(value.dtype) for key, value in target.items()})


def _differences(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> list[str]:
    missing = [key for key in target if key not in state]
    unexpected = [key for key in state if key not in target]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in target.items()
        if key in state and state[key].shape != value.shape
    ]
    named = (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes))
    return [f"{what}: {_some(keys)}" for what, keys in named if keys]


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


def _card_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if where == "version":
        return f"model card of version {first['input']!r}, this program reads 1 to 4; update pneumonia-fl"
    return f"not a model card ({where + ': ' if where else ''}{first['msg']})"
