"""Inception features beside torch-fidelity, pytorch-fid and clean-fid, all with the same weights.

    OMP_NUM_THREADS=2 python benchmarks/features.py [--images 64] [--rounds 3] [--weights FILE]
        [--torchscript FILE] [--quick]

The peers are installed into a temporary folder of their own (`pip install --no-deps --target`), without what
they depend on: that would replace torch. They run in this process and with this torch. They need torchvision,
which the registry has only as a build for CUDA; its Python part is enough for them, once names stand in for
its compiled operators, none of which is called. Without a file of the official weights all networks get the
same random ones: time and agreement do not depend on them. clean-fid takes its network from the official
TorchScript file (`inception-2015-12-05.pt`) alone: it is left out without `--torchscript`.

Images are random pictures of 32 px; resizing to 299 px counts on every side. After a round that is not
counted everybody takes turns, to and fro, and medians of the ratios of a turn count. Features of
torch-fidelity have to be ours to 1e-4 of the largest; pytorch-fid and clean-fid resize otherwise, so that
their differences are that. Memory is what a process of its own takes above its network and images. The row in
bfloat16 is no setting of GraftGAN: scores are taken from features in float32.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Flops, extra_mib, gemm_peak, median_ratio, turns
from processor import processor
from torch import Tensor

from graftgan.contract import write_json, write_text
from graftgan.device import computes_bf16
from graftgan.metrics.features.base import BatchedExtractor
from graftgan.metrics.features.inception import FidInception
from graftgan.metrics.features.resize import TF1_BILINEAR

RESULTS = Path(__file__).resolve().parent / "results"
PEERS = ("torch-fidelity==0.4.0", "pytorch-fid==0.3.0", "clean-fid==0.1.35")
TORCHVISION = {"2.13": "0.28.0"}
DEFINED = re.compile(r'register_fake\("torchvision::(\w+)"\)')
BATCH = 16
OURS, OURS_BF16 = "ours, fp32", "ours, bf16 (no setting of GraftGAN)"
FIDELITY, PYTORCH_FID, CLEAN_FID = "torch-fidelity", "pytorch-fid", "clean-fid"
EQUAL = 1e-4
Images = Any
Row = dict[str, Any]


def install(folder: Path) -> None:
    """Put the peers and torchvision's Python part into a folder.

    Raises:
        SystemExit: It is not known which torchvision belongs to this torch.
    """
    version = ".".join(torch.__version__.split(".")[:2])
    if version not in TORCHVISION:
        raise SystemExit(f"torch {version}: add the torchvision of the same day to TORCHVISION in {__file__}")
    packages = [*PEERS, f"torchvision=={TORCHVISION[version]}"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, *packages], check=True)


def use(folder: Path) -> None:
    """Make the peers of a folder importable."""
    sys.path.append(str(folder))
    text = (folder / "torchvision" / "_meta_registrations.py").read_text(encoding="utf-8")
    # Kept on the function, since operators are forgotten with their library.
    use.library = torch.library.Library("torchvision", "DEF")  # type: ignore[attr-defined]
    for name in dict.fromkeys(DEFINED.findall(text)):
        use.library.define(f"{name}(Tensor x) -> Tensor")  # type: ignore[attr-defined]


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


def clean_fid(file: Path) -> Callable[[Images], Any]:
    """Return clean-fid's extractor, which reads a file of one name in a folder."""
    module: Any = importlib.import_module("cleanfid.inception_torchscript")
    resize: Any = importlib.import_module("cleanfid.resize").build_resizer("clean")
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "inception-2015-12-05.pt").symlink_to(file.resolve())
        network = module.InceptionV3W(place, download=False).eval()

    @torch.no_grad()
    def call(images: Images) -> Any:
        resized = np.stack([resize(image) for image in images]).transpose(0, 3, 1, 2)
        parts = torch.from_numpy(resized).split(BATCH)
        return torch.cat([network(part) for part in parts]).numpy()

    return call


def make(who: str, folder: Path, torchscript: Path | None) -> Callable[[Images], Any]:
    """Return somebody's extractor, with the weights and the peers of a folder."""
    state = torch.load(folder / "weights.pth", weights_only=True)
    if who == OURS:
        return ours(state, torch.float32)
    if who == OURS_BF16:
        return ours(state, torch.bfloat16)
    if who == FIDELITY:
        return torch_fidelity(folder / "weights.pth")
    if who == PYTORCH_FID:
        return pytorch_fid(state)
    assert torchscript is not None
    return clean_fid(torchscript)


def memory_mib(who: str, folder: Path, options: argparse.Namespace) -> float:
    """Return the memory that the features of a process of its own take."""
    words = ["--measure", who, str(folder), "--images", str(options.images)]
    words += ["--torchscript", str(options.torchscript)] if options.torchscript else []
    command = [sys.executable, __file__, *words]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def tell_memory(who: str, folder: Path, options: argparse.Namespace) -> None:
    """Print how far the peak of memory rises while somebody takes features."""
    use(folder / "peers")
    call, images = make(who, folder, options.torchscript), draw(options.images)
    call(images[:BATCH])
    print(extra_mib(lambda: call(images)))


def draw(count: int) -> Images:
    """Return random pictures."""
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def flops_an_image(state: dict[str, Tensor]) -> float:
    """Return the arithmetic of the network for one image."""
    network = FidInception()
    network.load_state_dict(state)
    with Flops() as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 299, 299))
    return counter.total


def measure(everybody: dict[str, Callable[[Images], Any]], images: Images, rounds: int) -> list[Row]:
    """Let everybody take turns; differences are from our float32."""
    features: dict[str, Any] = {}

    def kept(name: str, call: Callable[[Images], Any]) -> Callable[[], None]:
        return lambda: features.update({name: call(images)})

    seconds = turns({name: kept(name, call) for name, call in everybody.items()}, rounds)
    reference, fidelity = features[OURS], seconds[FIDELITY]
    return [
        {
            "who": name,
            "images_per_s": len(images) / statistics.median(times),
            "over_fp32": median_ratio(times, seconds[OURS]),
            "fidelity_over": median_ratio(fidelity, times),
            "difference": float(np.abs(features[name] - reference).max() / np.abs(reference).max()),
        }
        for name, times in seconds.items()
    ]


def table(rows: list[Row], weights: str) -> str:
    """Return the rows as Markdown."""
    lines = [
        f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, "
        f"{weights} weights, batches of {BATCH}. Peers are in a folder of their own (`pip --target`), on the "
        "same torch.", "",
        "| who | images/s | time over ours in fp32 | torch-fidelity / this | of the products' peak "
        "| difference | memory |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]  # fmt: skip
    for row in rows:
        share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
        lines.append(
            f"| {row['who']} | {row['images_per_s']:.1f} | {row['over_fp32']:.2f} "
            f"| {row['fidelity_over']:.2f} | {share} | {row['difference']:.1e} | {row['extra_mib']:.0f} MiB |"
        )
    if all(row["who"] != CLEAN_FID for row in rows):
        lines += ["", "clean-fid was left out: its TorchScript file was not given."]
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
    parser.add_argument("--torchscript", type=Path, help="inception-2015-12-05.pt, for clean-fid")
    parser.add_argument("--measure", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    for file in (options.weights, options.torchscript):
        if file and not file.is_file():
            parser.error(f"{file}: no such file")
    if options.measure:
        who, folder = options.measure
        return tell_memory(who, Path(folder), options)
    if options.quick:
        options.images, options.rounds = BATCH, 1
    state = torch.load(options.weights, weights_only=True) if options.weights else random_weights()
    everybody = [OURS, *([OURS_BF16] if computes_bf16(torch.device("cpu")) else []), FIDELITY, PYTORCH_FID]
    everybody += [CLEAN_FID] if options.torchscript else []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        install(folder / "peers")
        use(folder / "peers")
        torch.save(state, folder / "weights.pth")
        calls = {who: make(who, folder, options.torchscript) for who in everybody}
        rows = measure(calls, draw(options.images), options.rounds)
        calls.clear()
        for row in rows:
            row["extra_mib"] = memory_mib(row["who"], folder, options)
    flops = flops_an_image(state)
    for row in rows:
        if row["who"] in (OURS, OURS_BF16):
            peak = gemm_peak("bf16" if row["who"] == OURS_BF16 else "fp32", 256 if options.quick else 2048)
            row["share_of_peak"] = flops * row["images_per_s"] / peak
    difference = next(row["difference"] for row in rows if row["who"] == FIDELITY)
    if not difference <= EQUAL:
        raise SystemExit(f"torch-fidelity's features differ by {difference:.1e}, more than {EQUAL:g}")
    text = table(rows, "official" if options.weights else "random")
    if not options.quick:
        write_json(RESULTS / "features.json", rows)
        write_text(RESULTS / "features.md", text)
    print(text)


if __name__ == "__main__":
    main()
