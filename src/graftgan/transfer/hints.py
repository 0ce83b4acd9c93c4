"""What papers advise for a number of images, where settings differ from it: said, never done."""

from __future__ import annotations

from collections.abc import Iterator

from graftgan.config import Finetune

FEW_IMAGES, MANY_IMAGES = 100, 1000
"""Zhang et al. 2023: a mixture that stays up to so many, one that moves from so many on."""
LOW_LEVEL_SHARES = ((99, 16, 16), (499, 8, 16), (4999, 4, 8))
"""Most images, and the parts of the image side between which the blocks of D that stay should begin.

D2, D4 to D5 and D6 in the words of Zhao et al. 2020, who found that more should stay for fewer images; the
numbers of images are a rule of thumb.
"""
SMALLEST_PX = 8


def hints(settings: Finetune, images: int, resolution: int) -> Iterator[str]:
    """Yield sentences about settings that papers chose otherwise for so many training images.

    Args:
        settings: The recipe.
        images: Number of training images.
        resolution: Their side in pixels.
    """
    yield from _about_prior(settings, images)
    yield from _about_low_level(settings, images, resolution)


def _about_prior(settings: Finetune, images: int) -> Iterator[str]:
    if settings.prior == "gmm_to_normal" and images < MANY_IMAGES:
        yield f"finetune.prior=gmm_to_normal: the paper leaves the mixture where it is for {images} images"
    if settings.prior == "gmm" and images >= MANY_IMAGES:
        yield f"finetune.prior=gmm: the paper moves the mixture, as gmm_to_normal does, for {images} images"
    if settings.prior != "normal" and images <= FEW_IMAGES and "bsd" not in settings.penalties:
        yield f"finetune.prior={settings.prior}: the paper adds finetune.penalties=[bsd] for {images} images"


def _about_low_level(settings: Finetune, images: int, resolution: int) -> Iterator[str]:
    if settings.method not in ("filter_transfer", "adafm"):
        return
    side = settings.low_level_d_from_px or resolution
    for most, largest, smallest in LOW_LEVEL_SHARES:
        if images <= most:
            low, high = (max(resolution // part, SMALLEST_PX) for part in (smallest, largest))
            if not low <= side <= high:
                wanted = str(low) if low == high else f"{low} to {high}"
                yield (
                    f"finetune.low_level_d_from_px is {side}: a rule of thumb for {images} images of "
                    f"{resolution} px is {wanted}, since the fewer the images, the more of D should stay"
                )
            return
