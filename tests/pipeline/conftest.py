"""A tiny project for the three runners: images, a source checkpoint, parameters, `dvc.yaml`, the package."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

STAGES = ("prepare", "rank", "finetune", "evaluate", "report", "register")
TINY: dict[str, Any] = {
    "data": {"path": "images.zip", "resolution": 32, "split": {"validation": 0.25, "test": 0.25}},
    "rank": {"catalogue": "zoo/catalogue.yaml", "samples": 32, "extractor": "efflite0-128"},
    "finetune": {
        "budget": {"kimg": 0.064},
        "batch": 16,
        "controls": ["scratch"],
        "evaluate_every_kimg": 0.032,
        "validation_samples": 16,
        "precision": "fp32",
        "scratch": {"z_dim": 16, "w_dim": 16, "mapping_layers": 1, "channel_base": 128, "channel_max": 16},
    },
    "evaluate": {"extractor": "efflite0-128", "samples": 32},
    "track": {"mode": "off"},
    "runtime": {"device": "cpu", "threads": 1, "workers": 1},
}


@dataclass(frozen=True)
class Project:
    """A folder in which every runner can work, and the environment for it."""

    root: Path

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project with the project's own copy of the package."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment() | env, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def environment(self) -> dict[str, str]:
        """Return the variables that keep runs apart from each other and from the user's caches."""
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"src{os.pathsep}{ROOT}",
            "OMP_NUM_THREADS": "1",
            "GRAFTGAN_HOME": str(self.root / ".graftgan"),
            "GRAFTGAN_CACHE": str(self.root / ".graftgan" / "cache"),
            "DVC_NO_ANALYTICS": "1",
            "DVC_GLOBAL_CONFIG_DIR": str(self.root / ".dvc" / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(self.root / ".dvc" / "system"),
            "DVC_SITE_CACHE_DIR": str(self.root / ".dvc" / "site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@t",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@t",
        }

    def git_commit(self) -> None:
        """Make the project a git repository with everything committed."""
        if not (self.root / ".git").exists():
            self.run("git", "init", "-q", "-b", "main")
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", "state")

    def set(self, key: str, value: Any) -> None:
        """Change one key of `params.yaml`."""
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text())
        section = params
        *parents, leaf = key.split(".")
        for part in parents:
            section = section[part]
        section[leaf] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def results(self, out: str = "out") -> dict[str, bytes]:
        """Return the bytes of every stage's `result.json` under `out`."""
        return {p.parent.name: p.read_bytes() for p in sorted((self.root / out).glob("*/result.json"))}


def write_images(path: Path, count: int = 96) -> None:
    """Write a zip of distinct smooth 32 px images."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC)
            buffer = io.BytesIO()
            picture.save(buffer, "png")
            archive.writestr(zipfile.ZipInfo(f"{number:03}.png"), buffer.getvalue())


def write_zoo(folder: Path) -> None:
    """Write a catalogue with one small StyleGAN2 source."""
    from graftgan.checkpoints.store import WEIGHTS, save_gan
    from graftgan.contract import digest_file
    from graftgan.gans.base import build
    from graftgan.gans.stylegan2 import StyleGAN2Spec

    sizes = {"z_dim": 16, "w_dim": 16, "mapping_layers": 1, "channel_base": 128, "channel_max": 16}
    (folder / "tiny").mkdir(parents=True)
    save_gan(build(StyleGAN2Spec(resolution=32, **sizes), seed=1), folder / "tiny")
    entry = {
        "name": "tiny",
        "path": "tiny",
        "sha256": digest_file(folder / "tiny" / WEIGHTS),
        "resolution": 32,
        "licence": "CC0-1.0",
    }
    (folder / "catalogue.yaml").write_text(yaml.safe_dump([entry]))


@pytest.fixture(scope="session")
def project_at() -> Callable[[Path], Project]:
    """Return what makes a project of a folder."""
    return Project


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project that is only copied from."""
    from graftgan.params import resolve

    folder = tmp_path_factory.mktemp("template")
    write_images(folder / "images.zip")
    write_zoo(folder / "zoo")
    params = resolve(TINY, "tiny").model_dump(mode="json")
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / ".gitignore").write_text("/out/\n/out-*/\n.graftgan/\n__pycache__/\n")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("dvc.yaml", ".dvcignore", ".dvc/config", ".dvc/.gitignore", ".dvc/plots/curve.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def make_project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Project]:
    """Return a function that makes a fresh copy of the tiny project."""

    def make() -> Project:
        root = tmp_path_factory.mktemp("project") / "project"
        shutil.copytree(template, root)
        return Project(root)

    return make


@pytest.fixture(scope="session")
def reproduced(make_project: Callable[[], Project]) -> Project:
    """A committed project in which `dvc repro` has run once."""
    project = make_project()
    project.git_commit()
    project.run("dvc", "repro")
    project.git_commit()
    return project


@pytest.fixture
def project(reproduced: Project, tmp_path: Path) -> Project:
    """A copy of the reproduced project, free to be changed."""
    shutil.copytree(reproduced.root, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")
