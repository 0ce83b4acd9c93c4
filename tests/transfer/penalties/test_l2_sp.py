from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from training.nets import copies, recipe

from graftgan.errors import ConfigError
from graftgan.transfer.penalties.l2_sp import StartingPoint, squared_distance
from transfer.penalties.runs import moved, networks, silent, trained

IMAGES, LOGITS = torch.zeros(4, 3, 32, 32), torch.zeros(4, 1)


def started(gan: Any, **changes: Any) -> StartingPoint:
    penalty = StartingPoint()
    penalty.start(gan, recipe(**changes))
    return penalty


def test_the_distance_and_its_gradient_by_hand() -> None:
    network = nn.Linear(2, 1).double()
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 2.0]]))
        network.bias.fill_(5.0)
    start = {"weight": torch.tensor([[0.0, 4.0]], dtype=torch.float64), "bias": torch.zeros(1).double()}
    distance = squared_distance(network, start)
    distance.backward()
    assert float(distance) == 1 + 4 + 25
    assert network.weight.grad is not None
    assert network.weight.grad.tolist() == [[2.0, -4.0]]


def test_it_is_nothing_at_the_source_and_draws_back_from_elsewhere() -> None:
    gan = networks()
    penalty = started(gan, l2_sp_weight=0.5)
    before = copies(gan.generator)
    assert float(penalty.generator_term(gan, IMAGES, LOGITS, silent)) == 0.0
    moved(gan)
    term = penalty.generator_term(gan, IMAGES, LOGITS, silent)
    names, parameters = zip(*gan.generator.named_parameters(), strict=True)
    gradients = torch.autograd.grad(term, parameters)
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        torch.testing.assert_close(gradient, 2 * 0.5 * (parameter - before[name]).detach())


def test_the_discriminator_is_held_on_demand() -> None:
    gan = networks()
    free, held = started(gan), started(gan, l2_sp_weight=2.0, l2_sp_on_d=True)
    before = copies(gan.discriminator)
    moved(gan)
    assert free.discriminator_term(gan, IMAGES, LOGITS, silent) is None
    expected = sum((p - before[n]).square().sum() for n, p in gan.discriminator.named_parameters())
    found = held.discriminator_term(gan, IMAGES, LOGITS, silent)
    assert found is not None
    torch.testing.assert_close(found, 2 * expected)


def test_tensors_that_do_not_move_do_not_count() -> None:
    gan = networks()
    for name, parameter in gan.generator.named_parameters():
        parameter.requires_grad_(name.startswith("mapping."))
    penalty = started(gan)
    assert penalty.anchors_g
    assert all(name.startswith("mapping.") for name in penalty.anchors_g)


def test_a_strong_pull_keeps_weights_nearer() -> None:
    def distance(weight: float) -> float:
        start = networks().generator
        end = trained(4, ("l2_sp",), l2_sp_weight=weight).gan.generator
        return float(squared_distance(end, dict(start.named_parameters())))

    assert distance(100.0) < 0.5 * distance(0.0)


def test_a_method_that_moves_nothing_is_refused_by_both_keys() -> None:
    gan = networks()
    gan.generator.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"finetune\.penalties: l2_sp .* finetune\.method") as error:
        started(gan)
    assert "finetune.method" in error.value.remedy
