"""The global model on the server: NVFlare's persistor with nothing left for a job to choose but the network.

NVFlare's own takes file names, a checkpoint to begin with and whether it may run code from its arguments, which a job
sets.
"""

from pathlib import Path

import torch
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor

from pneumonia_fl.errors import CheckpointError
from pneumonia_fl.fl.entrypoints import entrypoint
from pneumonia_fl.fl.protocol.carried_models import carried
from pneumonia_fl.fl.protocol.carried_weights import INITIAL
from pneumonia_fl.models.architectures import build_model


@entrypoint("Persistor")
class GlobalModel(PTFileModelPersistor):
    """Keeps the global model in the job's folder, under NVFlare's file names.

    Args:
        network: name of the network.
        norm: its normalisation.
        size: side of its input in pixels.
        seed: of its first weights.
        weights: `sha256:…` of the weights that come with the job, to begin with; "": those of the seed.
    """

    def __init__(self, network: str, norm: str, size: int, seed: int, weights: str = "") -> None:
        super().__init__(load_weights_only=True)
        self.network, self.norm, self.size, self.seed, self.weights = network, norm, size, seed, weights

    def _initialize(self, fl_ctx: FLContext) -> None:
        # Not in the constructor, which also runs where a job is made.
        self.model = build_model(self.network, norm=self.norm, size=self.size, seed=self.seed)
        try:
            self._take_weights(Path(fl_ctx.get_prop(FLContextKey.APP_ROOT)))
        except CheckpointError as error:
            self.system_panic(str(error), fl_ctx)
            return
        super()._initialize(fl_ctx)
        self.ckpt_preload_path = None  # a file that the job's `environment.json` names

    def _take_weights(self, app: Path) -> None:
        if self.weights:
            found = carried(app, INITIAL, {INITIAL: self.weights}, self.model)
            self.model.load_state_dict({key: torch.as_tensor(value) for key, value in found.items()})
