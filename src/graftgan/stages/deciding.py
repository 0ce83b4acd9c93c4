"""What finetune trains where it is not what the settings name: `finetune.method: auto`, and from scratch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from graftgan.checkpoints.catalogue import SCRATCH, Catalogue, Source
from graftgan.checkpoints.store import WEIGHTS, stored_networks
from graftgan.config import Finetune, Params
from graftgan.data.dataset import ImageSet
from graftgan.errors import GraftganError
from graftgan.gans.spec import GanSpec
from graftgan.stages.adapting import check_memory_bases, check_memory_classes
from graftgan.stages.prior import check_prior
from graftgan.stages.start import can_fit
from graftgan.training.loop import total_images
from graftgan.transfer.auto import AUTO, PLAIN, decide
from graftgan.transfer.combinations import check_settings
from graftgan.transfer.hints import hints
from graftgan.transfer.rehearsal import check_networks

OF_SOURCES = ("method", "penalties", "prior")
"""Keys of `finetune` that say how a source is adapted, and so nothing to a run from scratch."""


@dataclass(frozen=True)
class Candidate:
    """A source that the method must go with.

    Attributes:
        source: Its catalogue entry.
        spec: Sizes of its networks.
        size: Resolution and channels that they are fitted to.
        fresh: Whether it is adapted beside a fresh D.
    """

    source: Source
    spec: GanSpec
    size: tuple[int, int]
    fresh: bool


def with_method(params: Params, data: ImageSet, names: Iterable[str], cache: Path) -> tuple[Params, str]:
    """Put a method that goes with the settings and the sources called `names` in place of `auto`.

    Returns:
        The parameters, and why it is that method; as they were, and nothing, where the user named one.

    Raises:
        GraftganError: No method goes with the settings.
    """
    if params.finetune.method != AUTO:
        return params, ""
    catalogue = Catalogue(params.rank.catalogue, cache)
    sources = catalogue.select([name for name in names if name != SCRATCH])
    if not sources:
        return _taking(params, PLAIN), ""
    candidates = [_candidate(source, data, params, cache) for source in sources]
    images = data.size("train")

    def refusal(name: str) -> GraftganError | None:
        try:
            check(_taking(params, name), data, candidates, cache)
        except GraftganError as error:
            return error
        return None

    families = {candidate.spec.family for candidate in candidates}
    decision = decide(images, families, refusal, budget_kimg(params.finetune, images))
    return _taking(params, decision.method), f"for {images} training images: {decision.why}"


def _taking(params: Params, name: str) -> Params:
    return params.model_copy(update={"finetune": params.finetune.model_copy(update={"method": name})})


def _candidate(source: Source, data: ImageSet, params: Params, cache: Path) -> Candidate:
    catalogue = Catalogue(params.rank.catalogue, cache)
    spec = catalogue.spec(source, cache)
    fitted = data if can_fit(spec, data) else spec
    lacking = "discriminator" not in stored_networks(catalogue.folder(source, cache) / WEIGHTS)
    # Without that key the run ends whatever the method is, and with an error of its own.
    beside_fresh = lacking and params.finetune.fresh_discriminator
    return Candidate(source, spec, (fitted.resolution, fitted.channels), beside_fresh)


def check(params: Params, data: ImageSet, candidates: Iterable[Candidate], cache: Path) -> None:
    """Refuse a method, taken by `auto`, that the settings or a source exclude.

    Raises:
        GraftganError: Naming the keys.
    """
    settings = params.finetune
    check_settings(settings, named=False)
    check_prior(settings, data.size("train"))
    check_memory_classes(settings, data)
    for candidate in candidates:
        check_memory_bases(candidate.source, params, cache)
        check_networks(settings, candidate.spec, candidate.fresh, candidate.source.name, candidate.size)


def budget_kimg(settings: Finetune, images: int) -> float:
    """Return the thousands of images that a run sees at most, infinity if minutes alone limit it."""
    if settings.budget.kimg is None and settings.budget.epochs is None:
        return math.inf
    return total_images(settings.budget, images, settings.batch) / 1000


def unused_from_scratch(settings: Finetune) -> list[str]:
    """Return a sentence about keys that say how a source is adapted, for a run without one; none if unset."""
    found = []
    for key in OF_SOURCES:
        value = getattr(settings, key)
        if value != Finetune.model_fields[key].default:
            shown = value if isinstance(value, str) else f"[{', '.join(value)}]"
            found.append(f"finetune.{key}={shown}")
    if not found:
        return []
    return [f"{', '.join(found)}: no effect on this run, which is trained from scratch and adapts no source"]


def said_before(
    plan: Mapping[str, str], asked: Finetune, settings: Finetune, data: ImageSet
) -> dict[str, tuple[str, ...]]:
    """Return what is said of runs before they begin: of the chosen one, and hints at the first from a source.

    Args:
        plan: Run -> its source, or "scratch".
        asked: The recipe as the user gave it.
        settings: The recipe with the method that is used.
        data: The image set.
    """
    told: dict[str, tuple[str, ...]] = {}
    if plan["chosen"] == SCRATCH:
        told["chosen"] = tuple(unused_from_scratch(asked))
    if adapted := [run for run, source in plan.items() if source != SCRATCH]:
        told[adapted[0]] = tuple(hints(settings, data.size("train"), data.resolution))
    return told
