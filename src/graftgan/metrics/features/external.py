"""Feature networks from the user's own ONNX or TorchScript file.

A name is ``onnx:PATH`` or ``torchscript:PATH``, optionally followed by ``?px=224&range=imagenet``. The
network takes float32 ``[N, 3, px, px]`` and gives ``[N, dim]``; the hash of the file is part of the protocol
id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import Tensor

from graftgan.errors import CheckpointError, ConfigError
from graftgan.metrics.features.base import BATCH_IMAGES, VALUE_RANGES, BatchedExtractor
from graftgan.metrics.features.resize import BICUBIC_ANTIALIAS
from graftgan.metrics.features.weights import file_sha256

_DEFAULT_RANGE = "imagenet"


@dataclass(frozen=True)
class _Request:
    kind: str
    path: Path
    px: int | None
    value_range: str


def external_extractor(name: str, device: str = "cpu") -> BatchedExtractor:
    """Extractor from ``onnx:PATH[?px=N&range=R]`` or ``torchscript:PATH?px=N[&range=R]``.

    ``range`` is a key of `VALUE_RANGES` and defaults to ``imagenet``; ``px`` may be left out for an ONNX file
    whose input size is fixed. Images are resized by antialiased bicubic.

    Raises:
        ConfigError: the file is missing, a setting is unknown, or the input size is not known.
        CheckpointError: the file cannot be run, or does not give one row an image.
    """
    request = _parse(name)
    digest = file_sha256(request.path)
    try:
        if request.kind == "onnx":
            network, px, batch = _onnx_network(request)
        else:
            network, px, batch = _script_network(request, device)
        return BatchedExtractor(
            f"{request.kind}-{request.path.stem}",
            network,
            input_px=px,
            resize=BICUBIC_ANTIALIAS,
            value_range=request.value_range,
            weights_sha256=digest,
            device=device,
            batch=batch,
        )
    except ConfigError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{request.path}: cannot serve as a feature network: {error}",
            "give a network of float32 [N, 3, px, px] to [N, dim]",
        ) from error


def external_file(name: str) -> Path:
    """Return the file that a name of an extractor stands for.

    Raises:
        ConfigError: the file is missing, or a setting is unknown.
    """
    return _parse(name).path


def _parse(name: str) -> _Request:
    kind, _, rest = name.partition(":")
    file, _, query = rest.partition("?")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(f"features {name}: no file at {path}", "correct the path after the colon")
    settings = dict(parse_qsl(query))
    unknown = sorted(set(settings) - {"px", "range"})
    if unknown:
        raise ConfigError(f"features {name}: unknown setting {unknown[0]}", "use px and range only")
    value_range = settings.get("range", _DEFAULT_RANGE)
    if value_range not in VALUE_RANGES:
        raise ConfigError(
            f"features {name}: unknown range {value_range}", f"use one of {sorted(VALUE_RANGES)}"
        )
    px = settings.get("px")
    if px is not None and not (px.isdecimal() and int(px) > 0):
        raise ConfigError(
            f"features {name}: px must be a positive number of pixels", "write for example ?px=224"
        )
    return _Request(kind, path, int(px) if px else None, value_range)


def _onnx_network(request: _Request) -> tuple[Callable[[Tensor], Tensor], int, int]:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ConfigError(
            "features onnx: onnxruntime is not installed", 'pip install "graftgan[features]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        str(request.path), sess_options=options, providers=["CPUExecutionProvider"]
    )
    source = session.get_inputs()[0]
    batch = source.shape[0] if isinstance(source.shape[0], int) else BATCH_IMAGES
    px = source.shape[-1] if isinstance(source.shape[-1], int) else request.px
    if request.px is not None and px != request.px:
        raise ConfigError(f"{request.path}: its input is {px} px, not {request.px}", f"set px={px}")

    def run(values: Tensor) -> Tensor:
        rows: Any = session.run(None, {source.name: values.contiguous().cpu().numpy()})[0]
        return torch.from_numpy(rows)

    return run, _known_px(px, request.path), batch


def _script_network(request: _Request, device: str) -> tuple[Callable[[Tensor], Tensor], int, int]:
    px = _known_px(request.px, request.path)
    module = torch.jit.load(str(request.path), map_location=device).eval()

    def run(values: Tensor) -> Tensor:
        rows: Tensor = module(values.contiguous())
        return rows

    return run, px, BATCH_IMAGES


def _known_px(px: int | None, path: Path) -> int:
    if px is None:
        raise ConfigError(
            f"{path}: the input size is not known", "append ?px=224 or what the network expects"
        )
    return px
