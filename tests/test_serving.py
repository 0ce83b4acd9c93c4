from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from stages.models import tiny_gan, write_models
from tracking.support import free_port

from graftgan.gans.base import Gan, sample
from graftgan.packages import write_package
from graftgan.serving import MAX_ROWS
from graftgan.tracking import save_pyfunc


def save(folder: Path, gan: Gan) -> Path:
    models = write_models(folder / "models", gan, "d")
    (folder / "package").mkdir()
    facts = {"truncation_default": 0.7, "spec": gan.spec.to_dict()}
    write_package(models / "chosen", folder / "package", facts, "# card\n")
    save_pyfunc(folder / "package", folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("plain"), tiny_gan(1))


@pytest.fixture(scope="module")
def classed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("classed"), tiny_gan(2, classes=3))


def test_prediction_equals_direct_sampling_bit_for_bit(plain: Path) -> None:
    model = mlflow.pyfunc.load_model(str(plain))
    rows = pd.DataFrame({"seed": [5, 2**40, 5], "truncation_psi": [1.0, 0.5, 0.0]})
    images = model.predict(rows)
    ema = tiny_gan(1).generator_ema
    expected = [sample(ema, 1, s, p)[0] for s, p in zip(rows["seed"], rows["truncation_psi"], strict=True)]
    assert images.dtype == np.uint8 and images.shape == (3, 32, 32, 3)
    assert np.array_equal(images, np.stack(expected))
    assert not np.array_equal(images[0], images[2])


def test_missing_truncation_means_the_default(plain: Path) -> None:
    model = mlflow.pyfunc.load_model(str(plain))
    expected = sample(tiny_gan(1).generator_ema, 1, 3, 0.7)
    assert np.array_equal(model.predict(pd.DataFrame({"seed": [3]})), expected)
    assert np.array_equal(
        model.predict(pd.DataFrame({"seed": [3], "truncation_psi": [float("nan")]})), expected
    )


def test_classes_are_taken_and_drawn_by_seed_if_absent(classed: Path) -> None:
    model = mlflow.pyfunc.load_model(str(classed))
    ema = tiny_gan(2, classes=3).generator_ema
    assert np.array_equal(
        model.predict(pd.DataFrame({"seed": [4, 4], "class": [0, 2], "truncation_psi": 1.0})),
        np.concatenate([sample(ema, 1, 4, 1.0, 0), sample(ema, 1, 4, 1.0, 2)]),
    )
    assert np.array_equal(
        model.predict(pd.DataFrame({"seed": [4], "truncation_psi": 1.0})), sample(ema, 1, 4, 1.0)
    )


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"seed": [-1]}, "row 0: seed is -1"),
        ({"seed": [1, 2], "truncation_psi": [0.5, 1.5]}, "row 1: truncation_psi is 1.5"),
        ({"seed": [1], "truncation_psi": [-0.1]}, "between 0 and 1"),
        ({"seed": list(range(MAX_ROWS + 1))}, "at most 64"),
        ({"truncation_psi": [1.0]}, "seed"),
        ({"seed": ["one"]}, "seed"),
    ],
)
def test_bad_rows_are_named(plain: Path, columns: dict[str, list[Any]], words: str) -> None:
    model = mlflow.pyfunc.load_model(str(plain))
    with pytest.raises(MlflowException) as caught:
        model.predict(pd.DataFrame(columns))
    assert words in caught.value.message
    assert caught.value.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def test_class_out_of_range_or_out_of_place_is_named(plain: Path, classed: Path) -> None:
    with pytest.raises(MlflowException, match="whole number from 0 to 2"):
        mlflow.pyfunc.load_model(str(classed)).predict(pd.DataFrame({"seed": [1], "class": [3]}))
    inner = mlflow.pyfunc.load_model(str(plain)).unwrap_python_model()
    with pytest.raises(MlflowException, match="no classes"):
        inner.predict(None, pd.DataFrame({"seed": [1], "class": [0]}))


def test_no_rows_give_no_images(plain: Path) -> None:
    inner = mlflow.pyfunc.load_model(str(plain)).unwrap_python_model()
    assert inner.predict(None, pd.DataFrame({"seed": []})).shape == (0, 32, 32, 3)


def test_nothing_in_the_model_is_pickled_or_compiled(plain: Path) -> None:
    files = [path for path in plain.rglob("*") if path.is_file()]
    assert (plain / "artifacts" / "package" / "model.safetensors") in files
    assert not [f for f in files if f.suffix in (".pkl", ".pickle", ".pt", ".pth", ".pyc", ".bin")]
    for file in files:
        assert not file.read_bytes().startswith(b"\x80"), f"{file} looks like a pickle"
    described = (plain / "MLmodel").read_text()
    assert "model_code_path: serving.py" in described and "/tmp" not in described and ".pkl" not in described
    assert "torchvision" not in (plain / "requirements.txt").read_text()


def test_signature_and_example_are_stored(plain: Path, classed: Path) -> None:
    signature = mlflow.models.get_model_info(str(plain)).signature
    assert [(c.name, c.required) for c in signature.inputs] == [("seed", True), ("truncation_psi", False)]
    assert signature.outputs.inputs[0].shape == (-1, 32, 32, 3)
    assert "class" in mlflow.models.get_model_info(str(classed)).signature.inputs.input_names()
    example = json.loads((plain / "input_example.json").read_text())
    assert example == {"columns": ["seed", "truncation_psi"], "data": [[0, 0.7]]}


def test_model_loads_where_graftgan_is_not_installed(plain: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.path = [p for p in sys.path if not p.endswith('/src')]\n"
        "sys.meta_path = [f for f in sys.meta_path if 'graftgan' not in repr(f)]\n"
        "try:\n"
        "    import graftgan\n"
        "    sys.exit('graftgan is still there')\n"
        "except ImportError:\n"
        "    pass\n"
        "import mlflow, numpy, pandas\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "numpy.save(sys.argv[2], model.predict(pandas.DataFrame({'seed': [3], 'truncation_psi': [1.0]})))\n"
    )
    command = [sys.executable, "-c", code, str(plain), str(tmp_path / "images.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "images.npy"), sample(tiny_gan(1).generator_ema, 1, 3, 1.0))


def _post(port: int, payload: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(payload).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.nightly
def test_models_serve_answers_over_http(plain: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(plain), "-p", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--env-manager", "local"], stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        status, answer = _post(port, {"dataframe_records": [{"seed": 5, "truncation_psi": 1.0}, {"seed": 6}]})
        assert status == 200, answer
        ema = tiny_gan(1).generator_ema
        expected = np.concatenate([sample(ema, 1, 5, 1.0), sample(ema, 1, 6, 0.7)])
        assert np.array_equal(np.array(answer["predictions"], np.uint8), expected)
        status, answer = _post(port, {"dataframe_records": [{"seed": -5}]})
        assert status == 400 and answer["error_code"] == "INVALID_PARAMETER_VALUE", answer
        assert "row 0: seed is -5" in answer["message"]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
