from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graftgan.gans.folding import adapters, fold, plain_state


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, weight: Tensor) -> Tensor:
        return self.factor * weight


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)))


def parametrised() -> nn.Sequential:
    made = network()
    made[0].weight.requires_grad_(False)
    parametrize.register_parametrization(made[0], "weight", Twice())
    parametrize.register_parametrization(made[1][0], "weight", Twice())
    parametrize.register_parametrization(made[1][0], "weight", Twice())
    parametrize.register_parametrization(made[1][0], "bias", Twice())
    return made


def expected() -> dict[str, Tensor]:
    state = network().state_dict()
    factors = {"0.weight": 2, "1.0.weight": 4, "1.0.bias": 2}
    return {name: tensor * factors.get(name, 1) for name, tensor in state.items()}


def same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def test_a_plain_network_is_its_own_state() -> None:
    assert same(plain_state(network()), dict(network().state_dict()))
    assert not adapters(network())


def test_the_state_holds_what_the_layers_compute_with() -> None:
    made = parametrised()
    assert same(plain_state(made), expected())
    assert parametrize.is_parametrized(made[0])
    assert not any(tensor.requires_grad for tensor in plain_state(made).values())


def test_adapters_are_what_parametrizations_brought() -> None:
    assert set(adapters(parametrised())) == {
        "0.parametrizations.weight.0.factor",
        "1.0.parametrizations.weight.0.factor",
        "1.0.parametrizations.weight.1.factor",
        "1.0.parametrizations.bias.0.factor",
    }


def test_folding_leaves_a_plain_network_with_the_same_values() -> None:
    made = parametrised()
    fold(made)
    assert same(dict(made.state_dict()), expected())
    assert type(made[0]) is nn.Linear and type(made[1][0]) is nn.Conv2d
    assert not adapters(made)
    assert not made[0].weight.requires_grad
    assert made[1][0].weight.requires_grad
    network().load_state_dict(made.state_dict())
