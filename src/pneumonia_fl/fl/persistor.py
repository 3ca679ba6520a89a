"""The global model on the server: NVFlare's persistor with nothing left for a job to choose but the network.

NVFlare's own takes file names, a checkpoint to begin with and whether it may run code from its arguments, which a job
sets.
"""

from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor

from pneumonia_fl.model import build_model

INITIAL_WEIGHTS = "initial.pt"
"""The checkpoint that a job may bring along, beside the code that it ships."""


class GlobalModel(PTFileModelPersistor):
    """Keeps the global model in the job's folder, under NVFlare's file names.

    Args:
        network: name of the network.
        norm: its normalisation.
        size: side of its input in pixels.
        seed: of its first weights.
        pretrained: begin with the checkpoint that the job ships.
    """

    def __init__(self, network: str, norm: str, size: int, seed: int, pretrained: bool = False) -> None:
        super().__init__(
            source_ckpt_file_full_name=INITIAL_WEIGHTS if pretrained else None, load_weights_only=True
        )
        self.network, self.norm, self.size, self.seed, self.pretrained = network, norm, size, seed, pretrained

    def _initialize(self, fl_ctx: object) -> None:
        # Not in the constructor, which also runs where a job is made.
        self.model = build_model(self.network, norm=self.norm, size=self.size, seed=self.seed)
        super()._initialize(fl_ctx)
        self.ckpt_preload_path = None  # a file that the job's `environment.json` names
