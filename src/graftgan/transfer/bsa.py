"""Batch statistics adaptation (Noguchi & Harada, ICCV 2019, arXiv:1904.01774), without a discriminator.

Each training image has a latent; these and G's scales and shifts move until G draws the images. Filters stay.
The residual GAN gets a scale and a shift for each channel of its linear layer and of its convolutions; other
families have their own, in their batch norms. A StyleGAN is not for it: its mapping takes the direction of z
alone, so that latents could neither start at 0 nor be cut off near it.

The published code compares features of a VGG network. Here they are those of the source's own D, each layer's
distance relative to its size: no further weights, and not the network that the result is scored by.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graftgan.config import Finetune
from graftgan.device import send
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.gans.folding import adapters
from graftgan.gans.laws import TruncatedNormal
from graftgan.gans.resnet_gan.spec import ResnetGanSpec
from graftgan.transfer import scale_shift
from graftgan.transfer.base import Method
from graftgan.transfer.direct import DirectTrainer, Task, refuse_gan_settings
from graftgan.transfer.levels import is_convolution
from graftgan.transfer.recording import outputs_of

PATTERNS: Mapping[str, str] = {
    "biggan": scale_shift.PATTERNS["biggan"],
    "biggan_deep": scale_shift.PATTERNS["biggan_deep"],
    "dcgan": r"main\.\d+\.(weight|bias)",
}
"""Family -> what the names of G's own scales and shifts match."""
FRESH = "resnet_gan"
NORMALS_A_LATENT = 10
SMALLEST = 1e-8


class Scale(nn.Module):
    """Computes ``gamma * W``, a gamma for each output channel, 1 at the start.

    Args:
        weight: [O, ...].
        channels: Output channels; rows of one channel lie next to each other.
    """

    def __init__(self, weight: Tensor, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """Map a weight to the scaled one."""
        rows = self.gamma.repeat_interleave(len(weight) // len(self.gamma))
        return weight * rows.view(-1, *[1] * (weight.ndim - 1))


class Shift(nn.Module):
    """Computes ``b + beta``, a beta for each output channel, 0 at the start; as for :class:`Scale`."""

    def __init__(self, bias: Tensor, channels: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(channels, device=bias.device))

    def forward(self, bias: Tensor) -> Tensor:
        """Map a bias [O] to the shifted one."""
        return bias + self.beta.repeat_interleave(len(bias) // len(self.beta))


def prepare(gan: Gan, settings: Finetune) -> None:
    """Give a residual GAN's linear layer and convolutions scales and shifts; other families have theirs.

    Raises:
        ConfigError: The family has no layers for it.
    """
    family = gan.spec.family
    if family in PATTERNS:
        return
    if not isinstance(gan.spec, ResnetGanSpec):
        raise ConfigError(
            f"finetune.method=bsa needs latents that G takes as they are, which the source's family={family} "
            "does not",
            f"use finetune.method=scale_shift, or set rank.sources to those of {', '.join(FAMILIES)}",
        )
    for network in (gan.generator, gan.generator_ema):
        for name, module in list(network.named_modules()):
            if name == "fc" or is_convolution(name, module):
                weight, bias = network.get_parameter(f"{name}.weight"), network.get_parameter(f"{name}.bias")
                channels = len(weight) // gan.spec.base**2 if name == "fc" else len(weight)
                parametrize.register_parametrization(module, "weight", Scale(weight, channels))
                parametrize.register_parametrization(module, "bias", Shift(bias, channels))


def moving(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of G's scales and shifts."""
    if gan.spec.family == FRESH:
        return set(adapters(gan.generator))
    pattern = re.compile(PATTERNS[gan.spec.family])
    tensors = dict(gan.generator.named_parameters())
    # In a DCGAN, vectors are those of its batch norms: its convolutions have no bias.
    return {
        n for n, p in tensors.items() if pattern.fullmatch(n) and (p.ndim == 1 or gan.spec.family != "dcgan")
    }


def latent_matching(latents: Tensor, normals: Tensor) -> Tensor:
    """Return the mean squared distance of each latent to its nearest normal vector, and the other way, added.

    Args:
        latents: [N, z_dim].
        normals: [M, z_dim], from N(0, I).
    """
    squares = latents.square().sum(1)[:, None] + normals.square().sum(1) - 2 * latents @ normals.t()
    return squares.min(dim=0).values.mean() + squares.min(dim=1).values.mean()


def feature_distance(features: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Return the sum over layers of ``mean |f - g| / mean |g|``, g being the real images' features."""
    terms = [
        (f - g).abs().mean() / g.abs().mean().clamp(min=SMALLEST) for f, g in zip(features, real, strict=True)
    ]
    return torch.stack(terms).sum()


class BatchStatisticsAdaptation(DirectTrainer):
    """Fits scales, shifts and one latent an image; the result draws from a truncated normal law.

    The loss is ``mean |G(z + noise) - x| + w_f * feature_distance + w_z * latent_matching + w_s * sum mean
    (theta - source)^2`` over scales and shifts, with the weights of `finetune.bsa`. Latents start at 0.

    Args:
        task: Networks, images and recipe.

    Raises:
        ConfigError: Features are asked for and the source has no discriminator.
    """

    def __init__(self, task: Task) -> None:
        self.sizes = task.settings.bsa
        if self.sizes.feature_weight and "discriminator" in task.gan.fresh:
            raise ConfigError(
                f"finetune.bsa.feature_weight={self.sizes.feature_weight:g} with finetune.method=bsa "
                "compares features of the source's discriminator, which it lacks",
                "set finetune.bsa.feature_weight=0, or choose another source",
            )
        z_dim = task.gan.spec.z_dim
        self.codes = nn.Parameter(torch.zeros(len(task.images), z_dim, device=task.device))
        task.gan.to(task.device)
        scales = {n: p for n, p in task.gan.generator.named_parameters() if p.requires_grad}
        rate = self.sizes.lr
        super().__init__(
            task, [{"params": list(scales.values()), "lr": rate}, {"params": [self.codes], "lr": rate}]
        )
        self.scales = scales
        self.anchors = {name: parameter.detach().clone() for name, parameter in scales.items()}
        self.gan.prior = TruncatedNormal(z_dim, self.sizes.truncation)
        self.judge = copy.deepcopy(self.gan.discriminator).eval().requires_grad_(False)
        self.layers = [n for n, m in self.judge.named_modules() if is_convolution(n, m) or _strided(m)]

    def loss(self) -> Tensor:
        """Return the loss of this step."""
        reals, rows = self.reals()
        labels = self._ids(rows)
        codes = self.codes[send(torch.from_numpy(rows), self.device)]
        noise = send(torch.randn(codes.shape, generator=self.rng), self.device) * self.sizes.noise
        images = self.gan.generator(codes + noise, labels)
        sizes, terms = self.sizes, {"pixels": (images - reals).abs().mean()}
        if sizes.feature_weight:
            terms["features"] = sizes.feature_weight * self._features(images, reals, labels)
        if sizes.latent_weight:
            terms["latents"] = sizes.latent_weight * self._matching(codes)
        if sizes.scale_weight:
            terms["scales"] = sizes.scale_weight * self.change()
        for name, term in terms.items():
            self.meter.add(f"penalty_bsa_{name}", term)
        return torch.stack(list(terms.values())).sum()

    def change(self) -> Tensor:
        """Return the sum over scale and shift tensors of their mean squared distance to the source."""
        parts = [(p - self.anchors[name]).square().mean() for name, p in self.scales.items()]
        return torch.stack(parts).sum()

    def _ids(self, rows: Any) -> Tensor | None:
        if self.labels is None or not self.gan.spec.classes:
            return None
        return send(torch.from_numpy(self.labels[rows]).long(), self.device)

    def _features(self, images: Tensor, reals: Tensor, labels: Tensor | None) -> Tensor:
        with torch.no_grad():
            real = outputs_of(self.judge, self.layers, lambda: self.judge(reals, labels))
        drawn = outputs_of(self.judge, self.layers, lambda: self.judge(images, labels))
        return feature_distance(drawn, real)

    def _matching(self, codes: Tensor) -> Tensor:
        count = NORMALS_A_LATENT * len(codes)
        normals = torch.randn(count, codes.shape[1], generator=self.rng)
        return latent_matching(codes, send(normals, self.device))

    def own_state(self) -> dict[str, Any]:
        """Return the latents of the images."""
        return {"codes": self.codes.detach()}

    @torch.no_grad()
    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Go back to saved latents."""
        self.codes.copy_(state["codes"])


def _strided(module: nn.Module) -> bool:
    """Tell whether a module is a DCGAN's convolution; its last one, to the logit, is never called."""
    return isinstance(module, nn.Conv2d) and module.kernel_size == (4, 4) and module.out_channels > 1


FAMILIES = (FRESH, *PATTERNS)
METHOD = Method(
    name="bsa",
    help="Scales and shifts are fitted to the images, without a discriminator (Noguchi & Harada 2019).",
    families=FAMILIES,
    trainable_generator=moving,
    trainable_discriminator=lambda gan, settings: set(),
    prepare=prepare,
    check=refuse_gan_settings,
    direct=BatchStatisticsAdaptation,
)
