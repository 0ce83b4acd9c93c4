from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from graftgan.errors import CheckpointError, ConfigError
from graftgan.metrics.features import make_extractor, protocol_id
from graftgan.metrics.features.weights import (
    file_sha256,
)

from .helpers import pictures

WEIGHT = np.random.default_rng(0).normal(size=(3 * 8 * 8, 5)).astype(np.float32)


def onnx_file(path: Path, batch: int | str, px: int | str) -> Path:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "features",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, px, px])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


class Projection(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.from_numpy(WEIGHT))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight


def expected_projection(images: np.ndarray, offset: float, divisor: float) -> np.ndarray:
    values = (images.astype(np.float32).transpose(0, 3, 1, 2) - offset) / divisor
    return values.reshape(len(images), -1) @ WEIGHT


@pytest.mark.parametrize(("batch", "px", "query"), [(4, 8, ""), ("n", 8, ""), ("n", "s", "px=8&")])
def test_onnx_files(tmp_path: Path, batch: int | str, px: int | str, query: str) -> None:
    path = onnx_file(tmp_path / "own.onnx", batch, px)
    extractor = make_extractor(f"onnx:{path}?{query}range=-1_1")
    assert (extractor.name, extractor.dim, extractor.input_px) == ("onnx-own", 5, 8)
    images = pictures(7, 8)
    np.testing.assert_allclose(
        extractor(images), expected_projection(images, 127.5, 127.5), rtol=1e-4, atol=1e-4
    )
    assert extractor(images[3:4]).tobytes() == extractor(images)[3:4].tobytes()


def test_torchscript_files_and_the_hash_in_the_protocol(tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    torch.jit.script(Projection()).save(str(path))
    extractor = make_extractor(f"torchscript:{path}?px=8&range=0_1")
    images = pictures(3, 8)
    np.testing.assert_allclose(extractor(images), expected_projection(images, 0, 255), rtol=1e-4, atol=1e-4)
    assert extractor.protocol == protocol_id("torchscript-own", 8, "bicubic-aa", "0_1", file_sha256(path))


def test_mistakes_in_own_networks_are_explained(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "own.onnx", "n", "s")
    fixed = onnx_file(tmp_path / "fixed.onnx", "n", 8)
    (tmp_path / "text.onnx").write_text("no model")
    cases: list[tuple[str, type[Exception], str]] = [
        (f"onnx:{tmp_path}/absent.onnx", ConfigError, "no file at"),
        (f"onnx:{path}", ConfigError, "input size is not known"),
        (f"onnx:{path}?pixels=8", ConfigError, "unknown setting pixels"),
        (f"onnx:{path}?px=eight", ConfigError, "positive number"),
        (f"onnx:{path}?px=8&range=0-1", ConfigError, "unknown range 0-1"),
        (f"onnx:{fixed}?px=9", ConfigError, "its input is 8 px, not 9"),
        (f"onnx:{path}?px=9", CheckpointError, "cannot serve"),
        (f"onnx:{tmp_path}/text.onnx?px=8", CheckpointError, "cannot serve"),
        (f"torchscript:{path}?px=8", CheckpointError, "cannot serve"),
    ]
    for name, kind, message in cases:
        with pytest.raises(kind, match=message):
            make_extractor(name)
