from __future__ import annotations

import re

import numpy as np
import pytest

from graftgan.metrics.features import BatchedExtractor, Extractor, make_extractor, protocol_id
from graftgan.metrics.features.resize import BICUBIC_ANTIALIAS

from .helpers import pictures


def test_features_do_not_depend_on_batch_position_or_company(efflite: Extractor) -> None:
    images = pictures(21)
    whole = efflite(images)
    assert whole.dtype == np.float32
    for size in (1, 7, 16):
        parts = [efflite(images[i : i + size]) for i in range(0, 21, size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()
    order = np.random.default_rng(1).permutation(21)
    assert efflite(images[order]).tobytes() == whole[order].tobytes()
    assert efflite(images).tobytes() == whole.tobytes()


def test_grey_is_repeated_and_other_arrays_are_refused(efflite: Extractor) -> None:
    grey = pictures(2, channels=1)
    assert efflite(grey).tobytes() == efflite(np.repeat(grey, 3, axis=3)).tobytes()
    assert efflite(pictures(0)).shape == (0, 1280)
    for bad in (pictures(2).astype(np.float32), pictures(2, channels=4), pictures(2)[0]):
        with pytest.raises(ValueError, match="expected uint8"):
            efflite(bad)


def test_channel_order_and_value_range_matter(efflite: Extractor) -> None:
    images = pictures(4) // 4 * np.array([4, 1, 1], dtype=np.uint8)
    plain = efflite(images)
    assert np.abs(plain - efflite(images[..., ::-1])).max() > 0.1
    assert np.abs(plain - efflite(images // 255)).max() > 0.1


def test_protocol_id_covers_every_field() -> None:
    fields = ("efflite0", 224, "bicubic-aa", "127_128", "57" * 32)
    plain = protocol_id(*fields)
    assert re.fullmatch(r"efflite0@224/bicubic-aa/[0-9a-f]{12}", plain)
    changed = ("other", 128, "tf1-bilinear", "0_1", "58" * 32)
    ids = {protocol_id(*fields[:i], changed[i], *fields[i + 1 :]) for i in range(5)}
    assert len(ids | {plain}) == 6
    assert len({value.rsplit("/")[-1] for value in ids | {plain}}) == 6


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("efflite0", "efflite0@224/bicubic-aa/29697e59f518"),
        ("efflite0-128", "efflite0-128@128/bicubic-aa/63a3fda550b4"),
    ],
)
def test_known_protocol_ids_stay(name: str, protocol: str) -> None:
    """Stored scores and caches carry these ids: a change here makes all of them incomparable."""
    assert make_extractor(name).protocol == protocol


def test_network_of_wrong_output_is_refused() -> None:
    with pytest.raises(ValueError, match="expected features"):
        BatchedExtractor(
            "flat", lambda x: x, input_px=4, resize=BICUBIC_ANTIALIAS, value_range="0_1", weights_sha256=""
        )
