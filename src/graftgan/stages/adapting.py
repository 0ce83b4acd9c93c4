"""The adapter file of a run, beside its folded model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import graftgan
from graftgan.checkpoints.adapters import ADAPTER, Adapter, write_adapter
from graftgan.checkpoints.catalogue import Catalogue, Source
from graftgan.checkpoints.factors import resolve
from graftgan.checkpoints.store import WEIGHTS, load_gan
from graftgan.config import Finetune, Params
from graftgan.contract import digest_file
from graftgan.data.dataset import ImageSet
from graftgan.errors import CheckpointError, ConfigError, GraftganError
from graftgan.gans.base import Gan
from graftgan.gans.folding import MARK
from graftgan.gans.prior import split_prior
from graftgan.gans.spec import GanSpec
from graftgan.training.loop import History
from graftgan.transfer import method
from graftgan.transfer.adapters import apply, extract
from graftgan.transfer.memory_bases import compress, compressed_layers, read_earlier, told

PREFIX = "generator_ema."


def moving_parameters(gan: Gan) -> dict[str, int]:
    """Return how many parameters of G and of D a method moves, once it was applied."""
    networks: dict[str, Any] = {"generator": gan.generator, "discriminator": gan.discriminator}
    return {
        name: sum(p.numel() for p in network.parameters() if p.requires_grad)
        for name, network in networks.items()
    }


def fixed_tensors(gan: Gan) -> set[str]:
    """Return the plain names of G's parameters that a method fixes, once it was applied."""
    return {name for name, p in gan.generator.named_parameters() if not p.requires_grad and MARK not in name}


def check_memory_classes(settings: Finetune, data: ImageSet) -> None:
    """Refuse a class-conditional memory of images that have other classes.

    Raises:
        ConfigError: Naming both keys.
    """
    wanted, labels = settings.gan_memory.classes, data.labels("train")
    if settings.method != "gan_memory" or wanted is None:
        return
    found = int(labels.max(initial=-1)) + 1 if int(labels.min(initial=0)) >= 0 else 0
    if found != wanted:
        raise ConfigError(
            f"finetune.gan_memory.classes={wanted}, but the training images of data.path have "
            f"{found or 'no'} classes",
            "set finetune.gan_memory.classes to their number, or to null",
        )


def check_memory_bases(source: Source, params: Params, cache: Path) -> None:
    """Refuse tasks to build on that are not of this source.

    Raises:
        CheckpointError: Naming the key and both digests.
    """
    settings = params.finetune
    if settings.method != "gan_memory" or not (earlier := read_earlier(settings)):
        return
    digest = digest_file(Catalogue(params.rank.catalogue, cache).folder(source, cache) / WEIGHTS)
    if earlier[0].base_sha256 != digest:
        raise CheckpointError(
            f"finetune.gan_memory.compress.earlier names tasks of a base with sha256 "
            f"{earlier[0].base_sha256}, but source {source.name} has {digest}",
            "give tasks of the source that is adapted, or choose theirs in rank.choose",
        )


def stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of what samples are drawn with: the averaged G, its buffers, and a prior."""
    return sum(t.numel() * t.element_size() for n, t in tensors.items() if n.startswith((PREFIX, "prior.")))


def adapter_bytes(folder: Path) -> int | None:
    """Return the size of a run's adapter file, None where there is none."""
    file = folder / ADAPTER
    return file.stat().st_size if file.is_file() else None


def keep_adapter(
    history: History,
    gan: Gan,
    source: Source,
    fitted: GanSpec,
    fixed: set[str],
    params: Params,
    cache: Path,
    folder: Path,
) -> list[str]:
    """Write the adapter of the best checkpoint into a run's folder, if its method makes one.

    It is applied to the base before it is kept, and must give the averaged generator of the folder bit for
    bit: so it is also seen that nothing else has moved. Layers that a compressed memory holds as components
    lose the others, and the best checkpoint takes them from the adapter.

    Args:
        history: The run's.
        gan: The adapted networks, folded.
        source: What the run started from.
        fitted: Sizes of the source once it was fitted to the data.
        fixed: Names of G's tensors that must be the source's still, as `fixed_tensors` gave them.
        params: All parameters.
        cache: Folder of fetched sources.
        folder: The run's folder.

    Returns:
        Sentences about why there is no file, where the method would make one.

    Raises:
        GraftganError: Something moved that should not have.
    """
    settings = params.finetune
    if not method(settings.method).adapter:
        return []
    home = Catalogue(params.rank.catalogue, cache).folder(source, cache)
    base = load_gan(home)
    tensors, prior = split_prior(history.best_tensors, "the best checkpoint")
    if base.spec != fitted:
        return [f"there is no {ADAPTER}: source {source.name} was changed to fit the data"]
    if prior is not None:
        return [f"there is no {ADAPTER}: the model has a prior of its own"]
    best = {n.removeprefix(PREFIX): t for n, t in tensors.items() if n.startswith(PREFIX)}
    _check_fixed(base, best, fixed, settings.method)
    digest = digest_file(home / WEIGHTS)
    adapter = extract(base, gan.spec, settings, digest, best, history.best_adapters)
    said, lossy = [], set()
    if settings.method == "gan_memory" and settings.gan_memory.compress.enabled:
        adapter, again = _compressed(base, adapter, settings)
        lossy = {f"{name}.weight" for name in compressed_layers(base, settings)}
        said.append(told(adapter))
    else:
        again = apply(base, adapter).generator_ema.state_dict()
    _check_equal(again, best, best.keys() - lossy)
    history.best_tensors |= {PREFIX + name: again[name] for name in sorted(lossy)}
    origin = {
        "seed": settings.seed,
        "code_version": graftgan.__version__,
        "source": source.name,
        "licence": source.licence,
    }
    write_adapter(replace(adapter, origin=origin), folder / ADAPTER)
    return said


def _check_fixed(base: Gan, best: Mapping[str, Tensor], fixed: set[str], name: str) -> None:
    before = base.generator_ema.state_dict()
    # Of another shape are tables that got classes before the first step.
    alike = [n for n in sorted(fixed) if n in before and n in best and before[n].shape == best[n].shape]
    if moved := [n for n in alike if not torch.equal(before[n], best[n])]:
        raise GraftganError(
            f"{', '.join(moved[:3])} of the averaged generator moved, which {name} fixes",
            "report this as a bug, with the settings of the run",
        )


def _check_equal(again: Mapping[str, Tensor], best: Mapping[str, Tensor], names: Iterable[str]) -> None:
    if wrong := [n for n in sorted(names) if n not in again or not torch.equal(again[n], best[n])]:
        raise GraftganError(
            f"{', '.join(wrong[:3])} of the averaged generator is not what the adapter makes of its source",
            "report this as a bug, with the settings of the run",
        )


def _compressed(base: Gan, adapter: Adapter, settings: Finetune) -> tuple[Adapter, dict[str, Tensor]]:
    """Return an adapter with factors, and the averaged generator that it makes, which lost the rest."""
    earlier = read_earlier(settings)
    smaller = compress(adapter, compressed_layers(base, settings), settings.gan_memory.compress, earlier)
    after = tuple(digest_file(Path(name).expanduser()) for name in settings.gan_memory.compress.earlier)
    smaller = replace(smaller, after=after)
    made = apply(base, resolve(smaller, earlier, ADAPTER)).generator_ema.state_dict()
    return smaller, dict(made)
