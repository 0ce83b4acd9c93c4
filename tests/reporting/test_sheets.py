from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graftgan.reporting.sheets import png_bytes, save_gif, save_png, sheet, to_rgb
from reporting.synthetic import blobs


def test_every_image_lies_where_it_should() -> None:
    images = blobs(7, 0, side=8)
    made = sheet(images, 3, gap_px=2)
    assert made.shape == (3 * 10 + 2, 3 * 10 + 2, 3)
    for index, image in enumerate(images):
        top, left = 2 + index // 3 * 10, 2 + index % 3 * 10
        np.testing.assert_array_equal(made[top : top + 8, left : left + 8], image)
    assert (made[22:, 12:] == 255).all(), "cells without an image are white"


@pytest.mark.parametrize(("cell_px", "side"), [(None, 8), (7, 8), (8, 8), (24, 24), (31, 24)])
def test_cells_grow_by_whole_factors_only(cell_px: int | None, side: int) -> None:
    images = blobs(1, 0, side=8)
    made = sheet(images, 1, cell_px=cell_px, gap_px=0)
    assert made.shape == (side, side, 3)
    np.testing.assert_array_equal(made[:: side // 8, :: side // 8], images[0])


def test_grey_is_repeated_and_transparency_is_laid_over_white() -> None:
    grey = np.full((1, 2, 2, 1), 7, np.uint8)
    assert (to_rgb(grey) == 7).all() and to_rgb(grey).shape == (1, 2, 2, 3)
    pixel = np.array([[[[10, 20, 30, 0]]], [[[10, 20, 30, 255]]], [[[0, 100, 255, 51]]]], np.uint8)
    assert to_rgb(pixel)[:, 0, 0].tolist() == [[255, 255, 255], [10, 20, 30], [204, 224, 255]]


@pytest.mark.parametrize("bad", [np.zeros((2, 4, 4, 2), np.uint8), np.zeros((2, 4, 4, 3), np.float32)])
def test_other_arrays_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        sheet(bad, 2)


def test_no_images_make_a_thin_white_strip() -> None:
    made = sheet(np.zeros((0, 8, 8, 3), np.uint8), 4)
    assert made.shape == (2, 42, 3) and (made == 255).all()


def test_labels_stand_left_of_their_rows() -> None:
    images = np.zeros((4, 20, 20, 3), np.uint8)
    plain = sheet(images, 2)
    labelled = sheet(images, 2, labels=["one", "a longer label"])
    width = labelled.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(labelled[:, width:], plain)
    column = labelled[:, :width]
    assert (column[:22] < 128).any() and (column[22:] < 128).any(), "each row has ink"
    left = [np.flatnonzero((rows < 128).any(axis=(0, 2)))[0] for rows in (column[:22], column[22:])]
    assert left[1] < left[0], "the longer label begins further left"
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        sheet(images, 2, labels=["one"])


def test_png_keeps_every_pixel_and_depends_on_pixels_alone(tmp_path: Path) -> None:
    image = sheet(blobs(6, 1), 3)
    save_png(image, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened), image)
        assert opened.info == {}
    assert png_bytes(image) == png_bytes(image.copy()) == (tmp_path / "new" / "a.png").read_bytes()
    assert png_bytes(image[..., :1]) == png_bytes(image[..., 0])


def test_gif_keeps_frames_time_and_roughly_the_colours(tmp_path: Path) -> None:
    frames = blobs(5, 2)
    save_gif(frames, tmp_path / "a.gif", ms=120)
    save_gif(list(frames), tmp_path / "b.gif", ms=120)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as opened:
        assert (opened.n_frames, opened.info["duration"], opened.info["loop"]) == (5, 120, 0)
        for index, frame in enumerate(frames):
            opened.seek(index)
            shown = np.asarray(opened.convert("RGB")).astype(int)
            assert np.abs(shown - frame).mean() < 4
    with pytest.raises(ValueError, match="at least one"):
        save_gif([], tmp_path / "c.gif")
