"""A spec small enough for tests, and networks whose batch norms hold statistics."""

from __future__ import annotations

import torch

from graftgan.gans.base import Gan, build
from graftgan.gans.dcgan import DCGANSpec

TINY = DCGANSpec(resolution=32, z_dim=6, g_ch=3, d_ch=2)


def lively(spec: DCGANSpec = TINY, seed: int = 1) -> Gan:
    """Build a GAN whose every tensor differs from its initial value; average and raw generator are one."""
    gan = build(spec, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    for network in (gan.generator, gan.discriminator):
        for name, tensor in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
            else:
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=rng))
    gan.generator_ema.load_state_dict(gan.generator.state_dict())
    return gan
