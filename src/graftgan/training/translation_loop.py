"""The loop around the steps of translators: fixed inputs in place of latents, and judges of outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graftgan.config import Runtime
from graftgan.context import Context
from graftgan.data.pairs import Part
from graftgan.errors import GraftganError
from graftgan.metrics.features import Extractor
from graftgan.metrics.kid import kid, paired_kid_difference
from graftgan.metrics.translation import LEAST_GROUPS, grouped_mean, l1_distances
from graftgan.training.loop import TIMELINE_IMAGES, Loop, Measurement, total_images
from graftgan.training.profile import Profile
from graftgan.training.state import StateStore
from graftgan.training.stepper import Steps
from graftgan.training.switches import switches
from graftgan.training.translation import TranslationTrainer
from graftgan.training.translators import translate


class TranslationJudge(Protocol):
    """Measures translators on validation images and compares two measurements.

    Attributes:
        name: What it measures; less is better.
        part: The validation images.
    """

    name: str
    part: Part

    def measure(self, generator: nn.Module) -> Measurement:
        """Translate the inputs and score the outputs."""

    def improves(self, new: Measurement, best: Measurement) -> bool:
        """Tell whether `new` beats `best` by more than one standard error of their paired difference."""


class PairedJudge:
    """Measures the mean L1 distance to the truths; features are the distance of each image.

    Args:
        part: Validation pairs, of 5 groups or more.
    """

    name = "l1"

    def __init__(self, part: Part) -> None:
        self.part = part

    def measure(self, generator: nn.Module) -> Measurement:
        """Translate and score."""
        distances = l1_distances(translate(generator, self.part.inputs), self.part.targets)
        mean = grouped_mean(distances, self.part.groups)
        return Measurement(mean.value, mean.low, mean.high, torch.from_numpy(distances))

    def improves(self, new: Measurement, best: Measurement) -> bool:
        """Ask for more than one standard error of the paired difference."""
        difference = grouped_mean((new.features - best.features).numpy(), self.part.groups)
        return difference.value + difference.stderr < 0


class UnpairedJudge:
    """Measures the KID of translated inputs against the targets.

    Args:
        part: Validation images.
        extractor: What features are.
    """

    name = "kid"

    def __init__(self, part: Part, extractor: Extractor) -> None:
        self.part, self.extractor = part, extractor
        self.real = extractor(part.targets)

    def measure(self, generator: nn.Module) -> Measurement:
        """Translate and score."""
        features = self.extractor(translate(generator, self.part.inputs))
        estimate = kid(features, self.real)
        return Measurement(estimate.value, estimate.low, estimate.high, torch.from_numpy(features))

    def improves(self, new: Measurement, best: Measurement) -> bool:
        """Ask for more than one standard error of the paired difference."""
        difference = paired_kid_difference(new.features.numpy(), best.features.numpy(), self.real)
        return difference.value + difference.stderr < 0


def can_judge(part: Part) -> bool:
    """Tell whether there are images enough for an interval."""
    return len(set(part.groups)) >= LEAST_GROUPS and len(part.targets) >= LEAST_GROUPS


class TranslationLoop(Loop):
    """Runs a translation trainer to the end of its budget; saving, stopping and going back are the loop's.

    Args:
        name: Name of the run.
        trainer: What to run.
        judge: How it is measured.
        store: Where the states lie.
        ctx: Surroundings of the stage.
        save_every_s: Seconds between saved states.
    """

    shown = ("loss_g", "loss_d", "loss_l1", "loss_cycle", "l1_validation", "kid_validation")

    def __init__(
        self,
        name: str,
        trainer: TranslationTrainer,
        judge: TranslationJudge,
        store: StateStore,
        ctx: Context,
        save_every_s: float,
    ) -> None:
        # The base is written for networks of latents; of these it uses what translators have too.
        steps: Steps = trainer
        networks: Any = steps
        measured: Any = judge
        super().__init__(name, networks, measured, store, ctx, save_every_s)
        self.translation, self.by = trainer, judge

    def _measure(self) -> dict[str, float]:
        history, trainer = self.history, self.translation
        generator = trainer.gan.generator_ema
        history.frames.append(torch.from_numpy(translate(generator, self._shown())))
        history.frame_images.append(trainer.images_seen)
        new = self.by.measure(generator)
        last = trainer.settings.choose == "last"
        if last or history.best is None or self.by.improves(new, history.best):
            history.best, history.best_images = new, trainer.images_seen
            history.best_tensors = kept_tensors(trainer)
        name = self.by.name
        return {f"{name}_validation": new.value, f"{name}_low": new.low, f"{name}_high": new.high}

    def _strengths(self) -> dict[str, float]:
        """Return nothing: translators are not augmented and have no prior."""
        return {}

    def _go_back(self, row: Mapping[str, float]) -> None:
        try:
            super()._go_back(row)
        except GraftganError as error:
            raise GraftganError(error.message, "use a smaller lr, or precision fp32") from None

    def _shown(self) -> NDArray[np.uint8]:
        return self.by.part.inputs[:TIMELINE_IMAGES]


def kept_tensors(trainer: TranslationTrainer) -> dict[str, Tensor]:
    """Return the state of what a task keeps, ``generator_ema.…`` and, if there is one, ``back_ema.…``."""
    networks = {"generator_ema": trainer.gan.generator_ema, "back_ema": trainer.gan.back_ema}
    return {
        f"{network}.{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for network, module in networks.items()
        if module is not None
        for name, tensor in module.state_dict().items()
    }


def restore_kept(trainer: TranslationTrainer, tensors: dict[str, Tensor]) -> None:
    """Give the networks that a task keeps the weights that :func:`kept_tensors` took."""
    for network in ("generator_ema", "back_ema"):
        module = getattr(trainer.gan, network)
        if module is not None:
            prefix = f"{network}."
            mine = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            module.load_state_dict(mine)


def profile_of(name: str, trainer: TranslationTrainer, runtime: Runtime) -> Profile | None:
    """Return what times the training of a task, where `runtime.profile` asks for it."""
    if runtime.profile is None:
        return None
    settings = trainer.settings
    steps = total_images(settings.budget, len(trainer.images), settings.batch) // settings.batch
    return Profile(name, Path(runtime.profile), trainer.device, 1, steps, switches(trainer))
