"""Cross-domain distance consistency (Ojha et al., CVPR 2021, arXiv:2104.06820).

How alike the images of a batch are among themselves, layer by layer, is kept as it was in the source. The
other half of the paper, patches instead of whole images away from a few anchors, is `graftgan.transfer.cdc`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.config import Finetune
from graftgan.device import send
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, Generator, StyledGenerator, draw_latents
from graftgan.gans.biggan_deep.layers import Conv as DeepConv
from graftgan.gans.stylegan3.generator import SynthesisLayer as SynthesisLayer3
from graftgan.training.penalty import Note
from graftgan.transfer.levels import is_convolution
from graftgan.transfer.penalties.base import BasePenalty, held_to_nothing
from graftgan.transfer.recording import outputs_of
from graftgan.world import sharding

SHORTEST = 1e-4


def similarity_logits(features: Tensor) -> Tensor:
    """Return the cosine similarities of each row of a batch to all others, float32 [N, N - 1].

    Args:
        features: [N, ...]; what follows N is taken as one vector. Those shorter than 1e-4 count as short:
            where all units of an image are off, its direction has no meaning, and a gradient would explode.
    """
    rows = F.normalize(features.flatten(1).float(), dim=1, eps=SHORTEST)
    count = len(rows)
    others = ~torch.eye(count, dtype=torch.bool, device=rows.device)
    return (rows @ rows.t())[others].view(count, count - 1)


def distance_consistency(source: Sequence[Tensor], adapted: Sequence[Tensor]) -> Tensor:
    """Return the mean of ``y_s log(y_s / y_t)`` over layers, images and their partners.

    For image i of a layer, ``y = softmax_j(cos(f_i, f_j))`` over the others j, in the source and in the
    adapted network. The mean over partners, instead of the sum that makes it a
    Kullback-Leibler divergence, is the published code's, whose weights therefore hold here.

    Args:
        source: Features [N, ...] of each layer of the source, N at least 2; they get no gradient.
        adapted: The same layers of the network under training, for the same latents.
    """
    terms = []
    for old, new in zip(source, adapted, strict=True):
        before = F.log_softmax(similarity_logits(old.detach()), dim=1)
        now = F.log_softmax(similarity_logits(new), dim=1)
        terms.append((before.exp() * (before - now)).mean())
    return torch.stack(terms).mean()


def compared_layers(generator: Generator) -> list[str]:
    """Return the names of the convolutions between feature maps, from the latent to the image."""
    return [name for name, module in generator.named_modules() if _is_compared(name, module, generator)]


def _is_compared(name: str, module: nn.Module, generator: Generator) -> bool:
    if isinstance(module, SynthesisLayer3):
        return not module.shape.to_rgb
    if isinstance(module, DeepConv):
        return module.weight_orig.shape[2] == 3 and not name.endswith("to_rgb")
    if isinstance(module, nn.ConvTranspose2d):
        return module.out_channels != generator.spec.channels
    return is_convolution(name, module)


def layer_outputs(
    generator: Generator, names: Sequence[str], z: Tensor, labels: Tensor | None
) -> list[Tensor]:
    """Return what the named modules compute for ``z``, with constant noise and without a trace."""

    def call() -> None:
        if isinstance(generator, StyledGenerator):
            generator.synthesis(generator.mapping(z, labels), "const")
        else:
            generator(z, labels)

    return outputs_of(generator, names, call)


class DistanceConsistency(BasePenalty):
    """Adds ``finetune.cdc.weight * distance_consistency`` of a batch of latents of its own to G's loss."""

    name = "cdc"
    help = "Images stay as alike among themselves as the source's (CDC, Ojha et al. 2021)."
    weight_key = "cdc.weight"

    @classmethod
    def weight_of(cls, settings: Finetune) -> float:
        """Return the factor on the term; a penalty of weight 0 is left out of the run."""
        return settings.cdc.weight

    def start(self, gan: Gan, settings: Finetune) -> None:
        """Copy the source's generator.

        Raises:
            ConfigError: If G has fewer layers to compare than are asked for, the method moves none of it, or
                parts of it are new.
        """
        super().start(gan, settings)
        chosen = compared_layers(gan.generator)
        wanted = settings.cdc.layers
        if wanted is not None and wanted > len(chosen):
            raise ConfigError(
                f"finetune.cdc.layers is {wanted}, but the source's family={gan.spec.family} has "
                f"{len(chosen)} convolutions to compare in G",
                f"set finetune.cdc.layers to {len(chosen)} or less, or to null for all",
            )
        if not any(parameter.requires_grad for parameter in gan.generator.parameters()):
            raise ConfigError(
                "finetune.penalties: cdc holds G to its source, but finetune.method moves none of G",
                "leave cdc out of finetune.penalties, or choose another finetune.method",
            )
        if fresh := gan.fresh_in("generator"):
            raise held_to_nothing(self.name, "images to those of the source's G", len(fresh), settings)
        self.layers, self.batch = chosen[:wanted], settings.cdc.batch
        self.source = copy.deepcopy(gan.generator).eval().requires_grad_(False)
        self.rng = torch.Generator().manual_seed(settings.seed)

    def generator_term(self, gan: Gan, fakes: Tensor, logits: Tensor, note: Note) -> Tensor:
        """Return the term of G's loss."""
        z, labels = draw_latents(gan.spec, self.batch, self.rng, gan.prior)
        z, labels = send(z, fakes.device), None if labels is None else send(labels, fakes.device)
        # So few images are not worth cutting over workers; each computes the whole term.
        with sharding(on=False):
            with torch.no_grad():
                before = layer_outputs(self.source, self.layers, z, labels)
            now = layer_outputs(gan.generator, self.layers, z, labels)
        return self.weight * distance_consistency(before, now)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of its random numbers; the source's networks are found again."""
        return {"rng": self.rng.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to saved random numbers."""
        self.rng.set_state(state["rng"])
