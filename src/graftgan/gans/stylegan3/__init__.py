"""StyleGAN3: an alias-free generator, equivariant to translation (T) or also to rotation (R).

Karras et al. 2021, "Alias-free generative adversarial networks", arXiv:2106.12423. The discriminator is
that of StyleGAN2, as the paper keeps it.

Names, shapes and values are those of the public ``stylegan3`` checkpoints, filters and Fourier frequencies
included, so reading such a generator renames nothing: ``mapping.{w_avg, embed.*, fc{i}.*}``,
``synthesis.input.{weight, transform, freqs, phases, affine.*}`` and, for every layer,
``synthesis.L{index}_{size}_{channels}.{weight, bias, magnitude_ema, up_filter, down_filter, affine.*}``.
"""

from __future__ import annotations

from graftgan.gans.stylegan2.discriminator import StyleGAN2Discriminator
from graftgan.gans.stylegan3.generator import StyleGAN3Generator
from graftgan.gans.stylegan3.spec import StyleGAN3Spec

__all__ = ["Spec", "StyleGAN3Generator", "StyleGAN3Spec", "build_networks"]

Spec = StyleGAN3Spec


def build_networks(spec: StyleGAN3Spec) -> tuple[StyleGAN3Generator, StyleGAN2Discriminator]:
    """Build a freshly initialised generator and StyleGAN2 discriminator for ``spec``."""
    return StyleGAN3Generator(spec), StyleGAN2Discriminator(spec.discriminator())
