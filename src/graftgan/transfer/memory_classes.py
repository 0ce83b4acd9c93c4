"""A residual GAN without classes as one with classes, each of which is the source at the start.

GAN Memory's class-conditional variant (Cong et al. 2020) adds to the linear layer a bias for each class. A
class embedding that ends in a one-hot code makes these biases columns of the layer's weight, so that the
result is a plain conditional network.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from graftgan.errors import ConfigError
from graftgan.gans.base import Discriminator, Gan
from graftgan.gans.resnet_gan.networks import ResnetDiscriminator, ResnetGenerator
from graftgan.gans.resnet_gan.spec import ResnetGanSpec


@torch.no_grad()
def add_classes(gan: Gan, classes: int) -> None:
    """Give G, its average and D classes, in place; the last columns of ``fc`` belong to them and are 0.

    Raises:
        ConfigError: The source is of another family, or has classes already.
    """
    spec = gan.spec
    if not isinstance(spec, ResnetGanSpec) or spec.classes:
        has = f"for a source with {spec.classes}" if spec.classes else f"family={spec.family}"
        raise ConfigError(
            f"finetune.gan_memory.classes={classes} is for a residual GAN without classes, not {has}",
            "set finetune.gan_memory.classes=null, or choose another source",
        )
    gan.spec = replace(spec, classes=classes, embed_dim=spec.embed_dim + classes)
    for network in (gan.generator, gan.generator_ema):
        _condition(cast(ResnetGenerator, network), gan.spec, classes)
    add_outputs(gan.discriminator, gan.spec)


def _condition(generator: ResnetGenerator, spec: ResnetGanSpec, classes: int) -> None:
    old, row, unit = generator.fc, generator.embedding.weight[0], spec.layout.unit_embedding
    device = old.weight.device
    # Where rows are brought to length 1, the source's and the code share that length.
    row, gain = (row / row.norm(), math.sqrt(2)) if unit else (row, 1.0)
    table = torch.cat([row.expand(classes, -1), torch.eye(classes, device=device)], dim=1)
    generator.embedding = nn.Embedding(classes, spec.embed_dim, _weight=table.clone())
    fc = nn.Linear(old.in_features + classes, old.out_features, device=device)
    fc.weight.zero_()
    fc.weight[:, : old.in_features] = old.weight
    fc.weight[:, spec.z_dim : old.in_features] *= gain
    fc.bias.copy_(old.bias)
    generator.fc, generator.spec = fc, spec


@torch.no_grad()
def add_outputs(discriminator: Discriminator, spec: ResnetGanSpec) -> None:
    """Let D answer for each class as it did for all images, in place."""
    assert isinstance(discriminator, ResnetDiscriminator)
    old = discriminator.fc
    fc = nn.Linear(old.in_features, spec.labels, device=old.weight.device)
    fc.weight.copy_(old.weight.expand(spec.labels, -1))
    fc.bias.copy_(old.bias.expand(spec.labels))
    discriminator.fc, discriminator.spec = fc, spec
