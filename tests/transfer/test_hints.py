from __future__ import annotations

from typing import Any

import pytest
from training.nets import recipe

from graftgan.transfer.hints import hints

D_KEY = "finetune.low_level_d_from_px"


def said(images: int, resolution: int = 128, **changes: Any) -> str:
    return " | ".join(hints(recipe(**changes), images, resolution))


@pytest.mark.parametrize(
    ("prior", "images", "penalties", "parts"),
    [
        ("gmm", 100, [], ["adds finetune.penalties=[bsd] for 100 images"]),
        ("gmm", 100, ["bsd"], []),
        ("gmm", 101, [], []),
        ("gmm", 999, [], []),
        ("gmm", 1000, [], ["moves the mixture, as gmm_to_normal does, for 1000 images"]),
        ("gmm_to_normal", 1000, [], []),
        ("gmm_to_normal", 999, [], ["leaves the mixture where it is for 999 images"]),
        ("gmm_to_normal", 25, [], ["leaves the mixture where it is", "finetune.penalties=[bsd]"]),
        ("normal", 25, [], []),
        ("normal", 5000, [], []),
    ],
)
def test_a_prior_is_told_what_the_paper_did(
    prior: str, images: int, penalties: list[str], parts: list[str]
) -> None:
    text = said(images, prior=prior, penalties=penalties)
    assert all(part in text for part in parts)
    assert len(text.split(" | ")) == max(len(parts), 1)
    assert bool(text) is bool(parts)


@pytest.mark.parametrize(
    ("images", "side", "wanted"),
    [
        (25, None, "8,"), (25, 8, ""), (99, 16, "8,"), (100, None, "8 to 16"), (100, 16, ""), (499, 8, ""),
        (500, None, "16 to 32"), (500, 32, ""), (4999, 64, "16 to 32"), (4999, 16, ""), (5000, None, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["filter_transfer", "adafm"])
def test_the_fewer_the_images_the_more_of_d_should_stay(
    method: str, images: int, side: int | None, wanted: str
) -> None:
    text = said(images, method=method, low_level_d_from_px=side)
    assert text.startswith(f"{D_KEY} is {side or 128}") is bool(wanted)
    assert f"images of 128 px is {wanted}" in text or not wanted
    assert not said(images, method="full")


def test_no_block_of_d_is_below_8_px() -> None:
    assert "images of 32 px is 8," in said(600, 32, method="adafm")
    assert not said(600, 32, method="adafm", low_level_d_from_px=8)
