"""What a stage needs of the machine: disks, the device, the tracking address, networks of features."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path

from graftgan.config import Params
from graftgan.engine import Job
from graftgan.errors import ConfigError, GraftganError, TryAgain
from graftgan.lifelong_config import LifelongParams
from graftgan.places import cache_home, home
from graftgan.remote import is_address

LEAST_FREE_BYTES = 64 << 20
# A training state holds G, its average, D and the two moments of each optimiser.
STATE_PER_WEIGHTS = 3
MIB = 1 << 20
AnyParams = Params | LifelongParams


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


def device(params: AnyParams) -> Iterator[str]:
    """The device is on this machine.

    Raises:
        ConfigError: If not.
    """
    from graftgan.device import pick_device

    yield f"computes on {pick_device(params.runtime.device)}"


def weights(*keys: str) -> Callable[[AnyParams], Iterator[str]]:
    """Return the check of the feature extractors that some parameters name."""

    def there(params: AnyParams) -> Iterator[str]:
        from graftgan.metrics.features import require

        for key in keys:
            extractor = str(reduce(getattr, key.split("."), params))
            given = params.runtime.inception_weights
            file = require(extractor, Path(given) if given and extractor == "inception" else None)
            yield f"{key}={extractor}: {file}"

    return there
