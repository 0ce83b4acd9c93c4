from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from graftgan.study.nets import (
    BATCH,
    D_STEPS,
    Duel,
    Pair,
    draw,
    fresh_pair,
    make_discriminator,
    make_generator,
    squared_gradients,
)
from graftgan.study.plane import LAWS


def linears(network: nn.Sequential) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in network if isinstance(m, nn.Linear)]


def test_the_generator_has_the_published_layers() -> None:
    g = make_generator()
    assert linears(g) == [(64, 64), (64, 128), (128, 128), (128, 128), (128, 64), (64, 2)]
    kinds = [type(m).__name__ for m in g]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 5 + ["Linear"]


def test_the_discriminator_has_the_published_layers() -> None:
    d = make_discriminator()
    assert linears(d) == [(2, 64), (64, 128), (128, 128), (128, 64), (64, 1)]
    assert [type(m).__name__ for m in d] == ["Linear", "ReLU"] * 4 + ["Linear"]


def test_fresh_networks_depend_on_the_seed_and_leave_the_global_state() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = fresh_pair(1), fresh_pair(1), fresh_pair(2)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(x, y) for x, y in zip(a.state().values(), b.state().values(), strict=True))
    assert not torch.equal(a.generator[0].weight, c.generator[0].weight)
    assert torch.equal(a.generator[0].weight, a.average[0].weight), "the average starts as the generator"


def weights(pair: Pair) -> dict[str, torch.Tensor]:
    return pair.state()


def test_a_run_is_repeatable_and_moves_all_three_networks() -> None:
    found = []
    for _ in range(2):
        pair = fresh_pair(0)
        before = weights(pair)
        Duel(pair, LAWS["I"], seed=3).run(3)
        after = weights(pair)
        moved = {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])}
        assert moved == {"g", "d", "ema"}
        found.append(after)
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])


def test_four_discriminator_steps_go_with_one_of_the_generator() -> None:
    pair = fresh_pair(0)
    asked = []

    def law(n: int, rng: torch.Generator) -> torch.Tensor:
        asked.append(n)
        return LAWS["I"](n, rng)

    duel = Duel(pair, law, seed=0)
    duel.run(2)
    assert asked == [BATCH] * (2 * D_STEPS) and D_STEPS == 4
    steps_g = {int(s["step"]) for s in duel.adam_g.state.values()}
    steps_d = {int(s["step"]) for s in duel.adam_d.state.values()}
    assert (steps_g, steps_d) == ({2}, {8})


def test_the_average_follows_the_whole_state_running_statistics_too() -> None:
    pair = fresh_pair(0)
    start = {n: t.clone() for n, t in pair.average.state_dict().items()}
    Duel(pair, LAWS["I"], seed=0).run(1)
    for name, live in pair.generator.state_dict().items():
        if live.is_floating_point():
            expected = 0.99 * start[name] + 0.01 * live
            assert torch.allclose(pair.average.state_dict()[name], expected, atol=1e-6), name


def test_r1_of_a_linear_discriminator_is_its_squared_weight() -> None:
    net = nn.Linear(2, 1)
    found = squared_gradients(net, torch.randn(7, 2))
    assert float(found.detach()) == pytest.approx(float(net.weight.detach().square().sum()))
    found.backward()
    assert torch.allclose(net.weight.grad, 2 * net.weight.detach())


def test_r1_changes_the_game_and_zero_does_not() -> None:
    ends = {}
    for gamma in (0.0, 1.0):
        pair = fresh_pair(0)
        Duel(pair, LAWS["I"], seed=0, r1_gamma=gamma).run(2)
        ends[gamma] = weights(pair)["d.0.weight"]
    assert not torch.equal(ends[0.0], ends[1.0])


def test_the_losses_are_those_of_the_sigmoid() -> None:
    """softplus(-l) = -log sigmoid(l) and softplus(l) = -log(1 - sigmoid(l))."""
    for logit in (-3.0, 0.0, 2.5):
        p = 1 / (1 + math.exp(-logit))
        assert float(nn.functional.softplus(torch.tensor(-logit))) == pytest.approx(-math.log(p), rel=1e-5)
        assert float(nn.functional.softplus(torch.tensor(logit))) == pytest.approx(-math.log(1 - p), rel=1e-5)


def test_networks_travel_by_name_and_the_average_goes_with_the_generator() -> None:
    source, fresh = fresh_pair(1), fresh_pair(2)
    Duel(source, LAWS["II"], seed=0).run(1)
    state = source.state("7.")
    keep_d = fresh.discriminator[0].weight.detach().clone()
    fresh.load_generator(state, "7.")
    assert torch.equal(fresh.generator[0].weight, source.generator[0].weight)
    assert torch.equal(fresh.average[0].weight, source.average[0].weight)
    assert torch.equal(fresh.discriminator[0].weight, keep_d)
    fresh.load_discriminator(state, "7.")
    assert torch.equal(fresh.discriminator[0].weight, source.discriminator[0].weight)


def test_samples_depend_on_the_seed_and_leave_mode_and_statistics_alone() -> None:
    g = fresh_pair(0).generator
    before = {n: t.clone() for n, t in g.state_dict().items()}
    assert g.training and (draw(g, 9, 1) == draw(g, 9, 1)).all() and g.training
    assert draw(g, 9, 1).shape == (9, 2) and (draw(g, 9, 1) != draw(g, 9, 2)).any()
    assert all(torch.equal(before[n], t) for n, t in g.state_dict().items())
