"""Tiny real models and image sets in the folders that the stages hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from graftgan.checkpoints.store import save_gan
from graftgan.contract import write_json
from graftgan.data.dataset import content_digest, write_manifest
from graftgan.data.slots import PixelWriter
from graftgan.gans.base import Gan, build, sample
from graftgan.gans.stylegan2 import StyleGAN2Spec

SIDE = 32


def tiny_spec(**changes: Any) -> StyleGAN2Spec:
    sizes: dict[str, Any] = {
        "resolution": SIDE,
        "z_dim": 8,
        "w_dim": 8,
        "mapping_layers": 1,
        "channel_base": 256,
    }
    return StyleGAN2Spec(**(sizes | {"channel_max": 8, "mbstd_group": 2, "label_layers": 1} | changes))


def write_models(folder: Path, gan: Gan, dataset: str, seed: int = 0) -> Path:
    """Write `models/chosen` as finetune does."""
    chosen = folder / "chosen"
    chosen.mkdir(parents=True)
    save_gan(gan, chosen)
    channels = gan.spec.channels
    picture = sample(gan.generator_ema, 1, 0)[0]
    Image.fromarray(picture[..., 0] if channels == 1 else picture).save(chosen / "samples.png")
    write_json(
        chosen / "model.json",
        {
            "run": "chosen",
            "source": "open-peeps",
            "source_sha256": "cd" * 32,
            "source_licence": "CC0-1.0",
            "source_title": "Open Peeps",
            "method": "full",
            "seed": seed,
            "spec": gan.spec.to_dict(),
            "prior": {"kind": "normal"},
            "images_seen": 18000,
            "images_total": 24000,
            "best": {"images_seen": 18000, "kid": 0.01, "low": 0.009, "high": 0.011},
            "protocol": "efflite0@128/x",
            "dataset": dataset,
            "preprocessing": {"resolution": gan.spec.resolution, "channels": channels, "range": [-1.0, 1.0]},
            "precision": "fp32",
            "warnings": ["training diverged once"],
        },
    )
    return folder


def write_dataset(folder: Path, test: NDArray[np.uint8]) -> str:
    """Write a packed set whose images are all test images; return its digest."""
    folder.mkdir(parents=True)
    side, channels = test.shape[1], test.shape[3]
    with PixelWriter(folder / "images.npy", side, channels) as writer:
        for image in test:
            writer.append(image)
    n = len(test)
    manifest = pd.DataFrame(
        {
            "row": np.arange(n, dtype=np.int32),
            "name": [f"{i}.png" for i in range(n)],
            "split": "test",
            "label": np.full(n, -1, np.int32),
            "sha256": [f"{hash(image.tobytes()) & 0xFFFFFFFF:064x}" for image in test],
            "width": np.full(n, side, np.int32),
            "height": np.full(n, side, np.int32),
            "mode": "RGB",
            "group": "",
            "phash": "00",
            "duplicate_of": np.full(n, -1, np.int32),
            "near_group": np.full(n, -1, np.int32),
            "blank": False,
        }
    )
    digest = content_digest(manifest.assign(sha256=str(test.sum())), side, channels, [])
    facts = {
        "digest": digest,
        "source": "micah.parquet",
        "images": n,
        "splits": {"train": 100, "validation": 10, "test": n, "unused": 0},
        "resolution": side,
        "channels": channels,
        "labels": [],
        "missing": {},
        "licence": "CC BY 4.0 by Micah Lanier",
    }
    write_manifest(folder, manifest, facts)
    return digest


def write_scores(folder: Path, dataset: str) -> Path:
    folder.mkdir(parents=True)
    score = {"name": "kid_efflite0", "value": 0.0123, "low": 0.011, "high": 0.0136, "floor": 0.0002}
    write_json(
        folder / "scores.json",
        {
            "protocol": "efflite0@224/bicubic-aa/0123456789ab",
            "confidence": 0.95,
            "n_fake": 1000,
            "n_test": 48,
            "dataset": dataset,
            "reference": "test",
            "runs": {
                "chosen": {
                    "scores": [score | {"n_fake": 1000, "n_real": 48}],
                    "copy": {"available": True, "share_closer": 0.52},
                }
            },
            "verdict": "The chosen source beats scratch.",
            "warnings": ["few test images"],
        },
    )
    return folder


def tiny_gan(seed: int, **changes: Any) -> Gan:
    return build(tiny_spec(**changes), seed)
