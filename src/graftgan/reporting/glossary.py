"""What the measures mean, in plain words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """How a measure is read.

    Attributes:
        title: Name for people.
        better: `lower`, `higher`, or the value that is best, in words.
        help: One or two plain sentences.
    """

    title: str
    better: str
    help: str

    @property
    def direction(self) -> int:
        """-1 if lower is better, 1 if higher is better, 0 if neither."""
        return {"lower": -1, "higher": 1}.get(self.better, 0)

    @property
    def advice(self) -> str:
        """How to read it: `lower is better`, for example."""
        return f"{self.better} is better" if self.direction else self.better


_DISTANCE = "How far the generated images are from unseen real ones, in what a vision network sees"

MEASURES = {
    "kid": Measure(
        "KID",
        "lower",
        f"{_DISTANCE}. Fair even with few images; a perfect model scores about 0, slightly negative too.",
    ),
    "fd": Measure(
        "Fréchet distance",
        "lower",
        f"{_DISTANCE}. Grows when there are few images: read it against the floor.",
    ),
    "fid": Measure(
        "FID", "lower", f"{_DISTANCE}. The well-known score; needs thousands of images to mean much."
    ),
    "fd_excess": Measure(
        "Fréchet excess", "lower", "The Fréchet distance less its floor, at equal numbers of images."
    ),
    "precision": Measure("Precision", "higher", "Share of generated images that look like some real image."),
    "recall": Measure("Recall", "higher", "Share of real images that the model can come near: its variety."),
    "density": Measure("Density", "higher", "How deep generated images sit among real ones; may be above 1."),
    "coverage": Measure(
        "Coverage", "higher", "Share of real images with a generated image right beside them."
    ),
    "copying": Measure(
        "Copying",
        "0.5 is honest, 1 copies",
        "Chance that a generated image is nearer to the training images than an unseen real image is.",
    ),
    "close_share": Measure(
        "Very close",
        "0.05 is honest",
        "Share of generated images as near to a training image as the nearest 5 % of unseen real images.",
    ),
    "l1": Measure(
        "L1", "lower", "Mean difference of a pixel from the truth, as a share of the range; blur is cheap."
    ),
    "psnr": Measure("PSNR", "higher", "Logarithm of the squared error, in dB; 58.92 dB is no error at all."),
    "cosine": Measure(
        "Feature angle", "lower", "Angle between output and truth in what a vision network sees, 1 - cos."
    ),
    "l2": Measure("Feature distance", "lower", "Distance of output and truth in what a vision network sees."),
    "authenticity": Measure(
        "Authenticity", "higher", "Share of generated images that are not near-copies of one training image."
    ),
}

COPY_MEASURES = ("copying", "close_share", "authenticity")


def measure(name: str) -> tuple[str, Measure]:
    """Return the key and the description of a score such as `kid_efflite0` or `fd_excess_efflite0`.

    A name that is not known gets itself as its title.
    """
    for key in sorted(MEASURES, key=len, reverse=True):
        if name == key or name.startswith(f"{key}_"):
            return key, MEASURES[key]
    return name, Measure(name, "see the documentation", "")


def in_order(names: Iterable[str]) -> list[str]:
    """Return score names, each once, in the order of the glossary, unknown ones last."""
    order = list(MEASURES)
    ranks = {name: measure(name)[0] for name in names}
    return sorted(ranks, key=lambda n: (order.index(ranks[n]) if ranks[n] in order else len(order), n))
