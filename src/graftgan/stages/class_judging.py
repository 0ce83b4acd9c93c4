"""What judges tuned class vectors: held-out images, and networks that nothing was optimised by.

A vector that fits the features of one network fits that network first of all, so the sheet's judge is another
one (Li et al. 2020 compare by classifiers that took no part). Where there is no other, the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graftgan.classes import Images
from graftgan.config import Params
from graftgan.context import Context
from graftgan.data.dataset import ImageSet
from graftgan.device import pick_device
from graftgan.errors import ConfigError
from graftgan.metrics.features import Extractor, make_extractor
from graftgan.stages.features import cached, images_key, opaque, open_extractor
from graftgan.stages.target_class import softmax
from graftgan.training.stepper import Stepper
from graftgan.transfer.class_embedding import ClassTuner
from graftgan.transfer.class_goals import MOST_IMAGES, NEED_IMAGES, Target
from graftgan.transfer.class_objectives import Classifier

KEY = "finetune.class_embedding"
LEAST_REAL = 3
JUDGED_ON = ("test", "validation", "train")
"""Splits in the order of trust: validation images choose the checkpoint, training images are optimised."""


@dataclass(frozen=True)
class ClassJudge:
    """Measures samples of the classes that were tuned.

    Attributes:
        tuner: What tuned them.
        data: The packed image set.
        extractor: Makes features.
        classifier: Makes class logits [N, K]; None leaves these to the optimised classifier, if there is one.
        ctx: Where features of real images are kept.
    """

    tuner: ClassTuner
    data: ImageSet
    extractor: Extractor
    classifier: Extractor | None
    ctx: Context

    def split_of(self, target: Target) -> str | None:
        """Return the first of `JUDGED_ON` that has images enough of a class; None if none has."""
        return next((name for name in JUDGED_ON if len(self._rows(target, name)) >= LEAST_REAL), None)

    def real(self, target: Target) -> NDArray[np.float32] | None:
        """Return the features [N, D] of the real images that a class is compared with; None without any."""
        split = self.split_of(target)
        if split is None:
            return None
        rows = self._rows(target, split)[:MOST_IMAGES]
        images = np.asarray(self.data.pixels[rows])
        name = f"{split} features of class {target.row}"
        return cached(images_key(images), lambda: images, self.extractor, self.ctx, name)

    def features(self, images: Images) -> NDArray[np.float32]:
        """Return the features [N, D] of images, transparent ones over white as the real ones are."""
        return self.extractor(opaque(images))

    def _rows(self, target: Target, split: str) -> NDArray[np.intp]:
        rows = self.data.rows(split)
        # A model of one class takes all images, as its training does.
        alone = self.tuner.gan.spec.classes == 1
        return rows if alone else rows[self.data.labels(split) == target.row]

    def chances(self, target: Target, images: Images) -> NDArray[np.float64] | None:
        """Return the class probabilities [N, K] of images: the judge's, else of the optimised classifier."""
        if self.classifier is not None:
            return softmax(self.classifier(opaque(images)).astype(np.float64))
        objective = self.tuner.objectives[[one.row for one in self.tuner.targets].index(target.row)]
        if not isinstance(objective, Classifier):
            return None
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(self.tuner.device) / 127.5 - 1
        with torch.no_grad():
            return softmax(objective.logits(pixels).cpu().double().numpy())

    @property
    def features_optimised(self) -> bool:
        """Whether the features that judge are those that were optimised."""
        section = self.tuner.section
        spread = self.tuner.preset.alpha > 0 and section.diversity == "features"
        return section.judge == section.features and (section.objective in NEED_IMAGES or spread)

    @property
    def classifier_optimised(self) -> bool:
        """Whether the classifier that accuracy comes from is the one that was optimised."""
        return self.classifier is None and self.tuner.section.objective == "classifier"

    def described(self) -> dict[str, Any]:
        """Return what judges, for the report."""
        section = self.tuner.section
        optimised = section.classifier if self.classifier_optimised else None
        return {
            "judge": section.judge,
            "protocol": self.extractor.protocol,
            "judge_was_optimised": self.features_optimised,
            "judge_classifier": section.judge_classifier or optimised,
            "judge_classifier_was_optimised": self.classifier_optimised,
        }

    def warnings(self) -> list[str]:
        """Return a sentence for each number of the report that flatters the tuning."""
        section, found = self.tuner.section, []
        if self.features_optimised:
            found.append(
                f"{KEY}.judge={section.judge} is {KEY}.features, which was optimised: the report's KID and "
                "variety tell how well that went, not what another network sees"
            )
        if self.classifier_optimised:
            found.append(
                "the report's accuracy and probability are those of the classifier that was optimised, "
                f"{KEY}.classifier: name another as {KEY}.judge_classifier"
            )
        rows = [str(target.row) for target in self.tuner.targets if self.split_of(target) == "train"]
        if rows:
            found.append(
                f"the report compares class {', '.join(rows)} with training images: fewer than {LEAST_REAL} "
                "are held out"
            )
        return found


def make_class_judge(
    trainer: Stepper, data: ImageSet, params: Params, ctx: Context
) -> tuple[ClassJudge | None, list[str]]:
    """Return the judge of a run that tunes class vectors, and its warnings; None for other runs.

    Raises:
        ConfigError: A network is not there, or the classifier has no output for a class.
    """
    if not isinstance(trainer, ClassTuner):
        return None, []
    section, classifier = trainer.section, None
    if section.judge_classifier is not None:
        classifier = make_extractor(section.judge_classifier, device=str(pick_device(params.runtime.device)))
        _check_outputs(trainer, classifier)
    judge = ClassJudge(trainer, data, open_extractor(section.judge, params), classifier, ctx)
    return judge, judge.warnings()


def _check_outputs(tuner: ClassTuner, classifier: Extractor) -> None:
    for target in tuner.targets:
        if target.output is None or target.output >= classifier.dim:
            named = "classifier_classes" if tuner.section.classifier_classes else "classes"
            raise ConfigError(
                f"{KEY}.judge_classifier has {classifier.dim} outputs, {KEY}.{named} names {target.output}",
                f"count its outputs from 0 in {KEY}.classifier_classes, or name another classifier",
            )
