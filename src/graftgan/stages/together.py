"""What finetune asks of a run of several workers before anything is loaded."""

from __future__ import annotations

from graftgan.config import Params
from graftgan.errors import ConfigError
from graftgan.transfer import method

COUNT = "WORLD_SIZE (torchrun's --nproc-per-node times --nnodes)"


def check_workers(params: Params, workers: int) -> None:
    """Refuse settings that cannot be shared evenly, or not at all.

    Args:
        params: All parameters.
        workers: Their number; one is never refused.

    Raises:
        ConfigError: Naming both keys.
    """
    if workers == 1:
        return
    settings = params.finetune
    if method(settings.method).direct is not None:
        raise ConfigError(
            f"finetune.method={settings.method} plays no game whose batches could be cut, but {COUNT} is "
            f"{workers}",
            "start one process, or choose another finetune.method",
        )
    if settings.method == "cdc" and settings.cdc.patches:
        raise ConfigError(
            f"finetune.cdc.patches judges halves of a whole batch, but {COUNT} is {workers}",
            "set finetune.cdc.patches=false, or start one process",
        )
    if params.runtime.compile:
        raise ConfigError(
            f"runtime.compile cannot see through what workers exchange, but {COUNT} is {workers}",
            "set runtime.compile=false, or start one process",
        )
    if settings.batch % workers:
        raise ConfigError(
            f"finetune.batch is {settings.batch}, which {COUNT} of {workers} does not divide",
            f"set finetune.batch to a multiple of {workers}, or start another number of processes",
        )
    half = max(settings.batch // 2, 1)
    if settings.path_length_weight and half % workers:
        raise ConfigError(
            f"finetune.path_length_weight takes half of finetune.batch, {half} images, which {COUNT} of "
            f"{workers} does not divide",
            f"set finetune.batch to a multiple of {2 * workers}, or finetune.path_length_weight=0",
        )
