from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftgan.gans.base import build
from graftgan.gans.prior import Mixture, step_length
from graftgan.gans.spec import GanSpec
from graftgan.training.prior import MovingPrior
from graftgan.training.state import read_state, write_state
from graftgan.training.trainer import Trainer
from training.nets import equal, everything, make, tiny

DIM = 8
RESNET = {"family": "resnet_gan", "resolution": 32, "variant": "resnet", "z_dim": DIM, "nfilter": 4,
          "nfilter_max": 8, "stages": 4}  # fmt: skip


def mixture(spread: float = 0.1, seed: int = 0) -> Mixture:
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(2, DIM, generator=rng)
    roots = torch.randn(2, DIM, 2, generator=rng)
    return Mixture.of_moments(torch.tensor([0.4, 0.6]), means, spread * roots @ roots.mT)


def moving(schedule: Any = "linear", reach: float = 1.0) -> MovingPrior:
    return MovingPrior(mixture(), schedule, reach)


def with_prior(prior: MovingPrior, **changes: Any) -> Trainer:
    trainer = make(**changes)
    trainer.set_prior(prior)
    return trainer


# Schedules


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_step"])
@pytest.mark.parametrize("reach", [1.0, 0.5])
def test_a_schedule_goes_from_0_to_1_and_stays(schedule: str, reach: float) -> None:
    prior = moving(schedule, reach)
    found = [prior.position(share) for share in np.linspace(0, 1.2, 61)]
    assert found[0] == 0.0
    assert prior.position(reach) == pytest.approx(1.0)
    assert found[-1] == pytest.approx(1.0)
    assert all(a <= b for a, b in pairwise(found))
    assert prior.at(0.3).position == pytest.approx(prior.position(0.3))


def test_a_fixed_prior_stays() -> None:
    assert [moving("fixed").position(share) for share in (0.0, 0.5, 1.0)] == [0.0, 0.0, 0.0]


def test_linear_is_the_share_and_cosine_is_slow_at_both_ends() -> None:
    assert moving("linear", 0.5).position(0.2) == pytest.approx(0.4)
    assert [moving("cosine").position(share) for share in (0.25, 0.5)] == pytest.approx(
        [(1 - 0.5**0.5) / 2, 0.5]
    )


def test_constant_step_moves_the_law_evenly_where_linear_does_not() -> None:
    def steps(schedule: str) -> np.ndarray:
        prior = moving(schedule)
        lambdas = [prior.position(share) for share in np.linspace(0, 1, 21)]
        return np.array([step_length(mixture(), *pair) for pair in pairwise(lambdas)])

    even, straight = steps("constant_step"), steps("linear")
    assert even.max() / even.min() < 1.2
    assert straight.max() / straight.min() > 3


def test_a_law_without_a_way_to_go_is_no_obstacle() -> None:
    normal = Mixture.of_moments(torch.ones(1), torch.zeros(1, DIM), torch.eye(DIM)[None])
    assert MovingPrior(normal, "constant_step").position(0.25) == pytest.approx(0.25, abs=1e-3)


# In the trainer


def test_at_lambda_one_training_is_plain_bit_for_bit() -> None:
    found = []
    for prior in (None, moving("linear", 0.5)):
        trainer = make(style_mixing=0.9) if prior is None else with_prior(prior, style_mixing=0.9)
        for _ in range(4):
            trainer.set_rate(0.6)
            trainer.step()
        found.append(everything(trainer))
    assert trainer.gan.prior is not None
    assert trainer.gan.prior.position == 1.0
    assert equal(*found)


@pytest.mark.parametrize("spec", [tiny(), GanSpec.from_dict(RESNET)], ids=["stylegan2", "resnet"])
def test_a_prior_changes_what_is_trained(spec: Any) -> None:
    found = []
    for schedule in (None, "fixed", "linear"):
        trainer = (
            make(gan=build(spec, 0)) if schedule is None else with_prior(moving(schedule), gan=build(spec, 0))
        )
        for share in (0.0, 0.3):
            trainer.set_rate(share)
            trainer.step()
        found.append(everything(trainer))
    assert not equal(found[0], found[1])
    assert not equal(found[1], found[2])


def test_the_rate_and_the_prior_follow_the_share_that_is_done() -> None:
    trainer = with_prior(moving(), lr_cooldown=0.0)
    for share, at in ((0.0, 0.0), (0.4, 0.4), (1.3, 1.0)):
        trainer.set_rate(share)
        assert trainer.gan.prior is not None
        assert trainer.gan.prior.position == pytest.approx(at)
        assert trainer.gan.generator.prior is trainer.gan.generator_ema.prior


def test_batch_statistics_stay_while_a_prior_is_there() -> None:
    spec = GanSpec.from_dict({"family": "dcgan", "resolution": 64, "z_dim": DIM, "g_ch": 4, "d_ch": 4})
    trainer = with_prior(moving("fixed"), gan=build(spec, 0), images=np.zeros((8, 64, 64, 3), np.uint8))
    generator = trainer.gan.generator
    before = {name: buffer.clone() for name, buffer in generator.named_buffers() if "running" in name}
    generator.train()
    generator(torch.randn(4, DIM))
    assert before
    assert all(torch.equal(before[name], dict(generator.named_buffers())[name]) for name in before)


def test_a_saved_state_goes_on_exactly_with_the_mixture_it_had(tmp_path: Path) -> None:
    def run(trainer: Trainer, shares: list[float]) -> Trainer:
        for share in shares:
            trainer.set_rate(share)
            trainer.step()
        return trainer

    whole = run(with_prior(moving("constant_step"), style_mixing=0.9), [0.0, 0.2, 0.4, 0.6])
    first = run(with_prior(moving("constant_step"), style_mixing=0.9), [0.0, 0.2])
    write_state(tmp_path / "state", first.state_dict())
    # Whatever was fitted anew gives way to what the run had.
    other = with_prior(MovingPrior(mixture(seed=5), "constant_step"), style_mixing=0.9)
    other.load_state_dict(read_state(tmp_path / "state"))
    assert other.gan.prior is not None and first.gan.prior is not None
    assert other.gan.prior.position == first.gan.prior.position
    assert equal(everything(whole), everything(run(other, [0.4, 0.6])))


def test_a_run_without_a_prior_keeps_its_state_as_it_was() -> None:
    assert "prior" not in make().state_dict()
