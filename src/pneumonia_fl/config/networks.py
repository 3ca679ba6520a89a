"""The table of networks: each name that a job's `model.name` may have. How to add one: docs/networks.md."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Network:
    """Description of a network, without loading PyTorch before it is built.

    Attributes:
        build: `module:name` of what takes the side of the square input in pixels and returns the network, gray image
            (N, 1, S, S) in, two logits (NORMAL, PNEUMONIA) out; empty: torchvision's network of the table's name.
        head: of a torchvision network, the path of the last layer, which gets two outputs in place of 1000.
        smallest: side in pixels that the network needs at least.
    """

    build: str = ""
    head: str = ""
    smallest: int = 16


NETWORKS = {
    "small_resnet": Network("pneumonia_fl.models.architectures:SmallResNet"),
    # Below 32 pixels torchvision's networks would pool a feature map away.
    "resnet18": Network(head="fc", smallest=32),
    "densenet121": Network(head="classifier", smallest=32),
    "efficientnet_b0": Network(head="classifier.1", smallest=32),
    "mobilenet_v3_small": Network(head="classifier.3", smallest=32),
    "pneumonia_network": Network("pneumonia_fl.models.architectures:pneumonia_network"),
}
