"""A training step of StyleGAN2: beside its peers, and beside itself with one choice taken back at a time.

    python benchmarks/step.py [--peer-path DIR] [--rosinality-path DIR] [--alone] [--rounds 5] [--threads 2]
        [--device cpu|cuda] [--compile] [--quick]

A step is one update of G, one of D and, every 16 steps, R1; no augmentation, no path length. Turns are of a
cycle of such steps, and medians of the ratios of a turn count. The first table takes back what is on by
default, one choice at a time: where a choice were wrong its row would be below 1. The second sets the step
beside the StyleGAN2 of NVlabs, on its reference operations on a CPU, and `rosinality/stylegan2-pytorch`, on a
CPU alone. Both come from a package that carries their files, which is installed into a temporary folder, or
from checkouts (`--peer-path` of stylegan2-ada-pytorch, `--rosinality-path`); with `--alone` there is none.
Peers take turns with our step and with our step that draws new fakes for D as they do; what is taken back
takes turns apart from them. The peer's networks get our weights, and its images and logits must be ours to
1e-5, its gradients (of both losses and of R1) to 1e-3 of each tensor in one draw of four, with biases and
strengths of noise that are not zero.

On a GPU 256 px at the published widths is measured too, for the seconds per 1,000 images, and results are
written to `step-cuda`. Shares of the limit are of the matrix products that the device does in the same
precision at the time. Memory is what a process of its own takes above what it holds before its first steps,
on a GPU what PyTorch allocates there.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import step_peers
import torch
from measuring import CPU, Flops, extra_mib, gemm_peak, median_ratio, settle
from step_equal import check_equal
from step_peers import Setting
from step_tables import COMPILED, page
from step_variants import FRESH, TAKEN_BACK, Ours

from graftgan.contract import write_json, write_text
from graftgan.device import computes_bf16, pick_device
from graftgan.errors import ConfigError
from graftgan.training import profile

RESULTS = Path(__file__).resolve().parent / "results"
SETTINGS = (
    Setting("1024/64, batch 32", 1024, 64, batch=32),
    Setting("4096/128, batch 16", 4096, 128, batch=16),
    Setting("512 channels, batch 4, no R1", 16384, 512, batch=4, r1_interval=0, latent=512, mapping_layers=8),
)
ON_GPU = tuple(
    Setting(
        f"256 px, {base}/512, batch 32", base, 512, batch=32, latent=512, mapping_layers=8, resolution=256
    )
    # Half the width at 256 px, and the whole: both are published, the times of V100 for the former.
    for base in (16384, 32768)
)
QUICK = Setting("256/16, batch 4", 256, 16, batch=4, r1_interval=2, latent=16)
ADA, ROSINALITY = "NVlabs", "rosinality"
GEMM_SIDE = 2048
Row = dict[str, Any]
Stepping = Ours | step_peers.Ada | step_peers.Rosinality


def timed(who: Stepping, steps: int) -> float:
    """Return the seconds that a step takes on average."""
    settle(who.device)
    started = time.perf_counter()
    for _ in range(steps):
        who.step()
    settle(who.device)
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


def step_flops(setting: Setting, device: torch.device = CPU) -> float:
    """Return the arithmetic of a step, products and convolutions alone, with its share of R1."""
    ours, cycle = Ours(setting, "fp32", device=device), setting.r1_interval or 1
    counts = []
    for _ in range(2 if setting.r1_interval else 1):
        with Flops() as counter:
            ours.step()
        counts.append(counter.total)
    return (counts[0] + (cycle - 1) * counts[-1]) / cycle


def data_share(setting: Setting, precision: str, device: torch.device = CPU) -> float:
    """Return the share of a step's time in which images are drawn, mirrored and made floats."""
    ours, steps = Ours(setting, precision, flip=True, device=device), setting.r1_interval or 4
    never = 10**9  # no step is traced, which would slow it down
    with tempfile.TemporaryDirectory() as place:
        watch = profile.Profile("step", Path(place), device, interval=never // 2, steps=never)
        ours.step()
        with profile.profiling(watch):
            for number in range(steps):
                with profile.step(number):
                    ours.step()
    return watch.data_share


def memory_mib(setting: Setting, who: str, options: argparse.Namespace) -> float:
    """Return the memory that the steps of a process of its own take."""
    words = ["--memory", setting.name, who, "--threads", str(options.threads)]
    words += ["--device", str(options.device)]
    for flag, path in (("--peer-path", options.peer_path), ("--rosinality-path", options.rosinality_path)):
        words += [flag, str(path)] if path else []
    done = subprocess.run(
        [sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True
    ).stdout  # fmt: skip
    return float(done.split()[-1])


def tell_memory(setting: Setting, who: str, options: argparse.Namespace) -> None:
    """Print how far the peak of memory rises in two steps, the first with R1."""
    stepping = make(setting, who, options)

    def steps() -> None:
        for _ in range(2):
            stepping.step()

    print(extra_mib(steps, options.device))


def make(setting: Setting, who: str, options: argparse.Namespace) -> Stepping:
    """Return our step in a precision, or a peer's."""
    if who == ADA:
        return step_peers.Ada(setting, options.peer_path, options.device)
    if who == ROSINALITY:
        return step_peers.Rosinality(setting, options.rosinality_path)
    return Ours(setting, who, device=options.device)


def peers_of(setting: Setting, options: argparse.Namespace) -> tuple[str, ...]:
    """Return which of the peers that were given run a setting."""
    if setting.r1_interval:
        return (ADA,) if options.peer_path else ()
    return (ROSINALITY,) if options.rosinality_path else ()


def variant_times(
    setting: Setting, precision: str, default: Ours, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return seconds a step with choices taken back, and of the default in the same turns."""
    everybody: dict[str, Stepping] = {"": default}
    for variant in TAKEN_BACK:
        if variant.only in ("", precision) and variant is not FRESH:
            everybody[variant.name] = Ours(setting, precision, variant, device=options.device)
    if options.compile:
        # What was compiled for other settings counts towards the most that is kept of a function.
        torch.compiler.reset()
        everybody[COMPILED] = Ours(setting, precision, compiled=True, device=options.device)
    return take_turns(everybody, setting.r1_interval or 4, options.rounds)


def peer_times(
    setting: Setting,
    precision: str,
    default: Ours,
    options: argparse.Namespace,
    equal: dict[str, tuple[float, float]],
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return seconds a step of ours, of ours with new fakes, and of peers, whose differences are noted."""
    fresh = Ours(setting, precision, FRESH, device=options.device)
    everybody: dict[str, Stepping] = {"": default, FRESH.name: fresh}
    for name in peers_of(setting, options):
        peer = everybody[name] = make(setting, name, options)
        if isinstance(peer, step_peers.Ada):
            equal[name] = check_equal(setting, peer)
    return take_turns(everybody, setting.r1_interval or 4, options.rounds)


def rows_of(setting: Setting, precision: str, options: argparse.Namespace) -> list[Row]:
    """Measure one setting and precision: beside the peers first, then with choices taken back."""
    default = Ours(setting, precision, device=options.device)
    equal: dict[str, tuple[float, float]] = {}
    seconds, first = peer_times(setting, precision, default, options, equal)
    taken_back = variant_times(setting, precision, default, options)

    def row(who: str, times: list[float], beside: list[float], first_s: float) -> Row:
        step_s = statistics.median(times)
        return {
            "setting": setting.name, "precision": precision, "beside": precision, "who": who or "default",
            "first_step_s": first_s, "step_s": step_s, "images_per_s": setting.batch / step_s,
            "s_per_kimg": 1000 * step_s / setting.batch, "times_default": median_ratio(times, beside),
        }  # fmt: skip

    rows = [row(name, times, seconds[""], first[name]) for name, times in seconds.items()]
    for found in rows:
        if found["who"] in (ADA, ROSINALITY):
            found.update(peer_facts(setting, found["who"], seconds, equal, options))
    rows[0] |= own_facts(setting, precision, rows[0]["step_s"], options)
    times_of, first_of = taken_back
    rows += [row(name, times, times_of[""], first_of[name]) for name, times in times_of.items() if name]
    for found in rows:
        print(f"{setting.name}, {precision}: {found['who']} {found['step_s']:.4f} s", file=sys.stderr)
    return rows


def peer_facts(
    setting: Setting,
    name: str,
    seconds: dict[str, list[float]],
    equal: dict[str, tuple[float, float]],
    options: argparse.Namespace,
) -> Row:
    """Return what is told of a peer beside its time."""
    outputs, slopes = equal.get(name, (None, None))
    return {
        "precision": "fp32", "times_fresh": median_ratio(seconds[name], seconds[FRESH.name]),
        "difference": outputs, "gradient_difference": slopes,
        "extra_mib": None if options.quick else memory_mib(setting, name, options),
    }  # fmt: skip


def own_facts(setting: Setting, precision: str, step_s: float, options: argparse.Namespace) -> Row:
    """Return what is told of our step beside its time."""
    flops = step_flops(setting, options.device)
    peak = gemm_peak(precision, options.gemm_side, options.device)
    return {
        "gflops": flops / 1e9, "peak_gflops_per_s": peak / 1e9, "share_of_peak": flops / step_s / peak,
        "data_share": data_share(setting, precision, options.device),
        "extra_mib": None if options.quick else memory_mib(setting, precision, options),
    }  # fmt: skip


def device(name: str) -> torch.device:
    """Return the device of a name.

    Raises:
        argparse.ArgumentTypeError: It is unknown or absent.
    """
    try:
        return pick_device(name)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(
            f"{error.message.removeprefix('runtime.device: ')}; {error.remedy}"
        ) from None


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-path", type=Path, help="checkout of NVlabs/stylegan2-ada-pytorch")
    parser.add_argument("--rosinality-path", type=Path, help="checkout of rosinality/stylegan2-pytorch")
    parser.add_argument("--alone", action="store_true", help="install no peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=device, default=CPU, help="cpu, cuda or cuda:N")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; minutes to compile")
    parser.add_argument("--quick", action="store_true", help="a tiny network and one turn; prints only")
    parser.add_argument("--memory", nargs=2, metavar=("SETTING", "WHO"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.rosinality_path and options.device.type == "cuda":
        parser.error("--rosinality-path: what stands in for its compiled operators is for a CPU alone")
    options.origin = {
        ADA: "a checkout of stylegan2-ada-pytorch" if options.peer_path else "",
        ROSINALITY: "a checkout of stylegan2-pytorch" if options.rosinality_path else "",
    }
    options.gemm_side = 256 if options.quick else GEMM_SIDE if options.device == CPU else 4 * GEMM_SIDE
    options.rounds = 1 if options.quick else options.rounds
    return options


def add_peers(options: argparse.Namespace, folder: Path) -> None:
    """Install the peers that were not given into a folder, and note where they come from."""
    if options.peer_path and (options.rosinality_path or options.device.type == "cuda"):
        return
    nvlabs, rosinality = step_peers.install(folder)
    if not options.peer_path:
        options.peer_path, options.origin[ADA] = nvlabs, f"its stylegan3 repository, in {step_peers.PACKAGE}"
    if not options.rosinality_path and options.device.type == "cpu":
        options.rosinality_path = rosinality
        options.origin[ROSINALITY] = f"its stylegan2-pytorch, in {step_peers.PACKAGE}"


def settings_of(options: argparse.Namespace) -> tuple[Setting, ...]:
    """Return what is measured; 256 px at full width would take a CPU many hours."""
    if options.quick:
        return (QUICK,)
    return SETTINGS if options.device.type == "cpu" else (*SETTINGS, *ON_GPU)


def main() -> None:
    """Measure, print and write."""
    options = parse()
    torch.set_num_threads(options.threads)
    if options.memory:
        name, who = options.memory
        known = (*SETTINGS, *ON_GPU, QUICK)
        return tell_memory(next(setting for setting in known if setting.name == name), who, options)
    with tempfile.TemporaryDirectory() as folder:
        if not (options.alone or options.quick):
            add_peers(options, Path(folder))
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Measure all settings and precisions, print, and write unless it is a quick trial."""
    precisions = ["fp32", "bf16"] if computes_bf16(options.device) else ["fp32"]
    rows = [
        row
        for s in settings_of(options)
        for precision in precisions
        for row in rows_of(s, precision, options)
    ]
    text = page(rows, options)
    if not options.quick:
        name = "step" if options.device.type == "cpu" else "step-cuda"
        write_json(RESULTS / f"{name}.json", rows)
        write_text(RESULTS / f"{name}.md", text)
    print(text)


if __name__ == "__main__":
    main()
