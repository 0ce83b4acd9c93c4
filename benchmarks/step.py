"""A training step of StyleGAN2: beside its peers, and beside itself with one choice taken back at a time.

    python benchmarks/step.py [--peer-path DIR] [--rosinality-path DIR] [--rounds 5] [--threads 2] [--quick]

A step is one update of G, one of D and, every 16 steps, R1; no augmentation, no path length. All take turns
with a cycle of such steps, and medians of the ratios of a turn count. The first table takes back what is
on by default, one choice at a time: where a choice were wrong its row would be below 1. The second sets the
step beside `stylegan2-ada-pytorch` (`--peer-path`, a checkout; it runs on its reference operations here) and
`rosinality/stylegan2-pytorch` (`--rosinality-path`); a peer that is not given is left out. The peer's
networks get our weights, and its images and logits must be ours to 1e-5.

Shares of the limit are of the matrix products that this machine does in the same precision at the time.
Memory is what a process of its own takes above what it holds before its first steps.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import step_peers
import torch
import torch.nn.functional as F
from step_peers import Setting
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from graftgan.config import Finetune
from graftgan.contract import write_json, write_text
from graftgan.device import computes_bf16
from graftgan.gans.base import Gan, autocast, build
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.gans.stylegan2.generator import DEMOD_EPS, SynthesisLayer
from graftgan.gans.stylegan2.layers import ACT_GAIN, BlurDown, activate, compute_dtype, full_precision
from graftgan.metrics.products import fast_products
from graftgan.training import profile
from graftgan.training import trainer as of_trainer
from graftgan.training.augment import make_augment
from graftgan.training.game import Game, Opinion
from graftgan.training.trainer import Trainer

RESULTS = Path(__file__).resolve().parent / "results"
CPU = torch.device("cpu")
SETTINGS = (
    Setting("1024/64, batch 32", 1024, 64, batch=32),
    Setting("4096/128, batch 16", 4096, 128, batch=16),
    Setting("512 channels, batch 4, no R1", 16384, 512, batch=4, r1_interval=0, latent=512, mapping_layers=8),
)
QUICK = Setting("256/16, batch 4", 256, 16, batch=4, r1_interval=2, latent=16)
EQUAL = 1e-5
GEMM_SIDE = 2048
COMPILED = "torch.compile"
Row = dict[str, Any]


class Flops(TorchDispatchMode):
    """Counts the arithmetic of products and convolutions in a block, derivatives of any order included.

    Attributes:
        total: Additions and multiplications so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation and count it."""
        given = kwargs or {}
        out = func(*args, **given)
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += float(count(*args, **given, out_val=out))
        return out


@contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put a value in place of an attribute during the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def grouped(layer: SynthesisLayer, x: Tensor, w: Tensor, noise_mode: Any = "random") -> Tensor:
    """The layer in its other form: each image has modulated weights, a group of one convolution."""
    n, (out, into) = len(x), layer.weight.shape[:2]
    with full_precision(w):
        weight = layer.weight[None] * layer.affine(w)[:, None, :, None, None]
        demod = (weight.square().sum(dim=(2, 3, 4)) + DEMOD_EPS).rsqrt() * ACT_GAIN
        weight = (weight * demod[:, :, None, None, None]).to(compute_dtype(x))
    x = x.reshape(1, n * into, *x.shape[2:])
    if layer.blur is None:
        x = F.conv2d(x, weight.reshape(n * out, into, 3, 3), padding=1, groups=n)
    else:
        by_input = weight.transpose(1, 2).reshape(n * into, out, 3, 3)
        x = F.conv_transpose2d(x, by_input, stride=2, groups=n)
    x = x.reshape(n, out, *x.shape[2:])
    x = x if layer.blur is None else layer.blur(x)
    if layer.noise and noise_mode != "none":
        x = x + layer._noise(x, noise_mode)
    return activate(x + (layer.bias * ACT_GAIN).to(x.dtype)[:, None, None])


def strided(blur: BlurDown, x: Tensor) -> Tensor:
    """The filter as one strided convolution in bfloat16 too."""
    return F.conv2d(x, blur.kernel, stride=2, padding=1, groups=x.shape[1])


def adam(**how: bool) -> Callable[..., torch.optim.Adam]:
    """Return what makes Adam as the trainer does, but for the kernel."""

    def make(network: torch.nn.Module, lr: float, lazy_interval: int) -> torch.optim.Adam:
        ratio = lazy_interval / (lazy_interval + 1) if lazy_interval else 1.0
        return torch.optim.Adam(network.parameters(), lr=lr * ratio, betas=(0.0, 0.99**ratio), **how)

    return make


class FreshFakes(Trainer):
    """Draws new fakes for D, as published, instead of showing it those of G's phase."""

    def _phase_d(self, reals: Tensor, fakes: Tensor, labels: Tensor | None) -> None:
        with torch.no_grad(), autocast(self.device, self.dtype):
            fakes = self._fakes(labels)
        super()._phase_d(reals, fakes, labels)


class Apart(Game):
    """Shows D fakes and reals one after the other, as published, instead of as one batch."""

    def opinion(self, images: Tensor, labels: Tensor | None, batches: int = 1) -> Opinion:
        """Return what D says."""
        return Opinion(torch.cat([self.judge(part, labels) for part in images.chunk(batches)]))


@dataclass(frozen=True)
class Variant:
    """Our step with something taken back.

    Attributes:
        name: What is taken back; empty for the step as it is.
        patch: Returns what must surround building and stepping.
        trainer: The trainer.
        only: The one precision that it matters in, or none.
    """

    name: str
    patch: Callable[[], AbstractContextManager[Any]] = nullcontext
    trainer: type[Trainer] = Trainer
    only: str = ""
    apart: bool = False


DEFAULT = Variant("")
FRESH = Variant("new fakes for D, as the peers have", trainer=FreshFakes)
TAKEN_BACK = (
    Variant(
        "NCHW instead of channels_last", lambda: swapped(torch, "channels_last", torch.contiguous_format)
    ),
    Variant("modulated weights, grouped", lambda: swapped(SynthesisLayer, "forward", grouped)),
    Variant("foreach Adam", lambda: swapped(of_trainer, "make_adam", adam(foreach=True))),
    Variant("Adam, a tensor at a time", lambda: swapped(of_trainer, "make_adam", adam(foreach=False))),
    Variant("strided blur in bf16", lambda: swapped(BlurDown, "forward", strided), only="bf16"),
    Variant("fakes and reals apart in D", apart=True),
    FRESH,
)


def make_gan(setting: Setting) -> Gan:
    """Return networks of a setting."""
    return build(
        StyleGAN2Spec(
            resolution=setting.resolution, z_dim=setting.latent, w_dim=setting.latent,
            mapping_layers=setting.mapping_layers, channel_base=setting.channel_base,
            channel_max=setting.channel_max,
        ), 0,
    )  # fmt: skip


class Ours:
    """Our trainer under a variant."""

    def __init__(
        self,
        setting: Setting,
        precision: str,
        variant: Variant = DEFAULT,
        compiled: bool = False,
        flip: bool = False,
    ) -> None:
        self.variant = variant
        given = {
            "batch": setting.batch, "augment": "none", "flip": flip, "precision": precision,
            "budget": {"kimg": 1},
            "r1_gamma": step_peers.R1_GAMMA if setting.r1_interval else 0.0,
            "r1_interval": setting.r1_interval or 16, "lr_cooldown": 0.0,
        }  # fmt: skip
        settings = Finetune.model_validate(given)
        images = step_peers.pictures(setting)
        with variant.patch():
            gan = make_gan(setting)
            self.trainer = variant.trainer(
                gan, images, None, settings, make_augment("none"), CPU, compiled=compiled
            )
        if variant.apart:
            self.trainer.game = Apart(gan.discriminator)

    def step(self) -> None:
        """Do one step."""
        with self.variant.patch():
            self.trainer.step()


Stepping = Ours | step_peers.Ada | step_peers.Rosinality


def timed(who: Stepping, steps: int) -> float:
    """Return the seconds that a step takes on average."""
    started = time.perf_counter()
    for _ in range(steps):
        who.step()
    return (time.perf_counter() - started) / steps


def take_turns(
    everybody: dict[str, Stepping], steps: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds a step of each, one value a round, and those of the very first step."""
    found: dict[str, list[float]] = {name: [] for name in everybody}
    first = {}
    for number in range(rounds + 1):
        order = list(everybody.items())
        for name, who in order if number % 2 else reversed(order):
            seconds = timed(who, steps if number else 1)
            if number:
                found[name].append(seconds)
            else:
                first[name] = seconds
    return found, first


def step_flops(setting: Setting) -> float:
    """Return the arithmetic of a step, products and convolutions alone, with its share of R1."""
    ours, cycle = Ours(setting, "fp32"), setting.r1_interval or 1
    counts = []
    for _ in range(2 if setting.r1_interval else 1):
        with Flops() as counter:
            ours.step()
        counts.append(counter.total)
    return (counts[0] + (cycle - 1) * counts[-1]) / cycle


def gemm_peak(precision: str, side: int, runs: int = 7) -> float:
    """Return the most that a large matrix product does in a second, of several tries."""
    a = torch.randn(side, side, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    times = []
    with fast_products():
        for _ in range(runs):
            started = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - started)
    return 2 * side**3 / min(times)


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def check_equal(setting: Setting, peer: step_peers.Ada) -> float:
    """Give the peer our weights and return how far its images and logits are from ours.

    Raises:
        SystemExit: They are not equal to `EQUAL`.
    """
    gan = make_gan(setting)
    peer.take_weights(gan.generator, gan.discriminator)
    z = torch.randn(4, setting.latent, generator=torch.Generator().manual_seed(1))
    images = gan.generator(z, None, 1.0, "const")
    worst = max(
        largest_difference(images, peer.images(z)),
        largest_difference(gan.discriminator(images), peer.logits(images)),
    )
    if not worst <= EQUAL:
        raise SystemExit(f"{setting.name}: the peer's outputs differ by {worst:.1e}, more than {EQUAL:g}")
    return worst


def data_share(setting: Setting, precision: str) -> float:
    """Return the share of a step's time in which images are drawn, mirrored and made floats."""
    ours, steps = Ours(setting, precision, flip=True), setting.r1_interval or 4
    never = 10**9  # no step is traced, which would slow it down
    with tempfile.TemporaryDirectory() as place:
        watch = profile.Profile("step", Path(place), CPU, interval=never // 2, steps=never)
        ours.step()
        with profile.profiling(watch):
            for number in range(steps):
                with profile.step(number):
                    ours.step()
    return watch.data_share


def memory_mib(setting: Setting, who: str, options: argparse.Namespace) -> float:
    """Return the memory that the steps of a process of its own take."""
    words = ["--memory", setting.name, who, "--threads", str(options.threads)]
    for flag, path in (("--peer-path", options.peer_path), ("--rosinality-path", options.rosinality_path)):
        words += [flag, str(path)] if path else []
    done = subprocess.run(
        [sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True
    ).stdout  # fmt: skip
    return float(done.split()[-1])


def tell_memory(setting: Setting, who: str, options: argparse.Namespace) -> None:
    """Print how far the peak of memory rises in two steps, the first with R1."""
    stepping = make(setting, who, options)
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(2):
        stepping.step()
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    print((peak - held) / 2**20)


def make(setting: Setting, who: str, options: argparse.Namespace) -> Stepping:
    """Return our step in a precision, or a peer's."""
    if who == "stylegan2-ada-pytorch":
        return step_peers.Ada(setting, options.peer_path)
    if who == "rosinality":
        return step_peers.Rosinality(setting, options.rosinality_path)
    return Ours(setting, who)


def rows_of(setting: Setting, precision: str, options: argparse.Namespace) -> list[Row]:
    """Measure the variants of one setting and precision, and the peers that were given."""
    everybody: dict[str, Stepping] = {"": Ours(setting, precision)}
    for variant in TAKEN_BACK:
        if variant.only in ("", precision):
            everybody[variant.name] = Ours(setting, precision, variant)
    if options.compile:
        everybody[COMPILED] = Ours(setting, precision, compiled=True)
    equal: dict[str, float] = {}
    if options.peer_path and setting.r1_interval:
        peer = step_peers.Ada(setting, options.peer_path)
        equal["stylegan2-ada-pytorch"] = check_equal(setting, peer)
        everybody["stylegan2-ada-pytorch"] = peer
    if options.rosinality_path and not setting.r1_interval:
        everybody["rosinality"] = step_peers.Rosinality(setting, options.rosinality_path)
    steps = setting.r1_interval or 4
    seconds, first = take_turns(everybody, steps, options.rounds)
    flops, peak = step_flops(setting), gemm_peak(precision, options.gemm_side)
    rows = []
    for name, times in seconds.items():
        peers_turn = name in ("stylegan2-ada-pytorch", "rosinality")
        row = {
            "setting": setting.name, "precision": "fp32" if peers_turn else precision, "beside": precision,
            "who": name or "default", "first_step_s": first[name], "step_s": statistics.median(times),
            "images_per_s": setting.batch / statistics.median(times),
            "times_default": statistics.median(b / a for a, b in zip(seconds[""], times, strict=True)),
        }  # fmt: skip
        if peers_turn:
            fresh = seconds[FRESH.name]
            row["times_fresh"] = statistics.median(b / a for a, b in zip(fresh, times, strict=True))
            row["difference"] = equal.get(name)
            row["extra_mib"] = memory_mib(setting, name, options)
        if not name:
            row |= {"gflops": flops / 1e9, "peak_gflops_per_s": peak / 1e9}
            row["share_of_peak"] = flops / statistics.median(times) / peak
            row["data_share"] = data_share(setting, precision)
            row["extra_mib"] = None if options.quick else memory_mib(setting, precision, options)
        rows.append(row)
        print(f"{setting.name}, {precision}: {row['who']} {row['step_s']:.4f} s", file=sys.stderr, flush=True)
    return rows


def own_table(rows: Sequence[Row]) -> list[str]:
    """Return the step as it is, and with choices taken back."""
    lines = [
        "| setting | precision | step | images/s | of products' peak | getting images | peak extra memory |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for row in (row for row in rows if row["who"] == "default"):
        memory = "" if row["extra_mib"] is None else f"{row['extra_mib']:.0f} MiB"
        lines.append(
            f"| {row['setting']} | {row['precision']} | {1000 * row['step_s']:.1f} ms "
            f"| {row['images_per_s']:.0f} | {row['share_of_peak']:.0%} | {row['data_share']:.2%} | {memory} |"
        )
    columns = sorted({(row["setting"], row["beside"]) for row in rows})
    names = list(dict.fromkeys(row["who"] for row in rows if "times_fresh" not in row))
    ratio = {(row["setting"], row["beside"], row["who"]): row["times_default"] for row in rows}
    lines += [
        "", "Time with one choice taken back, over the time of the step as it is:", "",
        "| taken back | " + " | ".join(f"{setting}, {precision}" for setting, precision in columns) + " |",
        "| --- |" + " --: |" * len(columns),
    ]  # fmt: skip
    for name in names:
        if name != "default":
            cells = [ratio.get((*column, name)) for column in columns]
            lines.append(f"| {name} | " + " | ".join("" if c is None else f"{c:.2f}" for c in cells) + " |")
    compiling = max((row["first_step_s"] for row in rows if row["who"] == COMPILED), default=None)
    if compiling is not None:
        lines += ["", f"The first step under {COMPILED} took up to {compiling:.0f} s."]
    return lines


def peer_table(rows: Sequence[Row]) -> list[str]:
    """Return the step beside the peers that were given."""
    beside = [row for row in rows if "times_fresh" in row]
    if not beside:
        return ["", "No peer was given to this run."]
    memory = {(row["setting"], row["precision"]): row["extra_mib"] for row in rows if row["who"] == "default"}
    lines = [
        "",
        "| setting | peer | ours | peer / ours | with its sampling | memory, ours / peer | difference |",
        "| --- | --- | --- | --: | --: | --: | --: |",
    ]
    for row in beside:
        mine = memory[row["setting"], row["beside"]]
        equal = "" if row["difference"] is None else f"{row['difference']:.1e}"
        told = "" if mine is None else f"{mine / row['extra_mib']:.2f}"
        lines.append(
            f"| {row['setting']} | {row['who']} | {row['beside']} | {row['times_default']:.2f} "
            f"| {row['times_fresh']:.2f} | {told} | {equal} |"
        )
    return lines


def page(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """Return all tables."""
    head = (
        f"torch {torch.__version__}, {options.threads} threads, 32 px, R1 every 16 steps where there is any, "
        f"medians of {options.rounds} turns."
    )
    return "\n".join([head, "", *own_table(rows), *peer_table(rows), ""])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-path", type=Path, help="checkout of NVlabs/stylegan2-ada-pytorch")
    parser.add_argument("--rosinality-path", type=Path, help="checkout of rosinality/stylegan2-pytorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile too; minutes to compile")
    parser.add_argument("--quick", action="store_true", help="a tiny network and one turn; prints only")
    parser.add_argument("--memory", nargs=2, metavar=("SETTING", "WHO"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        name, who = options.memory
        return tell_memory(next(s for s in SETTINGS if s.name == name), who, options)
    options.gemm_side = 256 if options.quick else GEMM_SIDE
    options.rounds = 1 if options.quick else options.rounds
    precisions = ["fp32", "bf16"] if computes_bf16(CPU) else ["fp32"]
    settings = (QUICK,) if options.quick else SETTINGS
    rows = [row for s in settings for precision in precisions for row in rows_of(s, precision, options)]
    if not options.quick:
        write_json(RESULTS / "step.json", rows)
        write_text(RESULTS / "step.md", page(rows, options))
    print(page(rows, options))


if __name__ == "__main__":
    main()
