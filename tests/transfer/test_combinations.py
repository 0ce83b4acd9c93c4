"""Every illegal combination that is known without a source, and those that its networks tell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from training.nets import recipe

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.params import load
from graftgan.stages.prior import check_prior
from graftgan.training.loop import total_images
from graftgan.transfer import METHODS, method
from graftgan.transfer.combinations import READERS, SECTIONS, TERMS, check_settings, check_starts
from graftgan.transfer.penalties import PENALTIES, make_penalties
from transfer.families import small

REPO = Path(__file__).parents[2]
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
    (
        {"method": "minegan", "minegan": {"joint_from": 1}},
        "finetune.minegan.joint_from=1",
        "finetune.budget.kimg=1",
    ),
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
    (
        {"prior": "gmm", "mixture": {"schedule": "cosine"}},
        "finetune.mixture.schedule=cosine",
        "finetune.prior=gmm",
    ),
    ({"prior": "gmm", "mixture": {"reach": 0.5}}, "finetune.mixture.reach=0.5", "finetune.prior=gmm"),
    (
        {"target_class": {"classifier": "onnx:x"}},
        "finetune.target_class.classifier=onnx:x",
        "finetune.target_class.rows=mean",
    ),
    (
        {"method": "freeze_d", "freeze_d_layers": 7, "freeze_d_blocks": 2},
        "finetune.freeze_d_layers=7",
        "finetune.freeze_d_blocks=2",
    ),
    ({"method": "freeze_g", "freeze_d_blocks": 0}, "finetune.freeze_d_blocks=0", "finetune.method=freeze_g"),
    ({"method": "bsa", "prior": "gmm"}, "finetune.prior", "finetune.method=bsa"),
    ({**CLASSES, "prior": "gmm"}, "finetune.prior", "finetune.method=class_embedding"),
    *[
        ({"method": name, "controls": [], key: 7}, f"finetune.{key}=7", f"finetune.method={name}")
        for key, readers in READERS.items()
        for name in ("full", "lora", "freeze_d", "adafm", "minegan")
        if name not in readers
    ],
    *[
        ({"method": name, "controls": [], **keys}, f"finetune.{next(iter(keys))}", f"finetune.method={name}")
        for name in ("bsa", "class_embedding")
        for keys in (
            {"penalties": ["bsd"]}, {"path_length_weight": 2.0}, {"style_mixing": 0.5},
            {"augment": "diffaugment"}, {"fresh_discriminator": True}, {"r1_on_fakes": True},
        )
    ],
]  # fmt: skip
COMPRESS = {"gan_memory": {"compress": {"weight": 0.5}}}
# What is set and read by nothing, and the two keys that the message names.
UNREAD: list[tuple[dict[str, Any], str, str]] = [
    ({"gan_memory": {"classes": 4}}, "gan_memory.classes=4", "method=full"),
    (COMPRESS, "gan_memory.compress.weight=0.5", "method=full"),
    ({"filter_transfer": {"head": "small"}}, "filter_transfer.head=small", "method=full"),
    ({"adafm": {"start_kimg": 5}}, "adafm.start_kimg=5", "method=full"),
    ({"minegan": {"layers": 5}}, "minegan.layers=5", "method=full"),
    ({"minegan": {"joint_from": None}}, "minegan.joint_from=null", "method=full"),
    ({"bsa": {"lr": 1}}, "bsa.lr=1", "method=full"),
    ({"class_embedding": {"use": "repair"}}, "class_embedding.use=repair", "method=full"),
    (
        {"method": "filter_transfer", "adafm": {"start_kimg": 0.5}},
        "adafm.start_kimg",
        "method=filter_transfer",
    ),
    ({"penalties": ["cdc"], "cdc": {"anchors": 5}}, "cdc.anchors=5", "method=full"),
    ({"bsd_k": 3}, "bsd_k=3", "penalties=[]"),
    ({"bsd_on_d": False}, "bsd_on_d=false", "penalties=[]"),
    ({"penalties": ["l2_sp"], "bsd_clip": 1}, "bsd_clip=1", "penalties=[l2_sp]"),
    ({"ewc_weight": 3}, "ewc_weight=3", "penalties=[]"),
    ({"method": "l2_sp", "ewc_samples": 3}, "ewc_samples=3", "method=l2_sp"),
    ({"l2_sp_on_d": True}, "l2_sp_on_d=true", "penalties=[]"),
    ({"cdc": {"weight": 10}}, "cdc.weight=10", "penalties=[]"),
    ({"cdc": {"layers": 2}}, "cdc.layers=2", "method=full"),
    ({"method": "cdc", "cdc": {"patches": False, "anchors": 5}}, "cdc.anchors=5", "cdc.patches=false"),
    ({"method": "cdc", "cdc": {"patches": False, "patch_px": [8, 9]}}, "cdc.patch_px=[8, 9]", "cdc.patches"),
    ({"method": "gan_memory", **COMPRESS}, "compress.weight=0.5", "gan_memory.compress.enabled=false"),
    (
        {"method": "gan_memory", "gan_memory": {"compress": {"keep": [0.5] * 5}}},
        "compress.keep=[0.5, 0.5, 0.5, 0.5, 0.5]",
        "gan_memory.compress.enabled=false",
    ),
    (
        {"method": "adafm", "filter_transfer": {"head_grad_gain": 1}},
        "filter_transfer.head_grad_gain=1",
        "filter_transfer.head=source",
    ),
    ({"target_class": {"samples": 4}}, "target_class.samples=4", "target_class.rows=mean"),
    (
        {"target_class": {"rows": "soft", "classifier": "onnx:x", "samples": 4}},
        "target_class.samples=4",
        "target_class.classifier=onnx:x",
    ),
    (
        {**CLASSES, "evaluate_every_kimg": 0.25, "target_class": {"rows": "soft"}},
        "target_class.rows=soft",
        "method=class_embedding",
    ),
    ({"augment": "none", "ada_target": 0.5}, "ada_target=0.5", "augment=none"),
    ({"augment": "diffaugment", "ada_speed_kimg": 5}, "ada_speed_kimg=5", "augment=diffaugment"),
    ({"r1_gamma": 0, "r1_interval": 4}, "r1_interval=4", "r1_gamma=0"),
    ({"path_length_interval": 8}, "path_length_interval=8", "path_length_weight=0"),
]
# The same keys where something reads them.
READ: list[dict[str, Any]] = [
    {"method": "gan_memory", "gan_memory": {"classes": 4}},
    {"method": "gan_memory", "gan_memory": {"compress": {"enabled": True, "weight": 0.5, "keep": [0.5] * 5}}},
    {"method": "filter_transfer", "filter_transfer": {"head": "small", "head_grad_gain": 1}},
    {"method": "adafm", "filter_transfer": {"head": "small"}, "adafm": {"start_kimg": 0.5}},
    {"method": "minegan", "minegan": {"layers": 5, "joint_from": None}},
    {"method": "bsa", "bsa": {"lr": 1}},
    {**CLASSES, "evaluate_every_kimg": 0.25, "class_embedding": {"use": "repair", "classes": [1]}},
    {"method": "freeze_d", "penalties": ["bsd"], "bsd_k": 3, "bsd_on_d": False},
    {"penalties": ["ewc"], "ewc_weight": 3},
    {"method": "ewc", "ewc_samples": 3},
    {"penalties": ["bsd", "l2_sp"], "bsd_k": 3, "l2_sp_on_d": True},
    {"method": "l2_sp", "l2_sp_on_d": True},
    {"penalties": ["cdc"], "cdc": {"weight": 10, "layers": 2}},
    {"method": "cdc", "cdc": {"weight": 10, "anchors": 5, "patch_px": [8, 9]}},
    {"target_class": {"rows": "soft", "samples": 4}},
    {"augment": "ada", "ada_target": 0.5},
    {"path_length_weight": 2, "path_length_interval": 8},
    # Keys of a control's own networks and of what is judged elsewhere.
    {"inversion": {"epochs": 5}, "mixture": {"components": 2}, "scratch": {"z_dim": 8}},
]
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


@pytest.mark.parametrize(("changes", "first", "second"), UNREAD, ids=str)
def test_a_key_that_nothing_reads_is_refused_by_both_names(
    changes: dict[str, Any], first: str, second: str
) -> None:
    settings = recipe(**changes)
    with pytest.raises(ConfigError) as error:
        check_settings(settings)
    named(error.value, first, second)
    key = re.search(r"finetune\.([a-z0-9_.]+)", error.value.message)
    assert key is not None and f"finetune.{key[1]}=" in error.value.remedy


@pytest.mark.parametrize("changes", READ, ids=str)
def test_a_key_that_something_reads_is_let_pass(changes: dict[str, Any]) -> None:
    check_settings(recipe(**{"controls": [], **changes}))


def test_every_key_of_a_method_or_penalty_is_in_one_of_the_tables() -> None:
    told = re.compile(r"With (?:method|penalty) (\w+)")
    for key, info in Finetune.model_fields.items():
        found = told.search(info.description or "")
        if found is None or key == "cdc":
            continue
        methods = {*READERS.get(key, ()), *SECTIONS.get(key, ())}
        assert found[1] in methods or key in TERMS.get(found[1], ()), key
    inside = {name for name in (*SECTIONS, *TERMS["cdc"]) if name.startswith("cdc.")}
    assert inside == {f"cdc.{name}" for name in Finetune().cdc.model_dump()}
    assert set(TERMS) == set(PENALTIES)


def test_of_auto_keys_pass_that_it_may_take_a_reader_for_and_no_others() -> None:
    for changes in ({"gan_memory": {"classes": 4}}, {"cdc": {"weight": 10}}, {"ewc_weight": 3}):
        check_settings(recipe(**changes), named=False)
    # No method brings it, whatever auto takes, and what is off is off in every method.
    for changes in ({"bsd_k": 3}, COMPRESS, {"augment": "none", "ada_target": 0.5}):
        with pytest.raises(ConfigError):
            check_settings(recipe(**changes), named=False)


ADAFM = {"method": "adafm", "adafm": {"start_kimg": 0.03}}


@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        ({**ADAFM, "budget": {"epochs": 1}}, "adafm.start_kimg=0.03", "budget.epochs=1"),
        ({**ADAFM, "budget": {"epochs": 1, "kimg": 1}}, "adafm.start_kimg=0.03", "budget.epochs=1"),
        # 33 images are 9 steps of 4; the last begins after 32, and nothing after 33.
        (
            {"method": "adafm", "adafm": {"start_kimg": 0.0325}, "budget": {"kimg": 0.033}},
            "adafm.start_kimg=0.0325",
            "budget.kimg=0.033",
        ),
        ({"method": "minegan", "budget": {"kimg": 0.1, "epochs": 2}}, "minegan.joint_from=0.5", "epochs=2"),
        ({"method": "minegan", "budget": {"kimg": 0.004}}, "minegan.joint_from=0.5", "budget.kimg=0.004"),
    ],
    ids=str,
)  # fmt: skip
def test_what_would_begin_after_the_last_step_is_refused_by_both_names(
    changes: dict[str, Any], first: str, second: str
) -> None:
    settings = recipe(**changes)
    check_settings(settings)
    with pytest.raises(ConfigError) as error:
        check_starts(settings, training_images=24)
    named(error.value, first, second)


@pytest.mark.parametrize(
    "changes",
    [
        {**ADAFM, "budget": {"epochs": 2}},
        {**ADAFM, "budget": {"minutes": 1}},
        {"method": "adafm", "adafm": {"start_kimg": 0.032}, "budget": {"kimg": 0.033}},
        {"method": "adafm", "budget": {"kimg": 0.001}},
        {"method": "minegan", "budget": {"kimg": 0.1, "epochs": 3}},
        {"method": "minegan", "minegan": {"joint_from": None}, "budget": {"epochs": 1}},
        {"method": "minegan", "minegan": {"joint_from": 0}, "budget": {"kimg": 0.001}},
        {"method": "full", "budget": {"epochs": 1}},
    ],
    ids=str,
)
def test_what_begins_in_time_or_never_waits_is_let_pass(changes: dict[str, Any]) -> None:
    settings = recipe(**changes)
    check_settings(settings)
    check_starts(settings, training_images=24)
    # What is let pass moves before the last step, and what begins is what rests.
    if (resting := method(settings.method).resting) is not None:
        gan = small("stylegan2")
        method(settings.method).apply(gan, settings)
        last = total_images(settings.budget, 24, settings.batch) - settings.batch
        assert resting(gan, settings, last) == set()


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


@pytest.mark.parametrize("key", READERS)
def test_a_key_goes_with_the_methods_that_read_it_and_with_auto(key: str) -> None:
    for name in READERS[key]:
        check(recipe(method=name, **{key: 7}))
    # What auto takes is not known to whoever sets keys of several methods.
    check_settings(recipe(method="full", **{key: 7}), named=False)
    default = Finetune.model_fields[key].default
    check(recipe(method="full", **{key: default}))


def test_keys_of_a_prior_that_moves_and_of_a_choice_of_classes_go_where_they_are_read() -> None:
    moving = {"schedule": "cosine", "reach": 0.5}
    check(recipe(prior="gmm_to_normal", mixture=moving))
    check(recipe(prior="gmm", mixture={"components": 3}))
    # Under prior=normal the whole section waits.
    check(recipe(mixture=moving))
    for rows in ("nearest", "soft"):
        check(recipe(target_class={"rows": rows, "classifier": "onnx:x"}))


def test_the_shipped_parameters_are_legal() -> None:
    check(load(REPO / "params.yaml").finetune)


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
