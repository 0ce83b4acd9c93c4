from __future__ import annotations

from typing import Any

import pytest
from training.nets import recipe

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.method_config import ClassEmbedding
from graftgan.transfer import method
from graftgan.transfer.class_settings import Preset, preset, refuse


def settings(**changes: Any) -> Finetune:
    section = {k.removeprefix("own_"): v for k, v in changes.items() if k.startswith("own_")}
    whole = {k: v for k, v in changes.items() if not k.startswith("own_")}
    base = {"method": "class_embedding", "controls": (), "evaluate_every_kimg": 0.1}
    return recipe(**{**base, **whole, "class_embedding": section})


def test_it_is_a_method_with_its_check() -> None:
    assert method("class_embedding").check is refuse


def test_the_usual_settings_pass() -> None:
    refuse(settings())
    refuse(settings(own_use="repair", own_classes=(3,), own_objective="realism"))
    refuse(settings(own_use="debias", own_classes=(1, 2), own_objective="discriminator"))
    refuse(settings(own_objective="discriminator"))
    refuse(
        settings(
            own_objective="classifier", own_classifier="torchscript:a.pt?px=8", own_classifier_classes=(1,)
        )
    )


FILE = {
    "own_objective": "classifier",
    "own_classifier": "torchscript:a.pt?px=8",
    "own_classifier_classes": (1,),
}
WRONG: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"prior": "gmm"}, ("finetune.prior=gmm", "finetune.method=class_embedding")),
    ({"penalties": ("bsd",)}, ("finetune.penalties", "finetune.method=class_embedding")),
    ({"augment": "diffaugment"}, ("finetune.augment", "finetune.method=class_embedding")),
    ({"controls": ("worst",)}, ("finetune.controls", "finetune.method=class_embedding")),
    ({"budget": {"minutes": 1}}, ("finetune.budget", "class_embedding.starts=3")),
    ({"own_use": "repair"}, ("class_embedding.classes", "class_embedding.use=repair")),
    ({"own_classes": (1,)}, ("class_embedding.classes", "class_embedding.use=repurpose")),
    ({"own_use": "repair", "own_classes": (1, 1)}, ("class_embedding.classes", "twice")),
    ({"own_objective": "classifier"}, ("objective=classifier", "class_embedding.classifier")),
    ({"own_classifier": "torchscript:a.pt?px=8"}, ("class_embedding.classifier", "objective=mmd")),
    ({**FILE, "own_classifier": "onnx:a.onnx"}, ("class_embedding.classifier", "objective=classifier")),
    ({**FILE, "own_classifier_classes": ()}, ("classifier_classes", "class_embedding.use=repurpose")),
    (
        {**FILE, "own_judge_classifier": FILE["own_classifier"]},
        ("class_embedding.judge_classifier", "class_embedding.classifier,"),
    ),
    (
        {"own_judge_classifier": "onnx:b.onnx"},
        ("classifier_classes is empty", "judge_classifier needs with", "use=repurpose"),
    ),
    ({"own_objective": "realism"}, ("objective=realism", "use=repurpose")),
    (
        {"own_use": "repair", "own_classes": (1,), "own_objective": "realism", "own_alpha": 0.0},
        ("class_embedding.alpha=0", "objective=realism"),
    ),
    ({"own_diversity": "softmax", "own_alpha": 0.5}, ("diversity=softmax", "objective=mmd")),
    ({"own_objective": "inversion", "own_alpha": 0.5}, ("class_embedding.alpha", "objective=inversion")),
    ({"own_init": ("target",)}, ("class_embedding.init", "use=repurpose")),
    ({"own_diversity": "pixelwise"}, ("class_embedding.diversity", "alpha=null", "objective=mmd")),
    (
        {"own_diversity": "pixelwise", "own_alpha": 0.0, "own_objective": "probe"},
        ("class_embedding.diversity", "alpha=0", "objective=probe"),
    ),
    (
        {"own_features": "efflite0", "own_objective": "discriminator", "own_alpha": 0.0},
        ("class_embedding.features", "objective=discriminator"),
    ),
    (
        {"own_features": "efflite0", "own_objective": "discriminator", "own_diversity": "pixelwise"},
        ("class_embedding.features", "diversity=pixelwise"),
    ),
    ({"own_classifier_classes": (1,)}, ("classifier_classes", "judge_classifier=null", "objective=mmd")),
    (
        {"own_objective": "inversion", "own_steps_per_latents": 5},
        ("class_embedding.steps_per_latents", "objective=inversion"),
    ),
    ({"own_init": ("top", "random"), "own_noise": 0.2}, ("class_embedding.noise", "init=[top, random]")),
]


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=[" ".join(words) for _, words in WRONG])
def test_what_cannot_go_together_is_named_by_both_keys(
    changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse(settings(**changes))
    assert all(word in caught.value.message for word in words)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {"own_diversity": "pixelwise", "own_alpha": 0.5},
        {"own_diversity": "pixelwise", "own_objective": "probe"},
        {"own_features": "efflite0"},
        {"own_features": "efflite0", "own_objective": "discriminator"},
        {"own_classifier_classes": (1,), "own_judge_classifier": "onnx:b.onnx"},
        {"own_steps_per_latents": 5},
        {"own_init": ("top", "mean"), "own_noise": 0.2},
        {"own_noise": 0.2},
    ],
    ids=str,
)
def test_keys_that_something_reads_pass(changes: dict[str, Any]) -> None:
    refuse(settings(**changes))


def test_a_judge_goes_with_every_objective() -> None:
    known = {"own_use": "repair", "own_classes": (3,), "own_judge_classifier": "onnx:b.onnx"}
    refuse(settings(**known))
    refuse(settings(**{**known, **FILE}))
    assert ClassEmbedding().judge != ClassEmbedding().features


def test_presets_follow_the_use() -> None:
    assert preset(ClassEmbedding(use="repair", objective="probe")) == Preset(
        ("mean", "random"), 0.5, 0.1, 0.9
    )
    assert preset(ClassEmbedding(use="debias", objective="classifier")) == Preset(("target",), 1.0, 0.05, 0.1)


def test_objectives_that_compare_images_have_no_decay_and_no_term() -> None:
    found = preset(ClassEmbedding(use="debias", objective="mmd"))
    assert (found.alpha, found.weight_decay) == (0.0, 0.0)


def test_given_values_win() -> None:
    section = ClassEmbedding(init=("random",), alpha=0.0, lr=0.3, weight_decay=0.2, objective="probe")
    assert preset(section) == Preset(("random",), 0.0, 0.3, 0.2)
