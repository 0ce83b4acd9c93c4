"""A game about one new class: its vector in G against its row in the head of D, all else fixed.

With no classifier for the class, the source's own discriminator learns what its images have in common: the
row that projects a class (BigGAN) or answers for it (residual GAN) is trained by the hinge loss to tell the
images from the samples, and the class vector to be taken for them: 2 D parameters or so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from graftgan.gans.base import Discriminator
from graftgan.gans.biggan.discriminator import BigGANDiscriminator
from graftgan.gans.resnet_gan.networks import ResnetDiscriminator
from graftgan.transfer.class_objectives import in_parts


@torch.no_grad()
def mean_row(discriminator: Discriminator) -> Tensor:
    """Return the mean of the known classes' rows: [F] of a projection, [F + 1] with a bias."""
    if isinstance(discriminator, BigGANDiscriminator):
        ids = torch.arange(discriminator.spec.classes, device=next(discriminator.parameters()).device)
        return cast(Tensor, discriminator.embed(ids)).mean(dim=0)
    assert isinstance(discriminator, ResnetDiscriminator)
    head = discriminator.fc
    return torch.cat([head.weight, head.bias[:, None]], dim=1).mean(dim=0)


def logits_of(discriminator: Discriminator, features: Tensor, row: Tensor) -> Tensor:
    """Return D's logits [N] for a class that has this row, from its features [N, F].

    With the row of a known class they are the logits of that class.
    """
    if isinstance(discriminator, BigGANDiscriminator):
        return cast(Tensor, discriminator.linear(features))[:, 0] + features @ row
    return features @ row[:-1] + row[-1]


@dataclass(frozen=True)
class NewClass:
    """The objective `discriminator` for a class that the source does not have.

    Attributes:
        discriminator: The source's, with classes, in evaluation mode.
        real: Its features of the class's images, [M, F].
        start: The row that the game begins with.
    """

    discriminator: Discriminator
    real: Tensor
    start: Tensor

    @classmethod
    def of_images(cls, discriminator: Discriminator, images: Tensor) -> NewClass:
        """Return the game for images [M, C, R, R] of the class."""
        return cls(discriminator, in_parts(discriminator.features, images), mean_row(discriminator))

    def fool(self, images: Tensor, row: Tensor) -> Tensor:
        """Return the class vector's loss, ``-E D(G(z, c))``."""
        return -logits_of(self.discriminator, self.discriminator.features(images), row).mean()

    def judge(self, images: Tensor, row: Tensor) -> Tensor:
        """Return the row's loss, ``E max(0, 1 - D(x)) + E max(0, 1 + D(G(z, c)))``."""
        fake = logits_of(self.discriminator, self.discriminator.features(images), row)
        real = logits_of(self.discriminator, self.real, row)
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def __call__(self, images: Tensor) -> Tensor:
        """Return the loss before the row has learnt anything, for choosing where to begin."""
        return self.fool(images, self.start)
