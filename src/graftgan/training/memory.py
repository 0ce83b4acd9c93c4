"""How much memory training will take, before it starts: counted on networks without storage."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graftgan.gans.base import Gan, build
from graftgan.gans.spec import GanSpec
from graftgan.gans.translation import TranslatorSpec, build_translator
from graftgan.lifelong_config import Kind, Translate
from graftgan.machine import free_memory_bytes
from graftgan.training.translators import IMAGE_CHANNELS, Translators, make_translators
from graftgan.world import world

# Gradient and two moments.
ADAM_COPIES = 3
# The averaged generator has none of these.
TRAINED_COPIES = 1 + ADAM_COPIES
# Gradients of activations live beside them for a while, and allocators round up.
HEADROOM = 1.25


@dataclass(frozen=True)
class Need:
    """Memory of one training step.

    Attributes:
        fixed_bytes: Weights, gradients, Adam's moments and the average: the same for every batch.
        image_bytes: What autograd keeps for an image of the batch, in the hungriest phase.
        batch: Images a step.
    """

    fixed_bytes: int
    image_bytes: int
    batch: int

    @property
    def total_bytes(self) -> int:
        """All of it, with headroom."""
        return self.fixed_bytes + int(HEADROOM * self.image_bytes * self.batch)

    def batch_that_fits(self, available_bytes: int) -> int:
        """Return the largest power of two of images that fits, 0 if not even one does."""
        room = available_bytes - self.fixed_bytes
        most = int(room / (HEADROOM * self.image_bytes)) if room > 0 and self.image_bytes else 0
        return 1 << (most.bit_length() - 1) if most else 0


def estimate(spec: GanSpec, batch: int) -> Need | None:
    """Return what a step of the game between G and D takes in float32; penalties and R1 are counted.

    The networks are built and run on torch's `meta` device, which knows shapes and keeps no numbers.

    Returns:
        None for networks that cannot be run without numbers.
    """
    try:
        with torch.device("meta"):
            gan = build(spec)
            phases = [_generator_phase(gan, batch), _discriminator_phase(gan, batch)]
            with contextlib.suppress(NotImplementedError, RuntimeError):
                phases.append(_r1_phase(gan, batch))
    except (NotImplementedError, RuntimeError):
        return None
    trained = _size(gan.generator) + _size(gan.discriminator)
    return Need(TRAINED_COPIES * trained + _size(gan.generator), max(phases) // batch, batch)


def estimate_translation(spec: TranslatorSpec, kind: Kind, settings: Translate, side_px: int) -> Need | None:
    """Return what a step of an image-to-image task takes in float32, counted as in :func:`estimate`.

    Filters that rest, as most of a later task of a bank do, are counted as if they moved.
    """
    try:
        with torch.device("meta"):
            there = build_translator(spec)
            back = build_translator(spec) if kind == "unpaired" else None
            gan = make_translators(kind, there, settings, side_px, back)
            given, wanted = (torch.empty(settings.batch, IMAGE_CHANNELS, side_px, side_px) for _ in range(2))
            networks = list(gan.named().values())
            kept = kept_bytes(networks, lambda: _translation_step(gan, settings, given, wanted))
    except (NotImplementedError, RuntimeError):
        return None
    averages = [gan.generator, gan.back] if settings.ema_half_life_kimg is not None else []
    fixed = TRAINED_COPIES * sum(map(_size, networks)) + sum(
        _size(net) for net in averages if net is not None
    )
    return Need(fixed, kept // settings.batch, settings.batch)


def _translation_step(gan: Translators, settings: Translate, given: Tensor, wanted: Tensor) -> Any:
    """Run what is alive at once: of pairs while D is updated, of two sets while both generators are."""
    fakes = gan.generator(given)
    if gan.back is None or gan.discriminator_back is None:
        judged = [torch.cat([given, images], 1) for images in (wanted, fakes.detach())]
        return fakes, [gan.discriminator(pair) for pair in judged]
    fakes_back = gan.back(wanted)
    cycles = gan.back(fakes), gan.generator(fakes_back)
    same = (gan.generator(wanted), gan.back(given)) if settings.identity_weight else ()
    return cycles, same, gan.discriminator(fakes), gan.discriminator_back(fakes_back)


def available_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device, None where it is not known; a container's limit counts."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory_bytes()


def warning(spec: GanSpec, batch: int, device: torch.device) -> str | None:
    """Return a sentence if training needs more memory than is free, with the batch that would fit.

    Args:
        spec: The networks.
        batch: Images a step, of which each worker of the run has its part.
        device: Where this worker trains.
    """
    return shortage(estimate(spec, max(batch // world().size, 1)), "finetune.batch", device)


def shortage(need: Need | None, key: str, device: torch.device) -> str | None:
    """Return a sentence if a step needs more memory than is free, with the batch that would fit.

    Args:
        need: What a worker of the run needs; None if that is not known.
        key: Key of the parameters that sets the batch.
        device: Where this worker trains.
    """
    free, workers = available_bytes(device), world().size
    if free is None or need is None or need.total_bytes <= free:
        return None
    fits = need.batch_that_fits(free) * workers
    advice = f"{key}={fits} would fit" if fits else f"not even a batch of {workers} would fit"
    each = f"each of {workers} workers" if workers > 1 else "training"
    return (
        f"{each} needs about {need.total_bytes / 1e9:.1f} GB of memory with {key}={need.batch * workers}, "
        f"and {free / 1e9:.1f} GB are free on {device}: {advice}"
    )


def _size(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def _inputs(spec: GanSpec, batch: int) -> tuple[Tensor, Tensor | None]:
    labels = torch.zeros(batch, dtype=torch.int64, device="meta") if spec.classes else None
    return torch.empty(batch, spec.z_dim, device="meta"), labels


def _images(spec: GanSpec, count: int) -> Tensor:
    return torch.empty(count, spec.channels, spec.resolution, spec.resolution, device="meta")


def _generator_phase(gan: Gan, batch: int) -> int:
    z, labels = _inputs(gan.spec, batch)
    return kept_bytes(_both(gan), lambda: gan.discriminator(gan.generator(z, labels), labels))


def _discriminator_phase(gan: Gan, batch: int) -> int:
    """D sees fakes and reals as one batch."""
    _, labels = _inputs(gan.spec, 2 * batch)
    return kept_bytes(_both(gan), lambda: gan.discriminator(_images(gan.spec, 2 * batch), labels, 2))


def _r1_phase(gan: Gan, batch: int) -> int:
    _, labels = _inputs(gan.spec, batch)
    images = _images(gan.spec, batch).requires_grad_()

    def penalty() -> Any:
        logits = gan.discriminator(images, labels)
        return torch.autograd.grad(logits.sum(), images, create_graph=True)

    return kept_bytes(_both(gan), penalty)


def kept_bytes(networks: Iterable[nn.Module], compute: Callable[[], Any]) -> int:
    """Return the bytes that autograd keeps for a computation.

    Args:
        networks: Their own tensors are not counted.
        compute: Runs it.
    """
    own = {_storage(t) for n in networks for t in n.state_dict().values()}
    with _watched() as kept:
        compute()
    return sum(size for storage, (size, _) in kept.items() if storage not in own)


def _both(gan: Gan) -> tuple[nn.Module, nn.Module]:
    return gan.generator, gan.discriminator


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@contextlib.contextmanager
def _watched() -> Iterator[dict[int, tuple[int, Tensor]]]:
    kept: dict[int, tuple[int, Tensor]] = {}

    def note(tensor: Tensor) -> Tensor:
        # Kept alive, or another storage would be counted under the same address.
        kept[_storage(tensor)] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept
