from __future__ import annotations

import json
from typing import Any

import pytest

from graftgan.errors import ConfigError
from graftgan.gans.resnet_gan import LAYOUTS, ResnetGanSpec
from graftgan.gans.spec import GanSpec
from tests.gans.resnet_gan.sizes import CELEBA, CELEBA_HQ, IMAGENET, LSUN, tiny


@pytest.mark.parametrize(
    ("spec", "widths"),
    [
        (IMAGENET, (64, 128, 256, 512, 1024, 1024, 1024)),
        (CELEBA, (64, 64, 128, 256, 512, 1024, 1024, 1024)),
        (LSUN, (64, 128, 256, 512, 1024, 1024, 2048)),
        (CELEBA_HQ, (16, 16, 32, 64, 128, 256, 512, 512, 512, 512)),
    ],
)
def test_widths_are_the_published_ones_from_the_image_inwards(
    spec: ResnetGanSpec, widths: tuple[int, ...]
) -> None:
    assert spec.widths(spec.nfilter_max) == widths
    assert spec.base == 4


def test_a_network_without_its_outer_stages_is_a_spec_too() -> None:
    """Dropping the two stages next to the image of the ImageNet network leaves these widths at 32 px."""
    spec = ResnetGanSpec(resolution=32, nfilter=256, stages=4)
    assert spec.widths(spec.nfilter_max) == (256, 512, 1024, 1024, 1024)
    assert spec.base == IMAGENET.base


@pytest.mark.parametrize("variant", LAYOUTS)
def test_dict_round_trip_through_json(variant: str) -> None:
    spec = tiny(variant, classes=3)
    again = GanSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert spec.to_dict()["family"] == "resnet_gan"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variant": "resnet5"}, "variant is 'resnet5'"),
        ({"variant": 2}, "variant is 2"),
        ({"nfilter": 0}, "nfilter is 0"),
        ({"nfilter": True}, "nfilter is True"),
        ({"embed_dim": 0}, "embed_dim is 0"),
        ({"nfilter": 64, "nfilter_max": 63}, "nfilter_max is 63"),
        ({"nfilter": 64, "nfilter_max_d": 63}, "nfilter_max_d is 63"),
        ({"variant": "resnet3", "nfilter": 64, "nfilter_max": 127}, "nfilter_max is 127"),
        ({"stages": 1}, "stages is 1"),
        ({"stages": -3}, "stages is -3"),
        ({"resolution": 32, "stages": 7}, "stages is 7 at 32 px"),
        ({"resolution": 32, "variant": "resnet3", "stages": 6}, "stages is 6 at 32 px"),
        ({"resolution": 96}, "resolution is 96"),
    ],
)
def test_what_cannot_be_built_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResnetGanSpec(**values)


def test_the_limit_named_for_stages_is_the_largest_that_works() -> None:
    for variant, most in (("resnet2", 6), ("resnet3", 5)):
        with pytest.raises(ConfigError, match=f"Use 2 to {most}"):
            ResnetGanSpec(resolution=32, variant=variant, stages=most + 1)
        assert ResnetGanSpec(resolution=32, variant=variant, stages=most).base == 1
