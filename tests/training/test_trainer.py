from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftgan.errors import ConfigError
from graftgan.gans.base import build
from graftgan.training.augment import AdaAugment
from graftgan.training.ema import ema_beta
from graftgan.training.losses import path_lengths, r1_penalty
from graftgan.training.optimiser import measured_length
from graftgan.training.state import read_state, write_state
from graftgan.training.trainer import Meter, Trainer
from training.nets import BATCH, EVERYTHING, copies, equal, everything, make, pictures, tiny

CPU = torch.device("cpu")


def run(trainer: Trainer, steps: int) -> Trainer:
    for _ in range(steps):
        trainer.step()
    return trainer


def through_disk(trainer: Trainer, folder: Path) -> dict[str, Any]:
    write_state(folder / "state", trainer.state_dict())
    return read_state(folder / "state")


# What a step does


def test_a_step_counts_its_batch_and_moves_all_three_networks() -> None:
    trainer = make()
    before = everything(trainer)
    trainer.step()
    after = everything(trainer)
    assert trainer.images_seen == BATCH
    assert trainer.step_index == 1
    for network in ("g", "d", "ema"):
        moved = [n for n in before if n.startswith(f"{network}.") and not torch.equal(before[n], after[n])]
        assert len(moved) > 5


def test_the_generator_phase_leaves_the_discriminator_alone() -> None:
    trainer = make()
    generator, discriminator = copies(trainer.gan.generator), copies(trainer.gan.discriminator)
    fakes = trainer._phase_g(None)
    assert equal(discriminator, copies(trainer.gan.discriminator))
    assert not equal(generator, copies(trainer.gan.generator))
    assert all(p.grad is None for p in trainer.gan.discriminator.parameters())
    assert not fakes.requires_grad


@pytest.mark.parametrize("phase", ["_phase_d", "_phase_r1"])
def test_the_discriminator_phases_leave_the_generator_alone(phase: str) -> None:
    trainer = make()
    fakes = trainer._phase_g(None)
    generator, discriminator = copies(trainer.gan.generator), copies(trainer.gan.discriminator)
    reals, _ = trainer._reals()
    trainer._phase_d(reals, fakes, None) if phase == "_phase_d" else trainer._phase_r1(reals, None, fakes)
    assert equal(generator, copies(trainer.gan.generator))
    assert not equal(discriminator, copies(trainer.gan.discriminator))


def test_a_phase_hands_gradients_back_to_the_network_that_rested() -> None:
    trainer = run(make(method="freeze_d", freeze_d_layers=4), 1)
    generator, discriminator = trainer.gan.generator, trainer.gan.discriminator
    assert all(p.requires_grad for p in generator.parameters())
    frozen = [name for name, p in discriminator.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("b32.") for name in frozen)


def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    first, again, other = make(seed=1), make(seed=1), make(seed=1)
    other.settings = other.settings.model_copy(update={"seed": 5})
    other.rng.manual_seed(5)
    torch.manual_seed(0)
    run(first, 2)
    torch.manual_seed(0)
    run(again, 2)
    torch.manual_seed(0)
    run(other, 2)
    assert equal(everything(first), everything(again))
    assert not equal(everything(first), everything(other))


def test_building_a_trainer_seeds_the_noise() -> None:
    runs = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        runs.append(everything(run(make(seed=3), 2)))
    assert equal(*runs)


# Real images


def test_every_epoch_shows_every_image_once_and_flips_half() -> None:
    images = pictures(BATCH * 20)
    trainer = make(images=images)
    seen, mirrored = [], 0
    for _ in range(20):
        reals, _ = trainer._reals()
        trainer.images_seen += BATCH
        for real in ((reals + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy():
            straight = np.flatnonzero((images == real).all((1, 2, 3)))
            flipped = np.flatnonzero((images == real[:, ::-1]).all((1, 2, 3)))
            assert len(straight) + len(flipped) == 1
            mirrored += len(flipped)
            seen += [*straight, *flipped]
    assert sorted(seen) == list(range(len(images)))
    assert 20 < mirrored < 60


def test_without_flips_images_stay_as_they_are() -> None:
    images = pictures(2)
    reals, labels = make(images=images, flip=False, batch=2)._reals()
    assert labels is None
    assert float(reals.min()) >= -1
    assert float(reals.max()) <= 1
    assert {r.tobytes() for r in ((reals + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()} == {
        image.tobytes() for image in images
    }


# Regularisers


def test_r1_comes_every_so_many_steps_scaled_by_their_number() -> None:
    trainer = make(r1_interval=4, r1_gamma=0.6)
    seen = []
    for _ in range(9):
        trainer.step()
        seen.append("r1" in trainer.meter.take())
    assert seen == [True, False, False, False] * 2 + [True]
    reals, _ = trainer._reals()
    weight = trainer.gan.discriminator.get_parameter("b8.conv0.weight")
    images = reals.clone().requires_grad_(True)
    penalty = r1_penalty(trainer.gan.discriminator(images), images)
    (eager,) = torch.autograd.grad(penalty * 0.6 / 2, weight)
    trainer._phase_r1(reals, None, reals)
    assert weight.grad is not None
    assert torch.allclose(weight.grad, eager * 4, rtol=1e-4, atol=1e-9)


def test_r1_on_fakes_adds_the_same_term_of_the_fakes() -> None:
    plain, both = make(r1_gamma=0.6), make(r1_gamma=0.6, r1_on_fakes=True)
    fakes = both._phase_g(None)
    reals, _ = both._reals()
    gradients = []
    for trainer, images in ((plain, [reals]), (plain, [fakes]), (both, [reals, fakes])):
        trainer._phase_r1(images[0], None, images[-1])
        gradients.append(
            [p.grad.clone() for p in trainer.gan.discriminator.parameters() if p.grad is not None]
        )
        # Weights of both runs have to stay equal.
        trainer.gan.discriminator.load_state_dict(make().gan.discriminator.state_dict())
    for of_reals, of_fakes, of_both in zip(*gradients, strict=True):
        torch.testing.assert_close(of_both, of_reals + of_fakes, rtol=1e-4, atol=1e-6)
    seen = both.meter.take()
    assert seen["penalty_r1_fakes"] != seen["r1"]
    assert "penalty_r1_fakes" not in plain.meter.take()


def test_r1_can_be_off() -> None:
    trainer = run(make(r1_gamma=0.0), 1)
    assert "r1" not in trainer.meter.take()


def test_lazy_regularisation_slows_adam_down_as_published() -> None:
    trainer = make(r1_interval=16, path_length_weight=2.0, path_length_interval=4, lr_generator=0.01)
    for adam, ratio in ((trainer.adam_g, 4 / 5), (trainer.adam_d, 16 / 17)):
        (group,) = adam.param_groups
        assert group["betas"] == (0.0, 0.99**ratio)
    assert trainer.adam_g.param_groups[0]["lr"] == pytest.approx(0.01 * 4 / 5)
    assert make(lr_generator=0.01).adam_g.param_groups[0]["lr"] == 0.01


def test_path_length_pulls_towards_a_moving_mean_of_the_lengths() -> None:
    trainer = make(path_length_weight=2.0, path_length_interval=2, batch=8)
    means = []
    for _ in range(4):
        before = trainer.path_mean.clone()
        trainer.step()
        lengths = trainer.meter.take()
        if "path_length" in lengths:
            means.append(trainer.path_mean.item())
            expected = before + 0.01 * (lengths["path_length"] - before)
            assert trainer.path_mean.item() == pytest.approx(expected.item(), rel=1e-5)
        else:
            assert torch.equal(before, trainer.path_mean)
    assert len(means) == 2


def test_path_length_training_narrows_the_spread_of_lengths() -> None:
    def spread(trainer: Trainer) -> float:
        generator = trainer.gan.generator
        z = torch.randn(64, 8, generator=torch.Generator().manual_seed(9))
        ws = generator.mapping(z, None).detach().requires_grad_(True)
        images = generator.synthesis(ws, noise_mode="const")
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(8))
        lengths = path_lengths(images, ws, noise).detach()
        return float((lengths - trainer.path_mean).abs().mean())

    trainer = make(path_length_weight=200.0, path_length_interval=1, lr_generator=0.005)
    trainer._phase_path(None)
    trainer.path_mean.fill_(1.0)
    before = spread(trainer)
    for _ in range(15):
        trainer._phase_path(None)
        trainer.path_mean.fill_(1.0)
    assert spread(trainer) < before


@pytest.mark.parametrize("limit", [None, 1e-3])
def test_gradients_are_clipped_to_the_limit_and_their_norm_is_told_before(limit: float | None) -> None:
    trainer = make(gradient_clip=limit)
    trainer._phase_g(None)
    gradients = [p.grad for p in trainer.gan.generator.parameters() if p.grad is not None]
    norm = float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
    told = trainer.meter.take()["grad_norm_g"]
    assert told > 1e-3
    assert norm == pytest.approx(limit or told, rel=1e-3)


def test_without_a_limit_a_run_has_the_bits_of_one_with_an_infinite_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is what multiplies every gradient by one."""
    plain, clipped = make(gradient_clip=None, r1_gamma=1.0), make(gradient_clip=None, r1_gamma=1.0)
    told = []
    for trainer in (plain, clipped):
        trainer.seed_noise()
        if trainer is clipped:
            monkeypatch.setattr(
                "graftgan.training.optimiser.measured_length",
                lambda moving: torch.nn.utils.clip_grad_norm_(moving, float("inf")),
            )
        for _ in range(3):
            trainer.step()
        told.append(trainer.meter.take())
    assert equal(everything(plain), everything(clipped))
    assert told[0] == told[1]


@pytest.mark.parametrize("fault", [float("inf"), float("nan"), 1e30])
def test_a_length_that_is_no_number_ends_in_weights_that_are_none(fault: float) -> None:
    """With 1e30, each gradient is a number and the length is not; without a limit or with an infinite one."""
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    adam = torch.optim.Adam(parameters, fused=True)
    for parameter in parameters:
        parameter.grad = torch.ones(3)
    parameters[1].grad[1] = fault  # type: ignore[index]
    assert not torch.isfinite(measured_length(parameters))
    adam.step()
    assert not all(torch.isfinite(parameter).all() for parameter in parameters)


def test_the_length_leaves_gradients_alone() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    assert float(measured_length(parameters)) == 0.0
    parameters[1].grad, parameters[2].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, -4.0])
    assert float(measured_length(parameters)) == 5.0
    assert [p.grad.tolist() for p in parameters[1:]] == [[3.0, 0.0], [0.0, -4.0]]  # type: ignore[union-attr]
    torch._foreach_zero_([p.grad for p in parameters[1:]])  # type: ignore[misc]
    assert float(measured_length(parameters)) == 0.0
    assert parameters[1].grad.tolist() == [0.0, 0.0]


def test_penalty_phases_are_clipped_too() -> None:
    trainer = make(gradient_clip=1e-4, r1_gamma=100.0)
    trainer._phase_r1(trainer._reals()[0], None, trainer._phase_g(None))
    norms = [p.grad.square().sum() for p in trainer.gan.discriminator.parameters() if p.grad is not None]
    assert float(torch.stack(norms).sum().sqrt()) <= 1.001e-4


# Learning rates


def test_learning_rates_fall_to_zero_over_the_cooldown() -> None:
    trainer = make(lr_cooldown=0.5, lr_generator=0.01)

    def rate(share: float) -> float:
        trainer.set_rate(share)
        return float(trainer.adam_g.param_groups[0]["lr"])

    assert [rate(s) for s in (0.0, 0.5, 0.75, 1.0, 1.5)] == pytest.approx([0.01, 0.01, 0.005, 0.0, 0.0])
    steady = make(lr_cooldown=0.0, lr_generator=0.01)
    steady.set_rate(1.0)
    assert steady.adam_g.param_groups[0]["lr"] == 0.01


def test_slowing_down_is_kept_by_the_schedule() -> None:
    trainer = make(lr_cooldown=0.0, lr_generator=0.01, lr_discriminator=0.02)
    trainer.slow_down(0.5)
    trainer.slow_down(0.5)
    trainer.set_rate(0.3)
    assert trainer.lr_scale == 0.25
    assert trainer.adam_g.param_groups[0]["lr"] == pytest.approx(0.0025)
    assert trainer.adam_d.param_groups[0]["lr"] == pytest.approx(0.02 / 4 * 4 / 5)


# The average


def test_adaptation_starts_from_the_source_average_without_a_ramp() -> None:
    gan = build(tiny(), 0)
    with torch.no_grad():
        for parameter in gan.generator_ema.parameters():
            parameter.add_(1.0)
    source = copies(gan.generator_ema)
    trainer = make(gan=gan, ema_half_life_kimg=0.1)
    trainer.step()
    beta = ema_beta(BATCH, 0.1)
    now, average = copies(trainer.gan.generator), copies(trainer.gan.generator_ema)
    for name, _ in trainer.gan.generator.named_parameters():
        expected = source[name] * beta + now[name] * (1 - beta)
        assert torch.allclose(average[name], expected, atol=1e-6), name


def test_from_scratch_the_average_follows_closely_at_first() -> None:
    trainer = run(make(from_scratch=True, ema_half_life_kimg=10), 1)
    for mine, other in zip(
        trainer.gan.generator_ema.parameters(), trainer.gan.generator.parameters(), strict=True
    ):
        assert torch.allclose(mine, other, atol=1e-6)


def test_the_average_has_the_generators_mean_latent() -> None:
    trainer = run(make(), 2)
    ema, generator = (dict(g.named_buffers()) for g in (trainer.gan.generator_ema, trainer.gan.generator))
    assert float(generator["mapping.w_avg"].abs().sum()) > 0
    assert all(torch.equal(ema[name], generator[name]) for name in generator)


# Going on from a saved state


def test_optimisers_start_fresh() -> None:
    trainer = make()
    assert not trainer.adam_g.state
    assert not trainer.adam_d.state
    names = {id(p) for group in trainer.adam_d.param_groups for p in group["params"]}
    assert names == {id(p) for p in trainer.gan.discriminator.parameters()}


VARIANTS: dict[str, dict[str, Any]] = {
    "plain fp32": {},
    "everything fp32": EVERYTHING,
    "everything bf16": {**EVERYTHING, "precision": "bf16"},
    "from scratch": {"from_scratch": True, "ema_half_life_kimg": 0.01},
    "diffaugment": {"augment": "diffaugment", "style_mixing": 0.5},
    "freeze_d": {"method": "freeze_d", "freeze_d_layers": 4},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_was_cut_in_two_ends_with_the_same_bits(tmp_path: Path, name: str) -> None:
    changes = VARIANTS[name]
    whole = make(**changes)
    if isinstance(whole.augment, AdaAugment):
        whole.augment.controller.p = 0.6
    run(whole, 5)
    state = through_disk(whole, tmp_path)
    run(whole, 4)
    torch.manual_seed(12345)
    second = make(seed=77, **changes)
    second.load_state_dict(state)
    run(second, 4)
    assert equal(everything(whole), everything(second))
    assert whole.meter.take() == second.meter.take()
    assert whole.augment.p == second.augment.p
    if isinstance(whole.augment, AdaAugment):
        assert 0 < whole.augment.p != 0.6


def test_a_run_with_classes_goes_on_exactly_too(tmp_path: Path) -> None:
    labels = np.arange(10, dtype=np.int32) % 3
    whole = run(make(tiny(classes=3), labels=labels), 3)
    state = through_disk(whole, tmp_path)
    run(whole, 3)
    second = make(tiny(classes=3), seed=5, labels=labels)
    second.load_state_dict(state)
    assert equal(everything(whole), everything(run(second, 3)))


def test_restored_moments_lie_in_memory_as_their_weights_do(tmp_path: Path) -> None:
    # Adam's fused kernel ignores strides, and saved tensors are contiguous where weights are channels_last.
    trainer = run(make(), 1)
    weight = trainer.gan.discriminator.get_parameter("b16.conv0.weight")
    assert not weight.is_contiguous()
    second = make()
    second.load_state_dict(through_disk(trainer, tmp_path))
    for adam in (second.adam_g, second.adam_d):
        assert adam.state
        for parameter, moments in adam.state.items():
            assert moments["exp_avg_sq"].stride() == parameter.stride()


def test_saving_does_not_disturb_the_run() -> None:
    plain, saved = make(**EVERYTHING), make(**EVERYTHING)
    torch.manual_seed(0)
    run(plain, 3)
    torch.manual_seed(0)
    for _ in range(3):
        saved.state_dict()
        saved.step()
        saved.state_dict()
    assert equal(everything(plain), everything(saved))


def test_the_saved_keys_are_those_that_old_states_have() -> None:
    assert set(make().state_dict()) == {
        "generator", "discriminator", "generator_ema", "adam_g", "adam_d", "scaler", "augment", "path_mean",
        "lr_scale", "images_seen", "rng", "global_rng", "meter",
    }  # fmt: skip


# Kinds of images and numbers


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_rgba_train(channels: int) -> None:
    trainer = run(make(tiny(channels=channels), augment="ada", ada_speed_kimg=0.01, ada_target=0.0), 6)
    assert trainer.finite()
    assert trainer._phase_g(None).shape == (BATCH, channels, 32, 32)


def test_labels_go_with_their_images_to_both_networks() -> None:
    images = pictures(6)
    labels = np.array([0, 1, 2, 0, 1, 2], dtype=np.int32)
    trainer = make(tiny(classes=3), labels=labels, images=images, flip=False, batch=6)
    reals, ids = trainer._reals()
    assert ids is not None
    for real, label in zip(
        ((reals + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy(), ids, strict=True
    ):
        (row,) = np.flatnonzero((images == real).all((1, 2, 3)))
        assert labels[row] == int(label)
    before = everything(trainer)
    trainer.step()
    after = everything(trainer)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("mapping" in name and name.startswith("d.") for name in moved)
    assert any("embed" in name or "mapping" in name for name in moved if name.startswith("g."))


def test_labels_are_left_out_for_a_network_without_classes() -> None:
    trainer = make(labels=np.zeros(10, np.int32))
    assert trainer._reals()[1] is None
    trainer.step()


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        make(precision="fp16")


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32() -> None:
    trainer = run(make(precision="bf16"), 2)
    assert trainer.dtype is torch.bfloat16
    assert {p.dtype for p in trainer.gan.generator.parameters()} == {torch.float32}
    assert {m["exp_avg_sq"].dtype for m in trainer.adam_g.state.values()} == {torch.float32}
    assert not equal(everything(trainer), everything(run(make(precision="fp32"), 2)))
    assert trainer.finite()


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_noticed(network: str, value: float) -> None:
    trainer = make()
    assert trainer.finite()
    with torch.no_grad():
        next(getattr(trainer.gan, network).parameters()).view(-1)[0] = value
    assert not trainer.finite()


def test_training_learns_to_tell_real_from_fake() -> None:
    trainer = make(images=np.full((8, 32, 32, 3), 255, np.uint8), lr_generator=1e-9, lr_discriminator=0.01)
    run(trainer, 2)
    first = trainer.meter.take()["loss_d"]
    run(trainer, 25)
    trainer.meter.take()
    trainer.step()
    last = trainer.meter.take()
    assert last["loss_d"] < first / 2
    assert last["sign_real"] == 1.0
    assert last["sign_fake"] == -1.0


# The meter


def test_a_meter_gives_means_and_starts_again() -> None:
    meter = Meter()
    for value in (1.0, 2.0, 6.0):
        meter.add("a", torch.tensor(value, requires_grad=True))
    meter.add("b", torch.tensor(5))
    assert meter.take() == {"a": 3.0, "b": 5.0}
    assert meter.take() == {}


def test_a_skipped_step_of_fp16_is_in_no_mean() -> None:
    """It has infinite gradients; the loss, which is finite or fatal, is counted as it is."""
    meter, kept = Meter(), Meter()
    for value in (1.0, torch.inf, torch.nan, 5.0):
        meter.add("length", torch.tensor(value), finite_only=True)
        meter.add("overflowed", torch.tensor(torch.inf), finite_only=True)
    meter.add("loss", torch.tensor(torch.inf))
    kept.load_state_dict(meter.state_dict(), CPU)
    for one in (meter, kept):
        assert one.take() == {"length": 3.0, "overflowed": torch.inf, "loss": torch.inf}


def test_a_meter_goes_on_from_its_state() -> None:
    first, second = Meter(), Meter()
    values = [0.1, 1 / 3, 1e-7]
    first.add("a", torch.tensor(values[0]))
    second.load_state_dict(first.state_dict(), CPU)
    for meter in (first, second):
        for value in values[1:]:
            meter.add("a", torch.tensor(value))
    assert first.take() == second.take()


@pytest.mark.nightly
def test_compiled_networks_train_like_plain_ones() -> None:
    plain, compiled = make(r1_interval=2), make(r1_interval=2, compiled=True)
    torch.manual_seed(0)
    run(plain, 4)
    torch.manual_seed(0)
    run(compiled, 4)
    mine, other = plain.meter.take(), compiled.meter.take()
    assert mine.keys() == other.keys()
    assert compiled.state_dict()["generator"].keys() == plain.state_dict()["generator"].keys()
    for name in ("loss_g", "loss_d", "r1"):
        assert other[name] == pytest.approx(mine[name], rel=0.05), name


@pytest.mark.nightly
def test_networks_compile_for_another_batch_too() -> None:
    for batch in (4, 2):
        trainer = run(make(batch=batch, compiled=True), 2)
        assert trainer.finite() and trainer.images_seen == 2 * batch


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_and_goes_on(tmp_path: Path, precision: str) -> None:
    from graftgan.training.augment import make_augment
    from training.nets import recipe

    def trainer(seed: int) -> Trainer:
        settings = recipe(**{**EVERYTHING, "precision": precision})
        return Trainer(
            build(tiny(), seed), pictures(), None, settings, make_augment("ada"), torch.device("cuda")
        )

    whole = run(trainer(0), 4)
    state = through_disk(whole, tmp_path)
    second = trainer(1)
    second.load_state_dict(state)
    for name, tensor in everything(run(second, 2)).items():
        assert torch.isfinite(tensor).all(), name
    run(whole, 2)
    assert second.images_seen == whole.images_seen
