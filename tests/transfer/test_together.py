"""Methods, penalties and priors at once: the invariants of each must survive the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training.nets import EVERYTHING, copies, equal, everything, make
from training.test_prior import mixture

from graftgan.gans.patch_heads import heads_of
from graftgan.training.prior import MovingPrior
from graftgan.training.state import read_state, write_state
from graftgan.training.trainer import Trainer
from graftgan.transfer import METHODS
from graftgan.transfer.combinations import check_settings
from graftgan.transfer.penalties import PENALTIES, make_penalties

STEPS = 4
TERMS: dict[str, Any] = {
    **EVERYTHING, "r1_interval": 2, "r1_on_fakes": True, "bsd_k": 3, "bsd_clip": 1.0, "ewc_samples": 2,
    "cdc": {"weight": 10.0},
}  # fmt: skip
OFF: dict[str, Any] = {
    "bsd_weight": 0, "l2_sp_weight": 0, "ewc_weight": 0, "cdc": {"weight": 0, "patches": False},
}  # fmt: skip
# Of the tiny network, so that half of G is fixed and some of it rests at first.
SIZES: dict[str, dict[str, Any]] = {
    "adafm": {"low_level_from_px": 16, "adafm": {"start_kimg": 0.008}},
    "cdc": {"cdc": {"weight": 10.0, "anchors": 3}},
    "freeze_g": {"freeze_g_blocks": 1},
    "minegan": {"minegan": {"joint_from": 0.008}},
    "lora": {"adapter_rank": 2},
}
PLAYING = ("adafm", "cdc", "freeze_d", "freeze_g", "gan_memory", "lora", "minegan", "scale_shift")


def composed(name: str, moves: bool = True, **changes: Any) -> Trainer:
    """A run of a method with every penalty that it does not bring, and a prior where it may have one."""
    brought = METHODS[name].penalties
    terms = tuple(penalty for penalty in PENALTIES if penalty not in brought)
    settings = {"method": name, "penalties": terms, **TERMS, **SIZES.get(name, {}), **changes}
    run = make(**settings)
    check_settings(run.settings)
    if name != "minegan":
        run.set_prior(MovingPrior(mixture(), "linear") if moves else MovingPrior(mixture(), "linear", 1e-9))
    run.add_penalties(make_penalties(run.settings))
    resting = METHODS[name].resting
    if resting is not None:
        run.add_phases(lambda images: resting(run.gan, run.settings, images))
    return run


def on(run: Trainer, first: int, last: int) -> Trainer:
    for step in range(first, last):
        run.set_rate(step / STEPS)
        run.step()
    run.set_rate(last / STEPS)
    return run


def begun(run: Trainer) -> Trainer:
    run.seed_noise()
    return run


@pytest.mark.parametrize("name", PLAYING)
def test_a_run_with_everything_goes_on_exactly(name: str, tmp_path: Path) -> None:
    whole = on(begun(composed(name)), 0, STEPS)
    first = on(begun(composed(name)), 0, 2)
    write_state(tmp_path / "state", first.state_dict())
    second = composed(name)
    second.load_state_dict(read_state(tmp_path / "state"))
    on(second, 2, STEPS)
    assert equal(everything(second), everything(whole))
    assert second.meter.take() == whole.meter.take()
    told = composed(name).penalties
    assert {penalty.name for penalty in told} == set(PENALTIES)
    if whole.prior is not None:
        assert whole.gan.prior.position == second.gan.prior.position == 1.0


@pytest.mark.parametrize("name", PLAYING)
def test_what_a_method_fixes_keeps_its_bits_beside_penalties_and_a_prior(name: str) -> None:
    run = composed(name)
    networks = {"g": run.gan.generator, "d": run.gan.discriminator, "ema": run.gan.generator_ema}
    moving = {
        f"{which}.{n}" for which in "gd" for n, p in networks[which].named_parameters() if p.requires_grad
    }
    moving |= {f"ema.{n.removeprefix('g.')}" for n in moving if n.startswith("g.")}
    before = {which: copies(network) for which, network in networks.items()}
    on(begun(run), 0, STEPS)
    parameters = {
        f"{which}.{n}": torch.equal(p, before[which][n])
        for which, network in networks.items()
        for n, p in network.named_parameters()
    }
    assert not [n for n, same in parameters.items() if not same and n not in moving]
    still = [n for n in moving if n.startswith("g.") and parameters[n]]
    assert len(still) < 0.5 * len([n for n in moving if n.startswith("g.")])


def test_everything_at_its_neutral_setting_is_plain_fine_tuning_bit_for_bit() -> None:
    rest = {**EVERYTHING, "r1_interval": 2}
    plain, neutral = make(method="full", **rest), composed("cdc", moves=False, r1_on_fakes=False, **OFF)
    assert neutral.penalties == () and heads_of(neutral.gan.discriminator) is None
    for run in (plain, neutral):
        begun(run)
        for step in range(1, STEPS + 1):
            run.set_rate(step / STEPS / 2)
            run.step()
    assert neutral.gan.prior.position == 1.0
    assert equal(everything(neutral), everything(plain))
