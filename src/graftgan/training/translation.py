"""Training of image-to-image networks: pix2pix on pairs, CycleGAN on two sets, one step at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from graftgan.data.dataset import order
from graftgan.data.pairs import Part
from graftgan.device import pick_dtype, send
from graftgan.errors import ConfigError
from graftgan.gans.base import autocast
from graftgan.lifelong_config import Kind, Translate
from graftgan.training import profile
from graftgan.training.augment import make_augment
from graftgan.training.ema import ema_beta, update_ema
from graftgan.training.meter import Meter
from graftgan.training.patches import adversarial, judge_loss, l1
from graftgan.training.penalty import Penalty
from graftgan.training.pool import ImagePool
from graftgan.training.state import restore_rng, rng_state
from graftgan.training.translators import Translators

ADAM_BETA2 = 0.999


class TranslationTrainer(ABC):
    """What training on pairs and on two sets share; follows `training.stepper.Steps`.

    Args:
        networks: The networks; only parameters that require gradients move.
        part: Training images.
        settings: The recipe.
        device: Where to compute.

    Attributes:
        gan: The networks.
        images: The longer of both sets, whose number turns epochs into steps.
        images_seen: Steps done, times the batch.
        lr_scale: What learning rates are multiplied by after divergences.
        meter: Means of the losses.

    Raises:
        ConfigError: Nothing in a network moves, or the precision is not the device's.
    """

    default_loss: str

    def __init__(self, networks: Translators, part: Part, settings: Translate, device: torch.device) -> None:
        if settings.ema_half_life_kimg is not None:
            networks.average()
        for network in networks.named().values():
            network.to(device)
        self.gan, self.part, self.settings, self.device = networks, part, settings, device
        self.images: NDArray[np.uint8] = max(part.inputs, part.targets, key=len)
        self.gan_loss: Any = settings.gan_loss or self.default_loss
        self.dtype = pick_dtype(settings.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        self.adam_g = self._adam("generator", networks.generator, networks.back)
        self.adam_d = self._adam("discriminator", networks.discriminator, networks.discriminator_back)
        self.rng = torch.Generator().manual_seed(settings.seed)
        self.seed_noise()
        self.images_seen = 0
        self.lr_scale = 1.0
        self.augment = make_augment("none")
        self.meter = Meter()
        self.penalties: tuple[Penalty, ...] = ()

    def _adam(self, name: str, *networks: nn.Module | None) -> torch.optim.Adam:
        moving = [p for net in networks if net is not None for p in net.parameters() if p.requires_grad]
        if not moving:
            raise ConfigError(f"nothing in the {name} moves", "give a network with trainable parameters")
        betas = (self.settings.beta1, ADAM_BETA2)
        return torch.optim.Adam(moving, lr=self.settings.lr, betas=betas, eps=1e-8, fused=True)

    def seed_noise(self) -> None:
        """Seed torch's global generators, which dropout draws from."""
        torch.manual_seed(self.settings.seed)

    def add_penalties(self, penalties: Sequence[Penalty]) -> None:
        """Refuse terms that are made for latents.

        Raises:
            ConfigError: There is one.
        """
        if penalties:
            raise ConfigError(
                f"penalty {penalties[0].name} needs a generator of latents", "train tasks without penalties"
            )

    @property
    def step_index(self) -> int:
        """Steps done."""
        return self.images_seen // self.settings.batch

    def step(self) -> None:
        """Do one step and count its images."""
        for name, network in self.gan.named().items():
            if not name.endswith("_ema"):
                network.train()
        self._step()
        self.images_seen += self.settings.batch
        half_life = self.settings.ema_half_life_kimg
        if half_life is not None:
            # The networks start afresh, so the average must not remember how.
            beta = ema_beta(self.settings.batch, half_life, self.images_seen)
            with profile.phase(profile.EMA):
                update_ema(self.gan.generator_ema, self.gan.generator, beta)
                if self.gan.back is not None and self.gan.back_ema is not None:
                    update_ema(self.gan.back_ema, self.gan.back, beta)

    def part_done(self) -> bool:
        """Tell that a task is learnt in one part."""
        return False

    @abstractmethod
    def _step(self) -> None:
        """Update all networks once."""

    def _drawn(self, images: NDArray[np.uint8], seed: int) -> Tensor:
        """Return the images that come now, float [batch, 3, R, R] in [-1, 1]."""
        rows = order(len(images), seed, self.images_seen, self.settings.batch)
        with profile.phase(profile.DATA):
            pixels = send(torch.from_numpy(images[rows]), self.device)
            return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1

    def _placed(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """Mirror and shift images of the same row alike in all batches."""
        with profile.phase(profile.AUGMENTATION):
            return self._moved(*batches)

    def _moved(self, *batches: Tensor) -> tuple[Tensor, ...]:
        count, _, height, width = batches[0].shape
        settings = self.settings
        if settings.flip:
            mirrored = send(torch.rand(count, generator=self.rng) < 0.5, self.device)[:, None, None, None]
            batches = tuple(torch.where(mirrored, b.flip(3), b) for b in batches)
        if settings.jitter_px:
            size = (height + settings.jitter_px, width + settings.jitter_px)
            corners = torch.randint(settings.jitter_px + 1, (count, 2), generator=self.rng).tolist()
            large = [F.interpolate(b, size, mode="bicubic", antialias=True).clamp(-1, 1) for b in batches]
            batches = tuple(
                torch.stack([b[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(corners)])
                for b in large
            )
        return batches

    @contextmanager
    def _updating(self, adam: torch.optim.Adam, resting: Iterable[nn.Module | None] = ()) -> Iterator[None]:
        """Collect gradients for one optimiser, then move what it holds."""
        held = [p for net in resting if net is not None for p in net.parameters() if p.requires_grad]
        for parameter in held:
            parameter.requires_grad_(False)
        try:
            adam.zero_grad(set_to_none=True)
            yield
            with profile.phase(profile.OPTIMISER):
                self.scaler.step(adam)
                self.scaler.update()
        finally:
            for parameter in held:
                parameter.requires_grad_(True)

    def _backward(self, loss: Tensor, phase: str) -> None:
        with profile.phase(phase):
            torch.autograd.backward(self.scaler.scale(loss))

    def _through(self, network: nn.Module, images: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            return cast(Tensor, network(images)).float()

    def _fooling(self, judge: nn.Module, images: Tensor) -> Tensor:
        return adversarial(self._through(judge, images), True, self.gan_loss)

    def _judging(self, judge: nn.Module, reals: Tensor, fakes: Tensor) -> Tensor:
        return judge_loss(self._through(judge, reals), self._through(judge, fakes), self.gan_loss)

    def _told(self, terms: Mapping[str, tuple[float, Tensor]]) -> Tensor:
        """Show terms of a loss and return their weighted sum."""
        for name, (_, term) in terms.items():
            self.meter.add(name, term)
        return torch.stack([weight * term for weight, term in terms.values()]).sum()

    def set_rate(self, share_done: float) -> None:
        """Set the learning rate: constant, then falling linearly to zero (Isola et al. 2017, 6.2).

        The public code falls in steps of an epoch; this falls at each step.
        """
        decay = self.settings.lr_decay
        factor = min(1.0, max(1.0 - share_done, 0.0) / decay) if decay else 1.0
        for adam in (self.adam_g, self.adam_d):
            for group in adam.param_groups:
                group["lr"] = self.settings.lr * self.lr_scale * factor

    def slow_down(self, factor: float) -> None:
        """Multiply the learning rates, from the next `set_rate` on."""
        self.lr_scale *= factor

    def finite(self) -> bool:
        """Tell whether every weight is a finite number."""
        networks = self.gan.named().values()
        return all(bool(torch.isfinite(p).all()) for network in networks for p in network.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Return everything that decides the coming steps."""
        return {
            "networks": {name: network.state_dict() for name, network in self.gan.named().items()},
            "adam_g": self.adam_g.state_dict(),
            "adam_d": self.adam_d.state_dict(),
            "scaler": self.scaler.state_dict(),
            "lr_scale": self.lr_scale,
            "images_seen": self.images_seen,
            "rng": self.rng.get_state(),
            "global_rng": rng_state(self.device),
            "meter": self.meter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state, exactly."""
        for name, network in self.gan.named().items():
            network.load_state_dict(state["networks"][name])
        self.adam_g.load_state_dict(state["adam_g"])
        self.adam_d.load_state_dict(state["adam_d"])
        self.scaler.load_state_dict(state["scaler"])
        self.lr_scale, self.images_seen = state["lr_scale"], state["images_seen"]
        self.rng.set_state(state["rng"])
        restore_rng(state["global_rng"], self.device)
        self.meter.load_state_dict(state["meter"], self.device)


class PairedTrainer(TranslationTrainer):
    """pix2pix: a conditional discriminator and an L1 distance (Isola et al. 2017, equation 4); D first."""

    default_loss = "bce"

    def __init__(self, networks: Translators, part: Part, settings: Translate, device: torch.device) -> None:
        if len(part.inputs) != len(part.targets):
            raise ConfigError(
                f"{len(part.inputs)} inputs have {len(part.targets)} targets", "set kind: unpaired"
            )
        super().__init__(networks, part, settings, device)

    def _step(self) -> None:
        gan, seed = self.gan, self.settings.seed
        given, wanted = self._placed(
            self._drawn(self.part.inputs, seed), self._drawn(self.part.targets, seed)
        )
        with profile.phase(profile.G_FORWARD):
            fakes = self._through(gan.generator, given)
        with self._updating(self.adam_d):
            with profile.phase(profile.D_FORWARD):
                reals_seen, fakes_seen = torch.cat([given, wanted], 1), torch.cat([given, fakes.detach()], 1)
                loss = self._judging(gan.discriminator, reals_seen, fakes_seen)
            self._backward(loss, profile.D_BACKWARD)
        self.meter.add("loss_d", loss)
        with self._updating(self.adam_g, [gan.discriminator]):
            with profile.phase(profile.G_FORWARD):
                fooling = self._fooling(gan.discriminator, torch.cat([given, fakes], 1))
                terms = {"loss_g": (1.0, fooling), "loss_l1": (self.settings.l1_weight, l1(fakes, wanted))}
                whole = self._told(terms)
            self._backward(whole, profile.G_BACKWARD)


class UnpairedTrainer(TranslationTrainer):
    """CycleGAN: two generators that undo each other (Zhu et al. 2017, equation 3 and 5.2); G goes first."""

    default_loss = "lsgan"

    def __init__(self, networks: Translators, part: Part, settings: Translate, device: torch.device) -> None:
        if networks.back is None or networks.discriminator_back is None:
            raise ConfigError("an unpaired task needs two networks of each kind", "use make_translators")
        super().__init__(networks, part, settings, device)
        self.back, self.discriminator_back = networks.back, networks.discriminator_back
        self.pool = ImagePool(settings.pool_images, settings.seed)
        self.pool_back = ImagePool(settings.pool_images, settings.seed + 1)

    def _step(self) -> None:
        gan, settings = self.gan, self.settings
        # Sets of equal length must not come in the same order, which would make pairs of them.
        (a,) = self._placed(self._drawn(self.part.inputs, settings.seed))
        (b,) = self._placed(self._drawn(self.part.targets, settings.seed + 1))
        with self._updating(self.adam_g, [gan.discriminator, self.discriminator_back]):
            with profile.phase(profile.G_FORWARD):
                fake_b, fake_a = self._through(gan.generator, a), self._through(self.back, b)
                whole = self._told(self._generator_terms(a, b, fake_a, fake_b))
            self._backward(whole, profile.G_BACKWARD)
        shown_b, shown_a = self.pool.exchange(fake_b), self.pool_back.exchange(fake_a)
        with self._updating(self.adam_d):
            with profile.phase(profile.D_FORWARD):
                loss = self._judging(gan.discriminator, b, shown_b)
                loss_back = self._judging(self.discriminator_back, a, shown_a)
            self._backward(loss + loss_back, profile.D_BACKWARD)
        self.meter.add("loss_d", loss)
        self.meter.add("loss_d_back", loss_back)

    def _generator_terms(
        self, a: Tensor, b: Tensor, fake_a: Tensor, fake_b: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        gan, cycle = self.gan, self.settings.cycle_weight
        terms = {
            "loss_g": (1.0, self._fooling(gan.discriminator, fake_b)),
            "loss_g_back": (1.0, self._fooling(self.discriminator_back, fake_a)),
            "loss_cycle": (cycle, l1(self._through(self.back, fake_b), a)),
            "loss_cycle_back": (cycle, l1(self._through(gan.generator, fake_a), b)),
        }
        weight = cycle * self.settings.identity_weight
        if weight:
            terms["loss_identity"] = (weight, l1(self._through(gan.generator, b), b))
            terms["loss_identity_back"] = (weight, l1(self._through(self.back, a), a))
        return terms

    def state_dict(self) -> dict[str, Any]:
        """Return everything that decides the coming steps."""
        pools = {"pool": self.pool.state_dict(), "pool_back": self.pool_back.state_dict()}
        return {**super().state_dict(), **pools}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state, exactly."""
        super().load_state_dict(state)
        self.pool.load_state_dict(state["pool"], self.device)
        self.pool_back.load_state_dict(state["pool_back"], self.device)


def make_trainer(
    kind: Kind, networks: Translators, part: Part, settings: Translate, device: torch.device
) -> TranslationTrainer:
    """Return the trainer of a kind of task.

    Raises:
        ConfigError: Networks or images do not fit the kind.
    """
    trainer = PairedTrainer if kind == "paired" else UnpairedTrainer
    return trainer(networks, part, settings, device)
