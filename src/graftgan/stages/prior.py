"""What finetune does for `finetune.prior`: invert the images, fit the mixture, and tell about both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from graftgan.bank.files import tensor_sha256
from graftgan.checkpoints.store import read_tensors, save_tensors
from graftgan.config import Finetune, Params
from graftgan.context import Context
from graftgan.contract import canonical_json, digest_text, shared_path, write_json
from graftgan.data.dataset import ImageSet
from graftgan.device import pick_device
from graftgan.errors import CheckpointError, ConfigError, TryAgain
from graftgan.gans.base import Gan
from graftgan.gans.laws import MinedNormal, TruncatedNormal
from graftgan.gans.prior import split_prior
from graftgan.gans.reclass import class_axes
from graftgan.places import code_digest
from graftgan.reporting.sheets import save_png, sheet
from graftgan.stages.features import images_key
from graftgan.stages.start import Start
from graftgan.training.prior import MovingPrior, Schedule
from graftgan.training.state import CHECKSUM, StateStore
from graftgan.transfer import method
from graftgan.transfer.inversion import RANDOM_SAMPLES, Inverted, Saving, invert, redraw
from graftgan.transfer.mixture import Fit, check_installed, component_count, fit_mixture
from graftgan.world import from_first, take_from_first

REPORT, PAIRS = "inversion.json", "inversion.png"
INVERSION = "inversion"
# The steps and the networks that they go through: an edit elsewhere changes no latent, and hours are kept.
INVERTING = ("transfer/inversion.py", "gans")
SHOWN = 32


@dataclass(frozen=True)
class Prepared:
    """A prior ready for training, and what led to it.

    Attributes:
        moving: The mixture and its way.
        inverted: Latents of the training images.
        fit: How the mixture was fitted.
        pairs: Training images and what their latents give, in turns, worst first, uint8 [2n, R, R, C].
        warnings: Sentences for the run's report.
    """

    moving: MovingPrior
    inverted: Inverted
    fit: Fit
    pairs: NDArray[np.uint8]
    warnings: tuple[str, ...]


def check_prior(settings: Finetune, training_images: int | None) -> None:
    """Refuse settings that a prior cannot go with, before anything is loaded.

    Args:
        settings: The recipe; :func:`graftgan.transfer.combinations.check_settings` has let it pass.
        training_images: Their number; None while it is not known.

    Raises:
        ConfigError: Naming both keys.
    """
    if settings.prior == "normal":
        return
    if method(settings.method).direct is not None:
        raise ConfigError(
            f"finetune.prior={settings.prior} has no meaning with finetune.method={settings.method}, which "
            "plays no game against a discriminator",
            "set finetune.prior=normal, or choose another finetune.method",
        )
    if settings.inversion.learn_class and method(settings.method).adapter:
        raise ConfigError(
            f"finetune.inversion.learn_class moves what finetune.method={settings.method} keeps",
            "set finetune.inversion.learn_class=false, or choose another finetune.method",
        )
    if training_images is not None:
        component_count(settings.mixture.components, training_images)
    check_installed()


def find_prior(start: Start, run: str, data: ImageSet, params: Params, ctx: Context) -> Prepared | None:
    """Call `prepare_prior` in one worker; what the networks learnt of a class on the way goes to all."""
    gan, device = start.gan, pick_device(params.runtime.device)
    gan.prior = None
    if start.whole is not None:
        # What is compared with it is drawn as the model draws.
        start.whole.prior = None
    prior = from_first(lambda: prepare_prior(start, run, data, params, ctx))
    if prior is not None:
        networks = (gan.generator, gan.generator_ema)
        take_from_first(tensor for net in networks for tensor in net.to(device).parameters())
    return prior


def prepare_prior(start: Start, run: str, data: ImageSet, params: Params, ctx: Context) -> Prepared | None:
    """Find the latents of the training images in a source and fit the mixture; None for N(0, I).

    A class embedding that was learnt on the way is put into the networks.
    """
    gan, settings = start.gan, params.finetune
    # A prior that came with the source is of its images.
    gan.prior = None
    if start.source is None or settings.prior == "normal":
        return None
    images = data.images("train")
    labels = np.maximum(data.labels("train"), 0) if gan.spec.classes else None
    gan.to(pick_device(params.runtime.device))
    names, warnings = _class_tensors(gan, settings)
    inverted = _inverted(start, images, labels, names, f"{run} inversion", data, params, ctx)
    for network in (gan.generator, gan.generator_ema):
        for name, tensor in inverted.learnt.items():
            network.get_parameter(name).data.copy_(tensor)
    count = component_count(settings.mixture.components, len(images))
    fit = fit_mixture(inverted.latents, count, settings.seed)
    ctx.log.info("%s: mixture of %s; inversion gain %.2f", run, fit.how, inverted.gain)
    worst = inverted.worst_first()[:SHOWN]
    pairs = np.stack([images[worst], redraw(gan.generator, inverted, labels, worst)], axis=1)
    moving = MovingPrior(fit.mixture, schedule_of(settings), settings.mixture.reach)
    told = (*warnings, *inverted.warnings(), *fit.warnings())
    return Prepared(moving, inverted, fit, pairs.reshape(-1, *images.shape[1:]), told)


def prior_facts(settings: Finetune, adapted: bool, best: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the entry `prior` of a model's facts.

    Args:
        settings: The recipe.
        adapted: Whether the run had a source.
        best: Tensors of the checkpoint, with its prior's unless that is N(0, I).
    """
    _, law = split_prior(best, "the best checkpoint")
    if isinstance(law, MinedNormal | TruncatedNormal):
        return law.facts()
    if not adapted or settings.prior == "normal":
        return {"kind": "normal"}
    at = float(best["prior.lambda"]) if "prior.lambda" in best else 1.0
    return {"kind": settings.prior, "lambda": at, "schedule": schedule_of(settings)}


def schedule_of(settings: Finetune) -> Schedule:
    """Return how lambda moves: not at all with `gmm`, else as `mixture.schedule` says."""
    return "fixed" if settings.prior == "gmm" else settings.mixture.schedule


def write_inversion(prepared: Prepared, data: ImageSet, folder: Path) -> None:
    """Write `inversion.json`, and `inversion.png`: each image beside what its latent gives, worst first."""
    inverted = prepared.inverted
    errors = inverted.errors.tolist()
    worst = inverted.worst_first()[:SHOWN]
    report = {
        "gain": inverted.gain,
        "mse": float(inverted.errors.double().mean()),
        "mse_nearest_random": float(inverted.nearest.double().mean()),
        "random_samples": RANDOM_SAMPLES,
        "squared_norm_per_dimension": inverted.norm,
        "adam": "per row",
        "learnt": sorted(inverted.learnt),
        "mse_per_image": errors,
        "worst": [{"row": row, "mse": errors[row]} for row in worst],
        "mixture": prepared.fit.report(),
        "dataset": data.digest,
    }
    write_json(folder / REPORT, report)
    save_png(sheet(prepared.pairs, 8, cell_px=64), folder / PAIRS)


def inversion_file(start: Start, data: ImageSet, params: Params, cache: Path) -> Path:
    """Return where the latents of the training images are kept, by all that decides them.

    Args:
        start: A source's networks, before a method is applied.
        data: The image set.
        params: All parameters.
        cache: The cache folder.
    """
    settings, generator = params.finetune, start.gan.generator
    what = {
        # Its tensors rather than the source's name: they also tell what was read, cut or re-classed, and how.
        "generator": {name: tensor_sha256(t) for name, t in generator.state_dict().items()},
        "spec": start.gan.spec.to_dict(), "dataset": data.digest, "images": images_key(data.images("train")),
        "inversion": settings.inversion.model_dump(), "seed": settings.seed,
        "code": code_digest(*INVERTING),
    }  # fmt: skip
    return cache / "inversions" / f"{digest_text(canonical_json(what))}.safetensors"


def _class_tensors(gan: Gan, settings: Finetune) -> tuple[tuple[str, ...], list[str]]:
    if not settings.inversion.learn_class:
        return (), []
    moving = dict(gan.generator.named_parameters())
    names = tuple(name for name in class_axes(gan.spec)["generator"] if name in moving)
    unused = "finetune.inversion.learn_class has no effect: the source has no classes"
    return names, [] if names else [unused]


def _inverted(
    start: Start, images: NDArray[np.uint8], labels: NDArray[np.int32] | None, names: tuple[str, ...],
    title: str, data: ImageSet, params: Params, ctx: Context,
) -> Inverted:  # fmt: skip
    """Return the inversion, made once for the same source, images and settings."""
    settings = params.finetune
    file = inversion_file(start, data, params, ctx.cache)
    if (known := _kept(file, ctx)) is not None:
        return known
    store = StateStore(ctx.state / INVERSION / file.stem[:16], params.runtime.keep_states)
    saving = Saving(title, store, ctx.stop, params.runtime.save_every_s, ctx.resume, ctx.log)
    task = ctx.progress.task(title, settings.inversion.epochs * len(images))
    try:
        found = invert(
            start.gan.generator, images, labels, settings.inversion, settings.seed, names, task.advance,
            saving,
        )  # fmt: skip
    finally:
        task.close()
    # Without it the saved state is all that a run that goes on has.
    if _keep(found, file, ctx):
        store.clear()
    return found


def _keep(found: Inverted, file: Path, ctx: Context) -> bool:
    """Keep an inversion for other runs and tell whether that could be done."""
    tensors = {name: t.contiguous().clone() for name, t in found.tensors().items()}
    try:
        with shared_path(file) as temporary:
            save_tensors(tensors, temporary, {CHECKSUM: _digest(tensors)})
    except (OSError, TryAgain) as error:
        ctx.log.warning("%s is not kept for other runs: %s", file, error)
        return False
    return True


def _kept(file: Path, ctx: Context) -> Inverted | None:
    """Return an inversion that an earlier run kept, or None if there is no whole one."""
    try:
        if not file.is_file():
            return None
        tensors = read_tensors(file)
        with safe_open(file, framework="pt") as opened:
            expected = (opened.metadata() or {}).get(CHECKSUM)
        # Files of old have no checksum.
        if expected not in (None, _digest(tensors)):
            raise CheckpointError(f"{file}: its checksum differs")
        return Inverted.of_tensors(tensors)
    except (CheckpointError, KeyError, OSError) as error:
        ctx.log.warning("an inversion that was kept is damaged and is made again: %s", error)
        return None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return digest_text(canonical_json({name: tensor_sha256(t) for name, t in tensors.items()}))
