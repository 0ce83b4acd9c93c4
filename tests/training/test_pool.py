from __future__ import annotations

import pytest
import torch

from graftgan.training.pool import ImagePool


def image(value: int) -> torch.Tensor:
    return torch.full((1, 1, 2, 2), float(value))


def passed(pool: ImagePool, values: range) -> list[int]:
    return [int(pool.exchange(image(v))[0, 0, 0, 0]) for v in values]


def test_until_it_is_full_images_pass_and_are_kept() -> None:
    pool = ImagePool(5, 0)
    assert passed(pool, range(5)) == list(range(5))
    assert sorted(int(kept[0, 0, 0]) for kept in pool.images) == list(range(5))


def test_once_full_half_of_what_comes_out_is_old_and_each_image_comes_out_once() -> None:
    pool = ImagePool(50, 1)
    out = passed(pool, range(1050))
    late = list(zip(range(50, 1050), out[50:], strict=True))
    share = sum(new != old for new, old in late) / len(late)
    # Four standard errors of a fair coin thrown a thousand times.
    assert share == pytest.approx(0.5, abs=4 * 0.5 / 1000**0.5)
    swapped = [old for new, old in late if new != old]
    assert len(set(swapped)) == len(swapped) and all(old < new for new, old in late if new != old)
    assert len(pool.images) == 50


def test_a_pool_without_places_passes_everything_without_gradients() -> None:
    given = torch.ones(2, 1, 2, 2, requires_grad=True)
    out = ImagePool(0, 0).exchange(given * 2)
    assert torch.equal(out, torch.full_like(out, 2)) and not out.requires_grad
    assert not ImagePool(3, 0).exchange(given * 2).requires_grad


def test_a_kept_image_is_a_copy() -> None:
    pool, given = ImagePool(1, 0), image(1)
    pool.exchange(given)
    given += 5
    assert int(pool.images[0][0, 0, 0]) == 1


def test_a_restored_pool_goes_on_alike() -> None:
    pool = ImagePool(4, 0)
    passed(pool, range(30))
    state = pool.state_dict()
    other = ImagePool(4, 7)
    other.load_state_dict(state, torch.device("cpu"))
    assert passed(other, range(30, 90)) == passed(pool, range(30, 90))
