"""Filters, gradients and moments lie in memory as they are read, and nothing else changes by that."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from graftgan.gans.base import build
from graftgan.gans.stylegan2.generator import SynthesisLayer
from graftgan.training.layout import MOMENTS, lay_out
from graftgan.training.optimiser import make_adam

from .nets import make, tiny

CHANNELS_LAST = torch.channels_last


def transposed(weight: Tensor) -> Tensor:
    """Return a copy that lies in memory as the filters of a layer that exchanges dimensions."""
    return weight.transpose(0, 1).contiguous(memory_format=CHANNELS_LAST).transpose(0, 1)


LAYOUTS = {
    "contiguous": lambda weight: weight.clone(),
    "channels last": lambda weight: weight.clone(memory_format=CHANNELS_LAST),
    "transposed": transposed,
}


def test_filters_lie_as_their_convolutions_read_them() -> None:
    generator = build(tiny(), 0).generator
    plain = copy.deepcopy(generator)
    lay_out(generator)
    layers = [module for module in generator.modules() if isinstance(module, SynthesisLayer)]
    assert {layer.transposed for layer in layers} == {True, False}
    for layer in layers:
        read = layer.weight.transpose(0, 1) if layer.transposed else layer.weight
        assert read.is_contiguous(memory_format=CHANNELS_LAST)
    z = torch.randn(4, 8)
    torch.testing.assert_close(generator(z, noise_mode="const"), plain(z, noise_mode="const"))
    assert all(map(torch.equal, generator.state_dict().values(), plain.state_dict().values()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_and_moments_lie_as_their_weights(precision: str) -> None:
    trainer = make(precision=precision, path_length_weight=2.0, path_length_interval=2)
    for _ in range(2):
        trainer.step()
    for adam in (trainer.adam_g, trainer.adam_d):
        for parameter, state in adam.state.items():
            for tensor in (parameter.grad, *(state[name] for name in MOMENTS)):
                assert tensor is not None and tensor.shape == parameter.shape
                if min(parameter.shape, default=1) > 1:  # elsewhere strides are ambiguous
                    assert tensor.stride() == parameter.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_are_those_of_plain_adam_in_every_layout(layout: str) -> None:
    weight, gradients = torch.randn(6, 4, 3, 3), [torch.randn(6, 4, 3, 3) ** 3 for _ in range(3)]

    def stepped(lay: Any, **how: bool) -> nn.Parameter:
        net = nn.ParameterList([nn.Parameter(lay(weight))])
        adam = make_adam(net, 0.1, 0)
        if how:
            adam = torch.optim.Adam(net.parameters(), lr=0.1, betas=(0.0, 0.99), **how)
        for gradient in gradients:
            net[0].grad = lay(gradient)
            adam.step()
        return net[0]

    ours, plain = stepped(LAYOUTS[layout]), stepped(LAYOUTS["contiguous"], foreach=False)
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)
    assert ours.stride() == LAYOUTS[layout](weight).stride()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_optimiser_copies_no_gradient(layout: str) -> None:
    net = nn.ParameterList([nn.Parameter(LAYOUTS[layout](torch.randn(6, 4, 3, 3)))])
    adam = make_adam(net, 0.1, 0)
    net[0].grad = torch.randn_like(net[0])
    adam.step()
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        adam.step()
    assert not [
        event.key for event in watched.key_averages() if event.key in ("aten::contiguous", "aten::clone")
    ]


def test_a_weight_without_gradient_stays() -> None:
    net = nn.ParameterList([nn.Parameter(LAYOUTS["transposed"](torch.randn(6, 4, 3, 3))) for _ in range(2)])
    adam, before = make_adam(net, 0.1, 0), net[1].detach().clone()
    net[0].grad = torch.ones_like(net[0])
    adam.step()
    assert torch.equal(net[1], before) and net[1].grad is None and net[1] not in adam.state


def test_what_an_adapter_computes_stays_as_it_comes() -> None:
    trainer = make(method="lora")
    layers = [m for m in trainer.gan.generator.modules() if isinstance(m, SynthesisLayer) and m.transposed]
    assert layers and not any(isinstance(layer.weight, nn.Parameter) for layer in layers)
    trainer.step()
