from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graftgan.data.dataset import order
from graftgan.data.pairs import Part
from graftgan.device import send
from graftgan.errors import ConfigError
from graftgan.training import profile, translation
from graftgan.training.feed import Feed
from graftgan.training.patches import adversarial
from graftgan.training.state import read_state, write_state
from graftgan.training.translation import PairedTrainer, UnpairedTrainer, make_trainer
from graftgan.training.translators import make_translators
from training.translators import SIDE, bits, equal, generator, make, part, pictures, settings

KINDS = ("paired", "unpaired")


class Shift(nn.Module):
    """Adds a trainable colour, so that every term of a loss has a closed form."""

    def __init__(self, colour: float) -> None:
        super().__init__()
        self.colour = nn.Parameter(torch.tensor(colour))

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return img + self.colour


# A step


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_moves_every_network_and_counts_its_images(kind: Any) -> None:
    trainer = make(kind, ema_half_life_kimg=0.01)
    before = bits(trainer)
    trainer.step()
    after = bits(trainer)
    assert (trainer.images_seen, trainer.step_index) == (2, 1)
    for name in trainer.gan.named():
        moved = [
            key for key in before if key.startswith(f"{name}.") and not torch.equal(before[key], after[key])
        ]
        assert moved, name


@pytest.mark.parametrize("kind", KINDS)
def test_only_parameters_that_require_gradients_move(kind: Any) -> None:
    net = generator(norm="instance")
    resting = [name for name, p in net.named_parameters() if name.endswith("weight") and p.requires_grad][:5]
    net.register_buffer("bank", torch.ones(3))
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in resting)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    trainer = make(kind, net=net)
    for _ in range(2):
        trainer.step()
    still = {name for name, tensor in net.state_dict().items() if torch.equal(tensor, before[name])}
    assert {*resting, "bank"} <= still
    assert any(name not in still for name in before)
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == resting
    held = {id(p) for group in trainer.adam_g.param_groups for p in group["params"]}
    assert not held & {id(p) for name, p in net.named_parameters() if name in resting}


def test_a_generator_in_which_nothing_moves_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing in the generator moves"):
        make("paired", net=generator().requires_grad_(False))


@pytest.mark.parametrize("name", ["bce", "lsgan"])
def test_paired_losses_are_those_of_the_sheet(name: Any) -> None:
    data = part(2)
    trainer = make("paired", data, Shift(0.25), gan_loss=name, flip=False, lr=1e-12, l1_weight=100.0)
    x, y = (torch.from_numpy(a).permute(0, 3, 1, 2) / 127.5 - 1 for a in (data.inputs, data.targets))
    judge = trainer.gan.discriminator
    with torch.no_grad():
        real, fake = judge(torch.cat([x, y], 1)), judge(torch.cat([x, x + 0.25], 1))
    trainer.step()
    told = trainer.meter.take()
    loss: Any = F.binary_cross_entropy_with_logits if name == "bce" else F.mse_loss
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    expected = 0.5 * (loss(real, ones) + loss(fake, zeros))
    assert told["loss_d"] == pytest.approx(float(expected), rel=1e-5)
    assert told["loss_g"] == pytest.approx(float(loss(fake, ones)), rel=1e-5)
    assert told["loss_l1"] == pytest.approx(float((x + 0.25 - y).abs().mean()), rel=1e-5)


def gradient_of(trainer: Any) -> float:
    """The gradient that a step gives the colour; Adam leaves it in place."""
    trainer.step()
    return float(trainer.gan.generator.colour.grad)


def test_the_weight_of_l1_is_that_of_its_gradient() -> None:
    # White inputs and black targets: L1 is 2 + colour, its gradient 1.
    white, black = np.full((2, SIDE, SIDE, 3), 255, np.uint8), np.zeros((2, SIDE, SIDE, 3), np.uint8)
    names = ("a", "b")
    gradients = [
        gradient_of(make("paired", Part(white, black, names, names), Shift(0.1), l1_weight=weight))
        for weight in (0.0, 100.0)
    ]
    assert gradients[1] - gradients[0] == pytest.approx(100.0, abs=1e-3)


def test_unpaired_losses_are_those_of_the_sheet() -> None:
    data, recipe = part(2), settings(flip=False, lr=1e-12)
    networks = make_translators("unpaired", Shift(0.25), recipe, SIDE, Shift(-0.125))
    trainer = UnpairedTrainer(networks, data, recipe, torch.device("cpu"))
    rows = order(2, 1, 0, 2)
    a = torch.from_numpy(data.inputs[order(2, 0, 0, 2)]).permute(0, 3, 1, 2) / 127.5 - 1
    b = torch.from_numpy(data.targets[rows]).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        fooling = adversarial(networks.discriminator(a + 0.25), True, "lsgan")
        fooling_back = adversarial(networks.discriminator_back(b - 0.125), True, "lsgan")
    trainer.step()
    told = trainer.meter.take()
    assert told["loss_g"] == pytest.approx(float(fooling), rel=1e-5)
    assert told["loss_g_back"] == pytest.approx(float(fooling_back), rel=1e-5)
    # Shifts by 1/4 and -1/8 undo each other up to 1/8; the identity terms are the shifts themselves.
    assert told["loss_cycle"] == pytest.approx(0.125, abs=1e-6)
    assert told["loss_cycle_back"] == pytest.approx(0.125, abs=1e-6)
    assert told["loss_identity"] == pytest.approx(0.25, abs=1e-6)
    assert told["loss_identity_back"] == pytest.approx(0.125, abs=1e-6)


def test_cycle_and_identity_weigh_ten_and_half_of_that() -> None:
    gradients = []
    for cycle, identity in ((0.0, 0.5), (10.0, 0.0), (10.0, 0.5)):
        recipe = settings(flip=False, cycle_weight=cycle, identity_weight=identity)
        networks = make_translators("unpaired", Shift(0.25), recipe, SIDE, Shift(-0.125))
        gradients.append(gradient_of(UnpairedTrainer(networks, part(2), recipe, torch.device("cpu"))))
    # Both cycles are |1/4 - 1/8|, with slope 1 in the colour; the identity is |1/4|, with slope 1.
    assert gradients[1] - gradients[0] == pytest.approx(20.0, abs=1e-3)
    assert gradients[2] - gradients[1] == pytest.approx(5.0, abs=1e-3)


# What a step is given


def test_both_images_of_a_pair_are_mirrored_and_moved_alike() -> None:
    data = pictures(4, 3)
    trainer = make("paired", Part(data, data, tuple("abcd"), tuple("abcd")), jitter_px=4)
    first, second = (trainer._drawn(images, 0) for images in (data, data))
    seen = []
    for _ in range(6):
        given, wanted = trainer._placed(first, second)
        assert torch.equal(given, wanted) and given.shape == first.shape
        seen.append(given)
    assert any(not torch.equal(seen[0], other) for other in seen[1:])


def test_mirroring_alone_gives_the_image_or_its_mirror_image() -> None:
    trainer = make("paired")
    images = trainer._drawn(trainer.part.inputs, 0)
    found = set()
    for _ in range(20):
        (placed,) = trainer._placed(images)
        for image, original in zip(placed, images, strict=True):
            kept = torch.equal(image, original)
            assert kept or torch.equal(image, original.flip(2))
            found.add(kept)
    assert found == {True, False}


def test_the_order_of_the_data_depends_on_the_images_seen_alone() -> None:
    one, other = make("paired"), make("paired")
    other.images_seen = one.images_seen = 6
    other.rng.manual_seed(5)
    assert torch.equal(one._drawn(one.part.inputs, 0), other._drawn(other.part.inputs, 0))
    rows = order(7, 0, 6, 2)
    expected = torch.from_numpy(one.part.inputs[rows]).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.equal(one._drawn(one.part.inputs, 0), expected)


def test_an_epoch_of_two_sets_is_one_of_the_longer() -> None:
    assert len(make("unpaired", part(4, 9)).images) == 9
    assert len(make("unpaired", part(9, 4)).images) == 9


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ConfigError, match="7 inputs have 6 targets"):
        make("paired", part(7, 6))
    recipe = settings()
    with pytest.raises(ConfigError, match="each direction"):
        make_translators("unpaired", generator(), recipe, SIDE)
    networks = make_translators("paired", generator(), recipe, SIDE)
    with pytest.raises(ConfigError, match="two networks"):
        make_trainer("unpaired", networks, part(), recipe, torch.device("cpu"))


# Rates


def test_the_rate_is_constant_and_then_falls_linearly_to_zero() -> None:
    trainer = make("unpaired", lr=0.0002)
    for share, expected in ((0.0, 2e-4), (0.5, 2e-4), (0.75, 1e-4), (1.0, 0.0), (1.2, 0.0)):
        trainer.set_rate(share)
        for adam in (trainer.adam_g, trainer.adam_d):
            assert adam.param_groups[0]["lr"] == pytest.approx(expected)
    trainer.slow_down(0.5)
    trainer.set_rate(0.0)
    assert trainer.adam_g.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert trainer.adam_g.param_groups[0]["betas"] == (0.5, 0.999)
    constant = make("paired", lr_decay=0.0)
    constant.set_rate(1.0)
    assert constant.adam_g.param_groups[0]["lr"] == pytest.approx(2e-4)


# Going on


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half_life", [None, 0.01])
def test_going_on_from_a_saved_state_gives_the_same_bits(
    kind: Any, half_life: float | None, tmp_path: Path
) -> None:
    changes = {"ema_half_life_kimg": half_life, "jitter_px": 2, "seed": 3}
    whole = make(kind, **changes)
    for _ in range(4):
        whole.step()
    write_state(tmp_path / "state", whole.state_dict())
    for _ in range(3):
        whole.step()
    again = make(kind, net=generator(9), **changes)
    torch.manual_seed(99)
    again.load_state_dict(read_state(tmp_path / "state"))
    assert again.images_seen == 8
    for _ in range(3):
        again.step()
    assert equal(bits(again), bits(whole))
    assert again.meter.take() == whole.meter.take()


@pytest.mark.parametrize("kind", KINDS)
def test_a_profile_shows_the_phases_of_a_step_and_changes_no_bit(kind: Any, tmp_path: Path) -> None:
    changes = {"ema_half_life_kimg": 0.01, "jitter_px": 2}
    plain = make(kind, **changes)
    for _ in range(4):
        plain.step()
    watched = make(kind, **changes)
    watch = profile.Profile("task", tmp_path, torch.device("cpu"), 1, 4)
    with profile.profiling(watch):
        for number in range(4):
            with profile.step(number):
                watched.step()
    assert equal(bits(plain), bits(watched))
    assert plain.meter.take() == watched.meter.take()
    never = {profile.R1, profile.PATH_LENGTH}
    assert watch.seconds.keys() == set(profile.IN_A_STEP) - never
    assert 0 < watch.data_share < 0.5
    assert watch.seconds[profile.REST] < 0.5 * sum(watch.seconds.values()), "the rest was everything before"


def test_batches_travel_as_those_of_the_feed_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes and not numbers, by what pins them for a GPU."""
    sent: list[torch.dtype] = []

    def watched(values: torch.Tensor, device: torch.device) -> torch.Tensor:
        sent.append(values.dtype)
        return send(values, device)

    monkeypatch.setattr(translation, "send", watched)
    trainer = make("paired", flip=True, jitter_px=0)
    images = trainer._drawn(trainer.part.inputs, 0)
    rows = order(7, 0, 0, 2)
    expected = Feed(trainer.part.inputs, torch.device("cpu")).batch(rows)
    assert torch.equal(images, expected)
    trainer._placed(images)
    assert sent == [torch.uint8, torch.bool]


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_from_one_seed_are_equal_and_another_seed_differs(kind: Any) -> None:
    runs = []
    for seed in (0, 0, 1):
        trainer = make(kind, seed=seed)
        trainer.step()
        runs.append(bits(trainer))
    assert equal(runs[0], runs[1]) and not equal(runs[0], runs[2])


def test_a_weight_that_is_not_finite_is_noticed() -> None:
    trainer = make("paired")
    assert trainer.finite()
    with torch.no_grad():
        next(trainer.gan.discriminator.parameters())[0] = torch.nan
    assert not trainer.finite()


def test_penalties_for_latents_are_refused() -> None:
    trainer = make("paired")
    trainer.add_penalties([])
    with pytest.raises(ConfigError, match="penalty bsd"):
        trainer.add_penalties([SimpleNamespace(name="bsd")])  # type: ignore[list-item]


def test_bfloat16_trains_and_keeps_float32_weights() -> None:
    trainer = make("unpaired", precision="bf16")
    trainer.step()
    assert trainer.finite() and trainer.dtype is torch.bfloat16
    assert all(t.dtype is torch.float32 for t in trainer.pool.images)
    assert all(p.dtype is torch.float32 for p in trainer.gan.generator.parameters())


def test_training_on_pairs_learns_an_inversion() -> None:
    inputs = np.repeat(np.linspace(0, 255, 8).astype(np.uint8), SIDE * SIDE * 3).reshape(8, SIDE, SIDE, 3)
    names = tuple("abcdefgh")
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh())
    trainer = make("paired", Part(inputs, 255 - inputs, names, names), net, lr=0.02)
    assert isinstance(trainer, PairedTrainer)
    losses = []
    for _ in range(60):
        trainer.step()
        losses.append(trainer.meter.take()["loss_l1"])
    assert np.mean(losses[-8:]) < 0.3 * np.mean(losses[:8])
