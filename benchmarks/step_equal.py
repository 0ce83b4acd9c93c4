"""Whether a peer's networks compute what ours do: images, logits and gradients from the same weights."""

from __future__ import annotations

import step_peers
import torch
from step_peers import Gradients, Setting, gradients
from step_variants import make_gan
from torch import Tensor

from graftgan.gans.base import Gan
from graftgan.training.losses import discriminator_loss, generator_loss, r1_penalty

EQUAL = 1e-5
EQUAL_GRADIENTS = 1e-3
DRAWS = 4
"""Where an activation is within rounding of zero, the slope of its leaky ReLU is another one for either side.

That makes gradients of a draw differ by some 1e-3 with nothing wrong. What is wrong is so in every draw: the
draw that differs least counts.
"""
LEAST_SHARE = 1e-3
"""A tensor whose gradient is a smaller share of the largest one is compared with that share of it."""


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def enliven(gan: Gan) -> None:
    """Move biases and strengths of noise away from where they start: zero tells nothing of their paths."""
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for network in (gan.generator, gan.discriminator):
            for name, parameter in network.named_parameters():
                if name.endswith(("bias", "noise_strength")):
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))


def gradient_difference(ours: Gradients, theirs: Gradients) -> float:
    """Return the largest difference of a tensor's gradient relative to its norm."""
    least = LEAST_SHARE * max(float(gradient.norm()) for gradient in theirs.values())
    return max(
        float((ours[name] - gradient).norm()) / max(float(gradient.norm()), least)
        for name, gradient in theirs.items()
    )


def differences(setting: Setting, peer: step_peers.Ada) -> tuple[float, float]:
    """Give the peer our weights; return how far images and logits are from ours, and gradients.

    Of outputs the draw counts that differs most, of gradients the one that differs least.
    """
    gan = make_gan(setting)
    enliven(gan)
    gan.to(peer.device)
    peer.take_weights(gan.generator, gan.discriminator)
    outputs, slopes = zip(*(differences_of(gan, setting, peer, 1 + n) for n in range(DRAWS)), strict=True)
    return max(outputs), min(slopes)


def differences_of(gan: Gan, setting: Setting, peer: step_peers.Ada, seed: int) -> tuple[float, float]:
    """Return how far images and logits, and gradients, of a draw of latents and images are apart.

    Images are those of the constant noise. Gradients are of G's loss, of D's, and of R1, each by the peer's
    own networks, and R1 by its own loss.
    """
    g, d = gan.generator, gan.discriminator
    rng = torch.Generator().manual_seed(seed)
    z, reals = (
        torch.randn(shape, generator=rng).to(peer.device)
        for shape in ((4, setting.latent), (4, 3, setting.resolution, setting.resolution))
    )
    with torch.no_grad():
        images = g(z, None, 1.0, "const")
        outputs = max(
            largest_difference(images, peer.images(z)), largest_difference(d(images), peer.logits(images))
        )
    seen = reals.clone().requires_grad_(True)
    half = step_peers.R1_GAMMA / 2
    pairs = (
        (gradients(g, lambda: generator_loss(d(g(z, None, 1.0, "const")))), peer.of_generator(z)),
        (gradients(d, lambda: discriminator_loss(d(reals), d(images))), peer.of_discriminator(reals, images)),
        (gradients(d, lambda: half * r1_penalty(d(seen), seen)), peer.of_r1(reals)),
    )
    return outputs, max(gradient_difference(*pair) for pair in pairs)


def check_equal(setting: Setting, peer: step_peers.Ada) -> tuple[float, float]:
    """Return how far the peer's outputs and gradients are from ours; it is left with our first weights.

    Raises:
        SystemExit: They are not equal to `EQUAL` and `EQUAL_GRADIENTS`.
    """
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        outputs, slopes = differences(setting, peer)
    if not outputs <= EQUAL:
        raise SystemExit(f"{setting.name}: the peer's outputs differ by {outputs:.1e}, more than {EQUAL:g}")
    if not slopes <= EQUAL_GRADIENTS:
        raise SystemExit(
            f"{setting.name}: the peer's gradients differ by {slopes:.1e}, more than {EQUAL_GRADIENTS:g}"
        )
    gan = make_gan(setting)
    peer.take_weights(gan.generator, gan.discriminator)
    return outputs, slopes
