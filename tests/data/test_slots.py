from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftgan.data.slots import PixelWriter


@pytest.mark.parametrize("count", [0, 1, 9, 10, 12345])
def test_pixel_writer_leaves_a_valid_file_of_any_length(tmp_path: Path, count: int) -> None:
    with PixelWriter(tmp_path / "x.npy", 2, 1) as writer:
        for value in range(count):
            writer.append(np.full((2, 2, 1), value % 256, dtype=np.uint8))
    array = np.load(tmp_path / "x.npy")
    assert array.shape == (count, 2, 2, 1)
    assert (array[:, 0, 0, 0] == np.arange(count) % 256).all()


def test_pixel_writer_refuses_another_shape(tmp_path: Path) -> None:
    with PixelWriter(tmp_path / "x.npy", 4, 3) as writer, pytest.raises(AssertionError):
        writer.append(np.zeros((4, 4, 1), dtype=np.uint8))


@given(
    st.integers(0, 12).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, max(n - 1, 0))))),
    st.booleans(),
)
def test_slots_filled_in_any_order_close_up(drawn: tuple[int, set[int]], room: bool) -> None:
    total, kept = drawn[0], sorted(drawn[1] if drawn[0] else ())
    with TemporaryDirectory() as folder:
        with PixelWriter(Path(folder) / "x.npy", 2, 3) as writer:
            if room:
                writer.expect(total)
            for index in reversed(kept):
                with writer.slots.open() as file:
                    writer.slots.write(file, index, np.full((2, 2, 3), index, dtype=np.uint8))
            writer.keep(kept)
        array = np.load(Path(folder) / "x.npy")
        assert array.shape == (len(kept), 2, 2, 3) and len(kept) <= total
        assert array[:, 1, 1, 2].tolist() == kept
        with PixelWriter(Path(folder) / "y.npy", 2, 3) as writer:
            for image in array:
                writer.append(image)
        assert (Path(folder) / "x.npy").read_bytes() == (Path(folder) / "y.npy").read_bytes()


def test_room_is_made_at_once(tmp_path: Path) -> None:
    with PixelWriter(tmp_path / "x.npy", 4, 3) as writer:
        writer.expect(100)
        assert (tmp_path / "x.npy").stat().st_size == writer.slots.start_bytes + 100 * 48
        writer.keep([])
    assert np.load(tmp_path / "x.npy").shape == (0, 4, 4, 3)
