"""Elastic weight consolidation for few images (Li, Zhang, Lu, Shechtman, NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, draw_latents
from graftgan.training.penalty import Note
from graftgan.transfer.penalties.base import BasePenalty, anchors, held_to_nothing, moving
from graftgan.world import sharding, take_from_first


def fisher_diagonal(
    gan: Gan, samples: int, seed: int, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Return ``F_i = E_z (d/d theta_i log sigmoid(D(G(z))))^2`` for parameters of G.

    The square is of each image's own gradient, so that images go through the networks one at a time: the
    squared gradient of a batch's mean is smaller by about the size of the batch, and mixes the images.

    Args:
        gan: The source's networks; they are left as they are, stored statistics included.
        samples: Images that the mean is over.
        seed: Seed of latents, classes and noise; the global random state is left as it was.
        names: Of the parameters; None is those that move now.
    """
    wanted = moving(gan.generator) if names is None else names
    parameters = {name: gan.generator.get_parameter(name) for name in wanted}
    fisher = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    device = next(iter(parameters.values())).device
    rng = torch.Generator().manual_seed(seed)
    with _aside(gan, device, seed), _awake(parameters.values()):
        for _ in range(samples):
            z, labels = draw_latents(gan.spec, 1, rng)
            ids = None if labels is None else labels.to(device)
            logit = gan.discriminator(gan.generator(z.to(device), ids), ids)
            gradients = torch.autograd.grad(
                F.logsigmoid(logit).sum(), list(parameters.values()), allow_unused=True
            )
            for total, gradient in zip(fisher.values(), gradients, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient, value=1 / samples)
    return fisher


@contextmanager
def _aside(gan: Gan, device: torch.device, seed: int) -> Iterator[None]:
    """Let the networks compute without a trace: no statistics kept, no random numbers of others used up."""
    networks = (gan.generator, gan.discriminator)
    modes = {module: module.training for network in networks for module in network.modules()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for network in networks:
            network.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


@contextmanager
def _awake(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let parameters have gradients that rest at the moment."""
    resting = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in resting:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in resting:
            parameter.requires_grad_(False)


class ElasticWeightConsolidation(BasePenalty):
    """Adds ``ewc_weight * sum_i F_i (theta_i - theta_source,i)^2`` over G's moving parameters."""

    name = "ewc"
    help = "G's weights stay near the source's, the more the more its D minds them (EWC, Li et al. 2020)."
    weight_key = "ewc_weight"

    def start(self, gan: Gan, settings: Finetune) -> None:
        """Copy the source's weights.

        Raises:
            ConfigError: If the source has no discriminator or lacks other tensors, or the method moves
                nothing of G.
        """
        super().start(gan, settings)
        if "discriminator" in gan.fresh:
            raise ConfigError(
                "finetune.penalties: ewc asks the source's discriminator, "
                "but finetune.fresh_discriminator gives it a new one",
                "use l2_sp, which asks none, or choose another source",
            )
        self.samples, self.seed = settings.ewc_samples, settings.seed
        if gan.fresh:
            raise held_to_nothing(self.name, "G to what the source's G and D know", len(gan.fresh), settings)
        self.anchors = anchors(gan, "generator", self.name, settings)
        self.fisher: dict[str, Tensor] = {}

    def generator_term(self, gan: Gan, fakes: Tensor, logits: Tensor, note: Note) -> Tensor:
        """Return the term of G's loss."""
        # The first step finds the source's networks unchanged; a run that goes on has it in its state.
        if not self.fisher:
            with sharding(on=False):
                self.fisher = fisher_diagonal(gan, self.samples, self.seed, self.anchors)
            take_from_first(self.fisher.values())
        parts = [
            (self.fisher[name] * (gan.generator.get_parameter(name) - anchor).square()).sum()
            for name, anchor in self.anchors.items()
        ]
        return self.weight * torch.stack(parts).sum()

    def state_dict(self) -> dict[str, Any]:
        """Return the Fisher information, empty before the first step."""
        return dict(self.fisher)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved Fisher information."""
        # Saved tensors are contiguous: laid out unlike the weights, they would be summed in another order.
        self.fisher = {name: torch.empty_like(self.anchors[name]).copy_(state[name]) for name in state}
