"""One training step of a GAN, phase by phase, and everything that must be saved to repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftgan.config import Finetune
from graftgan.data.dataset import order
from graftgan.device import pick_dtype, send
from graftgan.gans.base import Discriminator, Gan, Generator, StyledGenerator, autocast, draw_latents
from graftgan.gans.prior import Mixture, split_prior
from graftgan.training import profile
from graftgan.training.augment import Augment
from graftgan.training.ema import ema_beta, update_ema
from graftgan.training.feed import Feed
from graftgan.training.game import Game, make_game
from graftgan.training.layout import lay_out, lay_out_moments
from graftgan.training.losses import path_lengths, r1_penalty
from graftgan.training.meter import Meter
from graftgan.training.optimiser import limited, make_adam, rate_of
from graftgan.training.penalty import Penalty
from graftgan.training.phases import Phases, Resting
from graftgan.training.prior import MovingPrior
from graftgan.training.state import restore_rng, rng_state
from graftgan.training.styled import check_styled
from graftgan.world import (
    average_gradients,
    averaged,
    gathered,
    normal,
    own,
    own_rows,
    sharding,
    shards,
    take_from_first,
)

PATH_LENGTH_DECAY = 0.01


class Trainer:
    """G and D under training.

    A step is one G update and one D update. The fakes of the G phase, detached, serve the D phase too, and D
    sees fakes and reals as one batch: the same losses with fewer network passes.

    Args:
        gan: Networks; `Method.apply` has said which tensors move.
        images: Training images, uint8 [N, R, R, C].
        labels: Class ids [N], or None.
        settings: The recipe.
        augment: What D sees.
        device: Where to compute.
        from_scratch: Ramps the averaging up, which adaptation must not.
        compiled: torch.compile the networks outside the penalty phases.
    """

    def __init__(
        self,
        gan: Gan,
        images: NDArray[np.uint8],
        labels: NDArray[np.int32] | None,
        settings: Finetune,
        augment: Augment,
        device: torch.device,
        from_scratch: bool = False,
        compiled: bool = False,
    ) -> None:
        self.gan = gan.to(device)
        self.images, self.labels = images, labels
        self.settings, self.augment, self.device = settings, augment, device
        self.feed = Feed(images, device)
        self.from_scratch = from_scratch
        self.dtype = pick_dtype(settings.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        lazy_g = settings.path_length_interval if settings.path_length_weight else 0
        self.adam_g = make_adam(gan.generator, settings.lr_generator, lazy_g)
        self.adam_d = make_adam(gan.discriminator, settings.lr_discriminator, settings.r1_interval)
        self.rate_g, self.rate_d = rate_of(self.adam_g), rate_of(self.adam_d)
        self.rng = torch.Generator().manual_seed(settings.seed)
        self.seed_noise()
        self.images_seen, self.lr_scale = 0, 1.0
        self.path_mean = torch.zeros((), device=device)
        self.meter = Meter()
        networks = (gan.generator, gan.discriminator, gan.generator_ema)
        for network in networks:
            lay_out(network)
        self.styled = isinstance(gan.generator, StyledGenerator)
        check_styled(gan, settings)
        self._plain_draw = cast(Any, gan.generator.synthesis if self.styled else gan.generator)
        # After a second batch size shapes would become symbols, and noise does not compile with these.
        self._draw = torch.compile(self._plain_draw, dynamic=False) if compiled else self._plain_draw
        judge: Any = torch.compile(gan.discriminator, dynamic=False) if compiled else gan.discriminator
        self.game: Game = make_game(gan.discriminator, judge, settings.cdc.anchor_noise)
        self.penalties: tuple[Penalty, ...] = ()
        self.phases: Phases | None = None
        self.prior: MovingPrior | None = None
        take_from_first(tensor for network in networks for tensor in network.state_dict().values())
        self._versions = self._buffer_versions()

    def seed_noise(self) -> None:
        """Seed torch's global generators, which the networks draw their noise from."""
        torch.manual_seed(self.settings.seed)

    def add_penalties(self, penalties: Sequence[Penalty]) -> None:
        """Add terms to the losses, before the first step and before a saved state is loaded.

        Raises:
            ConfigError: One of them cannot be computed for these networks.
        """
        for penalty in penalties:
            penalty.start(self.gan, self.settings)
        self.penalties = (*self.penalties, *penalties)

    def add_phases(self, resting: Resting) -> None:
        """Let parameters rest for parts of the run, before the first step; see `Phases`."""
        self.phases = Phases(self.gan, resting)

    def set_prior(self, prior: MovingPrior) -> None:
        """Draw latents from a law that moves with the run, before the first step.

        Batch statistics of the generator stay as they are: those of concentrated latents would undo the
        concentration inside the network.
        """
        self.prior = prior
        self.gan.generator.freeze_statistics(True)
        self.gan.prior = prior.at(0.0)
        self.game.settle(prior.at(0.0), self.settings.seed)

    @property
    def step_index(self) -> int:
        """Steps done."""
        return self.images_seen // self.settings.batch

    def step(self) -> None:
        """Do one step and count its images."""
        with sharding():
            self._step()

    def part_done(self) -> bool:
        """Tell that a run has no parts."""
        return False

    def _step(self) -> None:
        self.gan.generator.train()
        if self.phases is not None:
            self.phases.enter(self.images_seen)
        step, settings = self.step_index, self.settings
        with profile.phase(profile.DATA):
            reals, labels = self._reals()
        fakes = self._phase_g(labels)
        if settings.path_length_weight and step % settings.path_length_interval == 0:
            self._phase_path(labels)
        self._phase_d(reals, fakes, labels)
        if settings.r1_gamma and step % settings.r1_interval == 0:
            self._phase_r1(reals, labels, fakes)
        self.meter.settle()
        self.images_seen += settings.batch
        ramp = self.images_seen if self.from_scratch else None
        beta = ema_beta(settings.batch, settings.ema_half_life_kimg, ramp)
        if shards() > 1:
            self._share_buffers()
        with profile.phase(profile.EMA):
            update_ema(self.gan.generator_ema, self.gan.generator, beta)

    def _share_buffers(self) -> None:
        """Take what the step wrote to buffers from worker 0; a power method may differ in its last bit."""
        before, now = self._versions, self._buffer_versions()
        take_from_first(buffer for buffer, version in now.items() if before.get(buffer) != version)
        self._versions = self._buffer_versions()

    def _buffer_versions(self) -> dict[Tensor, int]:
        networks = (self.gan.generator, self.gan.discriminator)
        return {buffer: buffer._version for network in networks for buffer in network.buffers()}

    def _reals(self) -> tuple[Tensor, Tensor | None]:
        settings = self.settings
        rows = order(len(self.images), settings.seed, self.images_seen, settings.batch)
        mine = own_rows(rows)
        reals = self.feed.batch(mine)
        if settings.flip:
            mirrored = own(torch.rand(len(rows), generator=self.rng)) < 0.5
            reals = torch.where(send(mirrored, self.device)[:, None, None, None], reals.flip(3), reals)
        if self.labels is None or not self.gan.spec.classes:
            return reals, None
        return reals, send(torch.from_numpy(self.labels[mine]).long(), self.device)

    def _latents(self, count: int) -> Tensor:
        """Draw this worker's part of `count` latents."""
        return send(own(draw_latents(self.gan.spec, count, self.rng, self.gan.prior)[0]), self.device)

    def _styles(self, labels: Tensor | None, count: int) -> Tensor:
        generator: Any = self.gan.generator
        if self.settings.style_mixing > 0:
            mixing = self.settings.style_mixing
            return cast(Tensor, generator.mixed_styles(self._latents(count), labels, mixing))
        return cast(Tensor, generator.mapping(self._latents(count), labels))

    def _fakes(self, labels: Tensor | None) -> Tensor:
        count = self.settings.batch
        near = self.game.near_anchors(count, self.rng)
        if near is not None:
            return self._anchored_fakes(near, labels)
        given = (self._styles(labels, count),) if self.styled else (self._latents(count), labels)
        fakes: Tensor = self._draw(*given)
        return fakes

    def _anchored_fakes(self, near: Tensor, labels: Tensor | None) -> Tensor:
        """Return fakes of latents near anchors, whose styles are their own, then of others."""
        rest, part = self.settings.batch - len(near), len(near)
        if not self.styled:
            away: Tensor = self._draw(torch.cat([near, self._latents(rest)]), labels)
            return away
        generator: Any = self.gan.generator
        first, second = (None, None) if labels is None else (labels[:part], labels[part:])
        ws = [generator.mapping(near, first, update_w_avg=False), self._styles(second, rest)]
        fakes: Tensor = self._draw(torch.cat(ws))
        return fakes

    def _phase_g(self, labels: Tensor | None) -> Tensor:
        with self._updating(self.gan.generator, self.adam_g, "grad_norm_g"):
            with profile.phase(profile.G_FORWARD):
                with autocast(self.device, self.dtype):
                    fakes = self._fakes(labels)
                    opinion = self.game.opinion(self._augmented(fakes), labels)
                loss = self.game.generator_loss(opinion)
                terms = {
                    f"penalty_{p.name}": p.generator_term(self.gan, fakes, opinion.logits, self.meter.add)
                    for p in self.penalties
                }
                whole = self._with_terms(loss, terms)
            self._backward(whole, profile.G_BACKWARD)
        self.meter.add("loss_g", loss)
        return fakes.detach()

    def _with_terms(self, loss: Tensor, terms: Mapping[str, Tensor | None]) -> Tensor:
        for name, term in terms.items():
            if term is not None:
                self.meter.add(name, term)
                loss = loss + term.to(loss.dtype)
        return loss

    def _augmented(self, images: Tensor, parts: int = 1) -> Tensor:
        with profile.phase(profile.AUGMENTATION):
            return self.augment(images, self.rng, parts)

    def _backward(self, loss: Tensor, phase: str) -> None:
        with profile.phase(phase):
            torch.autograd.backward(self.scaler.scale(loss))

    def _phase_path(self, labels: Tensor | None) -> None:
        count = max(self.settings.batch // 2, 1)
        weight = self.settings.path_length_weight * self.settings.path_length_interval
        with self._updating(self.gan.generator, self.adam_g, None), profile.phase(profile.PATH_LENGTH):
            part = None if labels is None else own(gathered(labels)[:count])
            ws = self._styles(part, count)
            if not ws.requires_grad:
                ws = ws.requires_grad_(True)
            images = self._plain_draw(ws)
            noise = send(normal(images.shape, self.rng, "cpu"), self.device)
            lengths = path_lengths(images, ws, noise)
            self.path_mean.lerp_(averaged(lengths.detach().mean()), PATH_LENGTH_DECAY)
            penalty = (lengths - self.path_mean).square().mean()
            self._backward(penalty * weight, profile.PATH_LENGTH)
        self.meter.add("path_length", lengths.mean())

    def _phase_d(self, reals: Tensor, fakes: Tensor, labels: Tensor | None) -> None:
        with self._updating(self.gan.discriminator, self.adam_d, "grad_norm_d"):
            with profile.phase(profile.D_FORWARD):
                both = self._augmented(torch.cat([fakes, reals]), parts=2)
                twice = None if labels is None else torch.cat([labels, labels])
                with autocast(self.device, self.dtype):
                    opinion = self.game.opinion(both, twice, batches=2)
                fake_logits, real_logits = opinion.logits.chunk(2)
                loss = self.game.discriminator_loss(opinion)
                terms = {
                    f"penalty_{p.name}_d": p.discriminator_term(self.gan, fakes, fake_logits, self.meter.add)
                    for p in self.penalties
                }
                whole = self._with_terms(loss, terms)
            self._backward(whole, profile.D_BACKWARD)
        with profile.phase(profile.AUGMENTATION):
            self.augment.observe(gathered(real_logits.detach()))
        self.meter.add("loss_d", loss)
        self.meter.add("sign_real", real_logits.sign().mean())
        self.meter.add("sign_fake", fake_logits.sign().mean())

    def _phase_r1(self, reals: Tensor, labels: Tensor | None, fakes: Tensor) -> None:
        settings = self.settings
        kinds = {"r1": reals} | ({"penalty_r1_fakes": fakes} if settings.r1_on_fakes else {})
        with self._updating(self.gan.discriminator, self.adam_d, None), profile.phase(profile.R1):
            for name, images in kinds.items():
                seen = images.detach().requires_grad_(True)
                penalty = r1_penalty(self.gan.discriminator(self._augmented(seen), labels), seen)
                self._backward(penalty * (settings.r1_gamma / 2 * settings.r1_interval), profile.R1)
                self.meter.add(name, penalty)

    @contextmanager
    def _updating(
        self, network: Generator | Discriminator, adam: torch.optim.Adam, norm: str | None
    ) -> Iterator[None]:
        """Collect gradients of one network alone, then move it."""
        moving = [p for group in adam.param_groups for p in group["params"]]
        resting = self.gan.discriminator if network is self.gan.generator else self.gan.generator
        paused = [p for p in resting.parameters() if p.requires_grad]
        for parameter in paused:
            parameter.requires_grad_(False)
        try:
            adam.zero_grad(set_to_none=True)
            yield
            with profile.phase(profile.OPTIMISER):
                average_gradients(moving)
                self.scaler.unscale_(adam)
                limit = self.settings.gradient_clip
                length = limited(moving, limit) if norm or limit else None
                if norm and length is not None:
                    self.meter.add(norm, length, finite_only=self.scaler.is_enabled())
                self.scaler.step(adam)
                self.scaler.update()
        finally:
            for parameter in paused:
                parameter.requires_grad_(True)

    def set_rate(self, share_done: float) -> None:
        """Set what follows the share of the run that is done: the learning rates and the prior.

        The rates are constant, then fall to zero in the cooldown.
        """
        if self.prior is not None:
            self.gan.prior = self.prior.at(share_done)
        cooldown = self.settings.lr_cooldown
        factor = min(1.0, max(1.0 - share_done, 0.0) / cooldown) if cooldown else 1.0
        for adam, rate in ((self.adam_g, self.rate_g), (self.adam_d, self.rate_d)):
            for group in adam.param_groups:
                group["lr"] = rate * self.lr_scale * factor

    def slow_down(self, factor: float) -> None:
        """Multiply both learning rates, from the next `set_rate` on."""
        self.lr_scale *= factor

    def finite(self) -> bool:
        """Tell whether every weight is a finite number."""
        networks = (self.gan.generator, self.gan.discriminator)
        return all(bool(torch.isfinite(p).all()) for network in networks for p in network.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Return everything that decides the coming steps."""
        gan = self.gan
        # A run without penalties keeps to the keys that states had before there were any.
        extra: dict[str, Any] = {}
        if self.penalties:
            extra["penalties"] = {p.name: p.state_dict() for p in self.penalties}
        if self.gan.prior is not None:
            extra["prior"] = self.gan.prior.tensors()
        return {
            "generator": gan.generator.state_dict(),
            "discriminator": gan.discriminator.state_dict(),
            "generator_ema": gan.generator_ema.state_dict(),
            "adam_g": self.adam_g.state_dict(),
            "adam_d": self.adam_d.state_dict(),
            "scaler": self.scaler.state_dict(),
            "augment": self.augment.state_dict(),
            "path_mean": self.path_mean,
            "lr_scale": self.lr_scale,
            "images_seen": self.images_seen,
            "rng": self.rng.get_state(),
            "global_rng": rng_state(self.device),
            "meter": self.meter.state_dict(),
            **extra,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state, exactly."""
        gan = self.gan
        gan.generator.load_state_dict(state["generator"])
        gan.discriminator.load_state_dict(state["discriminator"])
        gan.generator_ema.load_state_dict(state["generator_ema"])
        for adam, saved in ((self.adam_g, state["adam_g"]), (self.adam_d, state["adam_d"])):
            adam.load_state_dict(saved)
            lay_out_moments(adam)
        self.scaler.load_state_dict(state["scaler"])
        self.augment.load_state_dict(state["augment"])
        self.path_mean = state["path_mean"].to(self.device)
        self.lr_scale, self.images_seen = state["lr_scale"], state["images_seen"]
        self.rng.set_state(state["rng"])
        restore_rng(state["global_rng"], self.device)
        self.meter.load_state_dict(state["meter"], self.device)
        for penalty in self.penalties:
            penalty.load_state_dict(state["penalties"][penalty.name])
        if self.prior is not None:
            _, prior = split_prior(state["prior"], "the training state")
            assert isinstance(prior, Mixture)
            self.prior, self.gan.prior = self.prior.started_from(prior), prior
