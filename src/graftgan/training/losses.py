"""Adversarial losses and gradient penalties of the StyleGAN2 family."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Return the non-saturating logistic loss `E softplus(-D(G(z)))` (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the loss `E softplus(-D(x)) + E softplus(D(G(z)))` (Goodfellow et al. 2014, equation 1)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """Return `E ||grad_x D(x)||^2` on real images (Mescheder et al. 2018, equation 9), without `gamma / 2`.

    Args:
        real_logits: [N, 1], computed from `real_images`.
        real_images: [N, C, H, W] that require gradients.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """Return `||J_w^T y||` of each image, [N] (Karras et al. 2020, equation 4).

    Args:
        images: [N, C, H, W], computed from `ws`.
        ws: [N, L, w_dim] that require gradients.
        noise: Standard normal [N, C, H, W]; it is scaled by 1 / sqrt(H W) here.
    """
    scaled = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * scaled).sum(), ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()
