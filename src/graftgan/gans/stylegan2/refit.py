"""A trained StyleGAN2 at another image size or number of channels: the network is cut or grown at its top."""

from __future__ import annotations

from torch import Tensor

from graftgan.gans.base import Gan, build
from graftgan.gans.stylegan2.spec import StyleGAN2Spec

NETWORKS = ("generator", "generator_ema", "discriminator")


def refit(gan: Gan, resolution: int, channels: int, seed: int) -> tuple[Gan, tuple[str, ...]]:
    """Return the networks for images of another size, with every tensor kept that still has a place.

    The blocks of a StyleGAN2 are named by their resolution and their widths do not depend on the image size.
    So the networks for smaller images are the lower blocks as they are: the generator then ends in the skip
    image of that size. For larger images blocks are added. In both cases the discriminator's layer that reads
    the image is new. With another number of channels the layers that write and read the image are new.

    Args:
        gan: Trained networks of this family.
        resolution: Wanted image side in pixels.
        channels: Wanted image channels.
        seed: Seed of the new tensors.

    Returns:
        The networks, and the names of the new tensors; nothing is new if the sizes are the same.
    """
    assert isinstance(gan.spec, StyleGAN2Spec)
    if (gan.spec.resolution, gan.spec.channels) == (resolution, channels):
        return gan, ()
    sizes = gan.spec.to_dict() | {"resolution": resolution, "channels": channels}
    refitted = build(StyleGAN2Spec.from_sizes(sizes), seed)
    new: list[str] = []
    for network in NETWORKS:
        old, wanted = getattr(gan, network).state_dict(), getattr(refitted, network).state_dict()
        new += [f"{network}.{name}" for name, tensor in wanted.items() if not _fits(old, name, tensor)]
        kept = {name: old[name] if _fits(old, name, tensor) else tensor for name, tensor in wanted.items()}
        getattr(refitted, network).load_state_dict(kept)
    refitted.fresh = (*gan.fresh, *(name for name in new if not name.startswith("generator_ema.")))
    return refitted, tuple(new)


def _fits(old: dict[str, Tensor], name: str, tensor: Tensor) -> bool:
    return name in old and old[name].shape == tensor.shape
