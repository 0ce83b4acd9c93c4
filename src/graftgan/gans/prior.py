"""The law that latents are drawn from when it is not the standard normal one: a mixture on its way to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from graftgan.errors import CheckpointError
from graftgan.gans import laws

PREFIX = laws.PREFIX
POSITION = "lambda"
PARTS = ("weights", "means", "eigenvectors", "eigenvalues")


class Prior(Protocol):
    """A law of latents. None stands for N(0, I) wherever a prior may be given."""

    @property
    def z_dim(self) -> int:
        """Length of a latent."""

    @property
    def position(self) -> float:
        """Where it stands on its way to N(0, I), which it is at 1."""

    @property
    def note(self) -> str:
        """What to tell people about it."""

    @property
    def recipe(self) -> str:
        """How to draw a latent from its tensors without this package."""

    def draw_one(self, rng: torch.Generator | None = None) -> Tensor:
        """Draw one latent [z_dim]."""

    def draw(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw latents [n, z_dim], one after the other."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what it takes to make it again, as tensors called ``prior.…``."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """The moving law of Zhang et al. 2023 (ECML-PKDD), on the CPU.

    At the position ``lambda`` it is ``sum_j w_j N((1 - lambda) mu_j, (1 - lambda) Sigma_j + lambda I)``: the
    fitted mixture at 0 and N(0, I) at 1, with weights that stay and covariances that go in a straight line.
    It is neither the mixture of the two laws nor the law of points between their samples.

    Attributes:
        weights: w, float64 [K].
        means: mu, float32 [K, D].
        eigenvectors: Those of each Sigma as columns, float32 [K, D, D].
        eigenvalues: Those of each Sigma, float32 [K, D], not negative.
        position: lambda, 0 to 1.
    """

    weights: Tensor
    means: Tensor
    eigenvectors: Tensor
    eigenvalues: Tensor
    position: float = 0.0

    def __post_init__(self) -> None:
        k, dim = self.means.shape
        shapes = [tuple(getattr(self, part).shape) for part in PARTS]
        if shapes != [(k,), (k, dim), (k, dim, dim), (k, dim)]:
            raise ValueError(f"weights, means, eigenvectors and eigenvalues have shapes {shapes}")
        # Sums round by memory layout, and a saved tensor comes back contiguous: draws must be the same.
        for part in PARTS:
            object.__setattr__(self, part, getattr(self, part).contiguous())
        object.__setattr__(self, "position", min(max(float(self.position), 0.0), 1.0))

    @classmethod
    def of_moments(cls, weights: Tensor, means: Tensor, covariances: Tensor) -> Mixture:
        """Return the mixture with covariances [K, D, D], decomposed once in float64; negatives become 0."""
        values, vectors = torch.linalg.eigh(covariances.double())
        return cls(weights.double(), means.float(), vectors.float(), values.clamp(min=0).float())

    @property
    def z_dim(self) -> int:
        """Length of a latent."""
        return self.means.shape[1]

    @property
    def note(self) -> str:
        """What to tell people about it."""
        kind = f"a mixture of {self.components} Gaussians"
        return f"Its latents come from {kind}, at lambda = {self.position:.3g} to N(0, I)."

    @property
    def recipe(self) -> str:
        """How to draw a latent from its tensors without this package."""
        return (
            "draw j with probabilities weights and e from N(0, I), then z = (1 - lambda) means[j] + "
            "eigenvectors[j] @ (sqrt((1 - lambda) eigenvalues[j] + lambda) * e)"
        )

    @property
    def components(self) -> int:
        """Number of components, K."""
        return len(self.weights)

    def at(self, position: float) -> Mixture:
        """Return the same mixture at another lambda; what lies outside 0 to 1 is clamped."""
        return replace(self, position=position)

    def draw_one(self, rng: torch.Generator | None = None) -> Tensor:
        """Draw one latent [D]; at lambda = 1 it is the very normal draw, component and all left out.

        Elsewhere it is ``(1 - lambda) mu_j + U_j (sqrt((1 - lambda) s_j + lambda) * e)`` with e ~ N(0, I).

        Args:
            rng: CPU generator; None is torch's global one.
        """
        normal = torch.randn(self.z_dim, generator=rng, device="cpu")
        if self.position >= 1.0:
            return normal
        drawn = torch.rand((), generator=rng, dtype=torch.float64, device="cpu")
        j = min(int((self.weights.cumsum(0) <= drawn).sum()), self.components - 1)
        spread = ((1 - self.position) * self.eigenvalues[j] + self.position).sqrt()
        # Not a matrix product: BLAS rounds by where in memory a matrix lies, and a loaded one lies elsewhere.
        turned = (self.eigenvectors[j] * (spread * normal)).sum(1)
        return (1 - self.position) * self.means[j] + turned

    def draw(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw latents [n, D] one after the other: a longer series begins with the same ones."""
        return torch.stack([self.draw_one(rng) for _ in range(n)]) if n else torch.empty(0, self.z_dim)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean [D] and covariance [D, D] of the law at its lambda, in float64."""
        means = (1 - self.position) * self.means.double()
        values = (1 - self.position) * self.eigenvalues.double() + self.position
        vectors = self.eigenvectors.double()
        inside = (vectors * values[:, None]) @ vectors.mT
        mean = self.weights @ means
        second = (self.weights[:, None, None] * (inside + means[:, :, None] * means[:, None])).sum(0)
        return mean, second - mean[:, None] * mean

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as tensors called ``prior.…``, lambda as float64 without dimensions."""
        held = {f"{PREFIX}{part}": getattr(self, part).clone() for part in PARTS}
        return held | {f"{PREFIX}{POSITION}": torch.tensor(self.position, dtype=torch.float64)}


def split_prior(tensors: Mapping[str, Tensor], origin: object) -> tuple[dict[str, Tensor], Prior | None]:
    """Part the tensors of a file into those of its networks and its prior, None where it has none.

    Args:
        tensors: Names and tensors.
        origin: The file, for messages.

    Raises:
        CheckpointError: The prior is not whole, or is no law.
    """
    held = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    rest = {name: t for name, t in tensors.items() if not name.startswith(PREFIX)}
    if not held:
        return rest, None
    try:
        if (law := laws.law_of(held)) is not None:
            return rest, law
        _check(held)
        parts = {part: held[part] for part in PARTS}
        return rest, Mixture(**parts, position=float(held[POSITION]))
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{origin} holds a damaged prior: {error}", "use another file") from None


def _check(held: Mapping[str, Tensor]) -> None:
    """Refuse what could not have been written by :meth:`Mixture.tensors`."""
    if set(held) != {*PARTS, POSITION}:
        raise ValueError(f"its parts are {', '.join(sorted(held))}")
    if held["means"].ndim != 2 or held[POSITION].ndim:
        raise ValueError("its means or its lambda have the wrong number of dimensions")
    if bad := [name for name, tensor in held.items() if not bool(torch.isfinite(tensor).all())]:
        raise ValueError(f"{', '.join(bad)} are not finite")
    if not 0 <= float(held[POSITION]) <= 1 or float(held["eigenvalues"].min()) < 0:
        raise ValueError("lambda is outside 0 to 1, or a variance is negative")
    weights = held["weights"]
    if float(weights.min()) < 0 or abs(float(weights.sum()) - 1) > 1e-6:
        raise ValueError("its weights are no shares")


def told_law(law: Prior | None) -> str:
    """Return what to tell people about a law, N(0, I) included."""
    return "Its latents come from N(0, I)." if law is None else law.note


def step_length(mixture: Mixture, here: float, there: float) -> float:
    """Return how far the law moves between two lambdas: each component's Wasserstein-2 step, weighted.

    Component j moves by ``sqrt(d^2 |mu_j|^2 + sum_i (sqrt(v_i(here)) - sqrt(v_i(there)))^2)`` with
    ``v_i(l) = (1 - l) s_i + l`` and ``d = there - here``; the whole is the root of the weighted mean square,
    an upper bound of the mixture's own step.
    """
    values = mixture.eigenvalues.double()
    roots = [((1 - at) * values + at).sqrt() for at in (here, there)]
    squares = (there - here) ** 2 * mixture.means.double().square().sum(1)
    return float((mixture.weights @ (squares + (roots[0] - roots[1]).square().sum(1))).sqrt())
