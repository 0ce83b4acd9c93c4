"""A worker that trains in a loop: `python -m distributed.looping FOLDER [dies|fails]`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from distributed.pair import main
from safetensors.torch import save_file
from training.killable import Brightness
from training.nets import EVERYTHING, make

from graftgan.checkpoints.store import gan_tensors
from graftgan.context import Context, StopSignal
from graftgan.errors import DataError
from graftgan.progress import Task
from graftgan.training.loop import Loop
from graftgan.training.state import StateStore
from graftgan.workers import number

TROUBLE_AT = 3


class Steps:
    """A progress display that tells every step; the second worker may come to grief at the third."""

    def __init__(self, trouble: str) -> None:
        self.trouble, self.steps = trouble, 0

    def task(self, name: str, total: int, done: int = 0) -> Task:
        return self

    def advance(self, images: int, scores: Mapping[str, float] | None = None) -> None:
        self.steps += 1
        print("step", flush=True)
        time.sleep(0.02)
        if number() == 1 and self.steps == TROUBLE_AT:
            if self.trouble == "dies":
                os._exit(9)
            if self.trouble == "fails":
                raise DataError("images.npy is cut off", "pack it again")

    def close(self) -> None:
        pass


def train(folder: Path, trouble: str = "") -> None:
    """Train in `folder`; the first worker writes what the run ends with."""
    trainer = make(**EVERYTHING, budget={"kimg": 0.08}, evaluate_every_kimg=0.024)
    stop = StopSignal()
    stop.install()
    ctx = Context(state=folder, cache=folder, progress=Steps(trouble), stop=stop)
    history = Loop("run", trainer, Brightness(), StateStore(folder / "states"), ctx, save_every_s=0.1).run()
    if number() == 0:
        save_file(gan_tensors(trainer.gan), folder / "last.safetensors")
        (folder / "curves.json").write_text(json.dumps([history.rows, history.frame_images]))


if __name__ == "__main__":
    main(lambda: train(Path(sys.argv[1]), *sys.argv[2:]))
