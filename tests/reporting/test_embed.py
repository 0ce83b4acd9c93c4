from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graftgan.errors import MissingInput
from graftgan.reporting import embed
from graftgan.reporting.embed import from_array, from_file
from graftgan.reporting.sheets import save_gif, save_png
from reporting.synthetic import blobs


def decode(uri: str) -> tuple[str, np.ndarray]:
    head, body = uri.split(",", 1)
    with Image.open(io.BytesIO(base64.b64decode(body, validate=True))) as image:
        return head, np.asarray(image.convert("RGB"))


def test_a_small_png_is_embedded_as_it_is(tmp_path: Path) -> None:
    save_png(blobs(1, 0)[0], tmp_path / "a.png")
    picture = from_file(tmp_path / "a.png", "a blob", tmp_path)
    assert picture is not None
    head, pixels = decode(picture.uri)
    assert head == "data:image/png;base64" and (picture.width, picture.height, picture.alt) == (
        32,
        32,
        "a blob",
    )
    np.testing.assert_array_equal(pixels, blobs(1, 0)[0])
    assert picture == from_array(blobs(1, 0)[0], "a blob")


def test_a_large_png_becomes_a_small_webp(tmp_path: Path) -> None:
    bulky = np.random.default_rng(0).integers(0, 255, (2200, 3000, 3), dtype=np.uint8)
    save_png(bulky, tmp_path / "b.png")
    picture = from_file(tmp_path / "b.png", "", tmp_path)
    assert picture is not None and (picture.width, picture.height) == (2048, 1502)
    head, pixels = decode(picture.uri)
    assert head == "data:image/webp;base64" and pixels.shape == (1502, 2048, 3)
    assert len(picture.uri) < (tmp_path / "b.png").stat().st_size / 3


def test_gifs_are_embedded_unless_they_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_gif(blobs(3, 0), tmp_path / "a.gif")
    picture = from_file(tmp_path / "a.gif", "", tmp_path)
    assert picture is not None and picture.uri.startswith("data:image/gif;base64,")
    monkeypatch.setattr(embed, "MAX_GIF_BYTES", 100)
    assert from_file(tmp_path / "a.gif", "", tmp_path) is None


def test_what_is_not_there_is_left_out_and_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    assert from_file(tmp_path / "a.png", "", tmp_path) is None
    (tmp_path / "a.png").write_text("<svg onload='alert(1)'/>")
    with pytest.raises(MissingInput, match=r"a\.png is not a PNG or GIF"):
        from_file(tmp_path / "a.png", "", tmp_path)
    save_png(blobs(1, 0)[0], tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:20])
    with pytest.raises(MissingInput, match=r"b\.png"):
        from_file(tmp_path / "b.png", "", tmp_path)


def test_files_outside_the_folder_are_refused(tmp_path: Path) -> None:
    save_png(blobs(1, 0)[0], tmp_path / "secret.png")
    inside = tmp_path / "in"
    inside.mkdir()
    with pytest.raises(MissingInput, match="outside"):
        from_file(inside / ".." / "secret.png", "", inside)
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(MissingInput, match="outside"):
        from_file(inside / "link.png", "", inside)
