"""The residual GAN of Mescheder et al. 2018 (arXiv:1801.04406), also called GP-GAN, in its four layouts.

Parameter names and shapes are those of the public ``GAN_stability`` checkpoints, so reading one is a filter
on names: ``embedding.weight``, ``fc.*``, ``conv_img.*`` and blocks ``resnet_{stage}_{block}.*`` (layouts
`resnet2`, `resnet3`, `resnet4`) or ``resnet.{2 * stage}.*`` (layout `resnet`), each with ``conv_0.*``,
``conv_1.*`` and, where its width changes, ``conv_s.weight``. There are no buffers and no normalisation.
"""

from __future__ import annotations

from graftgan.gans.resnet_gan.networks import ResnetDiscriminator, ResnetGenerator
from graftgan.gans.resnet_gan.spec import LAYOUTS, Layout, ResnetGanSpec

__all__ = [
    "LAYOUTS", "Layout", "ResnetDiscriminator", "ResnetGanSpec", "ResnetGenerator", "Spec", "build_networks",
]  # fmt: skip

Spec = ResnetGanSpec


def build_networks(spec: ResnetGanSpec) -> tuple[ResnetGenerator, ResnetDiscriminator]:
    """Build a freshly initialised generator and discriminator for ``spec``."""
    return ResnetGenerator(spec), ResnetDiscriminator(spec)
