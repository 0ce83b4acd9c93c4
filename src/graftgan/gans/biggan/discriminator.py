"""BigGAN's discriminator: residual blocks, sum pooling, class projection."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.base import Discriminator
from graftgan.gans.biggan.layers import Attention, SNConv2d, SNEmbedding, SNLinear
from graftgan.gans.biggan.spec import BlockSizes, ProjectionSpec
from graftgan.gans.stylegan2.layers import at_least_float32, full_precision


class DiscriminatorBlock(nn.Module):
    """Residual block (Brock et al. 2019, figure 15b); the first reads the image and does not activate it."""

    def __init__(self, sizes: BlockSizes, first: bool, eps: float) -> None:
        super().__init__()
        inner, out = sizes.in_channels, sizes.out_channels
        self.first, self.halves = first, sizes.resizes
        self.conv1 = SNConv2d(inner, out, 3, eps)
        self.conv2 = SNConv2d(out, out, 3, eps)
        self.conv_sc = SNConv2d(inner, out, 1, eps) if inner != out or self.halves else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, I, H, W] to [N, O, H, W], or half that size."""
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        # A 1x1 convolution and the mean of 2x2 pixels commute, so averaging first serves all blocks.
        x = F.avg_pool2d(x, 2) if self.halves else x
        h = F.avg_pool2d(h, 2) if self.halves else h
        return cast(Tensor, h + (x if self.conv_sc is None else self.conv_sc(x)))


class BigGANDiscriminator(Discriminator):
    """Image and class to a logit, by projection (Miyato & Koyama 2018; Brock et al. 2019).

    Args:
        spec: Sizes; any spec with the discriminator's fields.
    """

    spec: ProjectionSpec

    def __init__(self, spec: ProjectionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.blocks = nn.ModuleList()
        for index, sizes in enumerate(spec.d_blocks):
            layers: list[nn.Module] = [DiscriminatorBlock(sizes, index == 0, spec.sn_eps)]
            if sizes.attention:
                layers.append(Attention(sizes.out_channels, spec.sn_eps))
            self.blocks.append(nn.ModuleList(layers))
        width = spec.d_blocks[-1].out_channels
        self.linear = SNLinear(width, 1, spec.sn_eps)
        if spec.classes:
            self.embed = SNEmbedding(spec.classes, width, spec.sn_eps)

    def features(self, img: Tensor, mbstd_split: int = 1) -> Tensor:
        """Map images [N, channels, R, R] to float32 features [N, F], summed over all places.

        Args:
            img: Images.
            mbstd_split: Without effect: no layer here looks across the batch.

        Raises:
            ValueError: The images have the wrong shape.
        """
        expected = (self.spec.channels, self.spec.resolution, self.spec.resolution)
        if img.ndim != 4 or img.shape[1:] != expected:
            raise ValueError(
                f"images of shape {tuple(img.shape)}: expected [N, {', '.join(map(str, expected))}]"
            )
        h = img
        for block in self.blocks:
            for layer in cast(nn.ModuleList, block):
                h = layer(h)
        return at_least_float32(F.relu(h)).sum(dim=(2, 3))

    def logits(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map :meth:`features` [N, F] and classes to float32 logits [N, 1]: ``linear(h) + <embed(y), h>``."""
        with full_precision(features):
            out = self.linear(features)
            if self.spec.classes:
                out = out + (self.embed(labels) * features).sum(dim=1, keepdim=True)
        return cast(Tensor, out)

    def forward(self, img: Tensor, labels: Tensor | None = None, mbstd_split: int = 1) -> Tensor:
        """Map images [N, channels, R, R] and classes, as ids [N] or weights, to float32 logits [N, 1]."""
        return self.logits(self.features(img, mbstd_split), labels)
