"""Pictures from the cache: the bytes that were drawn, drawn again where what lies there is not they."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftgan.context import Context
from graftgan.contract import digest_text
from graftgan.stages.pictures import drawn_once

KEY, OTHER = digest_text("one"), digest_text("other")


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context(tmp_path / "state", tmp_path / "cache")


def drawn(place: Path, key: str, ctx: Context, content: bytes = b"a picture") -> tuple[bytes, bool]:
    """Return what was written, and whether it was drawn for it."""
    calls: list[Path] = []

    def draw(target: Path) -> None:
        calls.append(target)
        target.write_bytes(content)

    drawn_once(place / "sheet.png", key, draw, ctx)
    return (place / "sheet.png").read_bytes(), bool(calls)


def test_a_picture_is_drawn_once_for_a_key(tmp_path: Path, ctx: Context) -> None:
    assert drawn(tmp_path, KEY, ctx) == (b"a picture", True)
    assert drawn(tmp_path, KEY, ctx, b"never drawn") == (b"a picture", False)
    assert drawn(tmp_path, OTHER, ctx, b"another") == (b"another", True)


@pytest.mark.parametrize("harm", ["cut", "flipped", "moved", "empty"])
def test_what_is_not_the_picture_is_drawn_again(tmp_path: Path, ctx: Context, harm: str) -> None:
    drawn(tmp_path, KEY, ctx)
    (kept,) = (ctx.cache / "pictures").rglob("*.png")
    whole = kept.read_bytes()
    if harm == "moved":
        drawn(tmp_path, OTHER, ctx, b"another")
        (other,) = (ctx.cache / "pictures").rglob(f"{OTHER}.png")
        other.replace(kept)
    else:
        kept.write_bytes({"cut": whole[:-1], "flipped": whole[:-1] + b"\0", "empty": b""}[harm])
    assert drawn(tmp_path, KEY, ctx) == (b"a picture", True)
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, ctx: Context, caplog: pytest.LogCaptureFixture
) -> None:
    ctx.cache.write_text("a file where the folder should be")
    assert drawn(tmp_path, KEY, ctx) == (b"a picture", True)
    assert "what was drawn is not kept" in caplog.text
