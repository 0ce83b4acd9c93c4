"""The served bank's own limits: turns, time, pixels."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bank.banks import SIZE_PX, grown
from mlflow.exceptions import MlflowException
from PIL import Image

from benchmarks.serving import flat
from graftgan.bank.package import BankPackage, write_bank_package
from graftgan.serving_bank import BankModel
from graftgan.serving_limits import MAX_ROWS, TIMEOUT


def packaged(folder: Path) -> Path:
    """Write the package of a bank of the tasks t1 and t2."""
    bank = grown(folder / "bank", ["random", "warm:t1"])
    (folder / "package").mkdir()
    about = {name: {"background": "#ffffff", "size_px": SIZE_PX} for name in ("t1", "t2")}
    write_bank_package(bank.folder, folder / "package", {"tasks": about}, "# card\n")
    return folder / "package"


def rows(*images: bytes, task: Any = "t1") -> pd.DataFrame:
    return pd.DataFrame({"task": [task] * len(images), "image": list(images)})


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packaged(tmp_path_factory.mktemp("bank"))


@pytest.fixture
def model(package: Path) -> BankModel:
    loaded = BankModel()
    loaded.load_context(SimpleNamespace(artifacts={"package": str(package)}))
    return loaded


def test_images_beyond_what_the_side_of_the_task_justifies_are_refused_undecoded(model: BankModel) -> None:
    limit = model.package.max_pixels("t1")
    assert limit == 1024 * 1024
    bomb = flat(10_000, 10_000)
    assert len(bomb) * MAX_ROWS < 1 << 20, "64 of them fit into a request"
    started = time.process_time()
    with pytest.raises(MlflowException, match=f"row 1: .* more pixels than the limit = {limit}"):
        model.predict(None, rows(flat(8, 8), bomb))
    assert time.process_time() - started < 2
    made = model.predict(None, rows(flat(1024, 1024)))["image"][0]
    assert Image.open(io.BytesIO(made)).size == (SIZE_PX, SIZE_PX)


@pytest.mark.parametrize(
    ("side_px", "pixels"), [(16, 1024**2), (64, 1024**2), (128, 2048**2), (256, 4096**2)]
)
def test_the_limit_grows_with_the_side(side_px: int, pixels: int) -> None:
    task = SimpleNamespace(outputs=SimpleNamespace(size_px=side_px))
    bank: Any = SimpleNamespace(task=lambda name: task)
    assert BankPackage(bank, {}).max_pixels("t") == pixels


def slowed(model: BankModel, seconds: float, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make each image take so long; the list gets how many requests are at work whenever one begins."""
    working, seen = [0], []
    translate = model.package.translate

    def slow(task: str, image: bytes) -> Any:
        working[0] += 1
        seen.append(working[0])
        time.sleep(seconds)
        working[0] -= 1
        return translate(task, image)

    monkeypatch.setattr(model.package, "translate", slow)
    return seen


def test_a_request_that_takes_too_long_stops(model: BankModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = slowed(model, 0.15, monkeypatch)
    monkeypatch.setenv(TIMEOUT, "0.25")
    with pytest.raises(MlflowException, match=r"took longer than 0.25 s") as caught:
        model.predict(None, rows(*[flat(8, 8)] * 20))
    assert caught.value.get_http_status_code() == 504
    assert len(seen) <= 3, "the work stops, not only the answer"
    monkeypatch.setenv(TIMEOUT, "50")
    assert len(model.predict(None, rows(flat(8, 8)))) == 1


def test_a_request_that_waits_too_long_for_its_turn_stops(
    model: BankModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT, "0.1")
    with model._turn, pytest.raises(MlflowException, match="took longer"):
        model.predict(None, rows(flat(8, 8)))


def test_requests_are_worked_on_one_at_a_time(model: BankModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = slowed(model, 0.02, monkeypatch)
    threads = [
        threading.Thread(target=model.predict, args=(None, rows(flat(8, 8), flat(9, 9)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 8


@pytest.mark.parametrize("task", [None, 1, ["t1"], {"t1": 1}, np.nan, "t" * 100_000])
def test_odd_tasks_are_refused_in_few_words(model: BankModel, task: Any) -> None:
    with pytest.raises(MlflowException, match="row 0: task is") as caught:
        model.predict(None, rows(flat(8, 8), task=task))
    assert len(str(caught.value)) < 200
