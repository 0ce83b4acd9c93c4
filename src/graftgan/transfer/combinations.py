"""What of `finetune` cannot go together, whatever the source: asked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.params import flatten
from graftgan.training.loop import total_images
from graftgan.transfer import METHODS, method
from graftgan.transfer.penalties import make_penalties

LOW_LEVEL = ("filter_transfer", "adafm")
READERS: dict[str, tuple[str, ...]] = {
    "freeze_d_layers": ("freeze_d",),
    "freeze_d_blocks": ("freeze_d",),
    "freeze_g_blocks": ("freeze_g",),
    "low_level_from_px": LOW_LEVEL,
    "low_level_d_from_px": LOW_LEVEL,
    "adapter_rank": ("lora",),
}
"""Key of `finetune` -> the methods that read it; to all others it says nothing."""
SECTIONS: dict[str, tuple[str, ...]] = {
    "filter_transfer": LOW_LEVEL,
    "adafm": ("adafm",),
    "gan_memory": ("gan_memory",),
    "class_embedding": ("class_embedding",),
    "minegan": ("minegan",),
    "bsa": ("bsa",),
    "cdc.patches": ("cdc",),
    "cdc.anchors": ("cdc",),
    "cdc.anchor_noise": ("cdc",),
    "cdc.patch_px": ("cdc",),
}
"""The same of whole sections, and of what stands in one that a penalty reads too."""
TERMS: dict[str, tuple[str, ...]] = {
    "bsd": ("bsd_weight", "bsd_k", "bsd_on_d", "bsd_floor", "bsd_clip", "bsd_normalise_rows"),
    "l2_sp": ("l2_sp_weight", "l2_sp_on_d"),
    "ewc": ("ewc_weight", "ewc_samples"),
    "cdc": ("cdc.weight", "cdc.batch", "cdc.layers"),
}
"""Penalty -> the keys that it alone reads."""


class Idle(NamedTuple):
    """Keys that another key keeps from having any effect.

    Attributes:
        keys: Below `finetune`.
        other: The key that decides.
        when: Whether it does.
        why: What is so then.
        remedy: Value of `other` with which the keys are read.
    """

    keys: tuple[str, ...]
    other: str
    when: Callable[[Finetune], bool]
    why: str
    remedy: str


IDLE = (
    Idle(
        ("freeze_d_layers",), "freeze_d_blocks", lambda s: s.freeze_d_blocks is not None,
        "blocks are counted instead of layers", "null",
    ),
    Idle(
        ("filter_transfer.head_grad_gain", "filter_transfer.calibration_samples"), "filter_transfer.head",
        lambda s: s.filter_transfer.head != "small", "there is no small head", "small",
    ),
    Idle(
        tuple(f"gan_memory.compress.{key}" for key in ("weight", "every", "keep", "components", "up_to_px")),
        "gan_memory.compress.enabled", lambda s: not s.gan_memory.compress.enabled,
        "nothing is compressed", "true",
    ),
    Idle(
        ("cdc.anchors", "cdc.anchor_noise", "cdc.patch_px"), "cdc.patches", lambda s: not s.cdc.patches,
        "D judges whole images everywhere", "true",
    ),
    Idle(
        ("ada_target", "ada_speed_kimg", "ada_p_max"), "augment", lambda s: s.augment != "ada",
        "nothing but ADA reads it", "ada",
    ),
    Idle(
        ("r1_interval",), "r1_gamma", lambda s: not s.r1_gamma, "there is no R1 penalty", "0.5",
    ),
    Idle(
        ("path_length_interval",), "path_length_weight", lambda s: not s.path_length_weight,
        "there is no path length penalty", "2",
    ),
    Idle(
        ("target_class",), "method", lambda s: s.method == "class_embedding",
        "its rows begin where class_embedding.init says", "full",
    ),
    Idle(
        ("target_class.classifier",), "target_class.rows", lambda s: s.target_class.rows == "mean",
        "a mean of all classes asks no classifier", "nearest or soft",
    ),
    Idle(
        ("target_class.samples",), "target_class.rows", lambda s: s.target_class.rows == "mean",
        "a mean of all classes compares no samples", "nearest or soft",
    ),
    Idle(
        ("target_class.samples",), "target_class.classifier", lambda s: s.target_class.classifier is not None,
        "the classifier is asked, and no samples", "null",
    ),
    Idle(
        ("mixture.schedule", "mixture.reach"), "prior", lambda s: s.prior == "gmm",
        "the mixture stays where it is", "gmm_to_normal",
    ),
)  # fmt: skip
DEFAULTS = flatten(Finetune().model_dump())


def check_settings(settings: Finetune, named: bool = True) -> None:
    """Refuse settings of the method, of its penalties, of the prior and of the game that exclude each other.

    Keys that are set to something and read by nothing are refused too.

    Args:
        settings: The recipe.
        named: Whether the user named the method. With `auto`, keys may be meant for one that was not taken.

    Raises:
        ConfigError: Naming both keys.
    """
    if settings.r1_on_fakes and not settings.r1_gamma:
        raise ConfigError(
            "finetune.r1_on_fakes=true with finetune.r1_gamma=0: there is no penalty to put on fakes",
            "set finetune.r1_gamma above 0, or finetune.r1_on_fakes=false",
        )
    if (refuse := method(settings.method).check) is not None:
        refuse(settings)
    make_penalties(settings)
    if named:
        _refuse_unread(settings)
    _refuse_terms(settings, named)
    _refuse_idle(settings)


def check_starts(settings: Finetune, training_images: int) -> None:
    """Refuse what begins in the course of a run, and after its last step.

    Args:
        settings: The recipe; :func:`check_settings` has let it pass.
        training_images: Their number, which tells how long epochs are.

    Raises:
        ConfigError: Naming the key and the limit of the budget.
    """
    begins, budget = method(settings.method).begins, settings.budget
    if begins is None or (start := begins(settings)) is None:
        return
    key, images = start
    last = total_images(budget, training_images, settings.batch) - settings.batch
    if images <= last:
        return
    by_kimg = math.inf if budget.kimg is None else 1000 * budget.kimg
    by_epochs = math.inf if budget.epochs is None else training_images * budget.epochs
    limit = "epochs" if by_epochs < by_kimg else "kimg"
    raise ConfigError(
        f"finetune.{key}={_shown(flatten(settings.model_dump())[key])} with "
        f"finetune.budget.{limit}={_shown(getattr(budget, limit))}: with {training_images} training images "
        f"the last step begins after {last} images, and what waits for {images:g} would never move",
        f"set finetune.{key} to begin earlier, or a larger finetune.budget.{limit}",
    )


def _changed(settings: Finetune, *keys: str) -> Iterator[tuple[str, object, object]]:
    """Yield key, value and default of what is not at its default, of these keys and of these sections."""
    for name, value in flatten(settings.model_dump()).items():
        default = DEFAULTS.get(name)
        if value != default and any(name == key or name.startswith(f"{key}.") for key in keys):
            yield name, value, default


def _shown(value: object) -> str:
    """Return a value as it is written in `params.yaml`."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _refuse_unread(settings: Finetune) -> None:
    for table in (READERS, SECTIONS):
        for name, readers in table.items():
            if settings.method in readers:
                continue
            for key, value, default in _changed(settings, name):
                raise ConfigError(
                    f"finetune.{key}={_shown(value)} has no meaning with finetune.method={settings.method}: "
                    f"{' or '.join(readers)} reads it",
                    f"set finetune.{key}={_shown(default)}, or finetune.method={readers[0]}",
                )


def _refuse_terms(settings: Finetune, named: bool) -> None:
    """Refuse keys of penalties that the run does not have; `auto` may take a method that brings one."""
    for penalty, keys in TERMS.items():
        bringing = [name for name, found in METHODS.items() if penalty in found.penalties]
        there = penalty in settings.penalties or settings.method in bringing
        if there or (bringing and not named):
            continue
        for key, value, default in _changed(settings, *keys):
            beside = f" and finetune.method={settings.method}" if bringing else ""
            raise ConfigError(
                f"finetune.{key}={_shown(value)} has no meaning with "
                f"finetune.penalties={_shown(settings.penalties)}{beside}: the penalty {penalty} reads it",
                f"add {penalty} to finetune.penalties, or set finetune.{key}={_shown(default)}",
            )


def _refuse_idle(settings: Finetune) -> None:
    """Refuse keys that another key keeps from having any effect."""
    flat = flatten(settings.model_dump())
    for idle in IDLE:
        if not idle.when(settings):
            continue
        for key, value, default in _changed(settings, *idle.keys):
            raise ConfigError(
                f"finetune.{key}={_shown(value)} with finetune.{idle.other}={_shown(flat[idle.other])}: "
                f"{idle.why}",
                f"set finetune.{idle.other}={idle.remedy}, or finetune.{key}={_shown(default)}",
            )
