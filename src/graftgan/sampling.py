"""Pictures from a finished model, for `graftgan sample`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftgan.checkpoints.store import (
    SPEC,
    WEIGHTS,
    load_gan,
    load_network,
    read_prior,
    read_spec,
    read_tensors,
)
from graftgan.contract import atomic_path, read_json
from graftgan.errors import ConfigError, MissingInput
from graftgan.gans.base import Generator, build, sample
from graftgan.gans.spec import GanSpec
from graftgan.gans.walk import closed, seed_latents
from graftgan.gans.walk import frames as walk_frames
from graftgan.reporting.sheets import save_gif, save_png, sheet

MAX_SEEDS = 4096
MAX_FRAMES = 1024
LEAST_STOPS = 4
PACKAGE_WEIGHTS = "model.safetensors"
PACKAGE_FACTS = "model.json"


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that `7`, `0-63` or `1,5,9-12` names.

    Raises:
        ConfigError: If the text is not of that form, or names more than 4,096.
    """
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            low, high = int(first), int(last if dash else first)
            # Judged before the list is made: a slip of the pen may name more seeds than memory holds.
            if len(seeds) + high - low >= MAX_SEEDS:
                raise ConfigError(f"--seeds {text!r} names more than {MAX_SEEDS} seeds", "ask for fewer")
            seeds += range(low, high + 1)
    except ValueError:
        raise ConfigError(f"--seeds {text!r} is not a list of seeds", "write 7, 0-63 or 1,5,9-12") from None
    if not seeds:
        raise ConfigError(f"--seeds {text!r} names no seed", "write 7, 0-63 or 1,5,9-12")
    return seeds


def open_generator(model: Path) -> Generator:
    """Return the averaged generator of a checkpoint folder or a registered package.

    Raises:
        MissingInput: If the folder is neither.
    """
    if (model / PACKAGE_WEIGHTS).is_file():
        spec = GanSpec.from_dict(read_json(model / PACKAGE_FACTS)["spec"])
        generator = build(spec, seed=0).generator_ema
        weights = model / PACKAGE_WEIGHTS
        tensors, generator.prior = read_prior(spec, read_tensors(weights), weights)
        load_network(generator, tensors, weights)
        return generator
    if (model / WEIGHTS).is_file():
        read_spec(model / SPEC)
        return load_gan(model).generator_ema
    raise MissingInput(
        f"{model} holds neither {WEIGHTS} nor {PACKAGE_WEIGHTS}",
        "give a folder such as out/finetune/models/chosen, zoo/NAME or out/register/package",
    )


def draw(
    model: Path,
    seeds: str,
    psi: float,
    label: int | None,
    columns: int,
    scale_px: int,
    out: Path,
    frames: int,
) -> str:
    """Write a grid (`.png`), an interpolation (`.gif`) or single images (a folder); tell what."""
    generator = open_generator(model)
    wanted = parse_seeds(seeds)
    classes = generator.spec.classes
    if label is not None and not 0 <= label < classes:
        has = f"classes 0 to {classes - 1}" if classes else "no classes"
        raise ConfigError(f"--class {label}: {model} has {has}", "give another class, or none")
    if out.suffix == ".gif":
        steps = interpolation(generator, wanted, psi, label, columns, frames)
        with atomic_path(out) as temporary:
            save_gif([sheet(images, len(images), cell_px=scale_px) for images in steps], temporary)
        return f"{out}: {len(steps)} frames"
    images = np.concatenate([sample(generator, 1, seed, psi, label) for seed in wanted])
    if out.suffix == ".png":
        with atomic_path(out) as temporary:
            save_png(sheet(images, columns, cell_px=scale_px), temporary)
        return f"{out}: {len(images)} samples"
    if out.suffix and not out.is_dir():
        raise ConfigError(f"--out {out} is neither .png, .gif nor a folder", "name the file .png or .gif")
    write_singles(images, wanted, out)
    return f"{out}: {len(images)} files"


def interpolation(
    generator: Generator, seeds: list[int], psi: float, label: int | None, columns: int, frames: int
) -> NDArray[np.uint8]:
    """Return frames [frames, walks, R, R, C] of closed walks side by side that go through all the seeds.

    Args:
        generator: The generator.
        seeds: The stops, shared out in order; a walk has four or more where there are as many.
        psi: Truncation.
        label: Class of all pictures; None means the first.
        columns: Most walks side by side.
        frames: Frames from a stop to the next.

    Raises:
        ConfigError: If there is a single seed, or there are more than 1,024 frames.
    """
    if len(seeds) < 2:
        raise ConfigError("an interpolation needs two seeds or more", "give --seeds 0-7, say")
    walks = min(columns, max(1, len(seeds) // LEAST_STOPS))
    stops = seed_latents(generator.spec, seeds, walks, generator.prior)
    if (count := stops.shape[1] * frames) > MAX_FRAMES:
        raise ConfigError(
            f"--seeds and --frames ask for {count} frames, at most {MAX_FRAMES} are made",
            "lower one of them, or raise --columns",
        )
    return walk_frames(generator, closed(stops, frames), psi, label)


def write_singles(images: NDArray[np.uint8], seeds: list[int], folder: Path) -> None:
    """Write one PNG a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, pixels in zip(seeds, images, strict=True):
        squeezed = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        with atomic_path(folder / f"seed{seed:06d}.png") as temporary:
            Image.fromarray(squeezed).save(temporary, "PNG")
