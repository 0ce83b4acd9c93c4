"""What the stages of one image set need: its images, sources, a method that goes with both, memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from graftgan.config import Params
from graftgan.contract import digest_file
from graftgan.errors import CheckpointError, ConfigError, DataError, GraftganError, MissingInput
from graftgan.places import cache_home
from graftgan.preflight.machine import MIB, weights
from graftgan.remote import is_address

if TYPE_CHECKING:
    from graftgan.checkpoints.catalogue import Catalogue, Source
    from graftgan.gans.spec import GanSpec


def images(params: Params) -> Iterator[str]:
    """The image set can be opened, is safe, and has enough files.

    Raises:
        MissingInput: If it does not exist.
        DataError: If it is of no known kind, unsafe, or too small.
    """
    from graftgan.data.importing import open_source

    data = params.data
    if is_address(data.path):
        yield f"{data.path} is in a store and has still to be fetched"
        return
    source = open_source(Path(data.path), data.max_file_bytes)
    least, most = data.expectations.min_images, data.expectations.max_images
    if source.total < least:
        raise DataError(
            f"{data.path} holds {source.total} images, and data.expectations.min_images is {least}",
            "add images, or lower data.expectations.min_images",
        )
    if source.total > most and data.on_bad_image == "fail":
        raise DataError(
            f"{data.path} holds {source.total} images, and data.expectations.max_images is {most}",
            "remove images, or raise data.expectations.max_images",
        )
    yield f"{data.path} holds {source.total} images, not yet decoded"


def sources(params: Params) -> Iterator[str]:
    """The files of all wanted sources are there with their sha256, and fit the resolution of the images.

    Raises:
        MissingInput: If the catalogue or a file does not exist.
        CheckpointError: If a file is not the recorded one.
        ConfigError: If a name is unknown, or no source fits.
    """
    from graftgan.checkpoints.catalogue import SCRATCH, Catalogue
    from graftgan.stages.rank import check_choice
    from graftgan.stages.start import can_fit

    rank, data = params.rank, params.data
    if is_address(rank.catalogue):
        yield f"{rank.catalogue} is in a store and has still to be fetched"
        return
    catalogue = Catalogue(Path(rank.catalogue))
    wanted = catalogue.select(rank.sources)
    fits = []
    for source in wanted:
        spec = local_spec(catalogue, source)
        if spec is None:
            yield f"{source.name} has still to be fetched or converted"
        elif not can_fit(spec, data):
            size = f"{spec.resolution} px images of {spec.channels} channels"
            yield f"{source.name} is left out: it makes {size}"
            continue
        fits.append(source)
    if not fits and rank.choose != SCRATCH:
        raise ConfigError(
            f"no source in {catalogue.path} makes {data.resolution} px images of {data.channels} channels",
            "change data.resolution, add a source, or set rank.choose=scratch",
        )
    check_choice(params, fits)
    yield f"{len(fits)} sources of {catalogue.path} are whole, by sha256"


def local_spec(catalogue: Catalogue, source: Source) -> GanSpec | None:
    """Return the spec of a source's networks, or None if it must be fetched or converted first.

    Raises:
        MissingInput: If its file does not exist.
        CheckpointError: If the file is not the recorded one, or is damaged.
    """
    from graftgan.checkpoints.store import WEIGHTS

    kept = cache_home() / ("sources" if source.format == "graftgan" else "imports") / source.sha256
    if source.path and is_address(source.path):
        return None
    if (source.url or source.format == "public") and not (kept / WEIGHTS).is_file():
        if source.path:
            file = Path(catalogue.path).parent / source.path
            if not file.is_file():
                raise MissingInput(
                    f"source {source.name}: {file} does not exist", f"correct its path in {catalogue.path}"
                )
            if (found := digest_file(file)) != source.sha256:
                raise CheckpointError(
                    f"source {source.name}: {file} has sha256 {found}, not {source.sha256}",
                    f"correct the entry in {catalogue.path} if you trust the file",
                )
        return None
    return catalogue.spec(source, cache_home())


def method(params: Params) -> Iterator[str]:
    """Method, penalties and prior go with the other settings and with the sources' families.

    Of `auto` only what holds for any method is checked: finetune takes none that the settings refuse.

    Raises:
        ConfigError: If not; with `rank.choose: recommended`, only if the method knows none of the sources.
    """
    from graftgan.checkpoints.catalogue import SCRATCH, Catalogue
    from graftgan.device import pick_device, pick_dtype
    from graftgan.stages.deciding import unused_from_scratch
    from graftgan.stages.prior import check_prior
    from graftgan.transfer import check_family
    from graftgan.transfer.auto import AUTO, PLAIN
    from graftgan.transfer.combinations import check_settings

    settings, rank = params.finetune, params.rank
    pick_dtype(settings.precision, pick_device(params.runtime.device))
    decided = settings.method != AUTO
    known = settings if decided else settings.model_copy(update={"method": PLAIN})
    check_settings(known, named=decided)
    check_prior(known, training_images=None)
    if rank.choose == SCRATCH:
        yield from (f"WARNING: {text}" for text in unused_from_scratch(settings))
    if not decided:
        yield "finetune.method: auto is decided by what rank chooses and by the number of training images"
        return
    if is_address(rank.catalogue):
        yield f"{rank.catalogue} is in a store: what finetune.method can do with its sources is not known yet"
        return
    catalogue = Catalogue(Path(rank.catalogue))
    names = rank.sources if rank.choose in ("recommended", SCRATCH) else [rank.choose]
    refused = []
    candidates = catalogue.select(names)
    for source in candidates if rank.choose != SCRATCH else ():
        spec = local_spec(catalogue, source)
        if spec is None:
            yield f"finetune.method: what it can do with {source.name} is not known before that is fetched"
            continue
        try:
            check_family(settings.method, spec.family, source.name)
        except ConfigError as error:
            refused.append(error)
            yield error.message
    if refused and len(refused) == len(candidates):
        raise refused[0]
    yield f"finetune.method={settings.method} goes with the other settings"


def room_to_train(params: Params) -> Iterator[str]:
    """Say how much memory training takes with the hungriest source that may be chosen.

    Methods that play no game against a discriminator are counted once the stage has read their networks.
    """
    from graftgan.device import pick_device
    from graftgan.training import memory

    if _is_direct(params):
        yield f"finetune.method={params.finetune.method} says what memory it needs when its networks are read"
        return
    needs: list[memory.Need] = []
    # What is wrong with the method or the catalogue, the checks before have told.
    with suppress(GraftganError):
        needs += (n for spec in specs_to_train(params) if (n := memory.estimate(spec, params.finetune.batch)))
    if not needs:
        return
    most = max(needs, key=lambda need: need.total_bytes)
    yield f"training needs about {most.total_bytes / MIB:.0f} MiB of memory with finetune.batch={most.batch}"
    if text := memory.shortage(most, "finetune.batch", pick_device(params.runtime.device)):
        yield f"WARNING: {text}"


def _is_direct(params: Params) -> bool:
    from graftgan.checkpoints.catalogue import SCRATCH
    from graftgan.transfer import METHODS

    found = METHODS.get(params.finetune.method)
    return found is not None and found.direct is not None and params.rank.choose != SCRATCH


def specs_to_train(params: Params) -> Iterator[GanSpec]:
    """Yield each kind of networks that may be trained, as far as they are known."""
    from graftgan.checkpoints.catalogue import SCRATCH, Catalogue
    from graftgan.stages.start import can_fit

    rank = params.rank
    if is_address(rank.catalogue) or rank.choose == SCRATCH:
        return
    catalogue = Catalogue(Path(rank.catalogue))
    found: list[GanSpec] = []
    for source in catalogue.select(rank.sources if rank.choose == "recommended" else [rank.choose]):
        spec = local_spec(catalogue, source)
        if spec is not None and spec not in found and can_fit(spec, params.data):
            found.append(spec)
            yield spec


def class_networks(params: Params) -> Iterator[str]:
    """The networks that class vectors are tuned and judged by are there, where that is the method.

    Raises:
        ConfigError: If not.
    """
    if params.finetune.method != "class_embedding":
        return
    for name in ("features", "classifier", "judge", "judge_classifier"):
        if getattr(params.finetune.class_embedding, name) is not None:
            yield from weights(f"finetune.class_embedding.{name}")(params)
