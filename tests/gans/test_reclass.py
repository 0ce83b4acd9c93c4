from __future__ import annotations

import dataclasses

import pytest
import torch

from graftgan.errors import ConfigError
from graftgan.gans.base import build
from graftgan.gans.reclass import reclass

from .stylegan2.sizes import TINY

CONDITIONAL = dataclasses.replace(TINY, classes=5)


def test_every_new_class_is_the_mean_of_the_old_ones() -> None:
    gan = build(CONDITIONAL, seed=0)
    changed = reclass(gan, 2)
    assert changed.spec == dataclasses.replace(TINY, classes=2)
    for network in ("generator", "discriminator"):
        old, new = (getattr(g, network).mapping.embed.weight for g in (gan, changed))
        assert new.shape[1] == 2
        torch.testing.assert_close(new, old.mean(dim=1, keepdim=True).expand(-1, 2))


def test_all_else_stays() -> None:
    gan = build(CONDITIONAL, seed=0)
    changed = reclass(gan, 1)
    old, new = gan.generator_ema.state_dict(), changed.generator_ema.state_dict()
    assert [name for name in new if not torch.equal(old[name], new[name])] == ["mapping.embed.weight"]
    z = torch.randn(2, TINY.z_dim)
    labels = torch.zeros(2, dtype=torch.long)
    fake = changed.generator(z, labels)
    assert changed.discriminator(fake, labels).shape == (2, 1)


def test_the_same_number_changes_nothing_and_no_classes_are_refused() -> None:
    gan = build(CONDITIONAL, seed=0)
    assert reclass(gan, 5) is gan
    with pytest.raises(ConfigError, match="no classes"):
        reclass(build(TINY, seed=0), 3)
