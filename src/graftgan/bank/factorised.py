"""Convolutions whose filters are partly free and partly mixtures of a bank that never changes.

Piggyback GAN (Zhai et al., ECCV 2020), section 3: F_t = [U_t | B_{t-1} A_t]. With filters as rows that is
``cat(free, mix.T @ bank)``, where ``free`` [n_u, d] is U, ``mix`` [m, n_p] is A and ``bank`` [m, d] is B. The
factorised layers take the place of the ordinary ones inside the network's own module tree.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.bank.layers import Conv, LayerShape, layer_shapes, shape_of
from graftgan.errors import ConfigError


def _switches() -> list[tuple[Any, str, object]]:
    """Return what may lower the precision of products: its owner, its name and the value that does not."""
    owners = [getattr(getattr(torch.backends, name), "matmul", None) for name in ("cuda", "mkldnn")]
    current = [(owner, "fp32_precision", "ieee") for owner in owners if hasattr(owner, "fp32_precision")]
    return [*current] or [(torch.backends.cuda.matmul, "allow_tf32", False)]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute products in float32 during the block, without autocast, TF32 or its like on the CPU."""
    switches = _switches()
    before = [getattr(owner, name) for owner, name, _ in switches]
    for owner, name, exact in switches:
        setattr(owner, name, exact)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def compose(free: Tensor, mix: Tensor, bank: Tensor) -> Tensor:
    """Return all filters [n_u + n_p, d] of a layer: the free ones, then the mixtures of the bank's.

    Args:
        free: U as rows [n_u, d].
        mix: A [m, n_p].
        bank: B as rows [m, d].
    """
    if not mix.shape[1]:
        return free
    with full_precision(bank.device):
        return torch.cat([free, mix.t() @ bank])


class Factorised(nn.Module):
    """A convolution with ``free`` filters first and mixtures of the ``bank`` behind them.

    The bank is a constant: no gradient flows into it and no state dict holds it.

    Args:
        shape: Sizes of the convolution.
        free: Start of the free filters [n_u, d].
        bank: Filters of the earlier tasks [m, d]; they are not copied.
        bias: Start of the bias [co], or None.
    """

    bank: Tensor

    def __init__(self, shape: LayerShape, free: Tensor, bank: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.shape = shape
        self.free = nn.Parameter(free.detach().clone())
        self.mix = nn.Parameter(free.new_zeros(len(bank), shape.co - len(free)))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.register_buffer("bank", bank.detach(), persistent=False)

    def filters(self) -> Tensor:
        """Return all filters [co, d] in float32, with gradients."""
        return compose(self.free, self.mix, self.bank)

    def weight_now(self) -> Tensor:
        """Return the weight that an ordinary convolution would have."""
        return self.shape.to_weight(self.filters())

    def draw(self, rng: torch.Generator | None = None) -> None:
        """Draw A from N(0, 1/m), so that mixtures vary as much as the bank's filters do."""
        with torch.no_grad():
            drawn = torch.randn(self.mix.shape, generator=rng)
            self.mix.copy_(drawn / math.sqrt(max(len(self.bank), 1)))

    def extra_repr(self) -> str:
        """Return the sizes for printing."""
        return f"{self.shape.kind}, {len(self.free)} free of {self.shape.co}, bank of {len(self.bank)}"

    def __deepcopy__(self, memo: dict[int, object]) -> Factorised:
        # An averaged copy of the network shares the constant bank; only what is trained is doubled.
        twin = type(self)(self.shape, self.free, self.bank, self.bias)
        twin.mix.data.copy_(self.mix.data)
        for own, other in zip(self.parameters(), twin.parameters(), strict=True):
            other.requires_grad_(own.requires_grad)
        memo[id(self)] = twin
        return twin.train(self.training)


class FactorisedConv2d(Factorised):
    """A factorised convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, ci, H, W] as the ordinary convolution with the composed weight does."""
        return F.conv2d(x, self.weight_now(), self.bias, self.shape.stride, self.shape.pad)


class FactorisedConvTranspose2d(Factorised):
    """A factorised transposed convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, ci, H, W] as the ordinary transposed convolution with the composed weight does."""
        shape = self.shape
        return F.conv_transpose2d(x, self.weight_now(), self.bias, shape.stride, shape.pad, shape.out_pad)


@dataclass(frozen=True)
class Reference:
    """A stored task as a start for another one.

    Attributes:
        own: Layer -> the rows that the task added to the bank [n_own, d].
        mix: Layer -> its A [m, n_p]; layers without mixtures are left out.
        extras: Biases and norms by their names in the network's state dict.
    """

    own: Mapping[str, Tensor]
    mix: Mapping[str, Tensor]
    extras: Mapping[str, Tensor]


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one called `name` in the tree."""
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


def convolution(network: nn.Module, name: str) -> Conv:
    """Return the ordinary convolution called `name`.

    Raises:
        ConfigError: The network has something else there.
    """
    module = network.get_submodule(name)
    if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        raise ConfigError(f"{name} is no ordinary convolution", "give a network of the bank's architecture")
    return module


def factorise(
    network: nn.Module,
    banks: Mapping[str, Tensor],
    widths: Mapping[str, int],
    rng: torch.Generator | None = None,
) -> None:
    """Replace a dense network's convolutions in place by factorised ones with a random start.

    The free filters and biases start as the network's own, the mixtures are drawn from N(0, 1/m). A layer
    whose filters are all free stays an ordinary convolution.

    Args:
        network: A freshly initialised dense network.
        banks: Layer -> filters of the earlier tasks [m, d].
        widths: Layer -> number of free filters.
        rng: CPU generator of the mixtures; None draws from the global one.

    Raises:
        ConfigError: A bank's filters do not fit their layer.
    """
    for shape in layer_shapes(network):
        bank, width = banks[shape.name], widths[shape.name]
        if bank.ndim != 2 or bank.shape[1] != shape.d:
            raise ConfigError(
                f"{shape.name}: filters of the bank have shape {list(bank.shape)}, not [rows, {shape.d}]",
                "use the bank with the architecture that it was made for",
            )
        if width == shape.co:
            continue
        conv = convolution(network, shape.name)
        kind = FactorisedConv2d if shape.kind == "conv" else FactorisedConvTranspose2d
        layer = kind(shape, shape.to_filters(conv.weight)[:width], bank, conv.bias)
        layer.draw(rng)
        replace_module(network, shape.name, layer)


def warm_start(network: nn.Module, reference: Reference) -> None:
    """Set a factorised network so that it computes what a stored task does.

    The first filters are copied into U; each of the others is one of the reference's own rows, picked by a
    single 1 in A, or keeps the mixture that it is there. Picking is exact, so the network equals the first
    task bit for bit; mixtures of a later reference are summed over more rows and equal to rounding.

    Args:
        network: A network after :func:`factorise`.
        reference: An earlier task of the same bank.

    Raises:
        ConfigError: The reference is not of this network's architecture.
    """
    with torch.no_grad():
        for name, own in reference.own.items():
            layer = network.get_submodule(name)
            if isinstance(layer, Factorised):
                _warm_layer(layer, own, reference.mix.get(name))
            else:
                shape = shape_of(name, convolution(network, name))
                convolution(network, name).weight.copy_(shape.to_weight(own))
    unknown = network.load_state_dict(dict(reference.extras), strict=False).unexpected_keys
    if unknown:
        raise ConfigError(f"the network has no {unknown[0]}", "warm-start from a task of the same bank")


def _warm_layer(layer: Factorised, own: Tensor, mix: Tensor | None) -> None:
    below = 0 if mix is None else len(mix)
    kept = own.new_zeros(below, 0) if mix is None else mix
    layer.free.copy_(compose(own, kept, layer.bank[:below])[: len(layer.free)])
    layer.mix.zero_()
    for column in range(layer.mix.shape[1]):
        place = len(layer.free) + column
        if place < len(own):
            layer.mix[below + place, column] = 1.0
        else:
            layer.mix[:below, column] = kept[:, place - len(own)]


def materialise(network: nn.Module) -> nn.Module:
    """Return a copy of a network with ordinary convolutions of the composed weights; it needs no bank."""
    dense = copy.deepcopy(network)
    for name, module in list(dense.named_modules()):
        if not isinstance(module, Factorised):
            continue
        conv = module.shape.dense(module.bias is not None, module.free.device)
        with torch.no_grad():
            conv.weight.copy_(module.weight_now())
            if conv.bias is not None and module.bias is not None:
                conv.bias.copy_(module.bias)
        replace_module(dense, name, conv.train(module.training))
    return dense


def own_filters(network: nn.Module) -> dict[str, Tensor]:
    """Return, layer by layer, the filters [n_u, d] that a network adds to the bank, on the CPU."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, Factorised):
            found[name] = module.free.detach().cpu().clone()
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            found[name] = shape_of(name, module).to_filters(module.weight.detach().cpu()).clone()
    return found


def mixtures(network: nn.Module) -> dict[str, Tensor]:
    """Return A [m, n_p] of each layer that has mixtures, on the CPU."""
    return {
        name: module.mix.detach().cpu().clone()
        for name, module in network.named_modules()
        if isinstance(module, Factorised)
    }
