from __future__ import annotations

import pytest
import torch
from training.nets import recipe, tiny

from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build
from graftgan.training.ema import update_ema
from graftgan.transfer import METHODS, method
from transfer.families import small


def networks(name: str, **sizes: int) -> Gan:
    """Small networks that the method is for."""
    families = METHODS[name].families
    return build(tiny(**sizes), 0) if families is None or "stylegan2" in families else small(families[0])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_is_found_by_its_name_and_says_where_it_is_from(name: str) -> None:
    found = method(name)
    assert found.name == name
    assert "20" in found.help
    assert len(found.help) < 100


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'freezeD' is not a method") as error:
        method("freezeD")
    assert "freeze_d" in error.value.remedy
    assert "full" in error.value.remedy


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_names_parameters_that_exist_and_leaves_some_to_train(name: str) -> None:
    gan, settings = networks(name, classes=3), recipe(method=name)
    METHODS[name].apply(gan, settings)
    for network, choose in (
        (gan.generator, METHODS[name].trainable_generator),
        (gan.discriminator, METHODS[name].trainable_discriminator),
    ):
        moving = choose(gan, settings)
        assert moving or (network is gan.discriminator and METHODS[name].direct is not None)
        assert moving <= {parameter for parameter, _ in network.named_parameters()}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_applying_a_method_turns_exactly_its_tensors_on(name: str) -> None:
    gan, settings = networks(name), recipe(method=name)
    gan.generator.requires_grad_(False)
    METHODS[name].apply(gan, settings)
    for network, choose in (
        (gan.generator, METHODS[name].trainable_generator),
        (gan.discriminator, METHODS[name].trainable_discriminator),
    ):
        on = {parameter for parameter, tensor in network.named_parameters() if tensor.requires_grad}
        assert on == choose(gan, settings)
    assert not any(parameter.requires_grad for parameter in gan.generator_ema.parameters())


@pytest.mark.parametrize("name", sorted(name for name in METHODS if METHODS[name].direct is None))
def test_what_stays_fixed_stays_in_the_average_too(name: str) -> None:
    gan, settings = networks(name), recipe(method=name)
    own = dict(gan.generator.named_parameters())
    with torch.no_grad():
        for parameter in own.values():
            parameter.add_(0.1)
    METHODS[name].apply(gan, settings)
    before = {n: p.clone() for n, p in gan.generator_ema.named_parameters()}
    fixed = {n for n, p in gan.generator.named_parameters() if not p.requires_grad}
    update_ema(gan.generator_ema, gan.generator, 0.5)
    after = dict(gan.generator_ema.named_parameters())
    assert all(torch.equal(after[n], before[n]) for n in fixed)
    kept = {n for n in own if n in after and torch.equal(after[n], before[n])}
    # The preparation of cdc is of D alone.
    whole = (METHODS[name].prepare is None or name == "cdc") and not fixed
    assert bool(kept) != whole, "without anything fixed, G keeps its own tensors"
