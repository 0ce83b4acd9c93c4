from __future__ import annotations

import numpy as np
import torch
from torch import nn

from graftgan.training.translators import make_translators, translate
from training.translators import SIDE, bits, generator, make, part, pictures, settings


def test_discriminators_are_drawn_from_the_seed_and_leave_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    drawn = [
        make_translators("paired", nn.Identity(), settings(seed=seed), SIDE).discriminator.state_dict()
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    first = "model.0.weight"
    assert torch.equal(drawn[0][first], drawn[1][first]) and not torch.equal(drawn[0][first], drawn[2][first])


def test_only_paired_discriminators_see_the_input_too() -> None:
    paired = make_translators("paired", nn.Identity(), settings(), SIDE)
    unpaired = make_translators("unpaired", nn.Identity(), settings(), SIDE, nn.Identity())
    assert paired.discriminator.model[0].in_channels == 6
    assert (
        unpaired.discriminator.model[0].in_channels == unpaired.discriminator_back.model[0].in_channels == 3
    )
    assert unpaired.discriminator is not unpaired.discriminator_back


def test_without_an_average_the_generator_is_what_is_kept() -> None:
    plain, averaged = make("unpaired"), make("unpaired", ema_half_life_kimg=1)
    assert plain.gan.generator_ema is plain.gan.generator and plain.gan.back_ema is plain.gan.back
    assert list(plain.gan.named()) == ["generator", "discriminator", "back", "discriminator_back"]
    assert len(averaged.gan.named()) == 6
    assert not any(p.requires_grad for p in averaged.gan.generator_ema.parameters())


def test_the_average_lies_between_its_last_value_and_the_generator() -> None:
    # At a half-life of the batch times ramp, each step goes half way or more towards the new weights.
    trainer = make("paired", ema_half_life_kimg=1000.0)
    old = bits(trainer)["generator_ema.model.1.weight"]
    trainer.step()
    new = bits(trainer)
    beta = 0.5 ** (2 / (2 * 0.05))
    expected = old + (new["generator.model.1.weight"] - old) * (1 - beta)
    assert torch.allclose(new["generator_ema.model.1.weight"], expected, atol=1e-7)


def test_translating_keeps_order_and_mode_and_does_not_draw() -> None:
    network = generator().train()
    inputs = pictures(5, 0)
    first = translate(network, inputs, batch=2)
    assert first.shape == inputs.shape and first.dtype == np.uint8
    assert network.training
    assert np.array_equal(first, translate(network, inputs, batch=2))
    assert np.array_equal(translate(network, inputs[3:4]), translate(network, inputs[[3]], batch=1))
    assert np.abs(first[3].astype(int) - translate(network, inputs[3:4])[0]).max() <= 1
    assert translate(network, inputs[:0]).shape == (0, SIDE, SIDE, 3)


def test_translating_nothing_changes_nothing() -> None:
    data = part().inputs
    network = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.eye(3)[:, :, None, None])
    assert np.array_equal(translate(network, data), data)
