from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys

import pytest

from graftgan.errors import ConfigError
from graftgan.gans.spec import GanSpec
from graftgan.gans.stylegan2 import StyleGAN2Spec


def test_defaults_are_config_f_widths() -> None:
    spec = StyleGAN2Spec(resolution=1024)
    widths = {r: spec.width(r) for r in spec.block_resolutions}
    assert widths == {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}


@pytest.mark.parametrize(("resolution", "num_ws"), [(32, 8), (64, 10), (256, 14), (1024, 18)])
def test_num_ws_is_two_per_block(resolution: int, num_ws: int) -> None:
    assert StyleGAN2Spec(resolution=resolution).num_ws == num_ws


@pytest.mark.parametrize("resolution", StyleGAN2Spec.RESOLUTIONS)
def test_blocks_run_from_4_px_to_the_image(resolution: int) -> None:
    blocks = StyleGAN2Spec(resolution=resolution).block_resolutions
    assert blocks[0] == 4
    assert blocks[-1] == resolution
    assert all(b == 2 * a for a, b in itertools.pairwise(blocks))


def test_dict_round_trip_through_json() -> None:
    spec = StyleGAN2Spec(resolution=64, channels=4, classes=7, channel_base=2048, mbstd_group=8)
    assert GanSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_from_dict_fills_defaults_and_names_unknown_keys() -> None:
    assert GanSpec.from_dict({"family": "stylegan2", "resolution": 64}) == StyleGAN2Spec(resolution=64)
    with pytest.raises(ConfigError, match="zdim") as caught:
        GanSpec.from_dict({"family": "stylegan2", "zdim": 3})
    assert "z_dim" in caught.value.remedy


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resolution", 16),
        ("resolution", 48),
        ("resolution", 2048),
        ("channels", 2),
        ("channels", 0),
        ("z_dim", 0),
        ("w_dim", -1),
        ("mapping_layers", 0),
        ("classes", -1),
        ("channel_max", 0),
        ("mbstd_group", 0),
        ("label_layers", 0),
        ("channel_base", 255),
        ("resolution", 32.0),
        ("classes", True),
        ("z_dim", "512"),
        ("family", 3),
    ],
)
def test_bad_values_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        GanSpec.from_dict({"family": "stylegan2", "resolution": 256, key: value})
    assert caught.value.remedy


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StyleGAN2Spec().resolution = 64  # type: ignore[misc]


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import graftgan.gans, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
