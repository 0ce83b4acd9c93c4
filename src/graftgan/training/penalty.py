"""What the trainer asks of a term added to the losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor

from graftgan.config import Finetune
from graftgan.gans.base import Gan

Note = Callable[[str, Tensor], None]
"""Takes in the name and the value, a tensor without dimensions, of something to show beside the losses."""


class Penalty(Protocol):
    """A term added to the loss of G, of D or of both. Its random numbers, if any, are its own."""

    name: ClassVar[str]

    def start(self, gan: Gan, settings: Finetune) -> None:
        """Take in the networks as they are before the first step, on the device that they train on.

        Raises:
            ConfigError: The term cannot be computed for these networks.
        """

    def generator_term(self, gan: Gan, fakes: Tensor, logits: Tensor, note: Note) -> Tensor | None:
        """Return the weighted term of G's loss, without dimensions, or None.

        Args:
            gan: The networks; D's parameters ask for no gradients.
            fakes: Images [N, channels, R, R] as G made them, not augmented.
            logits: D's opinion [N, 1] of the augmented fakes.
            note: Shows a value beside the losses; names begin with ``penalty_``.
        """

    def discriminator_term(self, gan: Gan, fakes: Tensor, logits: Tensor, note: Note) -> Tensor | None:
        """Return the weighted term of D's loss, or None; as above, with fakes that carry no gradient."""

    def warnings(self) -> list[str]:
        """Return sentences about what went wrong, for the run's report."""

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`start` cannot find again, as tensors and plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state, exactly; comes after :meth:`start`."""
