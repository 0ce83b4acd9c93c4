"""What the stages of a list of tasks need: images of each, memory, filters that fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from graftgan.errors import DataError, MissingInput
from graftgan.lifelong_config import LifelongParams
from graftgan.preflight.machine import MIB, device, weights
from graftgan.stages.specs import StageSpec


def of_list(spec: StageSpec, params: LifelongParams) -> list[Iterator[str]]:
    """Return the checks of one stage of a list of tasks."""
    if spec.name == "create":
        return [share(params)]
    if spec.module == "lifelong_learn":
        keys = ["scores.extractor"]
        if params.tasks[spec.item].data.kind == "unpaired":
            keys.append("scores.validation_extractor")
        return [
            device(params), task_images(spec.item, params), room_for_task(spec.item, params),
            weights(*keys)(params),
        ]  # fmt: skip
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


def room_for_task(name: str, params: LifelongParams) -> Iterator[str]:
    """Say how much memory a task takes, and how much is free."""
    from graftgan.device import pick_device
    from graftgan.stages.lifelong_create import translator
    from graftgan.training import memory

    data, recipe = params.tasks[name].data, params.recipe(name)
    need = memory.estimate_translation(translator(params.bank), data.kind, recipe, data.resolution)
    if need is None:
        return
    yield f"tasks.{name} needs about {need.total_bytes / MIB:.0f} MiB of memory with train.batch={need.batch}"
    if text := memory.shortage(need, "train.batch", pick_device(params.runtime.device)):
        yield f"WARNING: {text}"


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
