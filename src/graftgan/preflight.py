"""What can be known to fail before a stage runs, found out without writing anything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graftgan.config import Params
from graftgan.contract import digest_file
from graftgan.engine import Job
from graftgan.errors import CheckpointError, ConfigError, DataError, GraftganError, MissingInput, TryAgain
from graftgan.lifelong_config import LifelongParams
from graftgan.places import cache_home, home
from graftgan.remote import is_address

if TYPE_CHECKING:
    from graftgan.checkpoints.catalogue import Catalogue, Source
    from graftgan.gans.spec import GanSpec
    from graftgan.stages.specs import StageSpec

LEAST_FREE_BYTES = 64 << 20
# A training state holds G, its average, D and the two moments of each optimiser.
STATE_PER_WEIGHTS = 3
MIB = 1 << 20
AnyParams = Params | LifelongParams
Check = Callable[[Params], Iterator[str]]


def check(job: Job, failures: list[GraftganError]) -> Iterator[str]:
    """Check what a stage needs, and yield a sentence for each thing that is in order, or that fails.

    Nothing is written and nothing fetched: of what lies in an object store, and of sources by URL that were
    never fetched, only that is said.

    Args:
        job: The stage with its paths and parameters; earlier stages need not have run.
        failures: What fails is added here, so that one call finds everything.
    """
    params = job.params
    found = [room(job), tracking(job)]
    if isinstance(params, Params):
        found += [one(params) for one in CHECKS.get(job.spec.name, ())]
    if isinstance(params, LifelongParams):
        found += of_list(job.spec, params)
    for lines in found:
        try:
            yield from lines
        except GraftganError as error:
            failures.append(error)
            yield f"FAILS: {' '.join(error.message.split())}"


def room(job: Job) -> Iterator[str]:
    """The folders that are written can be, and have enough space left.

    Raises:
        ConfigError: If one may not be written.
        TryAgain: If too little space is left.
    """
    out = job.outputs["result"].parent
    needs = {"--out": (out, output_bytes(job)), "GRAFTGAN_CACHE": (cache_home(), 0)}
    if job.spec.name == "finetune":
        needs["GRAFTGAN_HOME"] = (home(), 0)
    for name, (folder, needed) in needs.items():
        there = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(p))
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            what = "may not be written" if there.is_dir() else "is no folder"
            raise ConfigError(f"{there} {what}, and {folder} is to be made there", f"choose another {name}")
        free = shutil.disk_usage(there).free
        if free < max(needed, LEAST_FREE_BYTES):
            raise TryAgain(
                f"no space left on the disk of {folder}: {free / MIB:.0f} MiB are free and "
                f"{max(needed, LEAST_FREE_BYTES) / MIB:.0f} MiB are needed",
                "free some space and run again",
            )
        yield f"{folder} can be written, {free / MIB:.0f} MiB are free"


def output_bytes(job: Job) -> int:
    """Return about how much a stage writes, as far as that is known beforehand."""
    params = job.params
    if not isinstance(params, Params) or is_address(params.data.path) or is_address(params.rank.catalogue):
        return 0
    data = params.data
    if job.spec.name == "prepare":
        from graftgan.data.importing import open_source

        try:
            images = open_source(Path(data.path), data.max_file_bytes).total
        except GraftganError:
            return 0
        return images * data.resolution**2 * data.channels
    path = Path(params.rank.catalogue)
    if job.spec.name == "finetune" and path.is_file():
        from graftgan.checkpoints.catalogue import Catalogue

        settings = params.finetune
        sizes = [path.parent / s.path / "gan.safetensors" for s in Catalogue(path).sources if s.path]
        largest = max((path.stat().st_size for path in sizes if path.is_file()), default=0)
        states = params.runtime.keep_states + 1
        return largest * STATE_PER_WEIGHTS * states * (1 + len(settings.controls))
    return 0


def tracking(job: Job) -> Iterator[str]:
    """The address of the tracking server is one that can be used.

    Raises:
        ConfigError: If not.
    """
    if job.params.track.mode == "live":
        from graftgan.follower import check_uri, located

        check_uri(located(job.params.track).uri)
    yield from ()


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


def device(params: AnyParams) -> Iterator[str]:
    """The device is on this machine.

    Raises:
        ConfigError: If not.
    """
    from graftgan.device import pick_device

    yield f"computes on {pick_device(params.runtime.device)}"


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

    Of `auto` only what holds for any method is checked.

    Raises:
        ConfigError: If not; with `rank.choose: recommended`, only if the method knows none of the sources.
    """
    from graftgan.checkpoints.catalogue import SCRATCH, Catalogue
    from graftgan.device import pick_device, pick_dtype
    from graftgan.stages.prior import check_prior
    from graftgan.transfer import check_family
    from graftgan.transfer.auto import AUTO, FALLBACK
    from graftgan.transfer.combinations import check_settings

    settings, rank = params.finetune, params.rank
    pick_dtype(settings.precision, pick_device(params.runtime.device))
    decided = settings.method != AUTO
    known = settings if decided else settings.model_copy(update={"method": FALLBACK.method})
    check_settings(known)
    check_prior(known, training_images=None)
    if not decided:
        yield "finetune.method: auto is decided by what rank chooses"
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


def weights(*keys: str) -> Callable[[AnyParams], Iterator[str]]:
    """Return the check of the feature extractors that some parameters name."""

    def there(params: AnyParams) -> Iterator[str]:
        from graftgan.metrics.features import require

        for key in keys:
            section, name = key.split(".")
            extractor = str(getattr(getattr(params, section), name))
            given = params.runtime.inception_weights
            file = require(extractor, Path(given) if given and extractor == "inception" else None)
            yield f"{key}={extractor}: {file}"

    return there


CHECKS: dict[str, tuple[Check, ...]] = {
    "prepare": (images,),
    "rank": (device, sources, weights("rank.extractor")),
    "finetune": (device, method, weights("finetune.validation_extractor")),
    "evaluate": (device, weights("evaluate.extractor")),
    "register": (device, weights("evaluate.extractor")),
}


def of_list(spec: StageSpec, params: LifelongParams) -> list[Iterator[str]]:
    """Return the checks of one stage of a list of tasks."""
    if spec.name == "create":
        return [share(params)]
    if spec.module == "lifelong_learn":
        keys = ["scores.extractor"]
        if params.tasks[spec.item].data.kind == "unpaired":
            keys.append("scores.validation_extractor")
        return [device(params), task_images(spec.item, params), weights(*keys)(params)]
    return [weights("scores.extractor")(params)] if spec.module == "lifelong_evaluate" else []


def share(params: LifelongParams) -> Iterator[str]:
    """Lambda fits the layers of the generator.

    Raises:
        ConfigError: If not.
    """
    import torch

    from graftgan.bank.layers import free_widths, layer_shapes
    from graftgan.gans.translation import build_translator
    from graftgan.stages.lifelong_create import translator

    with torch.device("meta"):
        layers = layer_shapes(build_translator(translator(params.bank)))
    widths = free_widths(layers, params.bank.share)
    total = sum(layer.co for layer in layers)
    yield f"bank.share leaves {sum(widths.values())} of {total} filters free in later tasks"


def task_images(name: str, params: LifelongParams) -> Iterator[str]:
    """The image sets of a task can be opened and hold images.

    Raises:
        MissingInput: If one does not exist.
        DataError: If it is of no known kind, unsafe, or empty.
    """
    from graftgan.data.importing import open_source

    data = params.tasks[name].data
    for key, where in (("input", data.input), ("target", data.target)):
        if where is None:
            continue
        place = f"tasks.{name}.data.{key}"
        if not Path(where).exists():
            raise MissingInput(f"{place}: {where} does not exist", "correct the path")
        try:
            total = open_source(Path(where), data.max_file_bytes).total
        except DataError as error:
            # The reader's own remedy names the key of the other pipeline.
            raise DataError(f"{place}: {error.message}", f"give an image set as {place}") from None
        yield f"{place}: {where} holds {total} images, not yet decoded"
