"""What is said of a run against its source once it is trained, and its adapter file beside the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import graftgan
from graftgan.checkpoints.adapters import ADAPTER, Adapter, write_adapter
from graftgan.checkpoints.catalogue import Catalogue, Source
from graftgan.checkpoints.convert import IMPORT
from graftgan.checkpoints.factors import resolve
from graftgan.checkpoints.store import WEIGHTS, load_gan, same_law
from graftgan.config import Finetune, Params
from graftgan.contract import digest_file, read_json
from graftgan.data.dataset import ImageSet
from graftgan.errors import CheckpointError, ConfigError, GraftganError
from graftgan.gans.base import Gan
from graftgan.gans.prior import Prior, split_prior, told_law
from graftgan.gans.spec import GanSpec
from graftgan.training.loop import History
from graftgan.transfer import method
from graftgan.transfer.adapters import apply, extract
from graftgan.transfer.class_embedding import ClassTuner
from graftgan.transfer.invariants import Fixed, displacement
from graftgan.transfer.memory_bases import compress, compressed_layers, read_earlier, told

PREFIX = "generator_ema."


def moving_parameters(gan: Gan) -> dict[str, int]:
    """Return how many parameters of G and of D a method moves, once it was applied."""
    networks: dict[str, Any] = {"generator": gan.generator, "discriminator": gan.discriminator}
    return {
        name: sum(p.numel() for p in network.parameters() if p.requires_grad)
        for name, network in networks.items()
    }


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


@dataclass(frozen=True)
class Trained:
    """A run from a source, after its last step.

    Attributes:
        history: The run's.
        gan: The adapted networks, folded.
        source: What the run started from.
        home: Checkpoint folder of that.
        fitted: Sizes of the source once it was fitted to the data.
        fixed: What had to stay.
        moving: Parameters of G and of D that moved.
        protocol: The extractor that chose the checkpoint.
        settings: The recipe.
    """

    history: History
    gan: Gan
    source: Source
    home: Path
    fitted: GanSpec
    fixed: Fixed
    moving: Mapping[str, int]
    protocol: str
    settings: Finetune

    @cached_property
    def base(self) -> Gan:
        """The source's networks, read again."""
        return load_gan(self.home)

    def origin(self) -> dict[str, Any]:
        """Return what an adapter file tells people about its run and its source."""
        imported = self.home / IMPORT
        return {
            "seed": self.settings.seed,
            "code_version": graftgan.__version__,
            "source": self.source.name,
            "source_format": read_json(imported)["format"] if imported.is_file() else "graftgan",
            "licence": self.source.licence,
            "extractor": self.protocol,
            **{f"trainable_{network}": count for network, count in self.moving.items()},
            "frozen_sha256": self.fixed.sha256,
        }

    def displacement(self) -> dict[str, float | None]:
        """Return how far the best checkpoint's average and D are from the source's, relative to these."""
        best, base = self.history.best_tensors, self.base
        judge = None if base.fresh else displacement(base.discriminator, "discriminator.", best)
        return {"generator": displacement(base.generator_ema, PREFIX, best), "discriminator": judge}


def conclude(trained: Trained, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Compare a run with its source's file, and write its adapter.

    Args:
        trained: The run.
        folder: The run's folder.

    Returns:
        Facts for `model.json`, and sentences for its warnings.

    Raises:
        GraftganError: Something moved that should not have.
    """
    name = trained.settings.method
    # Where the source was cut or grown there is nothing to compare with, and rows of a class table are picked
    # from the source's, be it as many.
    if trained.base.spec == trained.fitted and method(name).direct is not ClassTuner:
        trained.fixed.check_source(trained.base, f"finetune.method={name}")
    return {"displacement": trained.displacement()}, keep_adapter(trained, folder)


def keep_adapter(trained: Trained, folder: Path) -> list[str]:
    """Write the adapter of the best checkpoint into a run's folder, if its method makes one.

    It is applied to the base before it is kept, and must give the averaged generator of the folder bit for
    bit, and its law of latents: so it is also seen that nothing else has moved. Layers that a compressed
    memory holds as components lose the others, and the best checkpoint takes them from the adapter.

    Args:
        trained: The run.
        folder: The run's folder.

    Returns:
        Sentences about the file, or about why there is none where the method would make one.

    Raises:
        GraftganError: Something moved that should not have.
    """
    settings, history = trained.settings, trained.history
    if not method(settings.method).adapter:
        return []
    tensors, prior = split_prior(history.best_tensors, "the best checkpoint")
    if trained.base.spec != trained.fitted:
        return [f"there is no {ADAPTER}: source {trained.source.name} was changed to fit the data"]
    best = {n.removeprefix(PREFIX): t for n, t in tensors.items() if n.startswith(PREFIX)}
    digest = digest_file(trained.home / WEIGHTS)
    adapter = extract(trained.base, trained.gan.spec, settings, digest, best, history.best_adapters, prior)
    adapter, said = _proven(trained, adapter, best, prior)
    write_adapter(replace(adapter, origin=trained.origin()), folder / ADAPTER)
    return said


def _proven(
    trained: Trained, adapter: Adapter, best: Mapping[str, Tensor], prior: Prior | None
) -> tuple[Adapter, list[str]]:
    """Return the adapter that gives the best checkpoint, compressed if that is wanted, and what to say."""
    settings, base = trained.settings, trained.base
    said, lossy = [], set()
    if settings.method == "gan_memory" and settings.gan_memory.compress.enabled:
        adapter, again = _compressed(base, adapter, settings)
        lossy = {f"{name}.weight" for name in compressed_layers(base, settings)}
        said.append(told(adapter))
    else:
        again = apply(base, adapter)
    made = again.generator_ema.state_dict()
    _check_equal(made, best, best.keys() - lossy)
    if not same_law(again.prior, prior):
        raise GraftganError(
            f"the law of the latents is not what the adapter makes of its source. {told_law(prior)} The "
            f"adapter's: {told_law(again.prior)}",
            "report this as a bug, with the settings of the run",
        )
    trained.history.best_tensors |= {PREFIX + name: made[name] for name in sorted(lossy)}
    return adapter, said


def _check_equal(again: Mapping[str, Tensor], best: Mapping[str, Tensor], names: Iterable[str]) -> None:
    if wrong := [n for n in sorted(names) if n not in again or not torch.equal(again[n], best[n])]:
        raise GraftganError(
            f"{', '.join(wrong[:3])} of the averaged generator is not what the adapter makes of its source",
            "report this as a bug, with the settings of the run",
        )


def _compressed(base: Gan, adapter: Adapter, settings: Finetune) -> tuple[Adapter, Gan]:
    """Return an adapter with factors, and the networks that it makes, whose average lost the rest."""
    earlier = read_earlier(settings)
    smaller = compress(adapter, compressed_layers(base, settings), settings.gan_memory.compress, earlier)
    after = tuple(digest_file(Path(name).expanduser()) for name in settings.gan_memory.compress.earlier)
    smaller = replace(smaller, after=after)
    return smaller, apply(base, resolve(smaller, earlier, ADAPTER))
