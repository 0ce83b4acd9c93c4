from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from graftgan.errors import ConfigError
from graftgan.gans.spec import GanSpec
from graftgan.gans.stylegan3 import StyleGAN3Spec

from . import reference
from .sizes import TINY, TINY_R

PUBLISHED = {
    (256, 16384, "t"): (
        "L0_36_512 L1_36_512 L2_36_512 L3_52_512 L4_52_512 L5_84_512 L6_84_512 L7_148_362 L8_148_256 "
        "L9_148_181 L10_276_128 L11_276_91 L12_276_64 L13_256_64 L14_256_3"
    ),
    (128, 32768, "r"): "L8_84_1024 L9_148_1024 L10_148_912 L11_148_683 L12_148_512 L13_128_512 L14_128_3",
    (512, 32768, "r"): (
        "L0_36_1024 L1_36_1024 L2_52_1024 L3_52_1024 L4_84_1024 L5_84_1024 L6_148_1024 L7_148_967 L8_276_645 "
        "L9_276_431 L10_532_287 L11_532_192 L12_532_128 L13_512_128 L14_512_3"
    ),
}


@pytest.mark.parametrize(("sizes", "names"), PUBLISHED.items())
def test_names_of_the_public_layers(sizes: tuple[int, int, str], names: str) -> None:
    resolution, base, variant = sizes
    spec = StyleGAN3Spec(resolution=resolution, channel_base=base, variant=variant)
    assert [shape.name for shape in spec.layers][-len(names.split()) :] == names.split()


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512, 1024])
@pytest.mark.parametrize("variant", ["t", "r"])
def test_signals_are_those_of_the_reference(resolution: int, variant: str) -> None:
    spec = StyleGAN3Spec(resolution=resolution, variant=variant, channels=4, margin_size=7, first_cutoff=1.5)
    expected = reference.bands(spec)
    for name, of in (("cutoff", "cutoff"), ("half", "half_width"), ("rate", "rate"), ("size", "size")):
        np.testing.assert_allclose([getattr(s, of) for s in spec.signals], expected[name], rtol=1e-12)
    assert [s.channels for s in spec.signals] == expected["channels"].astype(int).tolist()


def test_ends_of_the_series() -> None:
    spec = StyleGAN3Spec(resolution=256)
    first, last = spec.signals[0], spec.signals[-1]
    assert (first.cutoff, first.rate, first.size) == (2.0, 16, 36)
    assert (last.cutoff, last.rate, last.size) == (128.0, 256, 256)
    assert last.half_width == pytest.approx(128 * (2**0.3 - 1))
    assert spec.num_ws == 16


@pytest.mark.parametrize("spec", [TINY, TINY_R, StyleGAN3Spec(), StyleGAN3Spec(variant="r")])
def test_border_makes_the_sizes_meet_exactly(spec: StyleGAN3Spec) -> None:
    for shape in spec.layers:
        convolved = shape.source.size + shape.kernel - 1
        inner = (convolved - 1) * shape.up + shape.up_taps + 2 * shape.border
        assert inner == (shape.target.size - 1) * shape.down + shape.down_taps
        assert shape.inner_rate == shape.source.rate * shape.up == shape.target.rate * shape.down


def test_radial_filters_are_left_out_where_sampling_is_critical() -> None:
    assert [s.radial for s in TINY_R.layers] == [True] * 12 + [False] * 3
    assert not any(s.radial for s in TINY.layers)
    assert [s.kernel for s in TINY.layers] == [3] * 14 + [1]
    assert {s.kernel for s in TINY_R.layers} == {1}


def test_spec_survives_json() -> None:
    spec = dataclasses.replace(TINY_R, first_stopband=4.5, classes=3)
    assert GanSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.to_dict()["family"] == "stylegan3"


def test_discriminator_has_the_undoubled_widths() -> None:
    sizes = dataclasses.replace(TINY_R, classes=5, mbstd_group=2).discriminator()
    assert (sizes.channel_base, sizes.channel_max, sizes.classes) == (128, 4, 5)
    assert (sizes.mbstd_group, sizes.label_layers, sizes.resolution) == (2, 2, 32)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"variant": "x"}, "variant"),
        ({"variant": None}, "variant"),
        ({"num_layers": 2}, "num_critical"),
        ({"num_critical": 0}, "num_critical"),
        ({"first_cutoff": 0.0}, "first_cutoff"),
        ({"first_cutoff": 16.0}, "first_cutoff"),
        ({"first_cutoff": 5.0}, "first_cutoff"),
        ({"first_cutoff": "2"}, "first_cutoff"),
        ({"first_stopband": float("nan")}, "first_stopband"),
        ({"first_stopband": True}, "first_stopband"),
        ({"last_stopband_rel": 1.0}, "last_stopband_rel"),
        ({"channel_base": 31}, "channel_base"),
        ({"margin_size": 0}, "margin_size"),
        ({"mapping_layers": 2.0}, "mapping_layers"),
        ({"resolution": 48}, "resolution"),
    ],
)
def test_bad_sizes_are_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        dataclasses.replace(TINY, **change)
