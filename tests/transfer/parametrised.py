"""What must hold for every method that trains parametrizations."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from training.nets import EVERYTHING, copies, equal, everything

from graftgan.checkpoints.store import gan_tensors, load_gan, save_gan
from graftgan.gans.base import Gan, sample
from graftgan.gans.folding import adapters
from graftgan.training.state import StateStore
from graftgan.transfer import method
from transfer.families import small, train, trainer


def images(gan: Gan) -> torch.Tensor:
    """Images of G and of its average."""
    labels = torch.tensor([0, 1]) if gan.spec.classes else None
    z = torch.randn(2, gan.spec.z_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        made = [net.eval()(z, labels, noise_mode="const") for net in (gan.generator, gan.generator_ema)]
    return torch.stack(made)


def check_start_is_the_source(family: str, **settings: Any) -> None:
    run = trainer(family, **settings)
    assert adapters(run.gan.generator)
    assert adapters(run.gan.generator).keys() == adapters(run.gan.generator_ema).keys()
    assert torch.equal(images(run.gan), images(trainer(family).gan))


def check_average_follows(family: str, **settings: Any) -> None:
    """At a half-life of next to nothing the average is the network itself."""
    run = train(trainer(family, ema_half_life_kimg=1e-9, **settings))
    first, second = images(run.gan)
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-6)
    assert not torch.equal(images(run.gan), images(small(family)))
    assert not any(p.requires_grad for p in run.gan.generator_ema.parameters())


def check_folding(family: str, folder: Path, **settings: Any) -> None:
    """Plain networks, in memory and from a folder, make the images of the parametrised ones."""
    run = train(trainer(family, **settings))
    gan = run.gan
    before = images(gan)
    sampled = sample(gan.generator_ema, 3, 0)
    count = sum(p.numel() for p in adapters(gan.generator).values())
    tensors = gan_tensors(gan)
    save_gan(gan, folder)
    assert method(settings["method"]).finish(gan) == count > 0
    plain = small(family)
    for name in ("generator", "generator_ema", "discriminator"):
        assert getattr(gan, name).state_dict().keys() == getattr(plain, name).state_dict().keys()
        assert not adapters(getattr(gan, name))
    assert equal(gan_tensors(gan), tensors)
    torch.testing.assert_close(images(gan), before, rtol=0, atol=1e-6)
    assert (sample(gan.generator_ema, 3, 0) == sampled).all()
    again = load_gan(folder)
    assert equal(gan_tensors(again), tensors)
    assert (sample(again.generator_ema, 3, 0) == sampled).all()
    assert method(settings["method"]).finish(gan) == 0


def check_frozen_originals(family: str, expected: set[str], **settings: Any) -> None:
    """The weights below the parametrizations keep their bits, and every adapter moves."""
    run = trainer(family, **settings)
    before = copies(run.gan.generator)
    train(run)
    after = copies(run.gan.generator)
    originals = {name for name in after if name.endswith(".original")}
    assert {name.split(".parametrizations")[0] for name in originals} == expected
    assert all(torch.equal(after[name], before[name]) for name in originals)
    assert not [name for name in adapters(run.gan.generator) if torch.equal(after[name], before[name])]


def check_resuming(folder: Path, **settings: Any) -> None:
    """A run that stops after a step and goes on from its saved state is the run that did not stop."""
    settings = {**EVERYTHING, **settings}
    whole = train(trainer("stylegan2", **settings), 4)
    first = train(trainer("stylegan2", **settings), 2)
    store = StateStore(folder, keep=1)
    store.save(first.images_seen, copy.deepcopy(first.state_dict()))
    state = store.latest()
    assert state is not None
    second = trainer("stylegan2", **settings)
    second.load_state_dict(state)
    for _ in range(2):
        second.step()
    assert equal(everything(second), everything(whole))
