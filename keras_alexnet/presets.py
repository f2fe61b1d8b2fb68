"""The named networks, and the size of the images that they see. No framework is imported."""

from dataclasses import dataclass

IMAGE_SIZE = 227
# Layers with weights, from the image on; without fc8, as nothing would be left to train.
FREEZABLE = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")


@dataclass(frozen=True)
class Preset:
    """The sizes in which AlexNets differ: filters of conv1 to conv5, units of fc6 and fc7."""

    filters: tuple[int, int, int, int, int]
    dense_units: int


PRESETS = {
    # CNTK's example, BrainScript/AlexNet.cntk.
    "cntk": Preset(filters=(96, 192, 384, 384, 256), dense_units=4096),
    # The same layers at a fraction of the width, for trying things and for tests.
    "tiny": Preset(filters=(24, 48, 96, 96, 64), dense_units=256),
}
