"""A training run in a process of its own, to be killed by a signal: `python -m training.killable FOLDER`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from graftgan.checkpoints.store import gan_tensors
from graftgan.context import Context, StopSignal
from graftgan.errors import Ending
from graftgan.gans.base import Generator, sample
from graftgan.progress import Task
from graftgan.training.loop import Loop, Measurement
from graftgan.training.state import StateStore
from training.nets import EVERYTHING, make


class Brightness:
    """A judge with a number that training changes."""

    def measure(self, generator: Generator) -> Measurement:
        value = float(sample(generator, 4, 0).mean())
        return Measurement(value, value - 1, value + 1, torch.tensor([value]))

    def improves(self, new: Measurement, best: Measurement) -> bool:
        return new.value < best.value


class Told:
    """A progress display that tells every step, and is slow enough for a signal to find the run at work."""

    def task(self, name: str, total: int, done: int = 0) -> Task:
        return self

    def advance(self, images: int, scores: Mapping[str, float] | None = None) -> None:
        print("step", flush=True)
        time.sleep(0.02)

    def close(self) -> None:
        pass


def train(folder: Path) -> None:
    """Train in `folder`, where earlier states may lie; write weights and curves at the end."""
    trainer = make(**EVERYTHING, budget={"kimg": 0.08}, evaluate_every_kimg=0.024)
    stop = StopSignal()
    stop.install()
    ctx = Context(state=folder, cache=folder, progress=Told(), stop=stop)
    history = Loop("run", trainer, Brightness(), StateStore(folder / "states"), ctx, save_every_s=0.1).run()
    save_file(gan_tensors(trainer.gan), folder / "last.safetensors")
    save_file(history.best_tensors, folder / "best.safetensors")
    (folder / "curves.json").write_text(json.dumps([history.rows, history.frame_images, history.best_images]))
    save_file({str(i): frame for i, frame in enumerate(history.frames)}, folder / "frames.safetensors")


if __name__ == "__main__":
    try:
        train(Path(sys.argv[1]))
    except Ending as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
