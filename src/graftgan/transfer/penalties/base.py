"""What a penalty fills in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.gans.patch_heads import is_patch_head
from graftgan.training.penalty import Note
from graftgan.transfer.base import fresh_parameters


class BasePenalty:
    """A penalty (`graftgan.training.penalty.Penalty`) that adds nothing, says nothing and has no state.

    Attributes:
        name: How `finetune.penalties` calls it.
        help: One line, with the source.
        weight_key: Which key of `finetune` is the factor on the term.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    weight_key: ClassVar[str]

    @classmethod
    def weight_of(cls, settings: Finetune) -> float:
        """Return the factor on the term; a penalty of weight 0 is left out of the run."""
        return float(getattr(settings, cls.weight_key))

    @classmethod
    def check(cls, settings: Finetune) -> None:
        """Refuse settings that cannot work for any source.

        Raises:
            ConfigError: Naming both keys.
        """

    def start(self, gan: Gan, settings: Finetune) -> None:
        """Take in the weight."""
        self.weight = self.weight_of(settings)

    def generator_term(self, gan: Gan, fakes: Tensor, logits: Tensor, note: Note) -> Tensor | None:
        """Return None: nothing is added to G's loss."""
        return None

    def discriminator_term(self, gan: Gan, fakes: Tensor, logits: Tensor, note: Note) -> Tensor | None:
        """Return None: nothing is added to D's loss."""
        return None

    def warnings(self) -> list[str]:
        """Return no warning."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is nothing to load."""


def held_to_nothing(term: str, what: str, fresh: int, settings: Finetune) -> ConfigError:
    """Return the error of a term that needs what the source had where tensors are new.

    Args:
        term: Name of the penalty.
        what: What it holds, and to what.
        fresh: Number of the tensors.
        settings: Tell what made them new.
    """
    small = settings.filter_transfer.head == "small"
    key = "finetune.filter_transfer.head=small" if small else "data.resolution or data.channels"
    remedy = "set head=source" if small else "keep the source's size and channels"
    return ConfigError(
        f"finetune.penalties: {term} holds {what}, but {key} made {fresh} tensors that the source has not",
        f"leave {term} out of finetune.penalties, or {remedy}",
    )


def moving(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that the method trains, by name; heads for patches have no source."""
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and not is_patch_head(name)
    }


def anchors(gan: Gan, network: str, penalty: str, settings: Finetune) -> dict[str, Tensor]:
    """Return copies of the parameters of the source that the method trains, as they are now.

    Args:
        gan: The networks, before the first step.
        network: `generator` or `discriminator`.
        penalty: Name of the penalty, for the message.
        settings: The recipe, for the message.

    Raises:
        ConfigError: The method trains none.
    """
    which, fresh = network[0].upper(), fresh_parameters(gan, network)
    found = {
        name: parameter.detach().clone()
        for name, parameter in moving(getattr(gan, network)).items()
        if name not in fresh
    }
    if not found and fresh:
        raise held_to_nothing(penalty, f"{which} to its source", len(fresh), settings)
    if not found:
        raise ConfigError(
            f"finetune.penalties: {penalty} holds {which} near its source; finetune.method moves none of it",
            f"leave {penalty} out of finetune.penalties, or choose another finetune.method",
        )
    return found
