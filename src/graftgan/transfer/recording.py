"""What inner modules of a network compute, caught without a trace on the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def outputs_of(network: nn.Module, names: Sequence[str], call: Callable[[], Any]) -> list[Tensor]:
    """Return what the named modules compute while `call` runs the network in evaluation mode.

    No stored statistic moves meanwhile and no spectral norm; modes are as before when it is done.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, given, output: kept.__setitem__(name, output)

    hooks = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        with _evaluating(network):
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return [kept[name] for name in names]


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
