"""DCGAN: strided convolutions with batch norm in both networks (Radford et al. 2016, arXiv:1511.06434).

Names and shapes of all tensors are those of the well-known PyTorch layout, so reading such a file is a
comparison of names. Generator: ``main.{3k}.weight`` for the transposed convolutions from the latent to the
image, ``main.{3k + 1}.*`` for the batch norm behind each but the last. Discriminator: ``main.0.weight``, then
``main.{3k - 1}.weight`` and ``main.{3k}.*`` for convolutions and batch norms, at last the convolution to the
logit.
"""

from __future__ import annotations

from graftgan.gans.dcgan.networks import DCGANDiscriminator, DCGANGenerator
from graftgan.gans.dcgan.spec import DCGANSpec

__all__ = ["DCGANDiscriminator", "DCGANGenerator", "DCGANSpec", "Spec", "build_networks"]

Spec = DCGANSpec


def build_networks(spec: DCGANSpec) -> tuple[DCGANGenerator, DCGANDiscriminator]:
    """Build a freshly initialised generator and discriminator for ``spec``."""
    return DCGANGenerator(spec), DCGANDiscriminator(spec)
