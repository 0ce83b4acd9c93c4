from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from graftgan.errors import ConfigError
from graftgan.gans import base
from graftgan.gans.base import Gan, build, draw_latents, sample, sample_blocks, to_uint8
from graftgan.gans.spec import GanSpec

from .stylegan2.sizes import TINY

CONDITIONAL = dataclasses.replace(TINY, classes=5)


@pytest.fixture(scope="module")
def gan() -> Gan:
    return _lively(build(TINY, seed=0))


@pytest.fixture(scope="module")
def conditional() -> Gan:
    return _lively(build(CONDITIONAL, seed=0))


@pytest.fixture(autouse=True)
def _same_global_random_state() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "the global random state was disturbed"


def _lively(gan: Gan) -> Gan:
    """Give noise and mean latent some weight, which they lack before training."""
    for name, parameter in gan.generator_ema.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.3)
    gan.generator_ema.get_submodule("mapping").w_avg.fill_(0.1)  # type: ignore[operator]
    return gan


def test_build_is_a_function_of_the_seed() -> None:
    one, same, other = (build(TINY, seed=s).generator.state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["synthesis.b4.const"], other["synthesis.b4.const"])


def test_ema_is_an_equal_but_separate_copy_without_gradients() -> None:
    gan = build(TINY, seed=0)
    live, ema = gan.generator.state_dict(), gan.generator_ema.state_dict()
    assert live.keys() == ema.keys()
    assert all(torch.equal(live[k], ema[k]) and live[k].data_ptr() != ema[k].data_ptr() for k in live)
    assert not gan.generator_ema.training
    assert not any(p.requires_grad for p in gan.generator_ema.parameters())
    assert all(p.requires_grad for p in gan.generator.parameters())


def test_unknown_family_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="biggish") as caught:
        GanSpec.from_dict({**TINY.to_dict(), "family": "biggish"})
    assert "stylegan2" in caught.value.remedy


def test_to_uint8_maps_the_range_and_clips() -> None:
    img = torch.tensor([-5.0, -1.0, 0.0, 127 / 127.5, 1.0, 5.0]).reshape(1, 1, 2, 3)
    assert to_uint8(img).tolist() == [[[[0], [0], [128]], [[255], [255], [255]]]]


def test_to_uint8_puts_channels_last() -> None:
    img = torch.linspace(-1, 1, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    out = to_uint8(img)
    assert out.shape == (2, 4, 5, 3)
    assert out.flags["C_CONTIGUOUS"]
    assert out[1, 2, 3, 0] == int(img[1, 0, 2, 3] * 127.5 + 128)


def test_uint8_survives_the_round_trip() -> None:
    values = torch.arange(256).float()
    img = (values / 127.5 - 1).reshape(1, 1, 16, 16)
    assert np.abs(to_uint8(img).ravel().astype(int) - np.arange(256)).max() <= 1


def test_latents_do_not_depend_on_how_the_series_is_cut() -> None:
    whole, labels = draw_latents(CONDITIONAL, 7, torch.Generator().manual_seed(3))
    rng = torch.Generator().manual_seed(3)
    parts = [draw_latents(CONDITIONAL, n, rng) for n in (2, 0, 4, 1)]
    assert torch.equal(whole, torch.cat([z for z, _ in parts]))
    assert labels is not None
    assert torch.equal(labels, torch.cat([c for _, c in parts if c is not None]))
    assert set(labels.tolist()) <= set(range(5))


def test_latents_are_standard_normal() -> None:
    z, labels = draw_latents(TINY, 2000, torch.Generator().manual_seed(0))
    assert labels is None
    assert abs(float(z.mean())) < 0.02
    assert abs(float(z.std()) - 1) < 0.02


def test_sample_is_deterministic_and_seeded(gan: Gan) -> None:
    first = sample(gan.generator_ema, 3, seed=11)
    assert first.shape == (3, 32, 32, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, sample(gan.generator_ema, 3, seed=11))
    assert not np.array_equal(first, sample(gan.generator_ema, 3, seed=12))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_image_depends_on_neither_batch_nor_count(gan: Gan, batch: int) -> None:
    many = sample(gan.generator_ema, 6, seed=4, batch=64)
    cut = sample(gan.generator_ema, 5, seed=4, batch=batch)
    difference = np.abs(many[:5].astype(int) - cut.astype(int))
    assert difference.max() <= 1, "more than one level apart: not the same image"
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("labels", [None, 2])
def test_single_batches_have_the_bits_of_the_whole_series(conditional: Gan, labels: int | None) -> None:
    g = conditional.generator_ema
    whole = sample(g, 11, 4, 0.7, labels, batch=3)
    computed: list[int] = []
    handle = g.register_forward_pre_hook(lambda _, given: computed.append(len(given[0])))
    found = sample_blocks(g, 11, 4, 0.7, labels, batch=3, blocks=[3, 1, 3])
    handle.remove()
    assert list(found) == [1, 3]
    assert np.array_equal(found[1], whole[3:6])
    assert np.array_equal(found[3], whole[9:])
    assert computed == [3, 2], "the last batch is the shorter one, and no other is computed"
    assert sample_blocks(g, 11, 4) == {}


def test_truncation_zero_gives_one_image(gan: Gan) -> None:
    images = sample(gan.generator_ema, 4, seed=0, truncation_psi=0.0)
    assert np.array_equal(images, np.broadcast_to(images[:1], images.shape))
    assert images.std() > 0


def test_truncation_draws_images_together(gan: Gan) -> None:
    spread = [
        sample(gan.generator_ema, 16, seed=0, truncation_psi=psi).astype(float).std(0).mean()
        for psi in (1.0, 0.5)
    ]
    assert 0 < spread[1] < spread[0]


def test_sample_leaves_mode_and_mean_latent_alone() -> None:
    gan = build(TINY, seed=0)
    gan.generator.train()
    before = gan.generator.get_submodule("mapping").w_avg.clone()  # type: ignore[operator]
    sample(gan.generator, 2, seed=0)
    assert gan.generator.training
    assert torch.equal(gan.generator.get_submodule("mapping").w_avg, before)  # type: ignore[arg-type]


def test_sample_of_nothing_is_empty(gan: Gan) -> None:
    assert sample(gan.generator_ema, 0, seed=0).shape == (0, 32, 32, 3)


def test_labels_choose_the_class_and_keep_the_latents(conditional: Gan) -> None:
    g = conditional.generator_ema
    _, drawn = draw_latents(CONDITIONAL, 4, torch.Generator().manual_seed(8))
    assert drawn is not None
    assert np.array_equal(sample(g, 4, seed=8), sample(g, 4, seed=8, labels=drawn.tolist()))
    zero = sample(g, 4, seed=8, labels=0)
    assert np.array_equal(zero, sample(g, 4, seed=8, labels=[0, 0, 0, 0]))
    assert not np.array_equal(zero, sample(g, 4, seed=8, labels=1))


@pytest.mark.parametrize("labels", [5, -1, [0, 1], [0, 1, 9]])
def test_bad_labels_are_refused(conditional: Gan, labels: int | list[int]) -> None:
    with pytest.raises(ConfigError):
        sample(conditional.generator_ema, 3, seed=0, labels=labels)


def test_labels_without_classes_are_refused(gan: Gan) -> None:
    with pytest.raises(ConfigError, match="no classes"):
        sample(gan.generator_ema, 3, seed=0, labels=0)


def test_autocast_context_is_off_for_float32() -> None:
    with base.autocast("cpu", torch.float32):
        assert not torch.is_autocast_enabled("cpu")
    with base.autocast("cpu", torch.bfloat16):
        assert torch.get_autocast_dtype("cpu") is torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
