"""StyleGAN2: modulated skip generator and residual discriminator (Karras et al. 2020, arXiv:1912.04958).

Parameter names and shapes are those of the public ``stylegan2-ada-pytorch`` checkpoints and hold the unscaled
weights of equalised learning rate, so reading such a file is a filter on names:

* drop every ``*.resample_filter``: the filter [1, 3, 3, 1] is fixed here;
* all else keeps its name, shape and value: ``mapping.{w_avg, embed.*, fc{i}.*}``,
  ``synthesis.b4.const``, ``synthesis.b{r}.conv{0,1}.{weight, bias, noise_const, noise_strength, affine.*}``,
  ``synthesis.b{r}.torgb.{weight, bias, affine.*}``; in the discriminator
  ``b{r}.{fromrgb, conv0, conv1}.{weight, bias}``, ``b{r}.skip.weight``, ``b4.{conv, fc, out}.{weight, bias}``
  and, with classes, ``mapping.{embed, fc{i}}.*``.

No kernel needs flipping. Layouts with other names (``rosinality/stylegan2-pytorch``) rename to these and
squeeze the leading 1 of ``const`` and of the generator's convolution weights.
"""

from __future__ import annotations

from graftgan.gans.stylegan2.discriminator import StyleGAN2Discriminator
from graftgan.gans.stylegan2.generator import StyleGAN2Generator
from graftgan.gans.stylegan2.refit import refit
from graftgan.gans.stylegan2.spec import StyleGAN2Spec

__all__ = [
    "Spec", "StyleGAN2Discriminator", "StyleGAN2Generator", "StyleGAN2Spec", "build_networks", "refit",
]  # fmt: skip

Spec = StyleGAN2Spec


def build_networks(spec: StyleGAN2Spec) -> tuple[StyleGAN2Generator, StyleGAN2Discriminator]:
    """Build a freshly initialised generator and discriminator for ``spec``."""
    return StyleGAN2Generator(spec), StyleGAN2Discriminator(spec)
