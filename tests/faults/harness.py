"""Runs `graftgan` in a tiny project, kills it or lets file operations fail, and compares what it left."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from PIL import Image

from graftgan.bank.store import Bank
from graftgan.contract import Result, digest_path, sweep_all

TESTS = Path(__file__).parents[1]
STAGES = ("prepare", "rank", "finetune", "evaluate", "report", "register")
TASK, STUDY, LIST, RICH = "task", "study", "list", "rich"
COLOURS = "torchscript:colours.pt?px=16"
ADD_TASK = (
    "tasks", "add", "grey", "--data", "task.yaml", "--train", "recipe.yaml", "--scores", "scores.yaml",
    "--generator", "resnet_6", "--ngf", "2", "--device", "cpu",
)  # fmt: skip
DO_STUDY = (
    "study", "transfer", "--targets", "images.zip", "--sources", "tiny", "--arms", "g_only",
    "--arms", "scratch", "--out", "study",
)  # fmt: skip
FINETUNE_RICHLY = ("finetune", "--params", "rich.yaml")
LEARN_LIST = ("lifelong", "run", "--params", "list.yaml", "--out", "list")
NIGHTS = 8
SHARE = "FAULTS_SHARE"
Item = TypeVar("Item")
WATCH, KILL, TORN, FAIL, FAIL_ON, TERM = range(6)
STOPPING = "SIGTERM "
SAVE = re.compile(r"rename .*/images-\d{12}")
SIZES = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 4}
PARAMS: dict[str, Any] = {
    "data": {"path": "images.zip", "split": {"validation": 0.25, "test": 0.25}},
    "rank": {"catalogue": "catalogue.yaml", "samples": 16, "extractor": COLOURS},
    "finetune": {
        "budget": {"kimg": 0.032},
        "batch": 8,
        "controls": [],
        "evaluate_every_kimg": 0.016,
        "validation_samples": 16,
        "validation_extractor": COLOURS,
        "precision": "fp32",
        "scratch": SIZES,
    },
    "evaluate": {"extractor": COLOURS, "samples": 16},
    "track": {"mode": "off"},
    # A state is saved after every step.
    "runtime": {"device": "cpu", "threads": 1, "workers": 1, "save_every_s": 1e-9},
}
# All that a state can hold at once: a prior that moves and its inversion, a penalty, p of ADA, path length.
RICHER = {
    "budget": {"kimg": 0.064}, "prior": "gmm_to_normal", "mixture": {"components": 2},
    "inversion": {"epochs": 2, "lr": 0.05, "batch": 12}, "penalties": ["bsd"], "bsd_k": 4,
    "path_length_weight": 2.0, "path_length_interval": 2, "style_mixing": 0.5, "r1_interval": 2,
    "ada_target": 0.0, "ada_speed_kimg": 0.1,
}  # fmt: skip
GREY = {"target": "images.zip", "make": "grey", "resolution": 16}
RECIPE = {
    "budget": {"kimg": 0.016}, "batch": 2, "ndf": 4, "precision": "fp32", "evaluate_every_kimg": 0.004,
}  # fmt: skip
OTHER_FILES: dict[str, dict[str, Any]] = {
    "rich.yaml": {
        **PARAMS,
        "rank": {**PARAMS["rank"], "choose": "tiny"},
        "finetune": {**PARAMS["finetune"], **RICHER},
    },
    "task.yaml": GREY,
    "recipe.yaml": RECIPE,
    "scores.yaml": {"extractor": COLOURS, "validation_extractor": COLOURS},
    "list.yaml": {
        "tasks": {
            "grey": {"data": GREY},
            "edges": {"data": {**GREY, "make": "edges"}, "init": "warm:grey"},
        },
        "bank": {"generator": "resnet_6", "ngf": 2, "share": 0.5},
        "train": RECIPE,
        "scores": {"extractor": COLOURS, "validation_extractor": COLOURS},
        "track": {"mode": "off"},
        "runtime": {"device": "cpu", "threads": 1, "save_every_s": 1e-9},
    },
}  # fmt: skip


class Colours(torch.nn.Module):
    """A network of features that costs nothing: mean colours of sixteenths."""

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(img, 4).flatten(1)


@dataclass(frozen=True)
class Fault:
    """What happens to one file operation of a process.

    Attributes:
        mode: WATCH counts only; KILL kills before the operation, TORN in it (half of a write arrives) or
            right behind it; FAIL makes it fail; FAIL_ON makes it and all later ones fail, but for removals;
            TERM sends SIGTERM before it.
        at: Number of the operation, from 1.
        error: errno of a failure.
    """

    mode: int = WATCH
    at: int = 0
    error: int = 0


@dataclass(frozen=True)
class End:
    """How a command ended.

    Attributes:
        code: Exit code, or minus the signal that killed it.
        output: What it said.
        operations: Its file operations below the project, with path, if it was armed.
        seconds: How long it took.
        stopping_s: How long it took from the SIGTERM of a fault to the end.
    """

    code: int
    output: str
    operations: list[str]
    seconds: float
    stopping_s: float | None = None


class Warm:
    """The process that forks a child for every command.

    Args:
        folder: Where it keeps what the commands say.
        shim: Library made from `shim.c`; without it commands cannot be armed.
    """

    def __init__(self, folder: Path, shim: Path | None) -> None:
        self.folder, self.shim = folder, shim
        source = TESTS.parent / "src"
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(source), str(TESTS)]), "OMP_NUM_THREADS": "1"}
        if shim:
            env["LD_PRELOAD"] = str(shim)
        self.errors = (folder / "warm.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faults.warm"],
            env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "warm.log").read_text()
        return dict(json.loads(line))

    def run(
        self,
        place: Path,
        *words: str,
        fault: Fault | None = None,
        signum: int = signal.SIGKILL,
        signal_after_s: float | None = None,
    ) -> End:
        """Run `graftgan WORDS` in a folder, armed or sent a signal after some seconds."""
        assert self.process.stdin is not None
        if self.process.poll() is None and not hasattr(self, "ready"):
            self.ready = self._read()
        output, log = self.folder / "output", self.folder / "operations"
        command = {
            "words": words, "folder": str(place), "output": str(output), "log": str(log),
            "fault": None if fault is None else asdict(fault), "signal": int(signum),
            "signal_after_s": signal_after_s, "env": environment(place),
        }  # fmt: skip
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        told = self._read()
        text = output.read_text(errors="replace")
        lines = log.read_text(errors="replace").splitlines()
        sent = [float(line.removeprefix(STOPPING)) for line in lines if line.startswith(STOPPING)]
        operations = [line for line in lines if not line.startswith(STOPPING)]
        stopping_s = told["ended"] - sent[0] if sent else None
        return End(told["code"], text, operations, told["seconds"], stopping_s)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait(timeout=60)
        self.errors.close()


def environment(place: Path) -> dict[str, str]:
    """Return variables that keep state and caches inside the project, so that their operations count."""
    return {"GRAFTGAN_HOME": str(place / "home"), "GRAFTGAN_CACHE": str(place / "cache"), "COLUMNS": "200"}


def write_project(folder: Path, count: int = 48) -> None:
    """Write images, a source, a catalogue and parameters."""
    from graftgan.checkpoints.store import WEIGHTS, save_gan
    from graftgan.contract import digest_file
    from graftgan.gans.base import build
    from graftgan.gans.stylegan2 import StyleGAN2Spec

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number in range(count):
            small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            buffer = io.BytesIO()
            small.resize((32, 32), Image.Resampling.BICUBIC).save(buffer, "png")
            archive.writestr(zipfile.ZipInfo(f"{number:03}.png"), buffer.getvalue())
    (folder / "tiny").mkdir()
    save_gan(build(StyleGAN2Spec(resolution=32, **SIZES), seed=1), folder / "tiny")
    sha256 = digest_file(folder / "tiny" / WEIGHTS)
    entry = {"name": "tiny", "path": "tiny", "sha256": sha256, "resolution": 32, "licence": "CC0-1.0"}
    (folder / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    for name, values in {"params.yaml": PARAMS, **OTHER_FILES}.items():
        (folder / name).write_text(yaml.safe_dump(values, sort_keys=False))
    torch.jit.script(Colours()).save(str(folder / "colours.pt"))


def compile_shim(folder: Path) -> Path | None:
    """Compile `shim.c`, or return None where there is no C compiler or no Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "shim.so"
    source = str(Path(__file__).with_name("shim.c"))
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), source, "-ldl"], check=True)
    return library


def words(stage: str) -> tuple[str, ...]:
    """Return the words of a stage's command, or of a command that is none.

    `TASK` adds a task to a bank, `STUDY` is a study of transfer, `LIST` learns a list of tasks, and `RICH` is
    finetune with another recipe.
    """
    return {TASK: ADD_TASK, STUDY: DO_STUDY, LIST: LEARN_LIST, RICH: FINETUNE_RICHLY}.get(stage, (stage,))


def place_of(place: Path, stage: str) -> Path:
    """Return the folder that a stage writes to."""
    places = {TASK: "bank", STUDY: "study", LIST: "list", RICH: "out/finetune"}
    return place / places.get(stage, f"out/{stage}")


def outputs(place: Path, stage: str) -> dict[str, str]:
    """Return the digest of everything that a stage left, but for volatile facts and what is hidden."""
    folder = place_of(place, stage)
    facts = ("run.json", "data_docs")
    if stage in (STUDY, LIST):
        # Many stages and units, each whole by itself: file by file, without the states of unfinished units.
        files = ((path, path.relative_to(folder).parts) for path in folder.rglob("*") if path.is_file())
        return {
            "/".join(parts): digest_path(path)
            for path, parts in files
            if not {*parts} & {*facts, "states"} and not any(part.startswith(".") for part in parts)
        }
    found = folder.iterdir() if folder.exists() else ()
    names = [p for p in found if p.name not in facts and not p.name.startswith(".")]
    return {p.name: digest_path(p) for p in names}


def left_over(place: Path) -> list[str]:
    """Return the temporary places of unfinished writing below the folders of outputs, states and caches.

    In caches those stay that the next one who writes there removes once they are old enough.
    """
    for folder in [place / "cache", *(path for path in (place / "cache").rglob("*") if path.is_dir())]:
        sweep_all(folder)
    written = ("out", "bank", "study", "list", "home", "cache")
    found = [p for name in written for p in (place / name).rglob(".*")]
    # A lock is void without its process; it goes with the next run that takes it.
    return [str(p.relative_to(place)) for p in found if p.suffix != ".lock" and p.name != ".lock"]


def promises_kept(place: Path, stage: str, wanted: dict[str, str]) -> list[str]:
    """Return what is wrong with a stage's outputs as a dead process left them: nothing may be half-written.

    Args:
        place: The project.
        stage: The stage that died.
        wanted: `outputs` of a run that was not disturbed.
    """
    if stage == TASK:
        # A bank grows in place, behind a note that makes the next opener take back what no manifest counts.
        bank = Bank(place / "bank") if (place / "bank" / "manifest.json").exists() else None
        return [] if bank is None else [str(finding) for finding in bank.inspect()]
    found = outputs(place, stage)
    wrong = [name for name, digest in found.items() if digest != wanted.get(name)]
    if "result.json" in found:
        folder = place_of(place, stage)
        result = Result.read(folder / "result.json")
        by_stem = {path.stem: path for path in folder.iterdir() if not path.name.startswith(".")}
        wrong += [n for n, e in result.outputs.items() if digest_path(by_stem[n]) != e.digest]
    return wrong


def save_points(operations: Sequence[str]) -> list[int]:
    """Return the numbers of the renames that put a saved state in its place."""
    return [number for number, line in enumerate(operations, 1) if SAVE.fullmatch(line)]


def training_points(operations: Sequence[str]) -> list[int]:
    """Return the save points from the start of the first training on, which begins with a state of no images.

    Those before it are of an inversion.
    """
    points = save_points(operations)
    first = next(i for i, number in enumerate(points) if not images_of(operations[number - 1]))
    return points[first:]


def states(place: Path) -> list[Path]:
    """Return the saved states of a project, that with the most images last."""
    found = (path for path in place.rglob("images-*") if path.is_dir())
    return sorted(
        (path for path in found if not path.parent.name.startswith(".")), key=lambda path: path.name
    )


def images_of(state: Path | str) -> int:
    """Return the images that a saved state had seen, by its path."""
    return int(str(state).rpartition("images-")[2])


def spread(total: int, count: int) -> Sequence[int]:
    """Return `count` numbers from 1 to `total`, evenly spread, the first and the last among them."""
    return sorted({int(n) for n in np.linspace(1, total, min(count, total)).round()})


def share_of(items: Sequence[Item], text: str | None = None, nights: int = NIGHTS) -> list[Item]:
    """Return the part of a sweep that is done now: every n-th of its faults.

    Args:
        items: All faults.
        text: `all`, or `2/8` for the second of eight parts; by default `FAULTS_SHARE`, and without it another
            of the parts each day.
        nights: How many parts.

    Raises:
        ValueError: The text is neither.
    """
    text = text or os.environ.get(SHARE) or f"{date.today().toordinal() % nights + 1}/{nights}"
    if text == "all":
        return list(items)
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise ValueError(f"{SHARE}={text!r} is neither 'all' nor a part such as '2/{NIGHTS}'")
    return list(items[int(part) - 1 :: int(parts)])


def try_all(
    faults: Sequence[Item], folder: Path, check: Callable[[Item, Path], object], nights: int = NIGHTS
) -> str:
    """Do the part of a sweep that is due, each fault in a place of its own; return how many of how many.

    What fails does not end it: all failures are told together.
    """
    done, wrong = share_of(faults, nights=nights), []
    for number, fault in enumerate(done):
        place = folder / str(number)
        try:
            check(fault, place)
        except AssertionError as error:
            wrong.append(f"{fault}: {error}")
        # A thousand of them would fill the disk.
        shutil.rmtree(place, ignore_errors=True)
    assert not wrong, f"{len(wrong)} of {len(done)} failed\n\n" + "\n\n".join(wrong)
    return f"{len(done)} of {len(faults)}"
