"""Specs small enough for tests, in every published layout, and those of the published files."""

from __future__ import annotations

from graftgan.gans.resnet_gan import ResnetGanSpec


def tiny(variant: str, classes: int = 0, **sizes: int) -> ResnetGanSpec:
    """Return a spec with the variant's published stages, few feature maps and a small image."""
    stages = {"resnet": 4, "resnet2": 6, "resnet3": 6, "resnet4": 7}[variant]
    resolution = 32 if variant in ("resnet", "resnet2") else 64
    limit = {"resnet": 8, "resnet2": 16, "resnet3": 16, "resnet4": 16}[variant] * 2
    defaults = {
        "resolution": resolution, "z_dim": 6, "embed_dim": 3, "nfilter": 2, "nfilter_max": limit,
        "nfilter_max_d": limit, "stages": stages,
    }  # fmt: skip
    return ResnetGanSpec(variant=variant, classes=classes, **{**defaults, **sizes})


IMAGENET = ResnetGanSpec(classes=1000)
CELEBA = ResnetGanSpec(variant="resnet4", resolution=256, embed_dim=1, stages=7)
LSUN = ResnetGanSpec(variant="resnet3", resolution=256, embed_dim=1)
CELEBA_HQ = ResnetGanSpec(
    variant="resnet", resolution=1024, embed_dim=1, nfilter=16, nfilter_max=512, nfilter_max_d=512, stages=9
)
