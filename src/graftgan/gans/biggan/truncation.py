"""The truncation trick of the BigGAN families, as a function of the latent."""

from __future__ import annotations

import torch
from torch import Tensor

from graftgan.errors import ConfigError
from graftgan.gans.stylegan2.layers import at_least_float32

LIMIT = 2.0


def truncate(z: Tensor, truncation_psi: float) -> Tensor:
    """Map standard normal latents to truncated normal ones, monotonically, value by value.

    The public models are sampled with ``psi * t``, where ``t`` is standard normal given ``|t| <= 2`` (Brock
    et al. 2019, section 3.1; the factor is that of the published samplers). Instead of drawing again what
    falls outside, which would tie an image to those drawn before it, a normal value is carried over by the
    inverse of the distribution function: ``t = Phi^-1(Phi(-2) + Phi(z) (1 - 2 Phi(-2)))``.

    Args:
        z: Standard normal latents of any shape.
        truncation_psi: 1 returns ``z`` itself, 0 zeros.

    Returns:
        Values within ``[-2 psi, 2 psi]``, in the shape and dtype of ``z`` (half precision is widened).

    Raises:
        ConfigError: ``truncation_psi`` is not within 0 and 1.
    """
    if not 0 <= truncation_psi <= 1:
        raise ConfigError(f"truncation_psi is {truncation_psi}", "Use 0 to 1 for networks of this family.")
    if truncation_psi == 1:
        return z
    z = at_least_float32(z)
    below = torch.special.ndtr(z.new_tensor(-LIMIT))
    inside: Tensor = torch.special.ndtri(below + torch.special.ndtr(z) * (1 - 2 * below))
    return truncation_psi * inside
