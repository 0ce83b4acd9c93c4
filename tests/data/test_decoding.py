from __future__ import annotations

import io
import struct
import sys
import threading
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from graftgan.data.decoding import ACCEPTED, SNIFF_BYTES, BadImageError, decode, looks_like_image
from graftgan.errors import Interrupted

from .pictures import encode, noise, options, smooth

PLAIN = options(resolution=32)


def solid(mode: str, colour: Any, size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.new(mode, size, colour)


def pixel(data: bytes, **values: Any) -> list[int]:
    """The one colour of a decoded picture."""
    pixels = decode(data, options(resolution=32, **values)).pixels
    assert (pixels == pixels[0, 0]).all()
    return pixels[0, 0].tolist()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """A tiny PNG that claims a size; its rows are all there, packed a thousand to one."""
    rows = zlib.compress(b"\0" * (height * (width // 8 + 1)), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    )


def test_rgb_at_the_working_size_is_untouched() -> None:
    array = noise(0, 32, 32)
    decoded = decode(encode(array), PLAIN)
    np.testing.assert_array_equal(decoded.pixels, array)
    assert (decoded.width, decoded.height, decoded.mode) == (32, 32, "RGB")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_every_accepted_format_decodes_and_is_recognised_by_content(kind: str) -> None:
    image = solid("RGB", (200, 40, 90))
    data = encode(image, kind)
    assert looks_like_image(data[:SNIFF_BYTES])
    decoded = decode(data, PLAIN)
    assert np.abs(decoded.pixels.astype(int) - [200, 40, 90]).max() <= 6
    assert kind in ACCEPTED


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0", b"%PDF-1.7", b"PK\x03\x04", b"Pretty"]
)
def test_other_content_is_not_an_image(data: bytes) -> None:
    assert not looks_like_image(data[:SNIFF_BYTES])


def test_postscript_is_never_opened() -> None:
    data = encode(solid("RGB", "red"), "EPS")
    with pytest.raises(BadImageError, match="not an image"):
        decode(data, PLAIN)


@pytest.mark.parametrize(
    ("colour", "expected"), [((255, 0, 0, 255), [255, 0, 0]), ((255, 0, 0, 0), [0, 0, 255])]
)
def test_transparency_lies_over_the_background(colour: tuple[int, ...], expected: list[int]) -> None:
    assert pixel(encode(solid("RGBA", colour)), background="#0000ff") == expected


def test_half_transparent_is_a_mean_of_both() -> None:
    red, green, blue = pixel(encode(solid("RGBA", (200, 100, 0, 128))), background="#000064")
    # 200 * 128/255, 100 * 128/255, 100 * 127/255
    assert abs(red - 100.4) <= 1 and abs(green - 50.2) <= 1 and abs(blue - 49.8) <= 1


def test_grey_with_alpha() -> None:
    assert pixel(encode(solid("LA", (10, 0))), background="#ffffff") == [255, 255, 255]
    assert pixel(encode(solid("LA", (10, 255)))) == [10, 10, 10]


def test_palette_with_and_without_transparency() -> None:
    image = solid("RGB", (12, 200, 34)).quantize(4)
    assert pixel(encode(image)) == [12, 200, 34]
    assert pixel(encode(image, transparency=image.getpixel((0, 0))), background="#010203") == [1, 2, 3]


def test_transparent_colour_of_an_rgb_png() -> None:
    assert pixel(encode(solid("RGB", (9, 8, 7)), transparency=(9, 8, 7)), background="#ffffff") == [255] * 3
    assert pixel(encode(solid("L", 9), transparency=9), background="#ffffff") == [255] * 3


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (65535, 255), (257 * 77, 77), (257 * 77 + 128, 77)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_cut(value: int, expected: int, kind: str) -> None:
    array = np.full((32, 32), value, dtype=np.uint16)
    assert pixel(encode(Image.fromarray(array), kind)) == [expected] * 3


def test_sixteen_bit_is_rounded_to_the_nearest_level() -> None:
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    got = decode(encode(Image.fromarray(values)), options(resolution=32, channels=1)).pixels[..., 0]
    np.testing.assert_array_equal(got, np.rint(values / 257).astype(np.uint8))


def test_cmyk_jpeg() -> None:
    red, green, blue = pixel(encode(solid("CMYK", (0, 255, 255, 0)), "JPEG", quality=95))
    assert red > 240 and green < 15 and blue < 15


def test_one_bit() -> None:
    assert pixel(encode(solid("1", 1))) == [255, 255, 255]


def test_floating_point_and_large_integers_are_refused_with_the_reason() -> None:
    with pytest.raises(BadImageError, match="floating-point"):
        decode(encode(solid("F", 0.5), "TIFF"), PLAIN)
    with pytest.raises(BadImageError, match="more than 16 bit"):
        decode(encode(solid("I", 1 << 20), "TIFF"), PLAIN)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(channels: int) -> None:
    decoded = decode(encode(smooth(1)), options(resolution=32, channels=channels))
    assert decoded.pixels.shape == (32, 32, channels)


def test_grey_is_the_luma_of_the_colour() -> None:
    (grey,) = pixel(encode(solid("RGB", (100, 150, 200))), channels=1)
    # ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B
    assert abs(grey - (0.299 * 100 + 0.587 * 150 + 0.114 * 200)) < 1


def test_four_channels_keep_alpha_and_forget_the_colour_of_invisible_pixels() -> None:
    assert pixel(encode(solid("RGBA", (1, 2, 3, 77))), channels=4) == [1, 2, 3, 77]
    assert pixel(encode(solid("RGBA", (1, 2, 3, 0))), channels=4, background="#0a0b0c") == [10, 11, 12, 0]
    assert pixel(encode(solid("RGB", (1, 2, 3))), channels=4) == [1, 2, 3, 255]


def test_transparent_neighbours_do_not_bleed_into_edges() -> None:
    array = np.zeros((64, 64, 4), dtype=np.uint8)
    array[:, :33] = (255, 0, 0, 255)
    array[:, 33:] = (0, 255, 0, 0)
    pixels = decode(encode(array), options(resolution=32, channels=4, resize_filter="box")).pixels
    assert pixels[0, 16].tolist() == [255, 0, 0, 128]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    upright = noise(5, 48, 32)
    inverse = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encode(np.ascontiguousarray(inverse(upright)), exif=exif), PLAIN)
    assert (decoded.width, decoded.height) == (48, 32)
    np.testing.assert_array_equal(decoded.pixels, upright[:, 8:40])


def test_damaged_exif_does_not_lose_a_whole_picture() -> None:
    decoded = decode(encode(solid("RGB", "red"), "JPEG", exif=b"Exif\0\0garbage here"), PLAIN)
    assert decoded.pixels[0, 0, 0] > 240


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_box_is_the_exact_average_rounded_once(factor: int) -> None:
    array = noise(3, 64 * factor, 32 * factor)
    blocks = array[:, 16 * factor : 48 * factor].reshape(32, factor, 32, factor, 3).astype(float)
    got = decode(encode(array), options(resolution=32, resize_filter="box")).pixels
    assert np.abs(got - blocks.mean(axis=(1, 3))).max() <= 0.5


@pytest.mark.parametrize("resize_filter", ["box", "bicubic", "lanczos"])
def test_shrinking_does_not_alias(resize_filter: str) -> None:
    checks = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    got = decode(encode(checks), options(resolution=32, channels=1, resize_filter=resize_filter)).pixels
    assert got.astype(int).min() >= 120 and got.astype(int).max() <= 135


def wide() -> np.ndarray:
    """96 x 32: red, green and blue thirds."""
    array = np.zeros((32, 96, 3), dtype=np.uint8)
    for third in range(3):
        array[:, 32 * third : 32 * third + 32, third] = 255
    return array


def test_crop_takes_the_middle() -> None:
    assert pixel(encode(wide()), fit="crop") == [0, 255, 0]
    assert pixel(encode(np.ascontiguousarray(wide().transpose(1, 0, 2))), fit="crop") == [0, 255, 0]


def test_pad_keeps_everything_between_bars_of_the_background() -> None:
    pixels = decode(encode(wide()), options(resolution=32, fit="pad", background="#102030")).pixels
    assert (pixels[:10] == (16, 32, 48)).all() and (pixels[-10:] == (16, 32, 48)).all()
    assert pixels[16, 2].tolist() == [255, 0, 0] and pixels[16, 29].tolist() == [0, 0, 255]
    grey = decode(encode(wide()), options(resolution=32, fit="pad", background="#ffffff", channels=1)).pixels
    assert (grey[:10] == 255).all()
    clear = decode(encode(wide()), options(resolution=32, fit="pad", channels=4)).pixels
    assert (clear[:10, :, 3] == 0).all() and (clear[16, :, 3] == 255).all()


def test_stretch_fills_the_square() -> None:
    pixels = decode(encode(wide()), options(resolution=32, fit="stretch")).pixels
    assert pixels[0, 1].tolist() == [255, 0, 0] and pixels[31, 30].tolist() == [0, 0, 255]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (33, 31)])
def test_any_shape_becomes_a_square(fit: str, size: tuple[int, int]) -> None:
    decoded = decode(
        encode(solid("RGB", (7, 7, 7), size)), options(resolution=32, fit=fit, background="#070707")
    )
    assert (decoded.pixels == 7).all() and (decoded.width, decoded.height) == size


def test_first_frame_of_an_animation() -> None:
    data = encode(solid("RGB", "red"), "GIF", save_all=True, append_images=[solid("RGB", "blue")])
    assert pixel(data) == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.97])
def test_cut_off_files_are_refused(kind: str, part: float) -> None:
    data = encode(noise(1, 64, 64), kind)
    with pytest.raises(BadImageError):
        decode(data[: int(len(data) * part)], PLAIN)


def test_a_truncated_jpeg_is_called_truncated() -> None:
    data = encode(noise(1, 64, 64), "JPEG")
    with pytest.raises(BadImageError, match="truncated"):
        decode(data[: len(data) // 2], PLAIN)


def test_a_wrong_checksum_is_refused() -> None:
    data = bytearray(encode(noise(1, 64, 64)))
    data[-20] ^= 1
    with pytest.raises(BadImageError):
        decode(bytes(data), PLAIN)


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (20_000, 5_100)])
def test_bombs_are_refused_before_they_unpack(width: int, height: int) -> None:
    data = png_of_size(width, height)
    assert len(data) < 200_000
    with pytest.raises(BadImageError, match=r"data\.max_pixels = 100000000"):
        decode(data, PLAIN)


def test_the_pixel_limit_is_the_configured_one() -> None:
    data = encode(solid("RGB", "red", (40, 40)))
    assert decode(data, options(resolution=32, max_pixels=1600)).width == 40
    with pytest.raises(BadImageError, match=r"max_pixels = 1599"):
        decode(data, options(resolution=32, max_pixels=1599))


def test_the_byte_limit() -> None:
    data = encode(solid("RGB", "red"))
    with pytest.raises(BadImageError, match=r"data\.max_file_bytes = 50"):
        decode(data, options(resolution=32, max_file_bytes=50))


def test_empty_file_and_text() -> None:
    with pytest.raises(BadImageError, match="empty"):
        decode(b"", PLAIN)
    with pytest.raises(BadImageError, match="not an image"):
        decode(b"a,b\n1,2\n", PLAIN)


def test_global_settings_of_pillow_stay_as_they_were() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    decode(encode(noise(1)), PLAIN)
    with pytest.raises(BadImageError):
        decode(b"no", PLAIN)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))


def test_metadata_does_not_reach_the_pixels() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    plain, noted = (io.BytesIO() for _ in range(2))
    smooth(2).save(plain, "PNG")
    smooth(2).save(noted, "PNG", exif=exif)
    assert plain.getvalue() != noted.getvalue()
    np.testing.assert_array_equal(
        decode(plain.getvalue(), PLAIN).pixels, decode(noted.getvalue(), PLAIN).pixels
    )


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
    ),
)
def test_damaged_bytes_give_pixels_or_a_reason_and_nothing_else(
    kind: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(encode(noise(0, 24, 24), kind))
    for at, value in changes:
        data[int(at * len(data))] = value
    try:
        assert decode(bytes(data), options(resolution=32, max_pixels=10**6)).pixels.shape == (32, 32, 3)
    except BadImageError as error:
        assert 0 < len(str(error)) < 200 and "\n" not in str(error)


def test_box_averages_colours_by_opacity() -> None:
    array = noise(4, 64, 64, 4)
    blocks = array.reshape(32, 2, 32, 2, 4).astype(float)
    opacity = blocks[..., 3:].sum(axis=(1, 3))
    got = decode(encode(array), options(resolution=32, channels=4, resize_filter="box")).pixels
    colour = (blocks[..., :3] * blocks[..., 3:]).sum(axis=(1, 3)) / np.maximum(opacity, 1)
    assert np.abs(got[..., :3] - colour)[got[..., 3] > 0].max() <= 0.5
    assert np.abs(got[..., 3:] - opacity / 4).max() <= 0.5


def test_a_signal_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: Any, **more: Any) -> None:
        raise Interrupted("stopped by SIGTERM")

    picture = encode(solid("RGB", (1, 2, 3)), "PNG")
    monkeypatch.setattr(Image.Image, "load", interrupted)
    monkeypatch.setattr(Image, "open", interrupted)
    with pytest.raises(Interrupted):
        decode(picture, PLAIN)


def test_threads_decode_by_their_own_limits_and_leave_none_behind() -> None:
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    data = png_of_size(64, 64)
    wrong: list[str] = []

    def work(limit: int) -> None:
        for _ in range(40):
            try:
                decode(data, options(resolution=32, max_pixels=limit))
                taken = True
            except BadImageError:
                taken = False
            if taken != (limit >= 64 * 64):
                wrong.append(f"{limit}: {taken}")

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(limit,)) for limit in (1000, 4095, 4096, 10**6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert wrong == []
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before
