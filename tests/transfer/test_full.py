from __future__ import annotations

import torch
from training.nets import copies, make, recipe, tiny

from graftgan.gans.base import build
from graftgan.transfer import method


def test_every_tensor_of_both_networks_moves() -> None:
    gan = build(tiny(classes=2), 0)
    method("full").apply(gan, recipe())
    assert all(p.requires_grad for net in (gan.generator, gan.discriminator) for p in net.parameters())


def test_a_few_steps_change_every_parameter() -> None:
    trainer = make(method="full")
    with torch.no_grad():
        for name, parameter in trainer.gan.generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    networks = (trainer.gan.generator, trainer.gan.discriminator)
    before = [copies(network) for network in networks]
    for _ in range(3):
        trainer.step()
    for network, old in zip(networks, before, strict=True):
        still = [name for name, p in network.named_parameters() if torch.equal(p, old[name])]
        assert not still
