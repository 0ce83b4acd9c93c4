"""A tiny project that runs all stages against the shared stores, as a person or a pod would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pipeline.conftest import ROOT, TINY, write_images, write_zoo

from graftgan.journal import journals, read_events
from stores.services import Stack

PATIENCE_S = 900


@dataclass(frozen=True)
class Project:
    """A folder with parameters, and the environment that leads to the stores."""

    root: Path
    env: Mapping[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "graftgan", *arguments],
            cwd=self.root,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output

    def points(self) -> list[tuple[str, float, int, int]]:
        """Return the name, value, time and step of every metric, those that the parent repeats included."""
        found = []
        for path in journals(self.root / "home" / "journal"):
            stage = path.stem.rpartition("-")[0]
            for event in read_events(path):
                if event.kind == "metrics":
                    step = int(event.data["step"])
                    found += [(k, float(v), event.time_ms, step) for k, v in event.data["metrics"].items()]
                elif event.kind == "end":
                    found += [(f"{stage}.{k}", v, event.time_ms, 0) for k, v in event.data["summary"].items()]
        return found


def write_project(root: Path, stack: Stack, name: str, images: str = "images.zip") -> Project:
    """Write parameters, images and a catalogue, and return the project with its environment."""
    root.mkdir(parents=True, exist_ok=True)
    write_images(root / "images.zip", 60)
    write_zoo(root / "zoo")
    track = {"mode": "live", "experiment": name, "timeout_s": 8, "system_metrics": False}
    sections = TINY | {
        "data": TINY["data"] | {"path": images},
        "rank": TINY["rank"] | {"samples": 16},
        "finetune": TINY["finetune"] | {"controls": []},
        "evaluate": TINY["evaluate"] | {"samples": 16},
        "registry": {"name": name},
        "track": track,
    }
    (root / "params.yaml").write_text(yaml.safe_dump(sections))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "AWS_", "KFP_", "DVC_"))}
    env = kept | stack.store.environment(stack.proxy.url)
    env |= {
        "MLFLOW_TRACKING_URI": stack.mlflow.uri,
        "GRAFTGAN_HOME": str(root / "home"),
        "GRAFTGAN_CACHE": str(root / "cache"),
        "GRAFTGAN_GIT_REVISION": "0123abc",
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
    }
    return Project(root, env)
