"""A residual GAN's low-level blocks behind a fresh small head (Zhao, Cong, Carin 2020, arXiv:2002.11810)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.gans.resnet_gan import ResnetDiscriminator, ResnetGanSpec, ResnetGenerator

CALIBRATION_BATCH = 50
UNUSED = frozenset({"embedding.weight"})
"""What a generator with a small head has and does not compute with."""


def graft(gan: Gan, settings: Finetune, limit: int) -> None:
    """Replace G's blocks below `limit` by a small head, drawn from the run's seed; D's last layer is fresh.

    Everything else is copied. The head's output is brought to the means and deviations that the source has
    there, so that the fixed blocks see what they know.

    Args:
        gan: The source's networks; `gan.spec` and both generators are replaced.
        settings: Seed and section `filter_transfer`.
        limit: Side in pixels from which on G's blocks stay.

    Raises:
        ConfigError: Of this family no small head is known, or the run has several classes, or no block begins
            at `limit`.
    """
    spec, source, discriminator = grafted_spec(gan, settings, limit), gan.generator, gan.discriminator
    assert isinstance(source, ResnetGenerator) and isinstance(discriminator, ResnetDiscriminator)
    device = source.conv_img.weight.device
    mean, deviation = cut_statistics(source, spec, settings)
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if device.type != "meta" else device):
        torch.manual_seed(settings.seed)
        new = ResnetGenerator(spec)
        new.small.norm.calibrate(mean, deviation)
        average = ResnetGenerator(spec)
        average.load_state_dict(new.state_dict())
        discriminator.fc.reset_parameters()
    for network, old in ((new, source), (average, gan.generator_ema)):
        kept = {
            k: v for k, v in old.state_dict().items() if k in set(network.state_dict()) - head_names(network)
        }
        network.load_state_dict(kept, strict=False)
    last = (f"discriminator.fc.{name}" for name in discriminator.fc.state_dict())
    gan.fresh = (*gan.fresh, *(f"generator.{name}" for name in sorted(head_names(new))), *last)
    gan.spec = discriminator.spec = spec
    gan.generator = new.to(device)
    gan.generator_ema = average.to(device).eval().requires_grad_(False)


def head_names(network: ResnetGenerator) -> set[str]:
    """Return the names of the head's tensors."""
    return {name for name in network.state_dict() if name.startswith("small.")}


def grafted_spec(gan: Gan, settings: Finetune, limit: int) -> ResnetGanSpec:
    """Return the sizes of the network with its small head, which has no classes.

    A network of one class, as a source with classes becomes for images without labels, loses it.

    Raises:
        ConfigError: See :func:`graft`.
    """
    spec, asked = gan.spec, "finetune.filter_transfer.head=small"
    if not isinstance(spec, ResnetGanSpec):
        raise ConfigError(
            f"{asked} is known for family=resnet_gan, and the source's family={spec.family}",
            "set finetune.filter_transfer.head=source, or choose another source",
        )
    if spec.classes > 1:
        raise ConfigError(
            f"{asked} makes a head without classes, and the source of rank.choose has {spec.classes} classes "
            "for the labels of data.path",
            "set finetune.filter_transfer.head=source, leave out the labels of data.path (no sub-folders), "
            "which makes one class of all images, or choose a source without classes in rank.choose",
        )
    sides = [spec.base << stage for stage in range(max(spec.first_stage, 1), spec.stages)]
    if limit not in sides:
        raise ConfigError(
            f"finetune.low_level_from_px={limit} with {asked}: no block of G begins there",
            f"use one of {', '.join(map(str, sides))}",
        )
    section = settings.filter_transfer
    z_dim = section.head_z_dim or spec.z_dim
    return replace(spec, classes=0, head_px=limit, head_grad_gain=section.head_grad_gain, z_dim=z_dim)


@torch.no_grad()
def cut_statistics(source: ResnetGenerator, spec: ResnetGanSpec, settings: Finetune) -> tuple[Tensor, Tensor]:
    """Return the mean [C] and the deviation [C] of each feature map of the source at the cut.

    Args:
        source: The whole generator.
        spec: Sizes with the small head.
        settings: Seed and number of samples.
    """
    device, rng = source.conv_img.weight.device, torch.Generator().manual_seed(settings.seed)
    wanted = 1 if device.type == "meta" else settings.filter_transfer.calibration_samples
    count, total, squares = 0, torch.zeros((), device=device), torch.zeros((), device=device)
    for start in range(0, wanted, CALIBRATION_BATCH):
        drawn = torch.randn(min(CALIBRATION_BATCH, wanted - start), source.spec.z_dim, generator=rng)
        # Without classes the ids are not read, and there is one class at most.
        ids = torch.zeros(len(drawn), dtype=torch.long, device=device)
        maps = source.before_stage(spec.first_stage, drawn.to(device), ids)
        maps = maps.double().transpose(0, 1).flatten(1)
        count += maps.shape[1]
        total, squares = total + maps.sum(1), squares + maps.square().sum(1)
    mean = total / count
    return mean, ((squares - count * mean.square()) / (count - 1)).clamp_min(0).sqrt()
