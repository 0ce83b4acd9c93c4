"""BigGAN: residual generator and projection discriminator with classes (Brock et al. 2019, arXiv:1809.11096).

Names, shapes and values of all tensors are those of the public ``BigGAN-PyTorch`` state dicts, so reading one
is a comparison of names. Generator: ``shared.weight``, ``linear.{weight, bias, u0, sv0}``,
``blocks.{i}.0.{conv1, conv2, conv_sc}.*``, ``blocks.{i}.0.{bn1, bn2}.{stored_mean, stored_var}``,
``blocks.{i}.0.{bn1, bn2}.{gain, bias}.*``, ``blocks.{i}.1.{theta, phi, g, o}.*``, ``blocks.{i}.1.gamma`` and
``output_layer.{0, 2}.*``. Discriminator: ``blocks.{i}.0.{conv1, conv2, conv_sc}.*``, attention likewise,
``linear.*`` and ``embed.*``.
"""

from __future__ import annotations

from graftgan.gans.biggan.discriminator import BigGANDiscriminator
from graftgan.gans.biggan.generator import BigGANGenerator
from graftgan.gans.biggan.spec import BigGANSpec

__all__ = ["BigGANDiscriminator", "BigGANGenerator", "BigGANSpec", "Spec", "build_networks"]

Spec = BigGANSpec


def build_networks(spec: BigGANSpec) -> tuple[BigGANGenerator, BigGANDiscriminator]:
    """Build a freshly initialised generator and discriminator for ``spec``."""
    return BigGANGenerator(spec), BigGANDiscriminator(spec)
