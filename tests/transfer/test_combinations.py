"""Every illegal combination that is known without a source, and those that its networks tell."""

from __future__ import annotations

from typing import Any

import pytest
from training.nets import recipe

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.stages.prior import check_prior
from graftgan.transfer import METHODS, method
from graftgan.transfer.combinations import check_settings
from graftgan.transfer.penalties import PENALTIES, make_penalties
from transfer.families import small

CLASSES = {"method": "class_embedding", "controls": []}
SMALL_HEAD = {"filter_transfer": {"head": "small"}}
# What is set, and the two keys that the message names, with or without `finetune.`.
BEFORE_LOADING: list[tuple[dict[str, Any], str, str]] = [
    ({"r1_on_fakes": True, "r1_gamma": 0}, "finetune.r1_on_fakes", "finetune.r1_gamma"),
    ({"penalties": ["bsd"], "bsd_k": 5}, "finetune.bsd_k", "finetune.batch"),
    ({"method": "ewc", "penalties": ["ewc"]}, "finetune.method=ewc", "finetune.penalties"),
    ({"method": "l2_sp", "penalties": ["l2_sp"]}, "finetune.method=l2_sp", "finetune.penalties"),
    ({"method": "cdc", "penalties": ["cdc"]}, "finetune.method=cdc", "finetune.penalties"),
    ({"method": "cdc", "batch": 3}, "finetune.batch", "finetune.cdc.patches"),
    ({"method": "minegan", "prior": "gmm"}, "finetune.method=minegan", "finetune.prior"),
    ({"method": "minegan", "budget": {"epochs": 1}}, "finetune.minegan.joint_from", "finetune.budget.kimg"),
    ({"method": "adafm", "adafm": {"start_kimg": 1}}, "finetune.adafm.start_kimg", "finetune.budget.kimg"),
    ({"method": "adafm", "prior": "gmm", **SMALL_HEAD}, "finetune.prior", "finetune.filter_transfer.head"),
    (
        {"method": "filter_transfer", "prior": "gmm", **SMALL_HEAD},
        "finetune.prior",
        "finetune.filter_transfer.head",
    ),
    (
        {"method": "filter_transfer", "filter_transfer": {"head_z_dim": 4}},
        "finetune.filter_transfer.head_z_dim",
        "finetune.filter_transfer.head",
    ),
    (
        {"method": "lora", "prior": "gmm", "inversion": {"learn_class": True}},
        "finetune.inversion.learn_class",
        "finetune.method=lora",
    ),
    ({"prior": "gmm", "mixture": {"components": 11}}, "finetune.mixture.components", "finetune.prior"),
    ({"method": "bsa", "prior": "gmm"}, "finetune.prior", "finetune.method=bsa"),
    ({**CLASSES, "prior": "gmm"}, "finetune.prior", "finetune.method=class_embedding"),
    *[
        ({"method": name, "controls": [], **keys}, f"finetune.{next(iter(keys))}", f"finetune.method={name}")
        for name in ("bsa", "class_embedding")
        for keys in (
            {"penalties": ["bsd"]}, {"path_length_weight": 2.0}, {"style_mixing": 0.5},
            {"augment": "diffaugment"}, {"fresh_discriminator": True}, {"r1_on_fakes": True},
        )
    ],
]  # fmt: skip
NETWORKS: list[tuple[str, dict[str, Any], str, str]] = [
    ("biggan", {"method": "lora"}, "finetune.method=lora", "family=biggan"),
    ("dcgan", {"method": "adafm"}, "finetune.method=adafm", "family=dcgan"),
    ("stylegan2", {"method": "bsa"}, "finetune.method=bsa", "family=stylegan2"),
    ("biggan", {"method": "gan_memory"}, "finetune.method=gan_memory", "family=biggan"),
    ("resnet_gan", {"method": "scale_shift"}, "finetune.method=scale_shift", "family=resnet_gan"),
    ("stylegan2", {"method": "lora", "adapter_rank": 99}, "finetune.adapter_rank", "finetune.method=lora"),
    (
        "stylegan2",
        {"method": "freeze_g", "freeze_g_blocks": 99},
        "finetune.freeze_g_blocks",
        "finetune.method=freeze_g",
    ),
    (
        "stylegan2",
        {"method": "adafm", "low_level_from_px": 64},
        "finetune.low_level_from_px",
        "finetune.method=adafm",
    ),
    (
        "stylegan2",
        {"method": "gan_memory", "fresh_discriminator": True},
        "finetune.gan_memory.modulate_d",
        "finetune.fresh_discriminator",
    ),
    (
        "stylegan2",
        {"penalties": ["ewc"], "fresh_discriminator": True},
        "finetune.penalties: ewc",
        "finetune.fresh_discriminator",
    ),
    (
        "stylegan2",
        {"penalties": ["l2_sp"], "l2_sp_on_d": True, "fresh_discriminator": True},
        "finetune.l2_sp_on_d",
        "finetune.fresh_discriminator",
    ),
]


def named(error: ConfigError, first: str, second: str) -> None:
    assert first in error.message and second in error.message, error.message
    assert error.remedy


def check(settings: Finetune) -> None:
    check_settings(settings)
    check_prior(settings, training_images=10)


@pytest.mark.parametrize(("changes", "first", "second"), BEFORE_LOADING, ids=str)
def test_settings_that_exclude_each_other_are_refused_by_both_names(
    changes: dict[str, Any], first: str, second: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check(recipe(**changes))
    named(error.value, first, second)


@pytest.mark.parametrize(("family", "changes", "first", "second"), NETWORKS, ids=str)
def test_what_a_source_does_not_have_is_refused_by_both_names(
    family: str, changes: dict[str, Any], first: str, second: str
) -> None:
    gan, settings = small(family), recipe(**changes)
    if settings.fresh_discriminator:
        gan.fresh = ("discriminator",)
    check(settings)
    with pytest.raises(ConfigError) as error:
        method(settings.method).apply(gan, settings)
        for penalty in make_penalties(settings):
            penalty.start(gan, settings)
    named(error.value, first, second)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_passes_with_its_defaults(name: str) -> None:
    check(recipe(method=name, controls=[], evaluate_every_kimg=0.25))


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("prior", ["normal", "gmm", "gmm_to_normal"])
def test_every_penalty_goes_with_every_prior_and_augmentation(name: str, prior: str) -> None:
    for augment in ("none", "ada", "diffaugment"):
        check(recipe(penalties=[name], prior=prior, augment=augment, batch=16))


def test_weights_of_heads_for_patches_are_not_held_near_anything() -> None:
    gan = small("stylegan2")
    settings = recipe(method="cdc", penalties=["l2_sp"], l2_sp_on_d=True)
    method("cdc").apply(gan, settings)
    (_, penalty) = make_penalties(settings)
    penalty.start(gan, settings)
    held = penalty.anchors_d  # type: ignore[attr-defined]
    assert held and not [n for n in held if n.startswith("patches.")]
