from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from stages.models import tiny_gan, write_models

from graftgan.gans.base import Gan, sample, to_uint8
from graftgan.gans.laws import MinedNormal, TruncatedNormal
from graftgan.gans.prior import Mixture, Prior
from graftgan.packages import Package, write_package
from graftgan.serving import GraftganModel
from graftgan.serving_limits import MAX_ROWS
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


def test_large_images_come_in_fewer_rows() -> None:
    def most(resolution: int, channels: int) -> int:
        model = GraftganModel()
        spec = SimpleNamespace(resolution=resolution, channels=channels)
        model.package = cast(Package, SimpleNamespace(spec=spec))
        return model.max_rows

    assert [most(32, 3), most(256, 3), most(512, 3), most(1024, 3), most(1024, 1)] == [64, 64, 16, 4, 12]


def test_a_request_that_takes_too_long_stops(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = mlflow.pyfunc.load_model(str(plain)).unwrap_python_model()
    drawn: list[int] = []
    sample_one = inner.package.sample

    def slow(n: int, seed: int, psi: float, label: int | None) -> Any:
        drawn.append(seed)
        time.sleep(0.15)
        return sample_one(n, seed, psi, label)

    monkeypatch.setattr(inner.package, "sample", slow)
    monkeypatch.setenv("GRAFTGAN_SERVING_TIMEOUT_S", "0.25")
    with pytest.raises(MlflowException, match=r"took longer than 0.25 s") as caught:
        inner.predict(None, pd.DataFrame({"seed": range(20)}))
    assert caught.value.get_http_status_code() == 504
    assert len(drawn) <= 3, "the work stops, not only the answer"
    monkeypatch.setenv("GRAFTGAN_SERVING_TIMEOUT_S", "50")
    assert inner.predict(None, pd.DataFrame({"seed": [1]})).shape == (1, 32, 32, 3)


def test_a_request_that_waits_too_long_for_its_turn_stops(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = mlflow.pyfunc.load_model(str(plain)).unwrap_python_model()
    monkeypatch.setenv("GRAFTGAN_SERVING_TIMEOUT_S", "0.1")
    with inner._turn, pytest.raises(MlflowException, match="took longer"):
        inner.predict(None, pd.DataFrame({"seed": [1]}))


@pytest.mark.parametrize("value", ["1", True, None, float("inf"), [1], 1.5, 2**63])
def test_odd_seeds_are_refused_whatever_their_type(plain: Path, value: Any) -> None:
    inner = mlflow.pyfunc.load_model(str(plain)).unwrap_python_model()
    with pytest.raises(MlflowException, match=r"row 0: seed is .*whole number") as caught:
        inner.predict(None, pd.DataFrame({"seed": pd.Series([value], dtype=object)}))
    assert caught.value.get_http_status_code() == 400


def test_a_truncation_of_text_is_refused(plain: Path) -> None:
    inner = mlflow.pyfunc.load_model(str(plain)).unwrap_python_model()
    with pytest.raises(MlflowException, match="truncation_psi is 'much'; it must be a number"):
        inner.predict(None, pd.DataFrame({"seed": [1], "truncation_psi": ["much"]}))


def mixture() -> Mixture:
    means = torch.stack([torch.full((8,), -2.0), torch.full((8,), 1.0)])
    return Mixture.of_moments(torch.tensor([0.4, 0.6]), means, torch.eye(8).expand(2, 8, 8) / 4)


def mined() -> MinedNormal:
    rng = torch.Generator().manual_seed(2)
    return MinedNormal(((torch.randn(8, 8, generator=rng), torch.randn(8, generator=rng)),))


@pytest.mark.parametrize(
    "law", [mixture(), mixture().at(0.5), mined(), TruncatedNormal(8, 0.3)],
    ids=["mixture", "on its way", "mined", "truncated"],
)  # fmt: skip
def test_a_model_with_a_law_of_its_own_is_served_from_it(tmp_path: Path, law: Prior) -> None:
    gan = tiny_gan(1)
    gan.prior = law
    model = mlflow.pyfunc.load_model(str(save(tmp_path, gan)))
    rows = pd.DataFrame({"seed": [5, 2**40, 5], "truncation_psi": [1.0, 0.5, 0.7]})
    images = model.predict(rows)
    gan.prior = None
    for image, (seed, psi) in zip(images, rows.itertuples(index=False), strict=True):
        z = law.draw_one(torch.Generator().manual_seed(int(seed)))[None]
        with torch.no_grad():
            assert np.array_equal(image, to_uint8(gan.generator_ema(z, None, float(psi), "const"))[0])
        assert not np.array_equal(image, sample(gan.generator_ema, 1, int(seed), float(psi))[0])
