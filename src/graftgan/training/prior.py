"""Where the prior of a run stands when a share of its budget is spent."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graftgan.gans.prior import Mixture, step_length

Schedule = Literal["fixed", "linear", "cosine", "constant_step"]
Stops = NDArray[np.float64]
STOPS = 1024


class MovingPrior:
    """A mixture and how it moves to N(0, I).

    Args:
        mixture: The fitted mixture; its own lambda does not count.
        schedule: ``fixed`` stays at lambda 0. ``linear`` is the published one. ``cosine`` is slow at both
            ends. ``constant_step`` moves the law at an even pace in the Wasserstein-2 distance
            (:func:`graftgan.gans.prior.step_length`); a straight line in lambda does most of its way at the
            start where covariances are degenerate.
        reach: Share of the budget at which lambda is 1.
    """

    def __init__(self, mixture: Mixture, schedule: Schedule, reach: float = 1.0) -> None:
        self.mixture, self.schedule, self.reach = mixture.at(0.0), schedule, reach
        self._ways = _ways(self.mixture) if schedule == "constant_step" else None

    def position(self, share_done: float) -> float:
        """Return lambda, 0 to 1, for a share of the budget."""
        if self.schedule == "fixed":
            return 0.0
        part = min(max(share_done / self.reach, 0.0), 1.0)
        if self.schedule == "cosine":
            return (1 - math.cos(math.pi * part)) / 2
        if self._ways is not None:
            lambdas, ways = self._ways
            return float(np.interp(part, ways, lambdas))
        return part

    def at(self, share_done: float) -> Mixture:
        """Return the law for a share of the budget."""
        return self.mixture.at(self.position(share_done))

    def started_from(self, mixture: Mixture) -> MovingPrior:
        """Return the same movement of another mixture."""
        return MovingPrior(mixture, self.schedule, self.reach)


def _ways(mixture: Mixture) -> tuple[Stops, Stops]:
    """Return lambdas and the share of the whole way that lies before each."""
    # In a direction without variance the way goes as the root of lambda, so stops are even in that root.
    lambdas = np.linspace(0.0, 1.0, STOPS) ** 2
    steps = [step_length(mixture, here, there) for here, there in pairwise(lambdas.tolist())]
    ways = np.concatenate([[0.0], np.cumsum(steps)])
    # A mixture that is N(0, I) already has no way to go.
    return lambdas, ways / ways[-1] if ways[-1] > 0 else lambdas
