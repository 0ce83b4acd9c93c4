"""Generator and discriminator of strided 4x4 convolutions (Radford et al. 2016, section 3 and figure 1)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.across import batch_norm
from graftgan.gans.base import Discriminator, Generator, NoiseMode
from graftgan.gans.dcgan.spec import DCGANSpec
from graftgan.gans.stylegan2.layers import at_least_float32, full_precision
from graftgan.world import shards

KERNEL = 4
LRELU_SLOPE = 0.2
WEIGHT_STD = 0.02


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that can keep its stored statistics in training.

    Attributes:
        frozen: Use the stored statistics in training too and leave them as they are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.frozen = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` [N, C, H, W] and return the same shape."""
        if self.training and not self.frozen and shards() > 1:
            return self._across(x)
        if not self.frozen:
            return super().forward(x)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    def _across(self, x: Tensor) -> Tensor:
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        assert mean is not None and var is not None and count is not None and self.momentum is not None
        count.add_(1)
        return batch_norm(x, mean, var, self.weight, self.bias, self.momentum, self.eps)


def initialise(layers: Iterable[nn.Module]) -> None:
    """Draw weights from N(0, 0.02), gains of batch norms from N(1, 0.02) (section 4)."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | BatchNorm):
            nn.init.normal_(layer.weight, float(isinstance(layer, BatchNorm)), WEIGHT_STD)


class DCGANGenerator(Generator):
    """Latent to an image: transposed convolutions with batch norm and ReLU, tanh at the end."""

    spec: DCGANSpec

    def __init__(self, spec: DCGANSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = (spec.z_dim, *reversed(spec.widths(spec.g_ch)))
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            # The first makes 4x4 of a single place, the others double the size.
            step = (2, 1) if layers else (1, 0)
            layers += [
                nn.ConvTranspose2d(inner, outer, KERNEL, *step, bias=False),
                BatchNorm(outer),
                nn.ReLU(),
            ]
        layers.append(nn.ConvTranspose2d(spec.g_ch, spec.channels, KERNEL, 2, 1, bias=False))
        initialise(layers)
        self.main = nn.Sequential(*layers)

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        truncation_psi: float = 1.0,
        noise_mode: NoiseMode = "random",
    ) -> Tensor:
        """Map ``z`` [N, z_dim] to float32 images [N, channels, R, R] in [-1, 1].

        Args:
            z: Latents.
            labels: Without effect: this family has no classes.
            truncation_psi: Factor on z: 0 is the image at the prior's mean.
            noise_mode: Without effect: this family has no noise besides z.

        Raises:
            ValueError: ``z`` has the wrong shape.
        """
        if z.ndim != 2 or z.shape[1] != self.spec.z_dim:
            raise ValueError(f"z of shape {tuple(z.shape)}: expected [N, {self.spec.z_dim}]")
        return torch.tanh(at_least_float32(self.main((z * truncation_psi)[:, :, None, None])))

    def freeze_statistics(self, frozen: bool = True) -> None:
        """Let all batch norms use their stored statistics in training too, or undo that."""
        for layer in self.main:
            if isinstance(layer, BatchNorm):
                layer.frozen = frozen


class DCGANDiscriminator(Discriminator):
    """Image to a logit: strided convolutions with leaky ReLU, and batch norm behind all but first and last.

    The public layout ends in a sigmoid, which the losses here contain.
    """

    spec: DCGANSpec

    def __init__(self, spec: DCGANSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = spec.widths(spec.d_ch)
        layers: list[nn.Module] = [
            nn.Conv2d(spec.channels, spec.d_ch, KERNEL, 2, 1, bias=False),
            nn.LeakyReLU(LRELU_SLOPE),
        ]
        for inner, outer in pairwise(widths):
            layers += [
                nn.Conv2d(inner, outer, KERNEL, 2, 1, bias=False),
                BatchNorm(outer),
                nn.LeakyReLU(LRELU_SLOPE),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, KERNEL, bias=False))
        initialise(layers)
        self.main = nn.Sequential(*layers)

    def features(self, img: Tensor, mbstd_split: int = 1) -> Tensor:
        """Map images [N, channels, R, R] to the float32 input [N, F] of the last layer, flattened.

        Args:
            img: Images.
            mbstd_split: Number of equal parts, one behind the other, that batch norms treat as batches of
                their own in training.

        Raises:
            ValueError: The images have the wrong shape or ``mbstd_split`` does not divide N.
        """
        expected = (self.spec.channels, self.spec.resolution, self.spec.resolution)
        if img.ndim != 4 or img.shape[1:] != expected:
            raise ValueError(
                f"images of shape {tuple(img.shape)}: expected [N, {', '.join(map(str, expected))}]"
            )
        if len(img) % mbstd_split:
            raise ValueError(f"mbstd_split {mbstd_split} does not divide the batch of {len(img)}")
        x = img
        for layer in list(self.main)[:-1]:
            if isinstance(layer, BatchNorm) and layer.training:
                x = torch.cat([layer(part) for part in x.chunk(mbstd_split)])
            else:
                x = layer(x)
        return at_least_float32(x.flatten(1))

    def logits(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map :meth:`features` [N, F] to float32 logits [N, 1]; labels are without effect."""
        with full_precision(features):
            # At 4x4 the last convolution has one place, which makes it a linear layer.
            return F.linear(features, cast(Tensor, self.main[-1].weight).flatten(1))

    def forward(self, img: Tensor, labels: Tensor | None = None, mbstd_split: int = 1) -> Tensor:
        """Map images [N, channels, R, R] to float32 logits [N, 1]; labels are without effect."""
        return self.logits(self.features(img, mbstd_split), labels)
