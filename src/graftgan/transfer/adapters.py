"""Adapters taken out of a run, applied to their base, blended and transplanted."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftgan.checkpoints.adapters import Adapter, check_base
from graftgan.checkpoints.store import compare, load_gan, same_law
from graftgan.config import Finetune
from graftgan.contract import canonical_json
from graftgan.errors import CheckpointError, ConfigError
from graftgan.gans.base import Gan
from graftgan.gans.folding import MARK
from graftgan.gans.prior import Prior, told_law
from graftgan.gans.resnet_gan.spec import ResnetGanSpec
from graftgan.gans.spec import GanSpec
from graftgan.transfer import METHODS, method
from graftgan.transfer.memory_classes import add_outputs

PLACES = ("adapter_rank", "low_level_from_px", "filter_transfer", "gan_memory")
"""Keys of `finetune` that say where methods put their tensors."""
UNREAD_SAMPLES = 2


def _acts_on(name: str) -> str:
    """Return the plain name of the tensor that a parametrisation's parameter acts on, or the name itself."""
    before, mark, after = name.partition(MARK)
    return before + after.split(".")[0] if mark else name


def extract(
    base: Gan,
    spec: GanSpec,
    settings: Finetune,
    sha256: str,
    best: Mapping[str, Tensor],
    added: Mapping[str, Tensor],
    prior: Prior | None = None,
) -> Adapter:
    """Return what of an averaged generator is not in its base, and its law.

    Args:
        base: The base's networks.
        spec: Sizes of the adapted network.
        settings: The run's.
        sha256: Digest of the base's weights file.
        best: The averaged generator's tensors, folded.
        added: Parameters that parametrisations brought, as they were when `best` was folded.
        prior: The law that its latents come from, None for N(0, I).
    """
    folded = {_acts_on(name) for name in added}
    before = base.generator_ema.state_dict()
    changed = {
        name: tensor
        for name, tensor in best.items()
        if name not in folded and (name not in before or not torch.equal(tensor, before[name].cpu()))
    }
    dumped = settings.model_dump(mode="json")
    # Where tensors lie does not depend on how they are compressed, and files of earlier tasks lie anywhere.
    dumped["gan_memory"].pop("compress")
    places = {key: dumped[key] for key in PLACES}
    return Adapter(sha256, settings.method, places, _sizes(spec), {**changed, **added}, prior=prior)


def _sizes(spec: GanSpec) -> dict[str, Any]:
    """Return a spec as it comes back from JSON, which has no tuples."""
    return dict(json.loads(canonical_json(spec.to_dict())))


def load_base(folder: Path, adapter: Adapter, origin: str) -> Gan:
    """Load the networks of an adapter's base.

    Raises:
        CheckpointError: The folder holds another network than the adapter was trained on.
    """
    check_base(adapter, folder, origin)
    return load_gan(folder)


def prepared(base: Gan, adapter: Adapter) -> Gan:
    """Return a copy of the base with the method's tensors in their places, at their start.

    Raises:
        CheckpointError: The adapter's method or settings are unknown, or do not fit the base.
    """
    gan = copy.deepcopy(base)
    try:
        settings = _settings(adapter)
        preparation = method(settings.method).prepare
        # Of D nothing is read, and a fresh one would be refused by some methods.
        gan.fresh = ()
        if preparation is not None:
            preparation(gan, settings)
    except (ConfigError, ValueError) as error:
        message = f"the adapter's method {adapter.method!r} or its settings do not fit: {error}"
        raise CheckpointError(message, "use the version of GraftGAN that wrote the adapter") from None
    gan.fresh = base.fresh
    gan.discriminator = copy.deepcopy(base.discriminator)
    if gan.spec.classes != base.spec.classes:
        assert isinstance(gan.spec, ResnetGanSpec)
        add_outputs(gan.discriminator, gan.spec)
    gan.discriminator.spec = gan.spec
    return gan


def _settings(adapter: Adapter) -> Finetune:
    places = adapter.settings
    if set(places) != set(PLACES) or adapter.method not in METHODS:
        raise ValueError(f"known are the methods {', '.join(METHODS)} with the keys {', '.join(PLACES)}")
    settings = Finetune.model_validate({"method": adapter.method, **places})
    # What the head was calibrated to is in the adapter.
    unread = settings.filter_transfer.model_copy(update={"calibration_samples": UNREAD_SAMPLES})
    return settings.model_copy(update={"filter_transfer": unread})


def apply(base: Gan, adapter: Adapter) -> Gan:
    """Return plain networks: both generators are the adapted average, D is the base's.

    The averaged generator has the bits of the run that the adapter is from, and that run's law of latents,
    whatever the base's is.

    Raises:
        CheckpointError: A tensor is unknown or of another shape, or the sizes are not the adapter's.
    """
    gan = prepared(base, adapter)
    state = gan.generator_ema.state_dict()
    table = compare(adapter.tensors, {n: t for n, t in state.items() if n in adapter.tensors})
    if not table.whole or _sizes(gan.spec) != adapter.spec:
        raise CheckpointError(f"the adapter does not fit the base: {table}", "use the base it was trained on")
    if adapter.prior is not None and adapter.prior.z_dim != gan.spec.z_dim:
        raise CheckpointError(
            f"the adapter's prior is of latents of length {adapter.prior.z_dim}, which do not fit the "
            f"network's of {gan.spec.z_dim}",
            "use another file",
        )
    for network in (gan.generator_ema, gan.generator):
        network.load_state_dict({**state, **adapter.tensors})
    method(adapter.method).finish(gan)
    gan.prior = adapter.prior
    return gan


def parts(adapter: Adapter) -> dict[str, int]:
    """Return the number of values of each part: the last words of names, such as gamma, beta and shift."""
    counts: dict[str, int] = {}
    for name, tensor in adapter.tensors.items():
        part = name.rsplit(".", 1)[-1]
        counts[part] = counts.get(part, 0) + tensor.numel()
    return counts


def _same_kind(adapters: list[Adapter]) -> None:
    first = adapters[0]
    for other in adapters[1:]:
        for field in ("base_sha256", "method", "settings", "spec"):
            if getattr(other, field) != getattr(first, field):
                raise ConfigError(
                    f"the adapters differ in {field}", "combine those of one base, method and settings"
                )
        if not same_law(first.prior, other.prior):
            raise ConfigError(
                "the adapters differ in the law of their latents, and there is none between two laws. Of the "
                f"first: {told_law(first.prior)} Of the other: {told_law(other.prior)}",
                "combine adapters of one law, such as those of runs with finetune.prior=normal",
            )


def interpolate(base: Gan, first: Adapter, second: Adapter, share: float) -> Adapter:
    """Return the adapter between two tasks, the first's at share 0 and the second's at 1, bit for bit.

    Every tensor is interpolated linearly; one that only one of them holds has the base's value in the other.

    Raises:
        ConfigError: The adapters are of different bases, methods, settings or laws of latents.
    """
    _same_kind([first, second])
    start = prepared(base, first).generator_ema.state_dict()
    tensors = {}
    for name in sorted(first.tensors.keys() | second.tensors.keys()):
        a, b = (adapter.tensors.get(name, start[name]) for adapter in (first, second))
        tensors[name] = torch.lerp(a, b, share)
    return _like(first, tensors)


def transplant(base: Gan, choice: Mapping[str, Adapter]) -> Adapter:
    """Return the adapter that has each part from the task chosen for it, and all else from the base.

    Args:
        base: The base's networks.
        choice: Part, as :func:`parts` names them -> adapter that it is taken from.

    Raises:
        ConfigError: The adapters are of different kinds, or one lacks the part.
    """
    adapters = list(choice.values())
    if not adapters:
        raise ConfigError("no part was chosen", "choose one at least")
    _same_kind(adapters)
    tensors: dict[str, Tensor] = {}
    for part, adapter in choice.items():
        taken = {n: t for n, t in adapter.tensors.items() if n.rsplit(".", 1)[-1] == part}
        if not taken:
            raise ConfigError(
                f"the adapter has no part {part!r}", f"its parts are {', '.join(parts(adapter))}"
            )
        tensors |= taken
    start = prepared(base, adapters[0]).generator_ema.state_dict()
    names = {name for adapter in adapters for name in adapter.tensors} - tensors.keys()
    tensors |= {name: start[name].clone() for name in names}
    return _like(adapters[0], tensors)


def _like(adapter: Adapter, tensors: dict[str, Tensor]) -> Adapter:
    """Return an adapter of other tensors, which is of no run."""
    return replace(adapter, tensors=tensors, origin={}, after=())
