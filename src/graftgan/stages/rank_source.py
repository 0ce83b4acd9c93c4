"""rank-source: features of some sources' samples, computed by a task of its own.

`rank` finds them in its cache; where one is absent it computes it, so the split changes the time alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graftgan.checkpoints.catalogue import Catalogue
from graftgan.config import Params
from graftgan.context import Context
from graftgan.contract import Outcome
from graftgan.data.dataset import ImageSet
from graftgan.device import pick_device
from graftgan.metrics.cache import FeatureCache
from graftgan.parallel import processes, run_all
from graftgan.stages.features import Features, feature_key, open_extractor
from graftgan.stages.rank import Candidate, generator_of, source_features, source_key
from graftgan.stages.start import can_fit


def run(inputs: Mapping[str, Path], params: Params, outputs: Mapping[str, Path], ctx: Context) -> Outcome:
    """Write a feature file for each selected source that fits; see `specs.CLUSTER_STAGES`."""
    data = ImageSet.open(inputs["dataset"])
    catalogue = Catalogue(params.rank.catalogue, ctx.cache)
    sources = [
        s for s in catalogue.select(params.rank.sources) if can_fit(catalogue.spec(s, ctx.cache), data)
    ]
    folder = outputs["features"]
    candidates = [Candidate(source, params, "", inputs["dataset"], folder) for source in sources]
    found = run_all(compute, candidates, ctx, params.runtime.threads, processes(params.runtime))
    kept, extractor = FeatureCache(folder), open_extractor(params.rank.extractor, params)
    for content, features in found:
        kept.put(feature_key(source_key(content, params), extractor), extractor.protocol, features)
    return Outcome({"sources": float(len(sources))})


def compute(candidate: Candidate, ctx: Context) -> tuple[str, Features]:
    """Return what a candidate's generator is, as a digest, and the features of its samples."""
    generator, content = generator_of(candidate, ctx)
    generator.to(pick_device(candidate.params.runtime.device))
    extractor = open_extractor(candidate.params.rank.extractor, candidate.params)
    return content, source_features(candidate, content, generator, extractor, ctx)
