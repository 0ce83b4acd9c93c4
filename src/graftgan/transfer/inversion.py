"""The latents of given images in a generator, found by gradient descent (Zhang et al. 2023, ECML-PKDD)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graftgan.context import StopSignal
from graftgan.errors import GraftganError, Interrupted, MissingInput
from graftgan.gans.base import Generator, to_uint8
from graftgan.method_config import Inversion
from graftgan.training.state import StateStore

Images = NDArray[np.uint8]
BETAS = (0.9, 0.999)
EPS = 1e-8
DROP = 0.1
RANDOM_SAMPLES = 1000
PART = 100
LEAST_GAIN = 1.5
TYPICAL_NORM = (0.5, 1.5)


@dataclass(frozen=True)
class Inverted:
    """What inversion found.

    Attributes:
        latents: z, float32 [N, z_dim].
        errors: Mean squared error of each image over pixels and channels, in [-1, 1], float32 [N].
        nearest: The same for the nearest of 1000 random samples, float32 [N].
        learnt: Tensors of the generator that moved too: those of its class embedding.
    """

    latents: Tensor
    errors: Tensor
    nearest: Tensor
    learnt: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """How many times smaller the error is than that of random samples."""
        return float(self.nearest.double().mean() / self.errors.double().mean().clamp(min=1e-12))

    @property
    def norm(self) -> float:
        """Mean of |z|^2 / z_dim: 1 for the law that the source was trained under."""
        return float(self.latents.double().square().mean())

    def worst_first(self) -> list[int]:
        """Return the images' numbers, those with the largest error first."""
        return [int(i) for i in torch.argsort(self.errors, descending=True, stable=True)]

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors."""
        held = {"latents": self.latents, "errors": self.errors, "nearest": self.nearest}
        return held | {f"learnt.{name}": tensor for name, tensor in self.learnt.items()}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Inverted:
        """Return what :meth:`tensors` came from."""
        learnt = {n.removeprefix("learnt."): t for n, t in tensors.items() if n.startswith("learnt.")}
        return cls(tensors["latents"], tensors["errors"], tensors["nearest"], learnt)

    def warnings(self) -> list[str]:
        """Return sentences about an inversion that a prior should not rest on."""
        found = []
        if self.gain < LEAST_GAIN:
            found.append(
                f"the inverted images are only {self.gain:.2f} times nearer than random samples (less than "
                f"{LEAST_GAIN:g}): the mixture tells little; finetune.prior=normal may do as well"
            )
        if not TYPICAL_NORM[0] <= self.norm <= TYPICAL_NORM[1]:
            found.append(
                f"the latents' mean |z|^2 / z_dim is {self.norm:.2f}, outside {TYPICAL_NORM[0]:g} to "
                f"{TYPICAL_NORM[1]:g}: use a smaller finetune.inversion.lr or a finetune.inversion.ridge"
            )
        return found


@dataclass
class Saving:
    """How an inversion outlives its process: saved by the clock and on a signal, gone on with exactly.

    Attributes:
        name: Shown in the log.
        store: Where states lie, by images stepped; only states of the same source, images and settings.
        stop: The stop signal.
        every_s: Seconds between saved states.
        resume: As `Context.resume`.
        log: Where going on, and damaged states, are told.
    """

    name: str
    store: StateStore
    stop: StopSignal
    every_s: float
    resume: str
    log: logging.Logger

    def found(self) -> dict[str, Any] | None:
        """Return the newest whole state.

        Raises:
            MissingInput: `must` was asked for, and no saved state is whole.
        """
        if self.resume == "never":
            self.store.clear()
        names = self.store.names()
        state = self.store.latest()
        if state is not None:
            self.log.info("%s goes on from %d images", self.name, state["images"])
        elif names and self.resume == "must":
            raise MissingInput(f"{self.name}: no whole state in {self.store.folder}", "use --resume auto")
        elif names:
            self.log.warning(
                "%s starts again from the beginning: no state in %s is whole", self.name, self.store.folder
            )
        return state


class RowAdam:
    """Adam for rows of a table, each with its own count of steps: absent rows rest.

    Under the published code's dense Adam, rows that a batch lacks go on by momentum; here a row's way
    depends on its own image alone.

    Args:
        table: What to move, [N, D].
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.mean, self.square = torch.zeros_like(table), torch.zeros_like(table)
        self.steps = torch.zeros(len(table), 1, device=table.device)

    def step(self, rows: slice, gradient: Tensor, lr: float) -> None:
        """Move some rows by their gradient, in place (Kingma, Ba 2015, algorithm 1)."""
        self.steps[rows] += 1
        self.mean[rows] = BETAS[0] * self.mean[rows] + (1 - BETAS[0]) * gradient
        self.square[rows] = BETAS[1] * self.square[rows] + (1 - BETAS[1]) * gradient.square()
        mean = self.mean[rows] / (1 - BETAS[0] ** self.steps[rows])
        square = self.square[rows] / (1 - BETAS[1] ** self.steps[rows])
        self.table[rows] -= lr * mean / (square.sqrt() + EPS)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the table, both means and the counts."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a saved state, on the device where the table is."""
        for name, tensor in state.items():
            getattr(self, name).copy_(tensor)


def invert(
    generator: Generator,
    images: Images,
    labels: NDArray[np.int32] | None,
    settings: Inversion,
    seed: int,
    class_tensors: tuple[str, ...] = (),
    advance: Callable[[int], Any] = lambda images: None,
    saving: Saving | None = None,
) -> Inverted:
    """Find the latents of images by gradient descent on the mean squared error over pixels and channels.

    The generator is in evaluation mode, with constant noise and no truncation, and keeps its weights. Each
    latent starts at N(0, I) and makes `settings.epochs` Adam steps, with a tenth of the rate after
    `settings.drop_at` of them. Errors of a batch are added up, so that no latent depends on the batch.

    Args:
        generator: On the device to compute on.
        images: uint8 [N, R, R, C].
        labels: Class ids [N], or None for a generator without classes.
        settings: Steps, rates and batch.
        seed: Seed of the first latents and of the random samples.
        class_tensors: Parameters of the generator that move too; the generator is given back as it was.
        advance: Told of every batch how many images it had, and at first of those that a saved state had.
        saving: Save states after batches and go on from them; the result is the same bytes.

    Raises:
        GraftganError: Latents are not finite.
        Interrupted: A signal came; the state is saved.
        MissingInput: As :meth:`Saving.found`.
    """
    device = next(generator.parameters()).device
    targets = torch.from_numpy(images).permute(0, 3, 1, 2)
    ids = None if labels is None else torch.from_numpy(labels).long()
    rng = torch.Generator().manual_seed(seed)
    table = torch.stack([torch.randn(generator.spec.z_dim, generator=rng) for _ in range(len(images))])
    job = _Job(generator, targets, ids, settings, RowAdam(table.to(device)), device)
    state = None if saving is None else saving.found()
    with _at_rest(generator):
        job.nearest = job.nearest_random(rng) if state is None else state["nearest"]
        kept = {name: generator.get_parameter(name).detach().clone() for name in class_tensors}
        try:
            job.descend(class_tensors, advance, state, saving)
            errors = job.errors()
            learnt = {n: generator.get_parameter(n).detach().cpu().clone() for n in class_tensors}
        finally:
            for name, tensor in kept.items():
                generator.get_parameter(name).data.copy_(tensor)
    if not bool(torch.isfinite(job.adam.table).all()):
        raise GraftganError("the latents of the images are not finite", "use a smaller finetune.inversion.lr")
    return Inverted(job.adam.table.cpu(), errors, job.nearest, learnt)


def redraw(
    generator: Generator, inverted: Inverted, labels: NDArray[np.int32] | None, rows: list[int]
) -> Images:
    """Return the images that the generator makes of some of the latents, uint8 [n, R, R, C]."""
    device = next(generator.parameters()).device
    ids = None if labels is None else torch.from_numpy(labels[rows]).long().to(device)
    with _at_rest(generator), torch.no_grad():
        return to_uint8(generator(inverted.latents[rows].to(device), ids, 1.0, "const"))


@dataclass
class _Job:
    generator: Generator
    targets: Tensor
    ids: Tensor | None
    settings: Inversion
    adam: RowAdam
    device: torch.device
    nearest: Tensor = field(default_factory=lambda: torch.empty(0))

    def descend(
        self,
        class_tensors: tuple[str, ...],
        advance: Callable[[int], Any],
        state: Mapping[str, Any] | None,
        saving: Saving | None,
    ) -> None:
        """Move all latents, and the class tensors by an Adam of their own, from a saved state on."""
        moving = [self.generator.get_parameter(name).requires_grad_(True) for name in class_tensors]
        other = torch.optim.Adam(moving, lr=self.settings.lr, betas=BETAS, eps=EPS) if moving else None
        done = 0 if state is None else self._go_back(state, moving, other)
        advance(done)
        stop = StopSignal() if saving is None else saving.stop
        saved_at = time.monotonic()
        with stop.deferred():
            for epoch in range(self.settings.epochs):
                for rows in self._batches():
                    images = epoch * len(self.targets) + rows.stop
                    if images <= done:
                        continue
                    self._step(epoch, rows, moving, other)
                    advance(rows.stop - rows.start)
                    due = saving is not None and time.monotonic() - saved_at > saving.every_s
                    if saving is not None and (due or stop.requested):
                        saving.store.save(images, self._state(images, moving, other))
                        saved_at = time.monotonic()
                    if saving is not None and stop.requested:
                        message = f"{saving.name} stopped at {images} images; its state is saved"
                        raise Interrupted(message, "run the same command to go on")

    def _step(self, epoch: int, rows: slice, moving: list[Tensor], other: torch.optim.Adam | None) -> None:
        dropped = epoch >= self.settings.drop_at * self.settings.epochs
        lr = self.settings.lr * (DROP if dropped else 1.0)
        z = self.adam.table[rows].clone().requires_grad_(True)
        loss = self._squares(z, rows).sum()
        if self.settings.ridge:
            loss = loss + self.settings.ridge * z.square().mean(1).sum()
        gradient, *others = torch.autograd.grad(loss, [z, *moving])
        self.adam.step(rows, gradient, lr)
        if other is not None:
            for parameter, found in zip(moving, others, strict=True):
                parameter.grad = found
            other.param_groups[0]["lr"] = lr
            other.step()

    def _state(self, images: int, moving: list[Tensor], other: torch.optim.Adam | None) -> dict[str, Any]:
        return {
            "images": images, "nearest": self.nearest, "adam": self.adam.state_dict(), "moving": moving,
            "other": None if other is None else other.state_dict(),
        }  # fmt: skip

    def _go_back(self, state: Mapping[str, Any], moving: list[Tensor], other: torch.optim.Adam | None) -> int:
        """Take a state over, and return the images that it had stepped."""
        self.adam.load_state_dict(state["adam"])
        for parameter, tensor in zip(moving, state["moving"], strict=True):
            parameter.data.copy_(tensor)
        if other is not None:
            other.load_state_dict(state["other"])
        return int(state["images"])

    @torch.no_grad()
    def errors(self) -> Tensor:
        """Return the error of each image, [N]."""
        return torch.cat([self._squares(self.adam.table[rows], rows).cpu() for rows in self._batches()])

    @torch.no_grad()
    def nearest_random(self, rng: torch.Generator) -> Tensor:
        """Return the error of the nearest of the random samples of an image's class, [N]."""
        best = torch.full((len(self.targets),), float("inf"))
        classes = [None] if self.ids is None else sorted(set(self.ids.tolist()))
        z = torch.stack([torch.randn(self.adam.table.shape[1], generator=rng) for _ in range(RANDOM_SAMPLES)])
        for label in classes:
            mine = torch.arange(len(best)) if label is None else torch.nonzero(self.ids == label)[:, 0]
            for part in z.split(PART):
                ids = None if label is None else torch.full((len(part),), label, device=self.device)
                fakes = self.generator(part.to(self.device), ids, 1.0, "const").flatten(1)
                for rows in mine.split(PART):
                    wanted = _scaled(self.targets[rows].to(self.device)).flatten(1)
                    squares = torch.cdist(wanted, fakes).square().amin(1) / wanted.shape[1]
                    best[rows] = torch.minimum(best[rows], squares.cpu())
        return best

    def _batches(self) -> Iterator[slice]:
        for start in range(0, len(self.targets), self.settings.batch):
            yield slice(start, min(start + self.settings.batch, len(self.targets)))

    def _squares(self, z: Tensor, rows: slice) -> Tensor:
        ids = None if self.ids is None else self.ids[rows].to(self.device)
        wanted = _scaled(self.targets[rows].to(self.device))
        images: Tensor = self.generator(z, ids, 1.0, "const")
        return (images - wanted).square().flatten(1).mean(1)


def _scaled(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


@contextmanager
def _at_rest(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode and ask for no gradients of its parameters, then undo both."""
    was_training = network.training
    moving = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        network.train(was_training)
        network.requires_grad_(False)
        for parameter in moving:
            parameter.requires_grad_(True)
