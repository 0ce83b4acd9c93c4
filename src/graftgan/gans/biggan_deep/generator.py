"""BigGAN-deep's generator: bottleneck blocks whose shortcut drops feature maps."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.base import Generator, NoiseMode
from graftgan.gans.biggan.layers import WEIGHT_STD, look_up
from graftgan.gans.biggan.truncation import truncate
from graftgan.gans.biggan_deep.layers import (
    BatchNorm,
    ConditionalBatchNorm,
    Conv,
    Linear,
    Rows,
    SelfAttention,
    statistics_rows,
)
from graftgan.gans.biggan_deep.spec import BOTTLENECK, STEM_WIDTH, BigGANDeepSpec, Layer
from graftgan.gans.stylegan2.layers import at_least_float32


class GeneratorBlock(nn.Module):
    """Bottleneck block (Brock et al. 2019, figure 16): 1, 3, 3 and 1 px convolutions, each behind a norm."""

    def __init__(self, spec: BigGANDeepSpec, layer: Layer) -> None:
        super().__init__()
        self.doubles, inner, out = layer[0], layer[1] * spec.channel_width, layer[2] * spec.channel_width
        self.kept = out
        middle = inner // BOTTLENECK
        shapes = ((inner, middle, 1), (middle, middle, 3), (middle, middle, 3), (middle, out, 1))
        for i, (before, after, kernel) in enumerate(shapes):
            norm = ConditionalBatchNorm(before, spec.condition_dim, spec.n_stats, spec.bn_eps, spec.sn_eps)
            self.add_module(f"bn_{i}", norm)
            self.add_module(f"conv_{i}", Conv(before, after, kernel, spec.sn_eps))

    def forward(self, x: Tensor, y: Tensor, rows: Rows) -> Tensor:
        """Map ``x`` [N, I, H, W] with the condition ``y`` to [N, O, H, W], or twice that size."""
        h = x
        for i in range(4):
            h = F.relu(getattr(self, f"bn_{i}")(h, y, rows))
            if i == 1 and self.doubles:
                h = F.interpolate(h, scale_factor=2)
            h = getattr(self, f"conv_{i}")(h)
        shortcut = x[:, : self.kept]
        return h + (F.interpolate(shortcut, scale_factor=2) if self.doubles else shortcut)


class Body(nn.Module):
    """Condition to image: everything but the class embedding."""

    def __init__(self, spec: BigGANDeepSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.channel_width
        self.gen_z = Linear(spec.condition_dim, 16 * STEM_WIDTH * width, spec.sn_eps)
        self.layers = nn.ModuleList()
        for i, layer in enumerate(spec.blocks):
            if i == spec.attention_layer_position:
                self.layers.append(SelfAttention(layer[1] * width, spec.sn_eps))
            self.layers.append(GeneratorBlock(spec, layer))
        self.bn = BatchNorm(width, spec.n_stats, spec.bn_eps)
        self.conv_to_rgb = Conv(width, width, 3, spec.sn_eps)

    def forward(self, y: Tensor, rows: Rows) -> Tensor:
        """Map conditions [N, condition_dim] to float32 images [N, channels, R, R]."""
        # The published weights come from a network with channels last: rows run over places, then channels.
        h = self.gen_z(y).reshape(-1, 4, 4, STEM_WIDTH * self.spec.channel_width).permute(0, 3, 1, 2)
        for layer in self.layers:
            h = layer(h) if isinstance(layer, SelfAttention) else layer(h, y, rows)
        rgb = self.conv_to_rgb(F.relu(self.bn(h, rows)))[:, : self.spec.channels]
        return torch.tanh(at_least_float32(rgb))


class BigGANDeepGenerator(Generator):
    """Latent and class to an image (Brock et al. 2019, appendix B, "BigGAN-deep").

    Batch norms never see the batch: their statistics were gathered once for each of `n_stats` truncations,
    after training. Fine-tuning uses those of truncation 1, so that training and sampling agree; the rows of
    lower truncations then describe the source still.
    """

    spec: BigGANDeepSpec

    def __init__(self, spec: BigGANDeepSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.classes:
            self.embeddings = nn.Linear(spec.classes, spec.class_embed_dim, bias=False)
            nn.init.normal_(self.embeddings.weight, std=WEIGHT_STD)
        self.generator = Body(spec)

    def embed(self, labels: Tensor | None) -> Tensor:
        """Return the vectors [N, class_embed_dim] of class ids [N] or of class weights [N, classes].

        Raises:
            ValueError: Labels are missing, of the wrong shape, or the network has no classes.
        """
        if not self.spec.classes:
            raise ValueError("this network has no classes, so none can be embedded")
        return look_up(self.embeddings.weight.t(), labels)

    def forward_embedded(
        self, z: Tensor, class_vectors: Tensor | None, statistics_psi: float = 1.0
    ) -> Tensor:
        """Map latents, taken as they are, and class vectors to float32 images [N, channels, R, R].

        Args:
            z: [N, z_dim].
            class_vectors: [N, class_embed_dim] as :meth:`embed` gives them, or tuned; None if there are no
                classes.
            statistics_psi: Truncation whose batch-norm statistics are used, 0 to 1.

        Raises:
            ValueError: ``z`` or the class vectors have the wrong shape.
        """
        spec = self.spec
        if z.ndim != 2 or z.shape[1] != spec.z_dim:
            raise ValueError(f"z of shape {tuple(z.shape)}: expected [N, {spec.z_dim}]")
        classes = z[:, :0] if class_vectors is None else class_vectors
        width = spec.condition_dim - spec.z_dim
        if classes.shape != (len(z), width):
            raise ValueError(f"class vectors of shape {tuple(classes.shape)}: expected [{len(z)}, {width}]")
        rows = statistics_rows(statistics_psi, spec.n_stats, spec.lookup)
        return cast(Tensor, self.generator(torch.cat([z, classes], dim=1), rows))

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
            truncation_psi: Truncates z (:func:`graftgan.gans.biggan.truncation.truncate`) and picks the
                batch-norm statistics.
            noise_mode: Without effect: this family has no noise besides z.

        Raises:
            ConfigError: ``truncation_psi`` is not within 0 and 1.
            ValueError: ``z`` or ``labels`` have the wrong shape, or labels are missing.
        """
        vectors = self.embed(labels) if self.spec.classes else None
        return self.forward_embedded(truncate(z, truncation_psi), vectors, truncation_psi)
