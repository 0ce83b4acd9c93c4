"""Who judges what: the whole image everywhere, or patches alone away from a few anchors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graftgan.device import send
from graftgan.gans.base import Discriminator, draw_latents
from graftgan.gans.patch_heads import heads_of, listening
from graftgan.gans.prior import Prior
from graftgan.training.losses import discriminator_loss, generator_loss

Judge = Callable[..., Any]


@dataclass(frozen=True)
class Opinion:
    """What D says of a batch.

    Attributes:
        logits: Of whole images, [N, 1].
        patches: Of patches, [N, H, W] for each layer that has a head.
    """

    logits: Tensor
    patches: tuple[Tensor, ...] = ()


class Game:
    """The usual game: D judges every image as a whole.

    Args:
        judge: D, compiled or not.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def near_anchors(self, batch: int, rng: torch.Generator) -> Tensor | None:
        """Return the latents that begin a batch of fakes, None where all come from the prior."""
        return None

    def settle(self, prior: Prior, seed: int) -> None:
        """Take in the law that latents come from at the start; there is nothing to place."""

    def opinion(self, images: Tensor, labels: Tensor | None, batches: int = 1) -> Opinion:
        """Return what D says of one batch of fakes, or of fakes and reals behind each other."""
        # The first pass of a run without this argument is what compiled networks were built for.
        split = {} if batches == 1 else {"mbstd_split": batches}
        return Opinion(self.judge(images, labels, **split))

    def generator_loss(self, fakes: Opinion) -> Tensor:
        """Return G's loss."""
        return generator_loss(fakes.logits)

    def discriminator_loss(self, both: Opinion) -> Tensor:
        """Return D's loss from fakes and reals behind each other."""
        fake, real = both.logits.chunk(2)
        return discriminator_loss(real, fake)


class AnchoredGame(Game):
    """Relaxed realism (Ojha et al. 2021, arXiv:2104.06820): a few images cannot tell what all may look like.

    The first half of each batch of fakes is drawn near the anchors, and D judges it as whole images. The
    other half is from the whole prior, and D judges its patches alone. Real images are judged both ways. Both
    halves count the same; where there are several layers of patches, their mean counts.

    Args:
        discriminator: With heads.
        noise: Deviation of what is added to an anchor.
    """

    def __init__(self, discriminator: Discriminator, noise: float) -> None:
        super().__init__(discriminator)
        heads = heads_of(discriminator)
        assert heads is not None
        self.network, self.heads, self.noise = discriminator, heads, noise

    def near_anchors(self, batch: int, rng: torch.Generator) -> Tensor:
        """Return latents [batch / 2, z_dim], each a random anchor and a little noise."""
        anchors = self.heads.anchors
        chosen = torch.randint(len(anchors), (batch // 2,), generator=rng)
        noise = torch.randn(batch // 2, anchors.shape[1], generator=rng)
        return anchors[send(chosen, anchors.device)] + self.noise * send(noise, anchors.device)

    @torch.no_grad()
    def settle(self, prior: Prior, seed: int) -> None:
        """Draw the anchors from the law that latents come from at the start."""
        rng, anchors = torch.Generator().manual_seed(seed), self.heads.anchors
        anchors.copy_(draw_latents(self.network.spec, len(anchors), rng, prior)[0])

    def opinion(self, images: Tensor, labels: Tensor | None, batches: int = 1) -> Opinion:
        """Return what D says; no statistic of a batch is taken over both halves of the fakes."""
        with listening(self.network) as features:
            logits = self.network(images, labels, mbstd_split=2 * batches)
        return Opinion(logits, tuple(self.heads(features)))

    def generator_loss(self, fakes: Opinion) -> Tensor:
        """Return ``E softplus(-D(G(anchor))) + E softplus(-D_patch(G(z)))``."""
        near, _ = fakes.logits.chunk(2)
        away = [patches.chunk(2)[1] for patches in fakes.patches]
        return generator_loss(near) + _mean([generator_loss(patches) for patches in away])

    def discriminator_loss(self, both: Opinion) -> Tensor:
        """Return the sum of D's losses as a judge of images and of patches."""
        fake, real = both.logits.chunk(2)
        terms = []
        for patches in both.patches:
            fake_patches, real_patches = patches.chunk(2)
            terms.append(discriminator_loss(real_patches, fake_patches.chunk(2)[1]))
        return discriminator_loss(real, fake.chunk(2)[0]) + _mean(terms)


def make_game(discriminator: Discriminator, judge: Judge, noise: float) -> Game:
    """Return the game that D has the heads for.

    Args:
        discriminator: The network.
        judge: The same, compiled or not.
        noise: Deviation around anchors, where there are any.
    """
    return Game(judge) if heads_of(discriminator) is None else AnchoredGame(discriminator, noise)


def _mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()
