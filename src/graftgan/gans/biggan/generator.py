"""BigGAN's generator: residual blocks with batch norms conditioned on class and latent."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.base import Generator, NoiseMode
from graftgan.gans.biggan.layers import (
    Attention,
    BatchNorm,
    ConditionalBatchNorm,
    SNConv2d,
    SNLinear,
    StoredStatistics,
    Table,
    look_up,
)
from graftgan.gans.biggan.spec import BigGANSpec, BlockSizes
from graftgan.gans.biggan.truncation import truncate
from graftgan.gans.stylegan2.layers import at_least_float32


class GeneratorBlock(nn.Module):
    """Residual block that doubles the size (Brock et al. 2019, figure 15a)."""

    def __init__(self, spec: BigGANSpec, sizes: BlockSizes) -> None:
        super().__init__()
        inner, out, eps = sizes.in_channels, sizes.out_channels, spec.sn_eps
        table = bool(spec.classes) and not spec.shared_dim
        self.bn1 = ConditionalBatchNorm(inner, spec.condition_dim, table, spec.bn_eps, eps)
        self.bn2 = ConditionalBatchNorm(out, spec.condition_dim, table, spec.bn_eps, eps)
        self.conv1 = SNConv2d(inner, out, 3, eps)
        self.conv2 = SNConv2d(out, out, 3, eps)
        self.conv_sc = SNConv2d(inner, out, 1, eps)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map ``x`` [N, I, H, W] with the condition ``y`` to [N, O, 2 H, 2 W]."""
        h = self.conv1(F.interpolate(F.relu(self.bn1(x, y)), scale_factor=2))
        h = self.conv2(F.relu(self.bn2(h, y)))
        # A 1x1 convolution of repeated pixels repeats its results: convolving first is four times cheaper.
        return cast(Tensor, h + F.interpolate(self.conv_sc(x), scale_factor=2))


class BigGANGenerator(Generator):
    """Latent and class to an image (Brock et al. 2019, arXiv:1809.11096)."""

    spec: BigGANSpec

    def __init__(self, spec: BigGANSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.classes and spec.shared_dim:
            self.shared = Table(spec.classes, spec.shared_dim)
        self.linear = SNLinear(spec.chunk, spec.stem_channels * 16, spec.sn_eps)
        self.blocks = nn.ModuleList()
        for sizes in spec.g_blocks:
            layers: list[nn.Module] = [GeneratorBlock(spec, sizes)]
            if sizes.attention:
                layers.append(Attention(sizes.out_channels, spec.sn_eps))
            self.blocks.append(nn.ModuleList(layers))
        last = spec.g_blocks[-1].out_channels
        self.output_layer = nn.Sequential(
            BatchNorm(last), nn.ReLU(), SNConv2d(last, spec.channels, 3, spec.sn_eps)
        )

    def embed(self, labels: Tensor | None) -> Tensor:
        """Return the vectors [N, class_dim] of class ids [N] or of class weights [N, classes].

        Without a shared embedding these are the class weights themselves.

        Raises:
            ValueError: Labels are missing, of the wrong shape, or the network has no classes.
        """
        if not self.spec.classes:
            raise ValueError("this network has no classes, so none can be embedded")
        if self.spec.shared_dim:
            return cast(Tensor, self.shared(labels))
        weight = self.linear.weight
        return look_up(torch.eye(self.spec.classes, dtype=weight.dtype, device=weight.device), labels)

    def forward_embedded(self, z: Tensor, class_vectors: Tensor | None) -> Tensor:
        """Map latents, taken as they are, and class vectors to float32 images [N, channels, R, R].

        Args:
            z: [N, z_dim].
            class_vectors: [N, class_dim] as :meth:`embed` gives them, or tuned; None if there are no classes.

        Raises:
            ValueError: ``z`` or the class vectors have the wrong shape.
        """
        spec = self.spec
        if z.ndim != 2 or z.shape[1] != spec.z_dim:
            raise ValueError(f"z of shape {tuple(z.shape)}: expected [N, {spec.z_dim}]")
        classes = z[:, :0] if class_vectors is None else class_vectors
        if classes.shape != (len(z), spec.class_dim):
            raise ValueError(
                f"class vectors of shape {tuple(classes.shape)}: expected [{len(z)}, {spec.class_dim}]"
            )
        first, *parts = z.split(spec.chunk, dim=1)
        if not spec.hier:
            parts = [z[:, :0]] * len(self.blocks)
        h = self.linear(first).reshape(-1, spec.stem_channels, 4, 4)
        for block, part in zip(self.blocks, parts, strict=True):
            layers = cast(nn.ModuleList, block)
            h = layers[0](h, torch.cat([classes, part], dim=1))
            for attention in layers[1:]:
                h = attention(h)
        return torch.tanh(at_least_float32(self.output_layer(h)))

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        truncation_psi: float = 1.0,
        noise_mode: NoiseMode = "random",
    ) -> Tensor:
        """Map latents and classes to float32 images [N, channels, R, R].

        Args:
            z: Standard normal latents [N, z_dim].
            labels: Class ids [N] or weights [N, classes], if the network has classes.
            truncation_psi: See :func:`graftgan.gans.biggan.truncation.truncate`.
            noise_mode: Without effect: this family has no noise besides z.

        Raises:
            ConfigError: ``truncation_psi`` is not within 0 and 1.
            ValueError: ``z`` or ``labels`` have the wrong shape, or labels are missing.
        """
        vectors = self.embed(labels) if self.spec.classes else None
        return self.forward_embedded(truncate(z, truncation_psi), vectors)

    def freeze_statistics(self, frozen: bool = True) -> None:
        """Let all batch norms use their stored statistics in training too, or undo that.

        Few classes in a batch would otherwise overwrite statistics gathered over all classes of the source.
        """
        for module in self.modules():
            if isinstance(module, StoredStatistics):
                module.frozen = frozen
