from __future__ import annotations

import numpy as np
import pytest
import torch

from graftgan.world import (
    World,
    agreed,
    averaged,
    belonging,
    collected,
    dealt,
    from_first,
    gathered,
    is_first,
    joined_rows,
    normal,
    own,
    own_rows,
    sharding,
    shards,
    take_from_first,
    world,
)


def test_a_process_is_alone_by_default_and_everything_is_its_own() -> None:
    values = torch.arange(6.0)
    assert world() == World(0, 1) and is_first()
    with sharding():
        assert shards() == 1
        for function in (own, gathered, averaged):
            assert function(values) is values
    assert from_first(lambda: 3) == 3
    assert collected("a") == ["a"]
    assert agreed(True, 2.5) == (True, 2.5)
    take_from_first(iter([values]))


def test_batches_are_cut_inside_sharding_blocks_alone() -> None:
    with belonging(World(1, 3)):
        assert shards() == 1 and not is_first()
        with sharding():
            assert shards() == 3
            with sharding(on=False):
                assert shards() == 1
            assert shards() == 3
    assert world().size == 1


@pytest.mark.parametrize("parts", [1, 2])
def test_the_shares_of_a_batch_are_all_of_it(parts: int) -> None:
    batch = torch.arange(12)
    shares = []
    for rank in range(3):
        with belonging(World(rank, 3)), sharding():
            shares.append(own(batch, parts))
    expected = torch.stack(shares).view(3, parts, -1).transpose(0, 1).flatten()
    assert torch.equal(expected, batch)
    assert shares[1].tolist() == ([4, 5, 6, 7] if parts == 1 else [2, 3, 8, 9])


def test_rows_and_normal_numbers_are_cut_as_batches_are() -> None:
    expected = torch.randn(6, 2, generator=torch.Generator().manual_seed(4))
    for rank in range(2):
        with belonging(World(rank, 2)), sharding():
            drawn = normal((3, 2), torch.Generator().manual_seed(4), "cpu")
            assert torch.equal(drawn, expected[3 * rank : 3 * rank + 3])
            assert own_rows(np.arange(6)).tolist() == [3 * rank, 3 * rank + 1, 3 * rank + 2]


def test_random_numbers_move_on_alike_whatever_the_share() -> None:
    after = []
    for size in (1, 2, 3):
        rng = torch.Generator().manual_seed(0)
        with belonging(World(0, size)), sharding():
            normal((6 // size, 4), rng, "cpu")
        after.append(float(torch.rand((), generator=rng)))
    assert len(set(after)) == 1


@pytest.mark.parametrize(("n", "block", "shares"), [(10, 4, 2), (64, 64, 3), (0, 4, 2), (13, 1, 4)])
def test_blocks_are_dealt_out_whole_and_come_together_in_order(n: int, block: int, shares: int) -> None:
    rows = np.random.default_rng(0).random((n, 3))
    dealt_out = [dealt(n, block, (which, shares)) for which in range(shares)]
    assert sorted(np.concatenate(dealt_out).tolist()) == list(range(n))
    assert all(set(mine // block).isdisjoint(set(dealt_out[0] // block)) for mine in dealt_out[1:])
    assert np.array_equal(joined_rows([rows[mine] for mine in dealt_out], block), rows)
