from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch.nn import functional as F

from graftgan.metrics.features import Extractor, make_extractor
from graftgan.metrics.features.efficientnet_lite import EfficientNetLite0
from graftgan.metrics.features.weights import (
    find_efflite0,
    load_state,
)

from .helpers import pictures


def test_efflite_is_the_published_network(efflite: Extractor) -> None:
    """The folded, batched path against the plain network with separate norms and library resizing."""
    network = EfficientNetLite0().eval()
    network.load_state_dict(load_state(find_efflite0()), strict=True)
    images = pictures(3)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, (128, 128), mode="bicubic", antialias=True).clamp(0, 255)
    with torch.inference_mode():
        plain = network((resized - 127) / 128).numpy()
    np.testing.assert_allclose(efflite(images), plain, atol=5e-5)
    assert (efflite.dim, efflite.input_px, efflite.name) == (1280, 128, "efflite0-128")


@pytest.mark.parametrize(("photo", "label"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_efflite_recognises_photographs(photo: str, label: int) -> None:
    """A palace and a daisy by their ImageNet numbers: weights, padding, colours and range are all right."""
    network = EfficientNetLite0()
    network.load_state_dict(load_state(find_efflite0()), strict=True)
    extractor = make_extractor("efflite0")
    square = np.ascontiguousarray(load_sample_image(photo)[None, :, 106:533])
    features = torch.from_numpy(extractor(square))
    assert int(network._fc(features).argmax()) == label


@pytest.mark.parametrize("px", [128, 224])
def test_same_padding_is_tensorflows(px: int) -> None:
    network = EfficientNetLite0().eval()
    with torch.inference_mode():
        stem = network._conv_stem(torch.ones(1, 3, px, px))
        # the last row and column see the padding, the first ones do not
        whole = network._conv_stem.weight.sum((1, 2, 3))
        assert stem.shape == (1, 32, px // 2, px // 2)
        torch.testing.assert_close(stem[0, :, 0, 0], whole, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            stem[0, :, -1, -1], network._conv_stem.weight[:, :, :2, :2].sum((1, 2, 3)), rtol=1e-4, atol=1e-5
        )
