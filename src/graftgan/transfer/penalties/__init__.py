"""Terms added to the losses while a source is adapted; a new one is a file here and a line in `PENALTIES`."""

from __future__ import annotations

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.training.penalty import Penalty
from graftgan.transfer import method
from graftgan.transfer.penalties.base import BasePenalty
from graftgan.transfer.penalties.bsd import SpectralDiversification
from graftgan.transfer.penalties.cdc import DistanceConsistency
from graftgan.transfer.penalties.ewc import ElasticWeightConsolidation
from graftgan.transfer.penalties.l2_sp import StartingPoint
from graftgan.transfer.penalties.low_rank import LowRankResiduals

PENALTIES: dict[str, type[BasePenalty]] = {
    kind.name: kind
    for kind in (
        SpectralDiversification,
        StartingPoint,
        ElasticWeightConsolidation,
        DistanceConsistency,
    )
}

OWN: dict[str, type[BasePenalty]] = {LowRankResiduals.name: LowRankResiduals}
"""Terms that a method brings and that mean nothing with another."""


def make_penalties(settings: Finetune) -> list[Penalty]:
    """Return the method's own penalties, then those that the settings name, without those of weight 0.

    Raises:
        ConfigError: If a name is unknown or given twice, or a penalty cannot work with the other settings.
    """
    own = method(settings.method).penalties
    names = (*own, *settings.penalties)
    for name in settings.penalties:
        if name not in PENALTIES:
            raise ConfigError(
                f"finetune.penalties: {name!r} is not a penalty", f"use some of {', '.join(PENALTIES)}"
            )
    if both := set(own) & set(settings.penalties):
        raise ConfigError(
            f"finetune.method={settings.method} brings the penalty {', '.join(sorted(both))}, "
            "which finetune.penalties names too",
            "leave it out of finetune.penalties",
        )
    if len(set(names)) < len(names):
        raise ConfigError("finetune.penalties names a penalty twice", "give each once and set its weight")
    known = PENALTIES | OWN
    kinds = [known[name] for name in names if known[name].weight_of(settings) > 0]
    for kind in kinds:
        kind.check(settings)
    return [kind() for kind in kinds]
