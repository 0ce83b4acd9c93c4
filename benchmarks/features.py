"""Inception features beside torch-fidelity and pytorch-fid, all with the same weights.

    python benchmarks/features.py [--images 64] [--rounds 3] [--weights FILE] [--quick]

The peers are installed into a temporary folder of their own, without what they depend on: that would replace
torch. They need torchvision, which the registry has only as a build for CUDA; its Python part is enough for
them, once names stand in for its compiled operators, none of which is called. Without a file of the official
weights all networks get the same random ones: time and agreement do not depend on them.

Images are random pictures of 32 px; resizing to 299 px counts on every side. Everybody takes turns. Features
of torch-fidelity have to be ours to 1e-4 of the largest; pytorch-fid resizes otherwise, so that its
network alone is compared. The bfloat16 row is no setting of GraftGAN: scores are reported in float32.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step import Flops, gemm_peak
from torch import Tensor

from graftgan.contract import write_json, write_text
from graftgan.device import computes_bf16
from graftgan.metrics.features.base import BatchedExtractor
from graftgan.metrics.features.inception import FidInception
from graftgan.metrics.features.resize import TF1_BILINEAR

RESULTS = Path(__file__).resolve().parent / "results"
PEERS = ("torch-fidelity==0.4.0", "pytorch-fid==0.3.0")
TORCHVISION = {"2.13": "0.28.0"}
DEFINED = re.compile(r'register_fake\("torchvision::(\w+)"\)')
BATCH = 8
EQUAL = 1e-4
Images = Any
Row = dict[str, Any]


def install(folder: Path) -> None:
    """Put the peers and torchvision's Python part into a folder, and make them importable.

    Raises:
        SystemExit: It is not known which torchvision belongs to this torch.
    """
    version = ".".join(torch.__version__.split(".")[:2])
    if version not in TORCHVISION:
        raise SystemExit(f"torch {version}: add the torchvision of the same day to TORCHVISION in {__file__}")
    packages = [*PEERS, f"torchvision=={TORCHVISION[version]}"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, *packages], check=True)
    sys.path.append(str(folder))
    text = (folder / "torchvision" / "_meta_registrations.py").read_text(encoding="utf-8")
    # Kept on the function, since operators are forgotten with their library.
    install.library = torch.library.Library("torchvision", "DEF")  # type: ignore[attr-defined]
    for name in dict.fromkeys(DEFINED.findall(text)):
        install.library.define(f"{name}(Tensor x) -> Tensor")  # type: ignore[attr-defined]


def random_weights() -> dict[str, Tensor]:
    """Return weights that keep the size of activations from layer to layer."""
    torch.manual_seed(0)
    state = FidInception().state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            state[name] = torch.randn_like(tensor) * (2 / tensor[0].numel()) ** 0.5
        elif name.endswith("running_mean"):
            state[name] = 0.1 * torch.randn_like(tensor)
    return state


def ours(state: dict[str, Tensor], dtype: torch.dtype) -> Callable[[Images], Any]:
    """Return our extractor; in bfloat16 its network is cast."""
    network = FidInception()
    network.load_state_dict(state)
    ready: Any = network.folded()
    if dtype is not torch.float32:
        cast = ready.to(dtype)
        ready = _Cast(cast, dtype)
    return BatchedExtractor(
        "inception", ready, input_px=299, resize=TF1_BILINEAR, value_range="128_128",
        weights_sha256="0" * 64, batch=BATCH,
    )  # fmt: skip


class _Cast(torch.nn.Module):
    """A network that computes in another type of number than it is given."""

    def __init__(self, network: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return features in float32."""
        return torch.as_tensor(self.network(x.to(self.dtype))).float()


def batches(images: Images) -> list[Tensor]:
    """Return batches [n, 3, R, R] of bytes."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]


def torch_fidelity(file: Path) -> Callable[[Images], Any]:
    """Return torch-fidelity's extractor."""
    module: Any = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    network = module.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(file))

    @torch.no_grad()
    def call(images: Images) -> Any:
        return torch.cat([network(part)[0] for part in batches(images)]).numpy()

    return call


def pytorch_fid(state: dict[str, Tensor]) -> Callable[[Images], Any]:
    """Return pytorch-fid's extractor."""
    module: Any = importlib.import_module("pytorch_fid.inception")
    module.load_state_dict_from_url = lambda *_, **__: state
    network = module.InceptionV3([3]).eval()

    @torch.no_grad()
    def call(images: Images) -> Any:
        return torch.cat([network(part.float() / 255)[0].flatten(1) for part in batches(images)]).numpy()

    return call


def flops_an_image(state: dict[str, Tensor]) -> float:
    """Return the arithmetic of the network for one image."""
    network = FidInception()
    network.load_state_dict(state)
    with Flops() as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 299, 299))
    return counter.total


def measure(everybody: dict[str, Callable[[Images], Any]], images: Images, rounds: int) -> list[Row]:
    """Let everybody take turns; ratios are over our float32."""
    seconds: dict[str, list[float]] = {name: [] for name in everybody}
    features = {}
    for number in range(rounds + 1):
        for name, call in everybody.items():
            started = time.perf_counter()
            features[name] = call(images if number else images[:BATCH])
            if number:
                seconds[name].append(time.perf_counter() - started)
    first = next(iter(everybody))
    reference = features[first]
    return [
        {
            "who": name,
            "images_per_s": len(images) / statistics.median(times),
            "over_fp32": statistics.median(b / a for a, b in zip(seconds[first], times, strict=True)),
            "difference": float(np.abs(features[name] - reference).max() / np.abs(reference).max()),
        }
        for name, times in seconds.items()
    ]


def table(rows: list[Row], weights: str) -> str:
    """Return the rows as Markdown."""
    lines = [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"{weights} weights, batches of {BATCH}.", "",
        "| who | images/s | time over ours in fp32 | share of products' peak | difference |",
        "| --- | --: | --: | --: | --: |",
    ]  # fmt: skip
    for row in rows:
        share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
        lines.append(
            f"| {row['who']} | {row['images_per_s']:.1f} | {row['over_fp32']:.2f} | {share} "
            f"| {row['difference']:.1e} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", type=Path, help="file of the official weights; random ones without it")
    parser.add_argument("--quick", action="store_true", help="eight images, one round; prints only")
    options = parser.parse_args()
    if options.quick:
        options.images, options.rounds = BATCH, 1
    state = torch.load(options.weights, weights_only=True) if options.weights else random_weights()
    images = np.random.default_rng(0).integers(0, 256, (options.images, 32, 32, 3), dtype=np.uint8)
    everybody = {"ours, fp32": ours(state, torch.float32)}
    if computes_bf16(torch.device("cpu")):
        everybody["ours, bf16"] = ours(state, torch.bfloat16)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        install(folder / "peers")
        torch.save(state, folder / "weights.pth")
        everybody["torch-fidelity"] = torch_fidelity(folder / "weights.pth")
        everybody["pytorch-fid"] = pytorch_fid(state)
        rows = measure(everybody, images, options.rounds)
    flops = flops_an_image(state)
    for row in rows[:-2]:
        peak = gemm_peak("bf16" if "bf16" in row["who"] else "fp32", 256 if options.quick else 2048)
        row["share_of_peak"] = flops * row["images_per_s"] / peak
    difference = next(row["difference"] for row in rows if row["who"] == "torch-fidelity")
    if not difference <= EQUAL:
        raise SystemExit(f"torch-fidelity's features differ by {difference:.1e}, more than {EQUAL:g}")
    text = table(rows, "official" if options.weights else "random")
    if not options.quick:
        write_json(RESULTS / "features.json", rows)
        write_text(RESULTS / "features.md", text)
    print(text)


if __name__ == "__main__":
    main()
