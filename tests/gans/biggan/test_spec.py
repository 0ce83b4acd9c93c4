from __future__ import annotations

from typing import Any

import pytest

from graftgan.errors import ConfigError
from graftgan.gans.biggan import BigGANSpec
from graftgan.gans.biggan.spec import BlockSizes


def test_public_128_px_blocks() -> None:
    spec = BigGANSpec(classes=1000)
    assert (spec.slots, spec.chunk, spec.condition_dim, spec.stem_channels) == (6, 20, 148, 1536)
    assert [block.in_channels for block in spec.g_blocks] == [1536, 1536, 768, 384, 192]
    assert spec.d_blocks[0] == BlockSizes(3, 96, True, True)
    assert spec.d_blocks[-1] == BlockSizes(1536, 1536, False, False)


def test_only_attention_sizes_that_exist_count() -> None:
    spec = BigGANSpec(resolution=32, z_dim=8, g_attn=(64, 8), d_attn=(64,))
    assert [block.attention for block in spec.g_blocks] == [True, False, False]
    assert not any(block.attention for block in spec.d_blocks)


def test_lists_of_json_become_tuples() -> None:
    assert BigGANSpec.from_sizes({"g_attn": [64, 32]}).g_attn == (32, 64)


@pytest.mark.parametrize(
    ("sizes", "message", "remedy"),
    [
        ({"resolution": 1024}, "resolution is 1024", "512"),
        ({"z_dim": 128}, "cannot be cut into 6", "126"),
        ({"z_dim": 3}, "cannot be cut into 6", "such as 6"),
        ({"classes": 0, "hier": False}, "nothing conditions", "classes=1"),
        ({"classes": 5, "shared_dim": 0}, "shared_dim is 0", "hier=false"),
        ({"shared_dim": -1}, "shared_dim is -1", "0 or more"),
        ({"g_ch": 3}, "leaves 6 feature maps", "Raise"),
        ({"d_ch": 4}, "leaves 4 feature maps", "Raise"),
        ({"d_ch": 0}, "d_ch is 0", "1 or more"),
        ({"g_attn": (48,)}, "g_attn is", "power of 2"),
        ({"g_attn": 64}, "g_attn is 64", "list"),
        ({"d_attn": (True,)}, "d_attn is", "power of 2"),
        ({"bn_eps": 0.0}, "bn_eps is 0.0", "above 0"),
        ({"sn_eps": "1e-4"}, "sn_eps is '1e-4'", "above 0"),
        ({"hier": 1}, "hier is 1", "true or false"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_remedy(
    sizes: dict[str, Any], message: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        BigGANSpec(**sizes)
    assert remedy in caught.value.remedy
