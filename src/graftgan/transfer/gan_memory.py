"""GAN Memory (Cong, Zhao, Li, Wang, Carin, NeurIPS 2020, arXiv:2006.07543): a fixed base, a style a task.

Every linear layer and every 3x3 convolution of G keeps its weight, whose filters are brought to mean 0 and
deviation 1, and gets a scale, a shift and a further bias of the task. The paper's network is the residual
GAN. In a StyleGAN2, a port, the mapping's layers and those that make styles are the linear ones, and
demodulation cancels what a scale has in common over a whole filter.

With `gan_memory.classes` the task has classes, each with a bias of its own behind the first linear layer.
With `gan_memory.compress` scales and shifts of large layers build on those of earlier tasks: `memory_bases`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.gans.folding import adapters
from graftgan.gans.resnet_gan.head import SmallHead
from graftgan.gans.stylegan2.layers import FullyConnected
from graftgan.transfer.base import Method, every_parameter
from graftgan.transfer.levels import is_convolution
from graftgan.transfer.memory_bases import Shared, Start, check, compressed_layers, read_earlier, starts_of
from graftgan.transfer.memory_classes import add_classes

FAMILIES = {"resnet_gan": ("fc.",), "stylegan2": ("b4.",)}
"""Family -> prefixes of D's parameters that move whole: its head, which is not modulated."""
CLASS_LAYER = "fc"
"""The layer of a residual GAN that classes have biases behind."""
DEAD = 1e-8


class StyleModulation(nn.Module):
    """Computes ``gamma * (W - mean) / deviation + beta``, which is ``W`` at the start but for rounding.

    mFiLM for a linear layer's weight [O, I]: means and deviations are over a row, gamma and beta are [O, 1].
    mAdaFM for filters [O, I, k, k]: over a filter's plane, gamma and beta are [O, I, 1, 1]. Deviations are
    those of a sample (ddof 1). A plane of deviation 0 is its shift alone: its gamma starts at 0. Without
    normalisation mean is 0, deviation 1, and the start exact.

    Where earlier tasks have components of gamma or beta, that is their sum with coefficients that move, and
    what is called gamma or beta here is what the task adds to it, 0 at the start.

    Args:
        weight: What it acts on.
        normalise: Whether the weight is normalised.
        starts: Components of earlier tasks, by part.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, weight: Tensor, normalise: bool = True, starts: Mapping[str, Start] | None = None
    ) -> None:
        super().__init__()
        weight = weight.detach().contiguous()
        over = (1,) if weight.ndim == 2 else (2, 3)
        shape = [1 if axis in over else size for axis, size in enumerate(weight.shape)]
        mean, deviation = weight.new_zeros(shape), weight.new_ones(shape)
        if normalise:
            # In double precision, so that the order of the sum, which depends on the machine, is not seen.
            exact = weight.double()
            mean = exact.mean(over, keepdim=True).to(weight.dtype)
            deviation = exact.std(over, keepdim=True).to(weight.dtype)
        dead = deviation < DEAD
        self.gamma = nn.Parameter(deviation.masked_fill(dead, 0.0))
        self.beta = nn.Parameter(mean.clone())
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation.masked_fill(dead, 1.0))
        self.shared = nn.ModuleDict({p: Shared(start, weight.device) for p, start in (starts or {}).items()})
        for part in self.shared:
            self.get_parameter(part).data.zero_()

    def _whole(self, part: str) -> Tensor:
        own = self.get_parameter(part)
        return own + self.shared[part]() if part in self.shared else own

    def forward(self, weight: Tensor) -> Tensor:
        """Map the base's weight to the task's."""
        return self._whole("gamma") * ((weight - self.mean) / self.deviation) + self._whole("beta")


class ClassModulation(StyleModulation):
    """As `StyleModulation` for all but the last columns, which are the biases of classes, 0 at the start.

    Args:
        weight: Of the linear layer, [O, I + classes].
        normalise: Whether its first I columns are normalised.
        classes: Number of its last columns.
    """

    def __init__(self, weight: Tensor, normalise: bool, classes: int) -> None:
        super().__init__(weight[:, :-classes], normalise)
        self.classes = nn.Parameter(weight.new_zeros(len(weight), classes))

    def forward(self, weight: Tensor) -> Tensor:
        """Map the base's weight to the task's."""
        return torch.cat([super().forward(weight[:, : -self.classes.shape[1]]), self.classes], dim=1)


class FurtherBias(nn.Module):
    """Computes ``b + shift``, the shift being 0 at the start."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(bias))

    def forward(self, bias: Tensor) -> Tensor:
        """Map the base's bias [O] to the task's."""
        return bias + self.shift


def modulated(network: nn.Module, linear: bool) -> list[str]:
    """Return the names of the modules that are modulated.

    Args:
        network: G or D.
        linear: Whether linear layers are among them, beside 3x3 convolutions.
    """
    return [
        name
        for name, module in network.named_modules()
        if is_convolution(name, module) or (linear and isinstance(module, nn.Linear | FullyConnected))
    ]


def _modulate(
    network: nn.Module,
    names: list[str],
    normalise: bool,
    classes: int = 0,
    starts: Mapping[str, Mapping[str, Start]] | None = None,
) -> None:
    for name in names:
        module = network.get_submodule(name)
        weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
        style = (
            ClassModulation(weight, normalise, classes)
            if classes and name == CLASS_LAYER
            else StyleModulation(weight, normalise, (starts or {}).get(name))
        )
        parametrize.register_parametrization(module, "weight", style)
        if bias is not None:
            parametrize.register_parametrization(module, "bias", FurtherBias(bias))


def prepare(gan: Gan, settings: Finetune) -> None:
    """Modulate G, its average and, if wanted, D.

    Raises:
        ConfigError: The family is neither of the two, D is a fresh one, G has a small head, or classes are
            wanted where there can be none.
        CheckpointError: An adapter of an earlier task does not fit.
    """
    section, family = settings.gan_memory, gan.spec.family
    if family not in FAMILIES or any(isinstance(module, SmallHead) for module in gan.generator.modules()):
        what = f"family={family}" if family not in FAMILIES else "generator with a small head"
        raise ConfigError(
            f"finetune.method=gan_memory is known for {' and '.join(FAMILIES)}, not for the source's {what}",
            "use another method, or set rank.sources to those of these families",
        )
    if section.modulate_d and "discriminator" in gan.fresh:
        raise ConfigError(
            "finetune.gan_memory.modulate_d=true with finetune.fresh_discriminator=true: "
            "a fresh D has no filters worth keeping",
            "set finetune.gan_memory.modulate_d=false",
        )
    if section.classes is not None:
        add_classes(gan, section.classes)
    earlier, layers = read_earlier(settings), compressed_layers(gan, settings)
    if section.compress.enabled and not layers:
        keep, most = ", ".join(f"{share:g}" for share in section.compress.keep), section.compress.up_to_px
        raise ConfigError(
            f"finetune.gan_memory.compress.up_to_px={most} with "
            f"finetune.gan_memory.compress.keep=[{keep}] leaves every layer whole: nothing that small has so "
            "many filters",
            "raise up_to_px, or lower the shares for few filters, such as keep=[0.8, 0.8, 0.8, 0.8, 0.8]",
        )
    starts = {name: starts_of(name, earlier) for name in layers}
    for network in (gan.generator, gan.generator_ema):
        chosen = modulated(network, linear=True)
        _modulate(network, chosen, section.normalise, section.classes or 0, starts)
    if section.modulate_d:
        chosen = modulated(gan.discriminator, linear=False)
        _modulate(gan.discriminator, chosen, section.normalise)


def moving_discriminator(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of D's modulations and of its head, or of all of a plain D."""
    names = every_parameter(gan.discriminator)
    if not settings.gan_memory.modulate_d:
        return names
    head = {name for name in names if name.startswith(FAMILIES[gan.spec.family])}
    return head | set(adapters(gan.discriminator))


METHOD = Method(
    name="gan_memory",
    families=tuple(FAMILIES),
    help="A fixed base; scales, shifts and biases of all its filters move (GAN Memory, Cong et al. 2020).",
    trainable_generator=lambda gan, settings: set(adapters(gan.generator)),
    trainable_discriminator=moving_discriminator,
    prepare=prepare,
    check=check,
    penalties=("low_rank",),
    adapter=True,
)
