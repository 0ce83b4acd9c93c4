from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch

from graftgan.errors import ConfigError
from graftgan.training.phases import Phases
from graftgan.training.state import StateStore
from graftgan.training.trainer import Trainer
from training.nets import equal, everything, make

LATE = "synthesis.b32."


def late(after: int, trainer: Trainer, images_seen: int) -> set[str]:
    """Names of G's top block until `after` images were seen."""
    names = {f"generator.{n}" for n, _ in trainer.gan.generator.named_parameters() if n.startswith(LATE)}
    return names if images_seen < after else set()


def run(steps: int, after: int = 8) -> Trainer:
    trainer = make(batch=4, r1_interval=2)
    trainer.add_phases(partial(late, after, trainer))
    return go(trainer, steps)


def go(trainer: Trainer, steps: int) -> Trainer:
    for _ in range(steps):
        trainer.step()
    return trainer


def test_what_rests_keeps_its_bits_and_then_moves() -> None:
    trainer = run(0)
    start = everything(trainer)
    go(trainer, 2)
    resting, moved = everything(trainer), everything(go(trainer, 1))
    for name in start:
        if name.startswith(f"g.{LATE}") and not name.endswith("noise_const"):
            assert torch.equal(resting[name], start[name]), name
    top = f"g.{LATE}conv1.weight"
    assert not torch.equal(moved[top], start[top])
    low = "g.synthesis.b8.conv1.weight"
    assert not torch.equal(resting[low], start[low])


def test_the_optimiser_counts_from_the_first_step_of_each_parameter() -> None:
    trainer = run(3)
    generator = dict(trainer.gan.generator.named_parameters())
    steps = {n: float(trainer.adam_g.state[p]["step"]) for n, p in generator.items()}
    assert steps[f"{LATE}conv1.weight"] == 1
    assert steps["synthesis.b8.conv1.weight"] == 3
    assert set(generator.values()) == set(trainer.adam_g.param_groups[0]["params"])


def test_the_first_step_of_a_late_parameter_is_that_of_a_new_run() -> None:
    """Adam's first step has the length of the rate, whatever the gradient."""
    trainer = run(2)
    before = trainer.gan.generator.get_parameter(f"{LATE}conv1.weight").detach().clone()
    go(trainer, 1)
    change = (trainer.gan.generator.get_parameter(f"{LATE}conv1.weight").detach() - before).abs()
    assert float(change.median()) == pytest.approx(trainer.rate_g, rel=1e-3)


def test_no_phases_and_phases_in_which_nothing_rests_are_equal() -> None:
    assert equal(everything(run(3, after=0)), everything(go(make(batch=4, r1_interval=2), 3)))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_goes_on_exactly_from_every_phase(stop: int, tmp_path: Path) -> None:
    first = run(stop)
    store = StateStore(tmp_path, keep=1)
    store.save(first.images_seen, copy.deepcopy(first.state_dict()))
    second = run(0)
    state = store.latest()
    assert state is not None
    second.load_state_dict(state)
    go(second, 4 - stop)
    assert equal(everything(second), everything(run(4)))


def test_other_names_are_of_no_effect_and_fixed_ones_stay_fixed() -> None:
    gan = make().gan
    gan.generator.mapping.requires_grad_(False)
    phases = Phases(
        gan, lambda seen: {"generator.mapping.fc0.weight", "generator.absent"} if not seen else set()
    )
    for seen in (0, 1):
        phases.enter(seen)
        assert not gan.generator.get_parameter("mapping.fc0.weight").requires_grad
        assert gan.generator.get_parameter("synthesis.b8.conv1.weight").requires_grad


def test_a_network_of_which_nothing_moves_is_refused() -> None:
    gan = make().gan
    everyone = {f"discriminator.{name}" for name, _ in gan.discriminator.named_parameters()}
    with pytest.raises(ConfigError, match="nothing of the discriminator moves"):
        Phases(gan, lambda seen: everyone).enter(0)
