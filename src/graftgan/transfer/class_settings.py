"""What `finetune.class_embedding` leaves open, and what of it cannot go together."""

from __future__ import annotations

from typing import NamedTuple

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Generator
from graftgan.gans.class_table import Place, place
from graftgan.method_config import ClassEmbedding
from graftgan.transfer.class_goals import NEED_IMAGES
from graftgan.transfer.direct import refuse_gan_settings

KEY = "finetune.class_embedding"
DRIVEN = ("classifier", "probe", "discriminator", "realism")
"""Objectives that reward one good image as much as many: they get the presets of diversity and decay."""


class Preset(NamedTuple):
    """Values in force: given ones, else those of the use."""

    init: tuple[str, ...]
    alpha: float
    lr: float
    weight_decay: float


USES = {
    "repair": Preset(("mean", "random"), 0.5, 0.1, 0.9),
    "repurpose": Preset(("mean", "top"), 0.5, 0.1, 0.9),
    "debias": Preset(("target",), 1.0, 0.05, 0.1),
}


def table_place(generator: Generator) -> Place:
    """Return where a source has its class vectors.

    Raises:
        ConfigError: It has none; named are the method and the source's family.
    """
    try:
        return place(generator)
    except ConfigError as error:
        raise ConfigError(f"finetune.method=class_embedding: {error.message}", error.remedy) from None


def preset(section: ClassEmbedding) -> Preset:
    """Return the values in force.

    The published decay is made for a cross-entropy and the diversity for a loss that has none; objectives
    that compare with images have neither unless they are asked for.
    """
    usual = USES[section.use]
    driven = section.objective in DRIVEN
    decay = usual.weight_decay if driven and section.objective != "realism" else 0.0
    return Preset(
        section.init or usual.init,
        section.alpha if section.alpha is not None else usual.alpha if driven else 0.0,
        section.lr or usual.lr,
        section.weight_decay if section.weight_decay is not None else decay,
    )


def refuse(settings: Finetune) -> None:
    """Refuse settings that cannot go together.

    Raises:
        ConfigError: Names both keys.
    """
    refuse_gan_settings(settings)
    section = settings.class_embedding
    for wrong, message, remedy in (*_whole_run(settings, section), *_within(section)):
        if wrong:
            raise ConfigError(message, remedy)


def _whole_run(settings: Finetune, section: ClassEmbedding) -> list[tuple[bool, str, str]]:
    method = "finetune.method=class_embedding"
    budget = settings.budget
    timed = budget.kimg is None and budget.epochs is None
    return [
        (
            settings.prior != "normal",
            f"finetune.prior={settings.prior} moves the latents that {method} needs as the source has them",
            "set finetune.prior=normal, or choose another finetune.method",
        ),
        (
            "worst" in settings.controls,
            f"finetune.controls has worst, and {method} needs classes, which the worst source may lack",
            "set finetune.controls=[] or [scratch]",
        ),
        (
            timed and section.starts > 1,
            f"{KEY}.starts={section.starts} share the budget evenly, but finetune.budget has minutes alone",
            f"set finetune.budget={{kimg: 10}}, or {KEY}.starts=1",
        ),
    ]


def _within(section: ClassEmbedding) -> list[tuple[bool, str, str]]:
    return [
        *_about_classes(section),
        *_about_classifier(section),
        *_about_objective(section),
        *_unread(section),
    ]


def _about_classes(section: ClassEmbedding) -> list[tuple[bool, str, str]]:
    use, known = f"{KEY}.use={section.use}", section.use != "repurpose"
    return [
        (
            known and not section.classes,
            f"{KEY}.classes is empty, but {use} works on classes that the source has",
            f"name them, as in {KEY}.classes=[3]; `graftgan classes diagnose` finds them",
        ),
        (
            not known and bool(section.classes),
            f"{KEY}.classes names classes of the source, but {use} makes new ones",
            f"set {KEY}.classes=[], or {KEY}.use=repair",
        ),
        (
            len(set(section.classes)) < len(section.classes),
            f"{KEY}.classes names a class twice",
            "name each once",
        ),
    ]


def _about_classifier(section: ClassEmbedding) -> list[tuple[bool, str, str]]:
    use, objective = f"{KEY}.use={section.use}", f"{KEY}.objective={section.objective}"
    names_file = section.classifier is not None
    return [
        (
            section.objective == "classifier" and not names_file,
            f"{objective} needs {KEY}.classifier, which is null",
            f"set {KEY}.classifier=torchscript:PATH?px=224, or {KEY}.objective=probe",
        ),
        (
            section.objective != "classifier" and names_file,
            f"{KEY}.classifier is not used with {objective}",
            f"set {KEY}.objective=classifier, or {KEY}.classifier=null",
        ),
        (
            names_file and str(section.classifier).startswith("onnx:"),
            f"{KEY}.classifier is an ONNX file, through which {objective} gets no gradient",
            "export it as TorchScript: torchscript:PATH?px=224",
        ),
        (
            section.objective == "classifier"
            and section.use == "repurpose"
            and not section.classifier_classes,
            f"{KEY}.classifier_classes is empty, and with {use} no class of the source tells them",
            f"set {KEY}.classifier_classes=[...], one for each new class",
        ),
        (
            names_file and section.judge_classifier == section.classifier,
            f"{KEY}.judge_classifier is {KEY}.classifier, which is optimised and no judge of itself",
            f"name another classifier, or set {KEY}.judge_classifier=null",
        ),
        (
            section.judge_classifier is not None
            and section.use == "repurpose"
            and not section.classifier_classes,
            f"{KEY}.classifier_classes is empty, which {KEY}.judge_classifier needs with {use}",
            f"set {KEY}.classifier_classes=[...], one for each new class",
        ),
    ]


def _about_objective(section: ClassEmbedding) -> list[tuple[bool, str, str]]:
    use, objective = f"{KEY}.use={section.use}", f"{KEY}.objective={section.objective}"
    known, drawn = section.use != "repurpose", preset(section)
    return [
        (
            section.objective == "realism" and not known,
            f"{objective} asks the source's D for a class that {use} does not have",
            f"set {KEY}.objective=discriminator, mmd or probe",
        ),
        (
            section.objective == "realism" and not drawn.alpha,
            f"{KEY}.alpha=0 leaves {objective} nothing to raise",
            f"set {KEY}.alpha=0.5",
        ),
        (
            section.diversity == "softmax" and section.objective != "classifier" and drawn.alpha > 0,
            f"{KEY}.diversity=softmax compares a classifier's answers, which {objective} has not",
            f"set {KEY}.diversity=features",
        ),
        (
            section.objective == "inversion" and bool(section.alpha),
            f"{KEY}.alpha is not used with {objective}, which has latents of its own",
            f"set {KEY}.alpha=null",
        ),
        (
            "target" in section.init and not known,
            f"{KEY}.init has target, but with {use} there is no row to begin at",
            f"set {KEY}.init=[mean, top]",
        ),
    ]


def _unread(section: ClassEmbedding) -> list[tuple[bool, str, str]]:
    """Return what is refused since nothing reads a key that was changed."""
    drawn, objective = preset(section), f"{KEY}.objective={section.objective}"
    alpha = f"{KEY}.alpha={'null' if section.alpha is None else f'{section.alpha:g}'}"
    compared = drawn.alpha > 0 and section.diversity == "features"
    init = f"{KEY}.init=[{', '.join(drawn.init)}]"
    unread = {
        "diversity": (not drawn.alpha, f"{alpha} and {objective}, which take no diversity term"),
        "features": (
            section.objective not in NEED_IMAGES and not compared,
            f"{objective} and {KEY}.diversity={section.diversity}, which compare no features",
        ),
        "classifier_classes": (
            section.classifier is None and section.judge_classifier is None,
            f"{KEY}.judge_classifier=null and {objective}, which ask no classifier",
        ),
        "steps_per_latents": (
            section.objective == "inversion",
            f"{objective}, whose latents are those of the images",
        ),
        "noise": (
            not {"mean", "target"} & set(drawn.init),
            f"{init}, whose rows begin at those of the table",
        ),
    }
    return [
        (
            idle and getattr(section, key) != ClassEmbedding.model_fields[key].default,
            f"{KEY}.{key} has no meaning with {why}",
            f"leave {KEY}.{key} at its default",
        )
        for key, (idle, why) in unread.items()
    ]
