"""Networks with parametrised weights as plain ones: what is stored is what the layers compute with."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

MARK = "parametrizations."


def _parametrised(network: nn.Module) -> list[tuple[str, nn.Module, str]]:
    return [
        (f"{name}." if name else "", module, weight)
        for name, module in network.named_modules()
        if parametrize.is_parametrized(module)
        for weight in module.parametrizations
    ]


def _value(module: nn.Module, weight: str) -> Tensor:
    """Return a parametrised tensor's value, computed on the CPU, where equal numbers give equal bits."""
    present = cast(Tensor, getattr(module, weight))
    if present.device.type in ("cpu", "meta"):
        return present.detach()
    # Kernels of other devices round otherwise, and an adapter is applied where there may be no such device.
    chains = cast(nn.ModuleDict, module.parametrizations)
    chain = copy.deepcopy(chains[weight]).cpu()
    return cast(Tensor, chain()).detach().to(present.device)


@torch.no_grad()
def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network with every parametrised tensor at its present value, under its own name.

    Without parametrizations this is `network.state_dict()`.
    """
    state = dict(network.state_dict())
    for prefix, module, weight in _parametrised(network):
        inner = f"{prefix}{MARK}{weight}."
        state = {name: tensor for name, tensor in state.items() if not name.startswith(inner)}
        state[prefix + weight] = _value(module, weight)
    return state


def plain_name(parameter: str) -> str:
    """Return the name of the tensor that a parameter is, or is what parametrizations act on."""
    return parameter.removesuffix(".original").replace(MARK, "") if MARK in parameter else parameter


def adapters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that parametrizations brought, by name, without the tensors they act on."""
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if MARK in name and not name.endswith(".original")
    }


@torch.no_grad()
def fold(network: nn.Module) -> None:
    """Replace every parametrised tensor by a plain parameter of its present value."""
    for _, module, weight in _parametrised(network):
        value = _value(module, weight).clone()
        parametrize.remove_parametrizations(module, weight, leave_parametrized=False)
        getattr(module, weight).copy_(value)
