"""What a trial without memory refuses is what the real networks refuse."""

from __future__ import annotations

from typing import Any

import pytest
from training.nets import recipe

from graftgan.errors import ConfigError
from graftgan.transfer import METHODS, method
from graftgan.transfer.penalties import make_penalties
from graftgan.transfer.rehearsal import check_networks
from transfer.families import small

# What a method alone, its penalties, or a fresh D exclude.
CASES: tuple[tuple[dict[str, Any], bool], ...] = (
    ({}, True),
    ({"penalties": ["ewc"]}, False),
    ({"penalties": ["l2_sp"], "l2_sp_on_d": True}, True),
    ({"cdc": {"patch_px": (2, 2)}}, False),
    ({"filter_transfer": {"head": "small"}}, False),
    ({"low_level_from_px": 64}, False),
)


def refused(family: str, fresh: bool, **changes: Any) -> str:
    """Return what refuses these settings on real networks; empty if nothing does."""
    settings, gan = recipe(**changes), small(family)
    gan.fresh = ("discriminator",) if fresh else ()
    try:
        method(settings.method).apply(gan, settings)
        for penalty in make_penalties(settings):
            penalty.start(gan, settings)
    except ConfigError as error:
        return error.message
    return ""


@pytest.mark.parametrize("family", ["stylegan2", "biggan", "resnet_gan", "dcgan"])
@pytest.mark.parametrize(("changes", "fresh"), CASES, ids=str)
def test_a_trial_is_as_the_run(family: str, changes: dict[str, Any], fresh: bool) -> None:
    spec = small(family).spec
    for name in METHODS:
        if METHODS[name].families is None or family in METHODS[name].families:
            try:
                check_networks(recipe(method=name, **changes), spec, fresh, "near")
                early = ""
            except ConfigError as error:
                early = error.message
            assert early == refused(family, fresh, method=name, **changes), name


def test_another_family_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"lora does not work with source near.*dcgan"):
        check_networks(recipe(method="lora"), small("dcgan").spec, False, "near")
