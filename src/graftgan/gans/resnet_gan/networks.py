"""Generator and discriminator of residual blocks without normalisation (Mescheder et al. 2018, appendix)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.base import Discriminator, Generator, NoiseMode
from graftgan.gans.resnet_gan.head import SmallHead
from graftgan.gans.resnet_gan.layers import BRANCH_GAIN, activate
from graftgan.gans.resnet_gan.spec import ResnetGanSpec
from graftgan.gans.stylegan2.layers import at_least_float32, full_precision


class ResidualBlock(nn.Module):
    """Computes ``s(x) + 0.1 * conv_1(lrelu(conv_0(lrelu(x))))`` with 3x3 convolutions.

    ``s`` is the identity, or a 1x1 convolution without bias where the width changes.

    Args:
        in_channels: Feature maps in.
        out_channels: Feature maps out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = min(in_channels, out_channels)
        self.conv_0 = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.conv_1 = nn.Conv2d(hidden, out_channels, 3, padding=1)
        self.conv_s = (
            nn.Conv2d(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, I, H, W] to [N, O, H, W]."""
        shortcut = x if self.conv_s is None else self.conv_s(x)
        return cast(Tensor, shortcut + BRANCH_GAIN * self.conv_1(activate(self.conv_0(activate(x)))))


def add_blocks(network: nn.Module, spec: ResnetGanSpec, stages: Sequence[Sequence[tuple[int, int]]]) -> None:
    """Give a network its residual blocks, under the layout's names.

    Args:
        network: Generator or discriminator.
        spec: Its sizes.
        stages: For each stage, in the order of computation, the widths in and out of each block.
    """
    if spec.layout.indexed:
        network.add_module("resnet", nn.ModuleDict())
    for stage, blocks in enumerate(stages):
        for index, (width_in, width_out) in enumerate(blocks):
            parent, _, name = spec.layout.block_name(stage, index).rpartition(".")
            network.get_submodule(parent).add_module(name, ResidualBlock(width_in, width_out))


def blocks_of(network: nn.Module, spec: ResnetGanSpec, stage: int) -> Iterator[nn.Module]:
    """Yield the residual blocks of a stage."""
    for index in range(spec.layout.blocks):
        yield network.get_submodule(spec.layout.block_name(stage, index))


def class_ids(spec: ResnetGanSpec, labels: Tensor | None, like: Tensor) -> Tensor:
    """Return class ids [N], all 0 where the network has no classes.

    Args:
        spec: Sizes of the network.
        labels: Class ids [N] as given.
        like: Any tensor of N rows on the network's device.

    Raises:
        ValueError: The network has classes and there is not one label a row.
    """
    if not spec.classes:
        return torch.zeros(like.shape[0], dtype=torch.long, device=like.device)
    if labels is None or labels.shape != like.shape[:1]:
        given = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)}"
        raise ValueError(f"{given}: this network has {spec.classes} classes, pass {like.shape[0]} class ids")
    return labels.long()


class ResnetGenerator(Generator):
    """Latent and class embedding to an image: linear layer, stages of residual blocks, tanh.

    Nearest neighbours double the size between stages. The network takes no noise, unless a small head stands
    in the place of the linear layer and the first stages.
    """

    spec: ResnetGanSpec

    def __init__(self, spec: ResnetGanSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = spec.widths(spec.nfilter_max)[::-1]
        kernel = spec.layout.kernel
        self.embedding = nn.Embedding(spec.labels, spec.embed_dim)
        stages: list[list[tuple[int, int]]] = [
            [(wide, narrow), *[(narrow, narrow)] * (spec.layout.blocks - 1)]
            for wide, narrow in pairwise(widths)
        ]
        if spec.head_px:
            kept, side = spec.first_stage, spec.head_px // 2
            self.small = SmallHead(spec.z_dim, widths[kept], spec.base, side, spec.head_grad_gain)
        else:
            self.fc = nn.Linear(spec.z_dim + spec.embed_dim, widths[0] * spec.base**2)
        left_out: list[list[tuple[int, int]]] = [[]] * spec.first_stage
        add_blocks(self, spec, left_out + stages[spec.first_stage :])
        self.conv_img = nn.Conv2d(spec.nfilter, spec.channels, kernel, padding=kernel // 2)

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        truncation_psi: float = 1.0,
        noise_mode: NoiseMode = "random",
    ) -> Tensor:
        """Map ``z`` [N, z_dim] (and class ids [N]) to float32 images [N, channels, R, R] in [-1, 1].

        Args:
            z: Latents.
            labels: Class ids, if the network has classes.
            truncation_psi: Factor on z: 0 is the image at the prior's mean.
            noise_mode: Of the small head; without effect where there is none.

        Raises:
            ValueError: ``z`` or ``labels`` have the wrong shape, or labels are missing.
        """
        spec = self.spec
        if z.ndim != 2 or z.shape[1] != spec.z_dim:
            raise ValueError(f"z of shape {tuple(z.shape)}: expected [N, {spec.z_dim}]")
        x = self._climb(self._stem(z * truncation_psi, labels, noise_mode), spec.stages)
        if spec.layout.outer:
            x = F.interpolate(x, scale_factor=2.0)
        return torch.tanh(at_least_float32(self.conv_img(activate(x))))

    def _stem(self, z: Tensor, labels: Tensor | None, noise_mode: NoiseMode) -> Tensor:
        """Return the features [N, C, H, W] that the first block takes."""
        spec = self.spec
        if spec.head_px:
            return cast(Tensor, self.small(z, noise_mode))
        x = self.fc(torch.cat([z, self.embed(class_ids(spec, labels, z))], dim=1))
        return cast(Tensor, x.reshape(-1, self.fc.out_features // spec.base**2, spec.base, spec.base))

    def _climb(self, x: Tensor, end: int) -> Tensor:
        """Send features through all stages there are before the stage `end`."""
        for stage in range(self.spec.first_stage, end):
            if stage:
                x = F.interpolate(x, scale_factor=2.0)
            for block in blocks_of(self, self.spec, stage):
                x = block(x)
        return x

    def before_stage(self, stage: int, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the features [N, C, H, W] that a stage takes, before their size is doubled."""
        return self._climb(self._stem(z, labels, "const"), stage)

    def embed(self, ids: Tensor) -> Tensor:
        """Map class ids [N] to the vectors [N, embed_dim] that are joined to z."""
        rows = cast(Tensor, self.embedding(ids))
        return rows / rows.norm(dim=1, keepdim=True) if self.spec.layout.unit_embedding else rows


class ResnetDiscriminator(Discriminator):
    """Image to a logit of its class: the generator's stages mirrored, then a linear layer.

    3x3 averages at every second pixel halve the size between stages; zeros beyond the border count.
    """

    spec: ResnetGanSpec

    def __init__(self, spec: ResnetGanSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = spec.widths(spec.nfilter_max_d)
        kernel = spec.layout.kernel
        self.conv_img = nn.Conv2d(spec.channels, spec.nfilter, kernel, padding=kernel // 2)
        stages = [
            [*[(narrow, narrow)] * (spec.layout.blocks - 1), (narrow, wide)]
            for narrow, wide in pairwise(widths)
        ]
        add_blocks(self, spec, stages)
        self.fc = nn.Linear(widths[-1] * spec.base**2, spec.labels)

    def features(self, img: Tensor, mbstd_split: int = 1) -> Tensor:
        """Map images [N, channels, R, R] to the float32 input [N, F] of the last linear layer.

        ``mbstd_split`` is without effect: no part of the network looks across images.

        Raises:
            ValueError: The images have the wrong shape.
        """
        return at_least_float32(activate(self._last_block(img)))

    def spectral_features(self, img: Tensor) -> Tensor:
        """Return the last block's output [N, F] before its activation, in float32 (Zhang et al. 2023)."""
        return at_least_float32(self._last_block(img))

    def _last_block(self, img: Tensor) -> Tensor:
        spec = self.spec
        expected = (spec.channels, spec.resolution, spec.resolution)
        if img.ndim != 4 or img.shape[1:] != expected:
            raise ValueError(
                f"images of shape {tuple(img.shape)}: expected [N, {', '.join(map(str, expected))}]"
            )
        x = self.conv_img(img)
        for stage in range(spec.stages):
            if stage or spec.layout.outer:
                x = F.avg_pool2d(x, 3, stride=2, padding=1)
            for block in blocks_of(self, spec, stage):
                x = block(x)
        return cast(Tensor, x.flatten(1))

    def logits(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map :meth:`features` [N, F] (and class ids [N]) to float32 logits [N, 1].

        Raises:
            ValueError: Labels are missing or have the wrong shape.
        """
        ids = class_ids(self.spec, labels, features)
        with full_precision(features):
            return cast(Tensor, self.fc(features)).gather(1, ids[:, None])

    def forward(self, img: Tensor, labels: Tensor | None = None, mbstd_split: int = 1) -> Tensor:
        """Map images [N, channels, R, R] (and class ids [N]) to float32 logits [N, 1]."""
        return self.logits(self.features(img, mbstd_split), labels)
