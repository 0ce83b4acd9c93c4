"""The mapping network z -> w and the discriminator's class embedding."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.stylegan2.layers import (
    FullyConnected,
    at_least_float32,
    full_precision,
    normalise_second_moment,
)
from graftgan.gans.stylegan2.spec import StyleGAN2Spec
from graftgan.world import averaged

LR_MULTIPLIER = 0.01
W_AVG_BETA = 0.998


class _FcStack(nn.Module):
    """Layers ``fc0, fc1, ...`` and, with classes, ``embed``."""

    def __init__(self, in_features: int, out_features: int, layers: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.layers = layers
        if classes:
            self.embed = FullyConnected(classes, out_features)
        width = in_features + (out_features if classes else 0)
        for i in range(layers):
            layer = FullyConnected(width, out_features, lr_multiplier=LR_MULTIPLIER, activation=True)
            self.add_module(f"fc{i}", layer)
            width = out_features

    def embed_labels(self, labels: Tensor | None) -> Tensor:
        """Embed class ids [N], or class weights [N, classes], as rows of unit second moment."""
        if labels is None:
            raise ValueError(
                f"this network has {self.classes} classes: pass the class id of every image as `labels`"
            )
        weights = labels if labels.is_floating_point() else F.one_hot(labels.long(), self.classes)
        if weights.shape[1:] != (self.classes,):
            raise ValueError(f"labels of shape {tuple(labels.shape)}: expected [N] or [N, {self.classes}]")
        return normalise_second_moment(self.embed(weights.to(self.embed.weight.dtype)))

    def run(self, x: Tensor) -> Tensor:
        """Send ``x`` through all layers."""
        for i in range(self.layers):
            x = cast(FullyConnected, getattr(self, f"fc{i}"))(x)
        return x


class Mapping(_FcStack):
    """Latent z to one w for every layer of the synthesis network (Karras et al. 2019, section 2).

    The buffer ``w_avg`` [w_dim] follows the mean of w while training; truncation pulls towards it.
    """

    w_avg: Tensor

    def __init__(self, spec: StyleGAN2Spec) -> None:
        super().__init__(spec.z_dim, spec.w_dim, spec.mapping_layers, spec.classes)
        self.z_dim = spec.z_dim
        self.num_ws = spec.num_ws
        self.register_buffer("w_avg", torch.zeros(spec.w_dim))

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        truncation_psi: float = 1.0,
        update_w_avg: bool = True,
    ) -> Tensor:
        """Map ``z`` [N, z_dim] to ``ws`` [N, num_ws, w_dim] in float32.

        Args:
            z: Latents; they are scaled to unit root mean square.
            labels: Class ids [N] or weights [N, classes], if the network has classes.
            truncation_psi: ``w_avg + psi * (w - w_avg)``.
            update_w_avg: Whether a call in training mode moves ``w_avg`` (beta 0.998 a call).

        Raises:
            ValueError: ``z`` or ``labels`` have the wrong shape, or labels are missing.
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z of shape {tuple(z.shape)}: expected [N, {self.z_dim}]")
        with full_precision(z):
            x = normalise_second_moment(at_least_float32(z))
            if self.classes:
                x = torch.cat([x, self.embed_labels(labels)], dim=1)
            w = self.run(x)
            if self.training and update_w_avg:
                self._follow(w)
            if truncation_psi != 1:
                w = self.w_avg + truncation_psi * (w - self.w_avg)
        return w.unsqueeze(1).repeat(1, self.num_ws, 1)

    @torch.no_grad()
    def _follow(self, w: Tensor) -> None:
        self.w_avg.lerp_(averaged(w.mean(dim=0)), 1 - W_AVG_BETA)


class LabelMapping(_FcStack):
    """Class ids to the vectors that the discriminator's output is projected on (Miyato & Koyama 2018)."""

    def __init__(self, spec: StyleGAN2Spec, out_features: int) -> None:
        super().__init__(0, out_features, spec.label_layers, spec.classes)

    def forward(self, labels: Tensor | None) -> Tensor:
        """Map class ids [N] to [N, out_features] in float32."""
        return self.run(self.embed_labels(labels))
