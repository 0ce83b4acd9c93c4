"""One worker of a few: `python -m distributed.pair CASE FOLDER`, started by `launch` with torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ports import free_port
from safetensors.torch import save_file
from training.nets import everything, pictures, recipe, tiny
from training.test_families import SIZES
from training.test_prior import mixture

from graftgan.errors import Ending
from graftgan.gans.base import build
from graftgan.gans.spec import GanSpec
from graftgan.training.ada_controller import AdaControllerConfig
from graftgan.training.augment import make_augment
from graftgan.training.prior import MovingPrior
from graftgan.training.trainer import Trainer
from graftgan.transfer import method
from graftgan.transfer.penalties import make_penalties
from graftgan.workers import joined, number
from graftgan.world import world

TESTS = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def torchrun(count: int, *arguments: str) -> list[str]:
    """Return the command that starts `count` workers on this machine."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    return [*agent, "--master-addr", "127.0.0.1", "--master-port", str(free_port()), *arguments]


def alone(arguments: list[str], rank: int, count: int, port: int) -> subprocess.Popen[str]:
    """Start one worker without an agent, so that its own exit code is seen."""
    own = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_PORT": port,
    }
    env = environment() | {name: str(value) for name, value in own.items()} | {"MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def sizes(family: str) -> GanSpec:
    return GanSpec.from_dict({"family": family, "resolution": 32, **SIZES[family]})


def train(steps: int, device: str = "cpu", **changes: Any) -> Trainer:
    """Train a tiny network for some steps; the same call in one process or in a worker."""
    spec = tiny(**changes.pop("spec", {})) if "family" not in changes else sizes(changes.pop("family"))
    labels = torch.arange(10).numpy() % spec.classes if spec.classes else None
    from_scratch = changes.pop("from_scratch", False)
    gan = build(spec, seed=1)
    gan.generator.freeze_statistics(not from_scratch)
    images = pictures(10, spec.channels)
    settings = recipe(**changes)
    method(settings.method).apply(gan, settings)
    ada = AdaControllerConfig(target=settings.ada_target, speed_kimg=settings.ada_speed_kimg)
    augment = make_augment(settings.augment, ada=ada)
    trainer = Trainer(gan, images, labels, settings, augment, torch.device(device), from_scratch)
    if settings.prior != "normal":
        trainer.set_prior(MovingPrior(mixture(), "linear"))
    trainer.add_penalties(make_penalties(trainer.settings))
    trainer.seed_noise()
    for step in range(steps):
        if trainer.prior is not None:
            trainer.set_rate(step / steps)
        trainer.step()
    return trainer


def told(trainer: Trainer) -> dict[str, Any]:
    """Return what the curves would show, and ADA's p."""
    return {**trainer.meter.take(), "p": trainer.augment.p}


def run_case(steps: int, changes: dict[str, Any], folder: Path, device: str) -> None:
    trainer = train(steps, device, **changes)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in everything(trainer).items()}
    save_file(tensors, folder / f"{number()}.safetensors")
    (folder / f"{number()}.json").write_text(json.dumps(told(trainer) | {"workers": world().size}))


def main(body: Callable[[], None], device: str = "cpu") -> None:
    """Run as a worker; leave as the command line does."""
    torch.set_num_threads(1)
    try:
        with joined(device):
            body()
    except Ending as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    cases, folder, device = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3]

    def body() -> None:
        for name, (steps, changes) in cases.items():
            (folder / name).mkdir(exist_ok=True)
            run_case(steps, changes, folder / name, device)

    main(body, device)
