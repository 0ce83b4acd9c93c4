"""The order of tensors in memory: what convolutions read fastest, and what the optimiser walks through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

MOMENTS = ("exp_avg", "exp_avg_sq")


def lay_out(network: nn.Module) -> None:
    """Lay filters out as the convolutions read them: channels last.

    A layer whose attribute `transposed` is true reads its filters [O, I, K, K] with the first two dimensions
    exchanged, so these are what lies channels last there. Otherwise every step would copy them, and their
    gradients back. What an adapter computes lies as all that it computes with.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in network.modules():
        if getattr(module, "transposed", False):
            for tensor in _filters(module):
                turned = tensor.data.transpose(0, 1).contiguous(memory_format=torch.channels_last)
                tensor.data = turned.transpose(0, 1)


def _filters(layer: Any) -> list[Tensor]:
    """Return a layer's filters, or those that its adapter starts from and what it computes with them."""
    if not parametrize.is_parametrized(layer, "weight"):
        return [layer.weight]
    chain: nn.Module = layer.parametrizations.weight
    return [tensor for tensor in (*chain.parameters(), *chain.buffers()) if tensor.ndim == 4]


def lay_out_moments(adam: torch.optim.Adam) -> None:
    """Give the moments the memory layout of their parameters.

    Saved tensors are contiguous. The fused kernel on a CPU walks through memory without a look at strides, so
    with channels_last weights it would pair each weight with another one's moments.
    """
    for parameter, moments in adam.state.items():
        for name in MOMENTS:
            moments[name] = torch.empty_like(parameter, requires_grad=False).copy_(moments[name])


def walk_straight(adam: torch.optim.Adam) -> None:
    """Show the optimiser every tensor in the order of memory, for the time of its steps.

    The fused kernel on a CPU copies each gradient that is not contiguous, to no use: it walks through memory
    in any case. What it does to one number is the same in any order.
    """
    turned: list[tuple[nn.Parameter, list[int]]] = []

    def turn(_: Any, *given: Any) -> None:
        for parameter in _moving(adam):
            if not parameter.is_contiguous():
                order = sorted(range(parameter.ndim), key=parameter.stride, reverse=True)
                turned.append((parameter, sorted(range(parameter.ndim), key=order.__getitem__)))
                _permute(adam, parameter, order)

    def turn_back(_: Any, *given: Any) -> None:
        for parameter, order in turned:
            _permute(adam, parameter, order)
        turned.clear()

    adam.register_step_pre_hook(turn)
    adam.register_step_post_hook(turn_back)


def _moving(adam: torch.optim.Adam) -> Iterator[nn.Parameter]:
    for group in adam.param_groups:
        yield from (parameter for parameter in group["params"] if parameter.grad is not None)


def _permute(adam: torch.optim.Adam, parameter: nn.Parameter, order: Sequence[int]) -> None:
    gradient, parameter.grad = parameter.grad, None
    assert gradient is not None
    parameter.data = parameter.data.permute(*order)
    parameter.grad = gradient.permute(*order)
    moments = adam.state[parameter]
    for name in MOMENTS:
        if name in moments:
            moments[name] = moments[name].permute(*order)
