"""What a source did not have moves with every method, and nothing holds it to that source."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from training.nets import copies, make, recipe

from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build
from graftgan.gans.folding import plain_name
from graftgan.gans.stylegan2.refit import refit
from graftgan.transfer import METHODS, method
from graftgan.transfer.base import fresh_parameters
from graftgan.transfer.penalties import make_penalties
from graftgan.transfer.rehearsal import check_networks, rehearse
from transfer.families import small

GROWN, GREY, CUT = (32, 64, 3), (32, 32, 1), (64, 32, 3)
"""Side of the source, side and channels of the images."""
Sizes = tuple[int, int, int]
KNOWN = [
    name
    for name, one in METHODS.items()
    if one.direct is None and (one.families is None or "stylegan2" in one.families)
]
SMALL_HEAD = {"filter_transfer": {"head": "small", "calibration_samples": 60}, "low_level_from_px": 16}


def source(px: int) -> Gan:
    return build(replace(small("stylegan2").spec, resolution=px), seed=1)


def fitted(sizes: Sizes) -> Gan:
    gan, _ = refit(source(sizes[0]), *sizes[1:], seed=0)
    return gan


@pytest.mark.parametrize("size", [GROWN, GREY, CUT], ids=str)
@pytest.mark.parametrize("name", KNOWN)
def test_every_tensor_that_is_new_moves_with_every_method(name: str, size: Sizes) -> None:
    gan, settings = fitted(size), recipe(method=name, adapter_rank=1)
    fresh = set(gan.fresh)
    assert any(tensor.startswith("discriminator.") for tensor in fresh)
    METHODS[name].apply(gan, settings)
    for network in ("generator", "discriminator"):
        parameters = dict(getattr(gan, network).named_parameters())
        new = fresh_parameters(gan, network)
        assert all(parameters[one].requires_grad for one in new)
        assert not METHODS[name].rests(gan, settings, 0) & {f"{network}.{n}" for n in new}
        found = {f"{network}.{plain_name(n)}" for n in new}
        buffers = {f"{network}.{n}" for n, _ in getattr(gan, network).named_buffers()}
        assert found == {tensor for tensor in fresh - buffers if tensor.startswith(f"{network}.")}


@pytest.mark.parametrize("name", ["freeze_d", "lora", "adafm", "minegan"])
def test_a_step_changes_what_is_new_and_nothing_that_is_fixed(name: str) -> None:
    settings: dict[str, Any] = {"method": name, "adapter_rank": 1, "minegan": {"joint_from": None}}
    images = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    run = make(gan=fitted(GROWN), images=images, **settings)
    before = {network: copies(getattr(run.gan, network)) for network in ("generator", "discriminator")}
    fixed = {
        f"{network}.{n}"
        for network in before
        for n, p in getattr(run.gan, network).named_parameters()
        if not p.requires_grad
    }
    run.step()
    for network, tensors in before.items():
        now = copies(getattr(run.gan, network))
        new = fresh_parameters(run.gan, network)
        assert all(torch.equal(now[n], tensors[n]) for n in tensors if f"{network}.{n}" in fixed)
        # The noise's strength starts at 0 with a gradient that may be 0, biases too.
        filters = [n for n in new if "weight" in n]
        assert filters and not any(torch.equal(now[n], tensors[n]) for n in filters)


@pytest.mark.parametrize(
    ("changes", "size", "second"),
    [
        ({"penalties": ["cdc"]}, GROWN, "data.resolution or data.channels"),
        ({"penalties": ["cdc"]}, GREY, "data.resolution or data.channels"),
        ({"penalties": ["ewc"]}, CUT, "data.resolution or data.channels"),
        ({"prior": "gmm"}, GROWN, "data.resolution or data.channels"),
        ({"prior": "gmm_to_normal"}, GREY, "data.resolution or data.channels"),
    ],
    ids=str,
)
def test_what_needs_all_of_the_source_is_refused_where_parts_are_new(
    changes: dict[str, Any], size: Sizes, second: str
) -> None:
    settings = recipe(**changes)
    first = "finetune.prior" if "prior" in changes else "finetune.penalties"
    with pytest.raises(ConfigError) as error:
        rehearse(fitted(size), method(settings.method), settings)
    assert first in error.value.message and second in error.value.message
    with pytest.raises(ConfigError) as early:
        check_networks(settings, source(size[0]).spec, False, "near", size[1:])
    assert early.value.message == error.value.message
    check_networks(settings, small("stylegan2").spec, False, "near", (32, 3))
    check_networks(settings, small("stylegan2").spec, False, "near")


@pytest.mark.parametrize("changes", [{"prior": "gmm"}, {"penalties": ["cdc", "l2_sp"]}], ids=str)
def test_a_generator_that_was_cut_is_the_sources(changes: dict[str, Any]) -> None:
    assert not fitted(CUT).fresh_in("generator")
    rehearse(fitted(CUT), method("full"), recipe(**changes))


def test_weights_are_held_near_those_that_the_source_had_alone() -> None:
    gan, settings = fitted(GROWN), recipe(penalties=["l2_sp"], l2_sp_on_d=True)
    method("full").apply(gan, settings)
    (penalty,) = make_penalties(settings)
    penalty.start(gan, settings)
    for network, anchors in (("generator", penalty.anchors_g), ("discriminator", penalty.anchors_d)):
        every = {name for name, _ in getattr(gan, network).named_parameters()}
        assert anchors.keys() == every - fresh_parameters(gan, network) < every


@pytest.mark.parametrize("penalty", ["cdc", "ewc", "l2_sp"])
def test_a_small_head_is_held_to_nothing(penalty: str) -> None:
    settings = recipe(method="filter_transfer", penalties=[penalty], **SMALL_HEAD)
    with pytest.raises(ConfigError, match=f"finetune.penalties: {penalty}") as error:
        rehearse(small("resnet_gan"), method("filter_transfer"), settings)
    assert "finetune.filter_transfer.head=small" in error.value.message
    assert "head=source" in error.value.remedy


def test_scales_behind_a_small_head_may_be_held() -> None:
    settings = recipe(method="adafm", penalties=["l2_sp"], l2_sp_on_d=True, **SMALL_HEAD)
    gan = small("resnet_gan")
    method("adafm").apply(gan, settings)
    (penalty,) = make_penalties(settings)
    penalty.start(gan, settings)
    assert penalty.anchors_g and not any(name.startswith("small.") for name in penalty.anchors_g)
    assert penalty.anchors_d and not any(name.startswith("fc.") for name in penalty.anchors_d)
