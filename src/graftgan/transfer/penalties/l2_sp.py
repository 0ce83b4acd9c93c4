"""L2-SP (Li, Grandvalet, Davoine, ICML 2018): weights are drawn to where they started, not to zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.training.penalty import Note
from graftgan.transfer.penalties.base import BasePenalty, anchors


def squared_distance(network: nn.Module, start: Mapping[str, Tensor]) -> Tensor:
    """Return ``sum_i (theta_i - start_i)^2`` over the parameters named in `start`."""
    parts = [(network.get_parameter(name) - anchor).square().sum() for name, anchor in start.items()]
    return torch.stack(parts).sum()


class StartingPoint(BasePenalty):
    """Adds ``l2_sp_weight * ||theta - theta_source||^2`` over G's moving parameters, or G's and D's."""

    name = "l2_sp"
    help = "Weights stay near the source's, all alike (L2-SP, Li et al. 2018)."
    weight_key = "l2_sp_weight"

    def start(self, gan: Gan, settings: Finetune) -> None:
        """Copy the source's weights; what is new has none to stay near.

        Raises:
            ConfigError: If the method moves nothing, or D is to be held near a source that it does not have.
        """
        super().start(gan, settings)
        if settings.l2_sp_on_d and "discriminator" in gan.fresh:
            raise ConfigError(
                "finetune.l2_sp_on_d=true holds D near its source, but finetune.fresh_discriminator gives it "
                "a new one",
                "set finetune.l2_sp_on_d=false, or choose a source with a discriminator",
            )
        self.anchors_g = anchors(gan, "generator", self.name, settings)
        self.anchors_d = {}
        if settings.l2_sp_on_d:
            self.anchors_d = anchors(gan, "discriminator", self.name, settings)

    def generator_term(self, gan: Gan, fakes: Tensor, logits: Tensor, note: Note) -> Tensor:
        """Return the term of G's loss."""
        return self.weight * squared_distance(gan.generator, self.anchors_g)

    def discriminator_term(self, gan: Gan, fakes: Tensor, logits: Tensor, note: Note) -> Tensor | None:
        """Return the term of D's loss, if there is to be one."""
        if not self.anchors_d:
            return None
        return self.weight * squared_distance(gan.discriminator, self.anchors_d)
