"""Our training step, and the same with one choice taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import step_peers
import torch
import torch.nn.functional as F
from measuring import CPU
from step_peers import Setting
from torch import Tensor

from graftgan.config import Finetune
from graftgan.gans.base import Gan, autocast, build
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.gans.stylegan2.discriminator import DiscriminatorBlock
from graftgan.gans.stylegan2.generator import DEMOD_EPS, SynthesisLayer
from graftgan.gans.stylegan2.layers import ACT_GAIN, BlurDown, activate, compute_dtype, full_precision
from graftgan.training import trainer as of_trainer
from graftgan.training.augment import make_augment
from graftgan.training.game import Game, Opinion
from graftgan.training.trainer import Trainer


@contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put a value in place of an attribute during the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def grouped(layer: SynthesisLayer, x: Tensor, w: Tensor, noise_mode: Any = "random") -> Tensor:
    """The layer in its other form: each image has modulated weights, a group of one convolution."""
    n, (out, into) = len(x), layer.weight.shape[:2]
    with full_precision(w):
        weight = layer.weight[None] * layer.affine(w)[:, None, :, None, None]
        demod = (weight.square().sum(dim=(2, 3, 4)) + DEMOD_EPS).rsqrt() * ACT_GAIN
        weight = (weight * demod[:, :, None, None, None]).to(compute_dtype(x))
    x = x.reshape(1, n * into, *x.shape[2:])
    if layer.blur is None:
        x = F.conv2d(x, weight.reshape(n * out, into, 3, 3), padding=1, groups=n)
    else:
        by_input = weight.transpose(1, 2).reshape(n * into, out, 3, 3)
        x = F.conv_transpose2d(x, by_input, stride=2, groups=n)
    x = x.reshape(n, out, *x.shape[2:])
    x = x if layer.blur is None else layer.blur(x)
    if layer.noise and noise_mode != "none":
        x = x + layer._noise(x, noise_mode)
    return activate(x + (layer.bias * ACT_GAIN).to(x.dtype)[:, None, None])


def strided(blur: BlurDown, x: Tensor) -> Tensor:
    """The filter as one strided convolution in bfloat16 too."""
    return F.conv2d(x, blur.kernel, stride=2, padding=1, groups=x.shape[1])


def gained(block: DiscriminatorBlock, x: Tensor) -> Tensor:
    """The block with the gains in its weights."""
    if block.fromrgb is not None:
        x = block.fromrgb(x).contiguous(memory_format=torch.channels_last)
    shortcut: Tensor = block.skip(block.down(x))
    return shortcut.add_(block.conv1(block.conv0(x)))


def alike(network: torch.nn.Module) -> None:
    """All filters channels last, those that are read transposed too."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def adam(**how: bool) -> Callable[..., torch.optim.Adam]:
    """Return what makes Adam as the trainer does, but for the kernel."""

    def make(network: torch.nn.Module, lr: float, lazy_interval: int) -> torch.optim.Adam:
        ratio = lazy_interval / (lazy_interval + 1) if lazy_interval else 1.0
        return torch.optim.Adam(network.parameters(), lr=lr * ratio, betas=(0.0, 0.99**ratio), **how)

    return make


class FreshFakes(Trainer):
    """Draws new fakes for D, as published, instead of showing it those of G's phase."""

    def _phase_d(self, reals: Tensor, fakes: Tensor, labels: Tensor | None) -> None:
        with torch.no_grad(), autocast(self.device, self.dtype):
            fakes = self._fakes(labels)
        super()._phase_d(reals, fakes, labels)


class Apart(Game):
    """Shows D fakes and reals one after the other, as published, instead of as one batch."""

    def opinion(self, images: Tensor, labels: Tensor | None, batches: int = 1) -> Opinion:
        """Return what D says."""
        return Opinion(torch.cat([self.judge(part, labels) for part in images.chunk(batches)]))


@dataclass(frozen=True)
class Variant:
    """Our step with something taken back.

    Attributes:
        name: What is taken back; empty for the step as it is.
        patch: Returns what must surround building and stepping.
        trainer: The trainer.
        only: The one precision that it matters in, or none.
    """

    name: str
    patch: Callable[[], AbstractContextManager[Any]] = nullcontext
    trainer: type[Trainer] = Trainer
    only: str = ""
    apart: bool = False


DEFAULT = Variant("")
FRESH = Variant("new fakes for D, as the peers have", trainer=FreshFakes)
TAKEN_BACK = (
    Variant(
        "NCHW instead of channels_last", lambda: swapped(torch, "channels_last", torch.contiguous_format)
    ),
    Variant("modulated weights, grouped", lambda: swapped(SynthesisLayer, "forward", grouped)),
    Variant("all filters in the same order", lambda: swapped(of_trainer, "lay_out", alike)),
    Variant("gains in D's weights", lambda: swapped(DiscriminatorBlock, "forward", gained)),
    Variant("fused Adam on copied gradients", lambda: swapped(of_trainer, "make_adam", adam(fused=True))),
    Variant("foreach Adam", lambda: swapped(of_trainer, "make_adam", adam(foreach=True))),
    Variant("Adam, a tensor at a time", lambda: swapped(of_trainer, "make_adam", adam(foreach=False))),
    Variant("strided blur in bf16", lambda: swapped(BlurDown, "forward", strided), only="bf16"),
    Variant("fakes and reals apart in D", apart=True),
    FRESH,
)


def make_gan(setting: Setting) -> Gan:
    """Return networks of a setting."""
    return build(
        StyleGAN2Spec(
            resolution=setting.resolution, z_dim=setting.latent, w_dim=setting.latent,
            mapping_layers=setting.mapping_layers, channel_base=setting.channel_base,
            channel_max=setting.channel_max,
        ), 0,
    )  # fmt: skip


class Ours:
    """Our trainer under a variant."""

    def __init__(
        self,
        setting: Setting,
        precision: str,
        variant: Variant = DEFAULT,
        compiled: bool = False,
        flip: bool = False,
        device: torch.device = CPU,
    ) -> None:
        self.variant, self.device = variant, device
        given = {
            "batch": setting.batch, "augment": "none", "flip": flip, "precision": precision,
            "budget": {"kimg": 1},
            "r1_gamma": step_peers.R1_GAMMA if setting.r1_interval else 0.0,
            "r1_interval": setting.r1_interval or 16, "lr_cooldown": 0.0,
        }  # fmt: skip
        settings = Finetune.model_validate(given)
        images = step_peers.pictures(setting)
        with variant.patch():
            gan = make_gan(setting)
            self.trainer = variant.trainer(
                gan, images, None, settings, make_augment("none"), device, compiled=compiled
            )
        if variant.apart:
            self.trainer.game = Apart(gan.discriminator)

    def step(self) -> None:
        """Do one step."""
        with self.variant.patch():
            self.trainer.step()
