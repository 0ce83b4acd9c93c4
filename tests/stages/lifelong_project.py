"""A list of three tiny tasks, the last one unpaired, that all runners can learn within seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

SIDE = 16
TASKS = ("grey", "edges", "swap")


class Colours(torch.nn.Module):
    """Features are mean colours of quarters."""

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(img, 2).flatten(1)


def write_pictures(folder: Path, count: int = 100, seed: int = 0) -> None:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{number:03}.png")


def task_data(**values: Any) -> dict[str, Any]:
    return {"target": "pictures", "resolution": SIDE, **values}


def description(**sections: Any) -> dict[str, Any]:
    """Return the content of `lifelong/params.yaml`; the paths in it are relative to the project."""
    extractor = "torchscript:colours.pt?px=16"
    tasks = {
        "grey": {"data": task_data(make="grey")},
        "edges": {"data": task_data(make="edges", background="#204060"), "init": "warm:grey"},
        "swap": {"data": task_data(kind="unpaired", input="others"), "train": {"lr": 0.001}},
    }
    return {
        "tasks": tasks,
        "bank": {"generator": "resnet_6", "ngf": 2, "share": 0.5},
        "train": {
            "budget": {"kimg": 0.008}, "batch": 2, "ndf": 4, "precision": "fp32",
            "evaluate_every_kimg": 0.004,
        },
        "scores": {"extractor": extractor, "validation_extractor": extractor},
        "registry": {"name": "tiny-bank"},
        "track": {"mode": "off"},
        "runtime": {"device": "cpu"},
        **sections,
    }  # fmt: skip


def write_project(root: Path, **sections: Any) -> Path:
    """Write pictures, extractor and parameters below an existing folder and return the parameters' path."""
    write_pictures(root / "pictures")
    write_pictures(root / "others", seed=1)
    torch.jit.script(Colours()).save(str(root / "colours.pt"))
    (root / "lifelong").mkdir()
    return write_params(root, **sections)


def write_params(root: Path, **sections: Any) -> Path:
    path = root / "lifelong" / "params.yaml"
    path.write_text(yaml.safe_dump(description(**sections), sort_keys=False))
    return path


def with_fourth() -> dict[str, Any]:
    """Return the tasks with one more at the end."""
    found: dict[str, Any] = description()["tasks"]
    return found | {"blur": {"data": task_data(make="lowres", lowres_factor=4), "init": "warm:edges"}}
