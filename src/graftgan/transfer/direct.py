"""Methods that adapt G by a loss of their own, without the game against a discriminator.

`Method.direct` makes such a trainer. It steps inside the same loop as the GAN trainer, and so has the same
curves, best checkpoint, milestones, resuming and signals.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graftgan.config import Finetune
from graftgan.data.dataset import order
from graftgan.device import send
from graftgan.errors import ConfigError, GraftganError
from graftgan.gans.base import Gan, draw_latents
from graftgan.training import profile
from graftgan.training.augment import Augment, make_augment
from graftgan.training.ema import ema_beta, update_ema
from graftgan.training.feed import Feed
from graftgan.training.memory import ADAM_COPIES, Need, kept_bytes
from graftgan.training.meter import Meter
from graftgan.training.penalty import Penalty
from graftgan.training.state import restore_rng, rng_state
from graftgan.training.stepper import Stepper

ADAM_BETAS = (0.9, 0.999)
FEW, MORE = 2, 4


@dataclass(frozen=True)
class Task:
    """What a direct method is given.

    Attributes:
        gan: Networks to adapt, fitted to the data; `Method.apply` has said which tensors may move.
        images: Training images, uint8 [N, R, R, C].
        labels: Their class ids [N], or None.
        settings: The recipe.
        device: Where to compute.
        source: The networks as the source has them, before their classes were fitted; never changed. It is
            `gan` itself where nothing had to be fitted.
    """

    gan: Gan
    images: NDArray[np.uint8]
    labels: NDArray[np.int32] | None
    settings: Finetune
    device: torch.device
    source: Gan | None = None


DirectFactory = Callable[[Task], Stepper]
"""Makes the trainer of a direct method; raises ConfigError if the networks do not suit it."""


def refuse_gan_settings(settings: Finetune) -> None:
    """Refuse what has no meaning without a discriminator or in a loss that is not the GAN's.

    What has a value by default (augment=ada, r1_gamma, lr_discriminator) is not used, and no error.

    Raises:
        ConfigError: Names the method and the key.
    """
    asked = {
        "penalties": bool(settings.penalties),
        "path_length_weight": settings.path_length_weight > 0,
        "style_mixing": settings.style_mixing > 0,
        "augment": settings.augment == "diffaugment",
        "fresh_discriminator": settings.fresh_discriminator,
        "r1_on_fakes": settings.r1_on_fakes,
    }
    for key, wanted in asked.items():
        if wanted:
            raise ConfigError(
                f"finetune.{key} has no meaning with finetune.method={settings.method}, which plays no game "
                "against a discriminator",
                f"leave finetune.{key} at its default, or choose another finetune.method",
            )


class DirectTrainer(ABC):
    """Steps of Adam on a loss over whatever the method moves.

    A subclass gives the loss; it draws all random numbers from `self.rng`. What it moves outside the networks
    goes through `own_state` and `load_own_state`.

    Args:
        task: Networks, images and recipe.
        groups: Parameter groups for Adam, each with `params` and `lr`, and `weight_decay` if it has one
            (added to the gradient).
        betas: Adam's.
    """

    def __init__(
        self, task: Task, groups: Sequence[Mapping[str, Any]], betas: tuple[float, float] = ADAM_BETAS
    ) -> None:
        refuse_gan_settings(task.settings)
        self.gan, self.images, self.labels = task.gan.to(task.device), task.images, task.labels
        self.settings, self.device = task.settings, task.device
        self.feed = Feed(task.images, task.device)
        self.dtype = torch.float32
        self.adam = torch.optim.Adam([dict(group) for group in groups], betas=betas)
        self.rates = [float(group["lr"]) for group in self.adam.param_groups]
        self.rng = torch.Generator().manual_seed(task.settings.seed)
        self.seed_noise()
        self.images_seen = 0
        self.lr_scale = 1.0
        self.meter = Meter()
        self.augment: Augment = make_augment("none")
        self.penalties: tuple[Penalty, ...] = ()

    def seed_noise(self) -> None:
        """Seed torch's global generators."""
        torch.manual_seed(self.settings.seed)

    @abstractmethod
    def loss(self) -> Tensor:
        """Return the loss of this step, a tensor without dimensions; `self.meter` takes its parts."""

    @property
    def moving(self) -> list[nn.Parameter]:
        """All parameters that move."""
        return [parameter for group in self.adam.param_groups for parameter in group["params"]]

    @property
    def step_index(self) -> int:
        """Steps done."""
        return self.images_seen // self.settings.batch

    def need(self) -> Need:
        """Return what a step takes beside what is in memory already.

        It is counted on the losses of two and of four images, since what both keep, such as weights and the
        features of given images, does not grow with the batch. The trainer is left as it was.
        """
        grown = self._kept(MORE) - self._kept(FEW)
        fixed = ADAM_COPIES * sum(parameter.nbytes for parameter in self.moving)
        return Need(fixed, max(grown, 0) // (MORE - FEW), self.settings.batch)

    def _kept(self, images: int) -> int:
        settings, before = self.settings, copy.deepcopy(self.state_dict())
        self.settings = settings.model_copy(update={"batch": images})
        try:
            self.gan.generator.train()
            return kept_bytes((), self.loss)
        finally:
            self.settings = settings
            self.load_state_dict(before)

    def step(self) -> None:
        """Do one step and count its images."""
        self.gan.generator.train()
        self.adam.zero_grad(set_to_none=True)
        with profile.phase(profile.G_FORWARD):
            loss = self.loss()
        with profile.phase(profile.G_BACKWARD):
            torch.autograd.backward(loss)
        with profile.phase(profile.OPTIMISER):
            limit = self.settings.gradient_clip or float("inf")
            self.meter.add("grad_norm_g", nn.utils.clip_grad_norm_(self.moving, limit))
            self.adam.step()
        self.meter.add("loss_g", loss)
        self.images_seen += self.settings.batch
        with profile.phase(profile.EMA):
            self.after_step()

    def after_step(self) -> None:
        """Bring `generator_ema` up to date; the moving average, unless a subclass knows better."""
        beta = ema_beta(self.settings.batch, self.settings.ema_half_life_kimg)
        update_ema(self.gan.generator_ema, self.gan.generator, beta)

    def reals(self) -> tuple[Tensor, NDArray[np.int64]]:
        """Return this step's real images [batch, C, R, R], not mirrored, and their rows [batch]."""
        rows = order(len(self.images), self.settings.seed, self.images_seen, self.settings.batch)
        with profile.phase(profile.DATA):
            return self.feed.batch(rows), np.asarray(rows)

    def latents(self, count: int) -> Tensor:
        """Draw z [count, z_dim]."""
        return send(draw_latents(self.gan.spec, count, self.rng)[0], self.device)

    def add_penalties(self, penalties: Sequence[Penalty]) -> None:
        """Refuse terms: there is no GAN loss that they could be added to.

        Raises:
            ConfigError: If there are any.
        """
        if penalties:
            refuse_gan_settings(self.settings)
            raise ConfigError(
                f"finetune.penalties has no meaning with finetune.method={self.settings.method}",
                "set finetune.penalties=[]",
            )

    def part_done(self) -> bool:
        """Tell whether a part of the run ended with the last step; runs have none unless a method says so."""
        return False

    def set_rate(self, share_done: float) -> None:
        """Set the learning rates: constant, then falling to zero in the cooldown."""
        cooldown = self.settings.lr_cooldown
        factor = min(1.0, max(1.0 - share_done, 0.0) / cooldown) if cooldown else 1.0
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.lr_scale * factor

    def slow_down(self, factor: float) -> None:
        """Multiply the learning rates, from the next `set_rate` on."""
        self.lr_scale *= factor

    def finite(self) -> bool:
        """Tell whether everything that moves is a finite number."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.moving)

    def own_state(self) -> dict[str, Any]:
        """Return what the method has outside the networks, as tensors and plain values."""
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved `own_state`; a method that has one must say how."""
        assert not state, "an own_state needs a load_own_state"

    def state_dict(self) -> dict[str, Any]:
        """Return everything that decides the coming steps."""
        return {
            "generator": self.gan.generator.state_dict(),
            "generator_ema": self.gan.generator_ema.state_dict(),
            "adam": self.adam.state_dict(),
            "lr_scale": self.lr_scale,
            "images_seen": self.images_seen,
            "rng": self.rng.get_state(),
            "global_rng": rng_state(self.device),
            "meter": self.meter.state_dict(),
            "own": self.own_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state, exactly.

        Raises:
            GraftganError: The state is one of a run against a discriminator.
        """
        if "own" not in state:
            raise GraftganError(
                f"the saved state is not one of finetune.method={self.settings.method}",
                "start again with --resume never",
            )
        self.gan.generator.load_state_dict(state["generator"])
        self.gan.generator_ema.load_state_dict(state["generator_ema"])
        self.load_own_state(state["own"])
        self.adam.load_state_dict(state["adam"])
        self.lr_scale, self.images_seen = state["lr_scale"], state["images_seen"]
        self.rng.set_state(state["rng"])
        restore_rng(state["global_rng"], self.device)
        self.meter.load_state_dict(state["meter"], self.device)
