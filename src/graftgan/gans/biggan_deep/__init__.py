"""BigGAN-deep as published for PyTorch by Hugging Face (Brock et al. 2019, arXiv:1809.11096, appendix B).

Names, shapes and values of the generator's tensors are those of the public ``pytorch-pretrained-BigGAN``
state dicts: ``embeddings.weight`` (class i is column i), ``generator.gen_z.*``,
``generator.layers.{j}.{bn_0 ... bn_3, conv_0 ... conv_3}.*``, ``generator.layers.{j}.{snconv1x1_..., gamma}``
for the one attention layer, ``generator.bn.*`` and ``generator.conv_to_rgb.*``. No discriminator was
published: the one here is BigGAN's of the same resolution.
"""

from __future__ import annotations

from graftgan.gans.biggan.discriminator import BigGANDiscriminator
from graftgan.gans.biggan_deep.generator import BigGANDeepGenerator
from graftgan.gans.biggan_deep.spec import BigGANDeepSpec

__all__ = ["BigGANDeepGenerator", "BigGANDeepSpec", "Spec", "build_networks"]

Spec = BigGANDeepSpec


def build_networks(spec: BigGANDeepSpec) -> tuple[BigGANDeepGenerator, BigGANDiscriminator]:
    """Build a freshly initialised generator and discriminator for ``spec``."""
    return BigGANDeepGenerator(spec), BigGANDiscriminator(spec)
