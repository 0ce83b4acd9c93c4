"""What a class vector is optimised for: losses of images, with and without a classifier (Li et al. 2020).

All losses are smaller for better images and have no dimensions. Diversity is added by the trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from graftgan.gans.base import Discriminator

SAFE = 1e-12
PROBE_STEPS = 200
PROBE_RIDGE = 1e-3
PART = 32
Features = Callable[[Tensor], Tensor]


class Objective(Protocol):
    """The loss of images that one class vector made."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return the loss of images [N, C, R, R] in [-1, 1]."""


@torch.no_grad()
def in_parts(function: Features, images: Tensor) -> Tensor:
    """Return the rows that a function makes of many images, some at a time."""
    return torch.cat([function(part) for part in images.split(PART)])


def diversity(rows: Tensor, z: Tensor, pairs: Tensor) -> Tensor:
    """Return ``mean |phi(x_i) - phi(x_j)| / |z_i - z_j|`` over pairs (Li et al. 2020, but a mean).

    Args:
        rows: ``phi(x)``, [N, ...].
        z: Latents [N, z_dim].
        pairs: Numbers i, j of the images, [P, 2].
    """
    first, second = pairs[:, 0], pairs[:, 1]
    apart = (rows[first] - rows[second]).flatten(1).square().sum(dim=1)
    latents = (z[first] - z[second]).square().sum(dim=1)
    # The root of 0 has no finite slope, and a collapsed class begins near there.
    return ((apart + SAFE).sqrt() / (latents + SAFE).sqrt()).mean()


def random_pairs(count: int, rng: torch.Generator) -> Tensor:
    """Draw ``count // 2`` pairs of different numbers below `count`, none in two pairs, [P, 2]."""
    shuffled = torch.randperm(count, generator=rng)
    return shuffled[: count // 2 * 2].reshape(-1, 2)


@dataclass(frozen=True)
class Classifier:
    """Activation maximisation: ``-log softmax(P(x))_t`` (Li et al. 2020, section 3.1).

    Attributes:
        logits: Images to class logits [N, K].
        target: The wanted class t.
    """

    logits: Features
    target: int

    def __call__(self, images: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        logits = self.logits(images)
        wanted = torch.full((len(images),), self.target, device=logits.device)
        return F.cross_entropy(logits, wanted)


@dataclass(frozen=True)
class Probe:
    """A linear classifier of the target's images against the source's samples, on fixed features.

    Attributes:
        features: Images to rows [N, D].
        mean: Mean of the rows that it was trained on, [D].
        scale: Their deviation, [D].
        weight: [D].
        bias: Without dimensions.
    """

    features: Features
    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def train(cls, features: Features, wanted: Tensor, others: Tensor) -> Probe:
        """Fit it by logistic regression with a ridge, both sides counting the same.

        Args:
            features: Images to rows.
            wanted: Rows of the target's images, [M, D].
            others: Rows of samples of the source's classes, [N, D].
        """
        rows = torch.cat([wanted, others])
        mean, scale = rows.mean(dim=0), rows.std(dim=0) + 1e-6
        x = (rows - mean) / scale
        y = torch.cat([torch.ones(len(wanted)), torch.zeros(len(others))]).to(x)
        share = torch.where(y > 0, 0.5 / len(wanted), 0.5 / len(others))
        weight = torch.zeros(x.shape[1], device=x.device, requires_grad=True)
        bias = torch.zeros((), device=x.device, requires_grad=True)
        newton = torch.optim.LBFGS([weight, bias], max_iter=PROBE_STEPS, line_search_fn="strong_wolfe")

        def closure() -> float:
            newton.zero_grad()
            logits = x @ weight + bias
            loss = F.binary_cross_entropy_with_logits(logits, y, share, reduction="sum")
            loss = loss + PROBE_RIDGE * weight.square().sum()
            torch.autograd.backward(loss)
            return float(loss.detach())

        newton.step(closure)
        return cls(features, mean, scale, weight.detach(), bias.detach())

    def logits(self, rows: Tensor) -> Tensor:
        """Return the logits [N] of rows of features."""
        return (rows - self.mean) / self.scale @ self.weight + self.bias

    def __call__(self, images: Tensor) -> Tensor:
        """Return the mean of ``-log sigmoid(logit)``."""
        return F.softplus(-self.logits(self.features(images))).mean()


@dataclass(frozen=True)
class ClassDiscriminator:
    """The source's own discriminator, asked for images of its class t.

    Attributes:
        discriminator: With classes, in evaluation mode.
        target: t.
    """

    discriminator: Discriminator
    target: int

    def realism(self, images: Tensor) -> Tensor:
        """Return the mean logit."""
        labels = torch.full((len(images),), self.target, device=images.device)
        logits: Tensor = self.discriminator(images, labels)
        return logits.mean()

    def __call__(self, images: Tensor) -> Tensor:
        """Return the mean of ``-log sigmoid(D(x, t))``."""
        labels = torch.full((len(images),), self.target, device=images.device)
        return F.softplus(-self.discriminator(images, labels)).mean()


@dataclass(frozen=True)
class Realism:
    """Repair without images: diversity may grow while D finds images as real as those of healthy classes.

    Attributes:
        judge: D, asked for the class.
        floor: Mean logit below which images may not fall.
    """

    judge: ClassDiscriminator
    floor: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return how far the mean logit is below the floor."""
        return F.relu(self.floor - self.judge.realism(images))


@dataclass(frozen=True)
class KernelMatch:
    """Kernel distance of features between samples and the target's images: the unbiased KID, less a constant.

    ``mean_{i != j} k(f_i, f_j) - 2 mean k(f_i, r_j)`` with ``k(x, y) = (x.y / D + 1)^3`` (Binkowski et al.
    2018); the part of the real images alone has no gradient.

    Attributes:
        features: Images to rows [N, D].
        real: Rows of the target's images, [M, D].
    """

    features: Features
    real: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Return the distance; it needs two images."""
        rows = self.features(images)
        n, dim = rows.shape
        within = (rows @ rows.t() / dim + 1) ** 3
        across = (rows @ self.real.t() / dim + 1) ** 3
        apart = (within.sum() - within.diagonal().sum()) / (n * (n - 1))
        return apart - 2 * across.mean()


@dataclass(frozen=True)
class Reconstruction:
    """Distance to given images, in features and in pixels; the latents are optimised beside the class vector.

    Attributes:
        features: Images to rows [N, D].
        real: Images [N, C, R, R].
        rows: Their features [N, D].
    """

    features: Features
    real: Tensor
    rows: Tensor

    def of(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Return the loss of images that stand for the real ones numbered `chosen`."""
        scale = self.rows.square().mean()
        perceptual: Tensor = (self.features(images) - self.rows[chosen]).square().mean() / scale
        return perceptual + (images - self.real[chosen]).square().mean()

    def __call__(self, images: Tensor) -> Tensor:
        """Return the distance to the nearest real image, for comparing starts."""
        rows = self.features(images)
        nearest: Tensor = torch.cdist(rows, self.rows).min(dim=1).values
        share: Tensor = nearest.mean() / self.rows.norm(dim=1).mean()
        return share
