from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from graftgan.checkpoints import export
from graftgan.errors import CheckpointError, ConfigError
from graftgan.gans.base import Generator, build, to_uint8
from graftgan.gans.spec import GanSpec
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.gans.stylegan3 import StyleGAN3Spec
from tests.gans.biggan import sizes as biggan
from tests.gans.biggan_deep import sizes as biggan_deep
from tests.gans.resnet_gan import sizes as resnet_gan

PLAIN = StyleGAN2Spec(resolution=32, z_dim=6, w_dim=5, mapping_layers=2, channel_base=64, channel_max=4)
CLASSES = dataclasses.replace(PLAIN, classes=3)
ALIAS_FREE = StyleGAN3Spec(
    resolution=32, z_dim=6, w_dim=5, channel_base=64, channel_max=4, num_layers=3, num_critical=1
)
RADIAL = dataclasses.replace(ALIAS_FREE, variant="r")

Writer = Callable[[Generator, Path], float]
WRITERS: list[Writer] = [export.export_onnx, export.export_torchscript]


def _generator(spec: GanSpec) -> Generator:
    """An averaged generator with noise and a mean w that show."""
    net = build(spec, seed=0).generator_ema
    for name, tensor in net.state_dict().items():
        if name.endswith(("noise_strength", "w_avg", ".bias")):
            tensor.add_(0.3)
    return net


def _eager(net: Generator, count: int, seed: int) -> tuple[Tensor, Tensor | None, Tensor]:
    z = torch.randn(count, net.spec.z_dim, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(count) % net.spec.classes if net.spec.classes else None
    with torch.no_grad():
        return z, labels, net(z, labels, 1.0, "const")


@pytest.mark.parametrize("spec", [PLAIN, CLASSES, ALIAS_FREE, RADIAL], ids=["plain", "classes", "t", "r"])
def test_onnx_gives_the_same_images(spec: GanSpec, tmp_path: Path) -> None:
    net, path = _generator(spec), tmp_path / "g.onnx"
    assert 0 < export.export_onnx(net, path) < 1e-4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == (["z", "labels"] if spec.classes else ["z"])
    for count in (1, 3, 7):
        z, labels, expected = _eager(net, count, seed=40 + count)
        inputs = {"z": z.numpy()} if labels is None else {"z": z.numpy(), "labels": labels.numpy()}
        (images,) = session.run(["images"], inputs)
        assert np.abs(images - expected.numpy()).max() < 1e-4 * float(expected.abs().max())
        assert np.abs(to_uint8(torch.from_numpy(images)).astype(int) - to_uint8(expected)).max() <= 1


@pytest.mark.parametrize("spec", [PLAIN, CLASSES, ALIAS_FREE, RADIAL], ids=["plain", "classes", "t", "r"])
def test_torchscript_gives_the_same_images(spec: GanSpec, tmp_path: Path) -> None:
    net, path = _generator(spec), tmp_path / "g.pt"
    assert export.export_torchscript(net, path) < 1e-6
    loaded = torch.jit.load(str(path))
    for count in (1, 3, 7):
        z, labels, expected = _eager(net, count, seed=40 + count)
        images = loaded(z) if labels is None else loaded(z, labels)
        torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-6)


def test_the_file_is_sound_and_its_batch_is_free(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    export.export_onnx(_generator(CLASSES), path)
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes["z"] == ["N", 6] and shapes["labels"] == ["N"]
    assert shapes["images"][0] == "N"


@pytest.mark.parametrize("write", WRITERS)
def test_the_generator_is_left_as_it_was(write: Writer, tmp_path: Path) -> None:
    net = build(ALIAS_FREE, seed=0).generator
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    write(net, tmp_path / "g")
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


class _Frozen(Generator):
    """Freezes a value at tracing time, as code that does not trace does."""

    def __init__(self, spec: GanSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = torch.nn.Parameter(torch.ones(spec.z_dim))

    def forward(
        self, z: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0, noise_mode: Any = "random"
    ) -> Tensor:
        scale = float(z.detach().abs().max())
        return (z * self.weight).sum(1)[:, None, None, None].expand(-1, 3, 32, 32) * scale


class _NoBatch(_Frozen):
    """Keeps the batch size of the example."""

    def forward(
        self, z: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0, noise_mode: Any = "random"
    ) -> Tensor:
        return (z * self.weight).sum(1).reshape(int(z.shape[0]), 1, 1, 1).repeat(1, 3, 32, 32)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("kind", "word"), [(_Frozen, "deviate by"), (_NoBatch, "")])
def test_a_file_that_computes_something_else_is_refused_and_removed(
    write: Writer, kind: type[_Frozen], word: str, tmp_path: Path
) -> None:
    path = tmp_path / "g.bin"
    with pytest.raises(CheckpointError, match=r"g\.bin: .* export failed") as caught:
        write(kind(PLAIN), path)
    assert word in caught.value.message
    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", WRITERS)
def test_values_that_are_not_finite_are_refused(write: Writer, tmp_path: Path) -> None:
    net = _generator(PLAIN)
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="deviate by nan"):
        write(net, tmp_path / "g.bin")
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name))
    with pytest.raises(ConfigError, match="ONNX export needs onnx") as caught:
        export.export_onnx(_generator(PLAIN), tmp_path / "g.onnx")
    assert caught.value.remedy == "run pip install 'graftgan[export]'"


OTHERS = {
    "biggan": biggan.TINY,
    "biggan unconditional": biggan.PLAIN,
    "biggan_deep": biggan_deep.TINY,
    "resnet_gan": resnet_gan.tiny("resnet2", classes=3),
}


@pytest.mark.parametrize("family", sorted(OTHERS))
@pytest.mark.parametrize("write", WRITERS)
def test_other_families_export(family: str, write: Writer, tmp_path: Path) -> None:
    net = build(OTHERS[family], seed=0).generator_ema
    assert write(net, tmp_path / "g.bin") < 1e-4
