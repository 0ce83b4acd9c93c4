"""The register stage: packs the chosen model, registers it once, and lets it challenge the champion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graftgan.config import Params
from graftgan.context import Context, Registered, Registry
from graftgan.contract import Outcome, digest_path, digest_text, read_json, size_bytes, write_json
from graftgan.data.dataset import ImageSet
from graftgan.device import pick_device
from graftgan.errors import CheckpointError, MissingInput, TryAgain
from graftgan.identity import git_revision
from graftgan.journal import CHALLENGER, CHAMPION, RegistrationQueue
from graftgan.metrics.features import Extractor
from graftgan.metrics.intervals import Estimate
from graftgan.metrics.kid import paired_kid_difference
from graftgan.packages import FACTS, Package, load_package, write_package
from graftgan.places import code_digest
from graftgan.reporting.card import model_card
from graftgan.stages.features import Features, cached, extract, images_key, open_extractor

RUN = "chosen"
LEAST_TEST_IMAGES = 3


@dataclass(frozen=True)
class Decision:
    """What became of the model in the registry. Never part of `result.json`, as it depends on the registry.

    Attributes:
        alias: Alias that it deserves, empty if that is not known yet.
        reason: Why, as a sentence.
        applied: Whether the registry was changed accordingly.
        mode: Mode of the gate.
        key: Digest of the package.
        version: Version, empty if it is not registered yet.
        champion: Version of the champion that it was compared with, or empty.
        difference: KID of the new model less the champion's, None if they were not compared.
        low: Lower end of the difference's interval.
        high: Upper end of the difference's interval.
    """

    alias: str
    reason: str
    applied: bool
    mode: str
    key: str
    version: str = ""
    champion: str = ""
    difference: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A package that asks to be registered.

    Attributes:
        name: Registered model name.
        mode: Mode of the gate: off, dry-run or enforce.
        package: Its folder.
        key: Digest of the folder.
        tags: Tags of the version.
    """

    name: str
    mode: str
    package: Path
    key: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Verdict:
    """Outcome of the gate alone: which alias, why, and the comparison if there was one."""

    alias: str
    reason: str
    champion: str = ""
    estimate: Estimate | None = None


def run(inputs: Mapping[str, Path], params: Params, outputs: Mapping[str, Path], ctx: Context) -> Outcome:
    """Write the package and register it; without a registry, leave a request in the journal.

    Args:
        inputs: Folders `dataset`, `models`, `scores`, and the file `report`.
        params: `registry`, and for the comparison with the champion `evaluate` and `runtime`.
        outputs: Folder `package`.
        ctx: Surroundings; `ctx.registry` may be None. The decision is left in `ctx.state / "decision.json"`.

    Returns:
        Size of the package in bytes; what the registry decided is volatile and not part of it.

    Raises:
        MissingInput: If an input is absent or incomplete.
        CheckpointError: If the chosen model cannot be read.
    """
    package = outputs["package"]
    facts = pack(inputs, params, package)
    load_package(package)
    key = digest_path(package)
    name, mode = params.registry.name, params.registry.gate.mode
    decision = settle(
        Candidate(name, mode, package, key, version_tags(facts)),
        lambda registry: judge(registry, package, inputs, params, ctx),
        ctx,
    )
    tell(name, decision, ctx)
    return Outcome({"package_bytes": float(size_bytes(package))})


def tell(name: str, decision: Decision, ctx: Context) -> None:
    """Leave a decision in `ctx.state / "decision.json"`, tag the run with it and say it."""
    ctx.state.mkdir(parents=True, exist_ok=True)
    write_json(ctx.state / "decision.json", asdict(decision))
    told = {"key": decision.key[:16], "version": decision.version, "decision": decision.alias}
    ctx.tracker.set_tags(
        {f"graftgan.register.{k}": v for k, v in (told | {"reason": decision.reason}).items() if v}
    )
    where = f"version {decision.version}" if decision.version else "not registered yet"
    ctx.log.info("%s %s: %s %s", name, where, decision.alias or "no alias", f"({decision.reason})")


def pack(inputs: Mapping[str, Path], params: Params, package: Path) -> dict[str, Any]:
    """Write the package of the chosen run into an existing folder and return its facts."""
    folder = inputs["models"] / RUN
    model, scores = read_json(folder / "model.json"), read_json(inputs["scores"] / "scores.json")
    dataset = read_json(inputs["dataset"] / "dataset.json")
    try:
        facts = package_facts(model, dataset, scores)
        card = model_card(params.registry.name, model, dataset, scores, code_digest())
    except KeyError as error:
        raise MissingInput(f"the facts of run {RUN} lack {error}", "run the pipeline again") from None
    write_package(folder, package, facts, card)
    return facts


def package_facts(
    model: Mapping[str, Any], dataset: Mapping[str, Any], scores: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of the package's `model.json` but for the schema."""
    rows = scores["runs"].get(model["run"], {}).get("scores") or []
    return {
        "family": model["spec"]["family"],
        "spec": model["spec"],
        "prior": model["prior"],
        "preprocessing": model["preprocessing"],
        "range": model["preprocessing"]["range"],
        "classes": dataset.get("labels") or [],
        "truncation_default": 1.0,
        "provenance": {
            "dataset": dataset["digest"],
            "source": model["source"],
            "source_sha256": model["source_sha256"],
            "method": model["method"],
            "seed": model["seed"],
            "code": code_digest(),
            "protocol": scores["protocol"],
        },
        "scores": {row["name"]: {key: row.get(key) for key in ("value", "low", "high")} for row in rows},
    }


def version_tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags by which a version can be searched for: data, source, method, code, protocol, git.

    The git revision is no fact of the package: the same model from two commits is one model.
    """
    known = {name: str(value) for name, value in facts["provenance"].items() if value is not None}
    return {f"graftgan.{name}": value for name, value in known.items()} | {
        "graftgan.family": facts["family"],
        "graftgan.resolution": str(facts["spec"]["resolution"]),
        **({"graftgan.git_revision": revision} if (revision := git_revision()) else {}),
    }


def settle(candidate: Candidate, judged: Callable[[Registry], Verdict], ctx: Context) -> Decision:
    """Register a package once and give it the alias it deserves; without a registry, leave a request.

    Args:
        candidate: The package.
        judged: Compares it with what the registry has; called only if it was not registered before.
        ctx: Surroundings; `ctx.registry` may be None.
    """
    trouble = "there is no registry"
    if ctx.registry is not None:
        try:
            return _decide(ctx.registry, candidate, judged)
        except TryAgain as error:
            trouble = error.message
    tracker, mode = ctx.tracker, candidate.mode
    kept = isinstance(tracker, RegistrationQueue) and tracker.request_registration(
        candidate.name, candidate.key, candidate.package, candidate.tags, mode
    )
    remedy = "`graftgan sync` registers it later" if kept else "tracking is off, so it will not be registered"
    ctx.log.warning("the model is packed but not registered: %s; %s", trouble, remedy)
    return Decision("", f"{trouble}; {remedy}", False, mode, candidate.key)


def _decide(registry: Registry, candidate: Candidate, judged: Callable[[Registry], Verdict]) -> Decision:
    name, mode, key = candidate.name, candidate.mode, candidate.key
    known = registry.find(name, key)
    if known is not None and (alias := registry.settled(known)) is not None:
        reason = f"the same package was registered before as version {known.version}"
        return Decision(alias, reason, False, mode, key, known.version)
    verdict = judged(registry)
    version = known or registry.publish(name, candidate.package, key, candidate.tags)
    if mode != "dry-run":
        registry.promote(version, verdict.alias, verdict.reason)
    estimate = verdict.estimate
    numbers = (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)
    return Decision(
        verdict.alias,
        verdict.reason,
        mode != "dry-run",
        mode,
        key,
        version.version,
        verdict.champion,
        *numbers,
    )


def judge(
    registry: Registry, package: Path, inputs: Mapping[str, Path], params: Params, ctx: Context
) -> Verdict:
    """Tell which alias a new package deserves beside the present champion.

    Raises:
        TryAgain: If the registry stopped answering.
    """
    champion = registry.champion(params.registry.name)
    if champion is None:
        return Verdict(CHAMPION, "it is the first model of this name")
    if params.registry.gate.mode == "off":
        return Verdict(CHAMPION, "the gate is off", champion.version)
    data = ImageSet.open(inputs["dataset"])
    rival, obstacle = _rival(registry, champion, package, ctx)
    if rival is None:
        return Verdict(CHALLENGER, obstacle, champion.version)
    if "test" in data.missing or data.size("test") < LEAST_TEST_IMAGES:
        return Verdict(
            CHALLENGER, "there are too few test images to compare it with the champion", champion.version
        )
    return compare(load_package(package), rival, champion.version, data, params, ctx)


def _rival(
    registry: Registry, champion: Registered, package: Path, ctx: Context
) -> tuple[Package | None, str]:
    """Fetch the champion; without one that can be compared, say why."""
    facts = read_json(package / FACTS)
    folder = ctx.cache / "champions" / digest_text(f"{champion.name} {champion.key}")[:32]
    try:
        rival = load_package(registry.download(champion, folder))
    except (TryAgain, MissingInput, CheckpointError) as error:
        if not registry.available():
            raise TryAgain("the registry stopped answering", "run `graftgan sync` later") from error
        return None, f"the champion, version {champion.version}, cannot be read"
    old, new = rival.facts["provenance"]["dataset"], facts["provenance"]["dataset"]
    if old != new:
        return (
            None,
            f"the champion, version {champion.version}, was made for other images",
        )
    if any(rival.facts["spec"][size] != facts["spec"][size] for size in ("resolution", "channels")):
        return None, f"the champion, version {champion.version}, makes images of another size"
    return rival, ""


def compare(
    new: Package, old: Package, champion: str, data: ImageSet, params: Params, ctx: Context
) -> Verdict:
    """Compare two packages by the paired KID difference on the same test images and latents.

    The new one becomes champion if the whole interval of `KID(new) - KID(champion)` lies below `-min_gain`.

    Args:
        new: The new package.
        old: The champion's package.
        champion: The champion's version.
        data: The image set.
        params: `evaluate` tells extractor, number and seed of samples, truncation and confidence.
        ctx: Surroundings.
    """
    settings = params.evaluate
    device = pick_device(params.runtime.device)
    extractor = open_extractor(settings.extractor, params)
    images = data.images("test")[: settings.max_test_images]
    real = cached(images_key(images), lambda: images, extractor, ctx, "test features")
    fakes = [_fake_features(p.to(device), params, extractor, ctx) for p in (new, old)]
    same = new.spec.z_dim == old.spec.z_dim and new.spec.classes == old.spec.classes
    found = paired_kid_difference(fakes[0], fakes[1], real, same_latents=same, confidence=settings.confidence)
    gain = params.registry.gate.min_gain
    interval = f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})"
    words = f"KID less the champion's (version {champion}) is {interval}"
    if found.high < -gain:
        return Verdict(CHAMPION, f"it is better: {words}", champion, found)
    beyond = f" by more than {gain:g}" if gain else ""
    return Verdict(CHALLENGER, f"it is not surely better{beyond}: {words}", champion, found)


def _fake_features(package: Package, params: Params, extractor: Extractor, ctx: Context) -> Features:
    settings = params.evaluate
    images = package.sample(settings.samples, settings.seed, settings.truncation_psi)
    return extract(images, extractor, ctx, "samples for the champion gate")
