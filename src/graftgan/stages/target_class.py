"""Which of a conditional source's classes the images are most like (Zhang et al. 2023, ECML-PKDD).

A classifier tells it, as in the paper, or, without one, the source's own samples: an image belongs to the
class whose samples are nearest in the features of the validation extractor.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftgan.config import Params
from graftgan.data.dataset import ImageSet
from graftgan.device import pick_device
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, sample
from graftgan.metrics.features import make_extractor
from graftgan.stages.features import opaque, open_extractor

SHOWN = 3


def class_mixture(gan: Gan, data: ImageSet, classes: int, params: Params) -> Tensor | None:
    """Return what each class of the run is made of, float64 [classes, the source's]; None for means.

    A class without images is the mean of all.

    Raises:
        ConfigError: The classifier has another number of classes than the source.
    """
    settings = params.finetune.target_class
    if settings.rows == "mean":
        return None
    images = opaque(data.images("train"))
    found = (_classified if settings.classifier else _nearest)(images, gan, params)
    if settings.rows == "nearest":
        found = one_hot(found)
    labels = np.maximum(data.labels("train"), 0)
    mixture = np.full((classes, gan.spec.classes), 1 / gan.spec.classes)
    for label in np.unique(labels):
        mixture[label] = found[labels == label].mean(axis=0)
    return torch.from_numpy(mixture)


def one_hot(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows [N, classes] with a 1 at each one's largest value."""
    return np.asarray(np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)])


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows [N, classes] of positive numbers that add up to 1."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def gaussian_posterior(features: NDArray[np.float64], samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of classes given features, for Gaussians of one variance and equal frequency.

    Args:
        features: [N, D].
        samples: Features of each class's samples, [classes, M, D]; they give means and the common variance.

    Returns:
        [N, classes].
    """
    means = samples.mean(axis=1)
    variance = max(float(((samples - means[:, None]) ** 2).mean()), 1e-12)
    squares = (features**2).sum(1)[:, None] - 2 * features @ means.T + (means**2).sum(1)
    return softmax(-squares / (2 * variance))


def told(mixture: Tensor, classes: int) -> str:
    """Return the sentence about what the classes of a run start as."""
    shares = mixture.mean(0)
    best = torch.argsort(shares, descending=True, stable=True)[:SHOWN]
    listed = ", ".join(f"{int(i)} ({float(shares[i]):.0%})" for i in best if shares[i] > 0)
    return f"the run's {classes} classes start from the source's, most from {listed}"


def _classified(images: NDArray[np.uint8], gan: Gan, params: Params) -> NDArray[np.float64]:
    name = str(params.finetune.target_class.classifier)
    logits = make_extractor(name, device=str(pick_device(params.runtime.device)))(images).astype(np.float64)
    if logits.shape[1] != gan.spec.classes:
        raise ConfigError(
            f"finetune.target_class.classifier has {logits.shape[1]} classes, the source of rank.choose "
            f"{gan.spec.classes}",
            "use a classifier of the source's classes, or set finetune.target_class.classifier=null",
        )
    return softmax(logits)


def _nearest(images: NDArray[np.uint8], gan: Gan, params: Params) -> NDArray[np.float64]:
    settings = params.finetune
    extractor = open_extractor(settings.validation_extractor, params)
    gan.to(pick_device(params.runtime.device))
    samples = [
        extractor(opaque(sample(gan.generator_ema, settings.target_class.samples, settings.seed, labels=c)))
        for c in range(gan.spec.classes)
    ]
    return gaussian_posterior(extractor(images).astype(np.float64), np.stack(samples).astype(np.float64))
