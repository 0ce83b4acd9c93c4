from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from graftgan.errors import CheckpointError, ConfigError
from graftgan.metrics.features import make_extractor
from graftgan.metrics.features.gradient import differentiable_features, differentiable_script


def script(path: Path) -> str:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))
    torch.jit.script(network).save(str(path))
    return f"torchscript:{path}?px=8&range=-1_1"


def test_features_are_those_of_the_extractor() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = differentiable_features("efflite0-128")(pixels)
    assert found.numpy() == pytest.approx(make_extractor("efflite0-128")(images), abs=2e-3)


def test_the_gradient_is_that_of_finite_differences(tmp_path: Path) -> None:
    network = differentiable_script(script(tmp_path / "net.pt"))
    images = (torch.rand(1, 3, 8, 8) - 0.5).requires_grad_(True)
    (slope,) = torch.autograd.grad(network(images).sum(), images)
    moved = images.detach().clone()
    moved[0, 1, 4, 4] += 0.25
    difference = float((network(moved) - network(images)).detach().sum()) / 0.25
    assert difference == pytest.approx(float(slope[0, 1, 4, 4]), rel=1e-3, abs=1e-5)


def test_values_beyond_the_range_of_images_have_no_gradient(tmp_path: Path) -> None:
    network = differentiable_script(script(tmp_path / "net.pt"))
    images = torch.full((1, 3, 8, 8), 1.5, requires_grad=True)
    network(images).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() == 0


def test_a_script_is_taken_for_features_too(tmp_path: Path) -> None:
    assert differentiable_features(script(tmp_path / "net.pt"))(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize("name", ["inception", "onnx:a.onnx?px=8", "nonsense"])
def test_extractors_without_a_gradient_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="gradient"):
        differentiable_features(name)


def test_onnx_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="ONNX") as caught:
        differentiable_script("onnx:a.onnx?px=8")
    assert "TorchScript" in caught.value.remedy


@pytest.mark.parametrize("query", ["", "?px=0x", "?px=8&range=odd", "?px=8&side=1"])
def test_a_wrong_name_is_refused(query: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not name a network"):
        differentiable_script(f"torchscript:{tmp_path / 'net.pt'}{query}")


def test_files_that_are_absent_or_not_scripts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file at .*net\.pt"):
        differentiable_script(f"torchscript:{tmp_path / 'net.pt'}?px=8")
    (tmp_path / "net.pt").write_bytes(b"no script")
    with pytest.raises(CheckpointError, match=r"net\.pt"):
        differentiable_script(f"torchscript:{tmp_path / 'net.pt'}?px=8")
