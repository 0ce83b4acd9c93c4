from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graftgan.metrics.features.resize import BICUBIC_ANTIALIAS, TF1_BILINEAR, resize_images

from .helpers import pictures


@pytest.mark.parametrize(("n_in", "px"), [(32, 224), (300, 128), (64, 64)])
def test_bicubic_is_torchs_antialiased(n_in: int, px: int) -> None:
    images = torch.from_numpy(pictures(2, n_in)).permute(0, 3, 1, 2).float()[..., : n_in - 3]
    expected = F.interpolate(images, (px, px), mode="bicubic", antialias=True).clamp(0, 255)
    torch.testing.assert_close(resize_images(images, BICUBIC_ANTIALIAS, px), expected, rtol=1e-5, atol=2e-3)


def test_bicubic_of_the_same_size_is_the_image() -> None:
    images = torch.from_numpy(pictures(2, 32)).permute(0, 3, 1, 2).float()
    assert torch.equal(resize_images(images, BICUBIC_ANTIALIAS, 32), images)


def test_tf1_bilinear_has_no_half_pixel_centres() -> None:
    ramp = torch.tensor([0.0, 10, 20, 40]).expand(1, 1, 4, 4)
    doubled = resize_images(ramp, TF1_BILINEAR, 8)[0, 0, 0]
    assert doubled.tolist() == [0, 5, 10, 15, 20, 30, 40, 40]
    shrunk = resize_images(ramp, TF1_BILINEAR, 2)[0, 0, 0]
    assert shrunk.tolist() == [0, 20]
