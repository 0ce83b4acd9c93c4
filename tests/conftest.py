"""What all tests share: one thread, places of their own for state and caches, a small image set."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before NumPy and torch start their thread pools.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)
SERVERS = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}


@pytest.fixture(autouse=True, scope="session")
def shared_places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep fixtures of wider scope away from the user's state and caches."""
    place = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFTGAN_HOME", str(place / "home"))
        patch.setenv("GRAFTGAN_CACHE", str(place / "cache"))
        yield


@pytest.fixture(autouse=True)
def own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test state and cache folders of its own, outside its `tmp_path`."""
    place = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("GRAFTGAN_HOME", str(place / "home"))
    monkeypatch.setenv("GRAFTGAN_CACHE", str(place / "cache"))
    return place


@pytest.fixture(autouse=True)
def no_server() -> Iterator[None]:
    """Forget the MLflow server of a test: its address belongs to the process, and others have their own."""
    yield
    if mlflow := sys.modules.get("mlflow"):
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
    # MLflow writes what it was set to into the environment, and forgets it there no more.
    for name, value in SERVERS.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 different soft pictures of 32 px; only to be read."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(40):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number:03}.png")
    return folder
