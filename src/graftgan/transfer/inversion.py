"""The latents of given images in a generator, found by gradient descent (Zhang et al. 2023, ECML-PKDD)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graftgan.errors import GraftganError
from graftgan.gans.base import Generator, to_uint8
from graftgan.method_config import Inversion

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


def invert(
    generator: Generator,
    images: Images,
    labels: NDArray[np.int32] | None,
    settings: Inversion,
    seed: int,
    class_tensors: tuple[str, ...] = (),
    advance: Callable[[int], Any] = lambda images: None,
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
        advance: Told of every batch how many images it had.

    Raises:
        GraftganError: Latents are not finite.
    """
    device = next(generator.parameters()).device
    targets = torch.from_numpy(images).permute(0, 3, 1, 2)
    ids = None if labels is None else torch.from_numpy(labels).long()
    rng = torch.Generator().manual_seed(seed)
    table = torch.stack([torch.randn(generator.spec.z_dim, generator=rng) for _ in range(len(images))])
    job = _Job(generator, targets, ids, settings, RowAdam(table.to(device)), device)
    with _at_rest(generator):
        nearest = job.nearest_random(rng)
        kept = {name: generator.get_parameter(name).detach().clone() for name in class_tensors}
        try:
            job.descend(class_tensors, advance)
            errors = job.errors()
            learnt = {n: generator.get_parameter(n).detach().cpu().clone() for n in class_tensors}
        finally:
            for name, tensor in kept.items():
                generator.get_parameter(name).data.copy_(tensor)
    if not bool(torch.isfinite(job.adam.table).all()):
        raise GraftganError("the latents of the images are not finite", "use a smaller finetune.inversion.lr")
    return Inverted(job.adam.table.cpu(), errors, nearest, learnt)


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

    def descend(self, class_tensors: tuple[str, ...], advance: Callable[[int], Any]) -> None:
        """Move all latents, and the class tensors by an Adam of their own."""
        moving = [self.generator.get_parameter(name).requires_grad_(True) for name in class_tensors]
        other = torch.optim.Adam(moving, lr=self.settings.lr, betas=BETAS, eps=EPS) if moving else None
        for epoch in range(self.settings.epochs):
            dropped = epoch >= self.settings.drop_at * self.settings.epochs
            lr = self.settings.lr * (DROP if dropped else 1.0)
            for rows in self._batches():
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
                advance(rows.stop - rows.start)

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
