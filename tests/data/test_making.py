from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from graftgan.data.making import edges, grey, halves, lowres, make_input, silhouette


def noise(side: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_a_flat_image_has_no_edges() -> None:
    assert (edges(np.full((8, 8, 3), 77, np.uint8)) == 255).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_step_gives_a_line_as_dark_as_the_step_is_high(axis: int, channel: int) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[4:, :, channel] = 200
    drawn = edges(image if axis == 0 else image.swapaxes(0, 1))
    drawn = drawn if axis == 0 else drawn.swapaxes(0, 1)
    assert (drawn[[3, 4]] == 55).all() and (drawn[[0, 1, 2, 5, 6, 7]] == 255).all()


def test_edges_are_the_sobel_magnitude_of_a_ramp() -> None:
    ramp = np.arange(8, dtype=np.uint8)[None, :, None] * np.array([10, 0, 0], np.uint8)
    drawn = edges(np.broadcast_to(ramp, (8, 8, 3)))
    # The central difference of 10 a pixel is 20, eight times that over four is twice 20 / 2.
    assert (drawn[:, 1:-1] == 255 - 20).all()
    assert drawn.dtype == np.uint8 and drawn.shape == (8, 8, 3)


def test_grey_is_the_luma_of_pillow() -> None:
    image = noise()
    expected = np.asarray(Image.fromarray(image).convert("L")).astype(int)
    made = grey(image)
    assert (made[..., 0] == made[..., 1]).all() and (made[..., 0] == made[..., 2]).all()
    assert np.abs(made[..., 0] - expected).max() <= 1
    assert (grey(np.full((4, 4, 3), 255, np.uint8)) == 255).all()


@pytest.mark.parametrize("factor", [2, 4])
def test_low_resolution_repeats_the_mean_of_each_block(factor: int) -> None:
    image = noise()
    made = lowres(image, factor)
    for top in range(0, 16, factor):
        for left in range(0, 16, factor):
            block = image[top : top + factor, left : left + factor].reshape(-1, 3).mean(0)
            seen = made[top : top + factor, left : left + factor].reshape(-1, 3)
            assert (seen == seen[0]).all()
            assert np.abs(seen[0] - block).max() <= 0.5
    assert np.array_equal(lowres(made, factor), made)


def test_a_factor_must_divide_the_side() -> None:
    with pytest.raises(ValueError, match="16 pixels is no multiple of 3"):
        lowres(noise(), 3)


def test_a_silhouette_is_black_where_the_figure_is() -> None:
    image = np.full((10, 10, 3), (250, 200, 100), np.uint8)
    image[3:6, 2:8] = (250, 200, 160)
    image[7, 7] += np.array([0, 24, 0], np.uint8)
    made = silhouette(image)
    figure = np.zeros((10, 10), bool)
    figure[3:6, 2:8] = True
    assert (made[figure] == 0).all() and (made[~figure] == 255).all()


def test_halves_of_a_squeezed_picture_are_both_pictures() -> None:
    left, right = noise(8, 1), noise(8, 2)
    both = np.concatenate([left, right], axis=1).repeat(2, axis=0)
    found = halves(both)
    assert np.array_equal(found[0], left) and np.array_equal(found[1], right)


def test_halves_average_pairs_of_rows() -> None:
    both = np.zeros((4, 4, 3), np.uint8)
    both[0], both[1] = 10, 21
    assert (halves(both)[0][0] == 16).all()


def test_each_rule_makes_what_its_name_says() -> None:
    image = noise()
    assert np.array_equal(make_input(image, "edges", 4), edges(image))
    assert np.array_equal(make_input(image, "grey", 4), grey(image))
    assert np.array_equal(make_input(image, "lowres", 4), lowres(image, 4))
    assert np.array_equal(make_input(image, "silhouette", 4), silhouette(image))
    with pytest.raises(ValueError, match="side-by-side"):
        make_input(image, "left", 4)
