"""Image-to-image networks of pix2pix (arXiv:1611.07004) and CycleGAN (arXiv:1703.10593).

Module names are those of the public checkpoints (``pytorch-CycleGAN-and-pix2pix``), one state dict a network.
"""

from __future__ import annotations

from torch import nn

from graftgan.gans.translation.networks import PatchDiscriminator, ResnetTranslator, initialise
from graftgan.gans.translation.spec import KINDS, NORMS, TranslatorSpec
from graftgan.gans.translation.unet import UnetTranslator

__all__ = [
    "KINDS",
    "NORMS",
    "PatchDiscriminator",
    "ResnetTranslator",
    "TranslatorSpec",
    "UnetTranslator",
    "build_translator",
]


def build_translator(spec: TranslatorSpec) -> nn.Module:
    """Build a freshly initialised network: a generator, or for the kind `patchgan` a discriminator.

    Returns:
        A network from images [N, in_channels, H, W] to images [N, out_channels, H, W], both in [-1, 1];
        `patchgan` gives a logit for each patch instead.
    """
    if spec.kind == "patchgan":
        network: nn.Module = PatchDiscriminator(spec)
    elif spec.kind.startswith("unet"):
        network = UnetTranslator(spec)
    else:
        network = ResnetTranslator(spec)
    initialise(network)
    return network
