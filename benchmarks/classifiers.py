"""Two small classifiers of shipped image sets, for what needs one and for what judges that."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

EPOCHS = 4
BATCH = 64
RATE = 2e-3
WIDTHS = (16, 32, 64)


def pictures(file: Path, side_px: int) -> NDArray[np.uint8]:
    """Return the images of a shipped set, averaged down to [N, side, side, 3]."""
    blobs = pq.read_table(file, columns=["image"])["image"].to_pylist()
    opened = (Image.open(io.BytesIO(blob)).convert("RGB") for blob in blobs)
    return np.stack([np.asarray(i.resize((side_px, side_px), Image.Resampling.BOX)) for i in opened])


def network(outputs: int, seed: int) -> nn.Sequential:
    """Return a fresh classifier of images in [-1, 1] of any even size."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inner, out in zip((3, *WIDTHS), WIDTHS, strict=False):
        layers += [nn.Conv2d(inner, out, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * WIDTHS[-1], outputs))


def train(images: Tensor, labels: Tensor, outputs: int, seed: int) -> nn.Sequential:
    """Fit one to images [N, 3, R, R] in [-1, 1] and their classes [N]."""
    net, rng = network(outputs, seed), torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(net.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=rng).split(BATCH):
            adam.zero_grad()
            loss = F.cross_entropy(net(images[rows]), labels[rows])
            torch.autograd.backward(loss)
            adam.step()
    return net.eval()


def make_pair(files: Sequence[Path], side_px: int, folder: Path) -> dict[str, dict[str, float | str]]:
    """Train two on halves of the sets that share no image, one output a set, each scored on the other half.

    Args:
        files: The sets, in the order of the outputs.
        side_px: Size of the images.
        folder: Where `optimised.pt` and `judge.pt` go.

    Returns:
        For both names the weights as a setting (`extractor`) and the share of right answers (`accuracy`).
    """
    sets = [pictures(file, side_px) for file in files]
    labels = torch.repeat_interleave(torch.arange(len(sets)), torch.tensor([len(s) for s in sets]))
    images = torch.from_numpy(np.concatenate(sets)).permute(0, 3, 1, 2).float() / 127.5 - 1
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, dict[str, float | str]] = {}
    for seed, name in enumerate(("optimised", "judge")):
        own, other = slice(seed, None, 2), slice(1 - seed, None, 2)
        net = train(images[own], labels[own], len(sets), seed)
        with torch.no_grad():
            right = (net(images[other]).argmax(dim=1) == labels[other]).double().mean()
        file = folder / f"{name}.pt"
        torch.jit.script(net).save(str(file))
        made[name] = {"extractor": f"torchscript:{file}?px={side_px}&range=-1_1", "accuracy": float(right)}
    return made
