"""Feature extractors: images in, feature rows out, under a protocol id that names every choice made."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from torch import nn

from graftgan.errors import CheckpointError, ConfigError
from graftgan.metrics.features.base import BatchedExtractor, Extractor, protocol_id
from graftgan.metrics.features.efficientnet_lite import EfficientNetLite0
from graftgan.metrics.features.external import external_extractor, external_file
from graftgan.metrics.features.inception import FidInception
from graftgan.metrics.features.resize import BICUBIC_ANTIALIAS, TF1_BILINEAR
from graftgan.metrics.features.weights import file_sha256, find_efflite0, find_inception, load_state

__all__ = ["BatchedExtractor", "Extractor", "make_extractor", "protocol_id", "require"]

Net = TypeVar("Net", bound=nn.Module)
_EFFLITE0_PX = {"efflite0": 224, "efflite0-128": 128}


def make_extractor(name: str, *, weights: Path | None = None, device: str = "cpu") -> Extractor:
    """Extractor by name.

    Args:
        name: ``efflite0`` (224 px, default of the project), ``efflite0-128`` (quick tests; never comparable
            with the former), ``inception`` (the official FID network), ``onnx:PATH`` or ``torchscript:PATH``.
        weights: weight file to use instead of the usual places; its hash must be right all the same.
        device: torch device.

    Raises:
        ConfigError: unknown name, or weights that are not there; the message lists the places.
        CheckpointError: the weight file is not the one that the name promises.
    """
    if name in _EFFLITE0_PX:
        path = find_efflite0(weights)
        return BatchedExtractor(
            name,
            _strictly_loaded(EfficientNetLite0(), path).folded().to(device),
            input_px=_EFFLITE0_PX[name],
            resize=BICUBIC_ANTIALIAS,
            value_range="127_128",
            weights_sha256=file_sha256(path),
            device=device,
        )
    if name == "inception":
        path = find_inception(weights)
        return BatchedExtractor(
            name,
            _strictly_loaded(FidInception(), path).folded().to(device),
            input_px=299,
            resize=TF1_BILINEAR,
            value_range="128_128",
            weights_sha256=file_sha256(path),
            device=device,
            batch=16,
        )
    if name.startswith(("onnx:", "torchscript:")):
        return external_extractor(name, device)
    raise _unknown(name)


def require(name: str, weights: Path | None = None) -> Path:
    """Return the weight file that `make_extractor` would use, without loading it.

    Raises:
        ConfigError: unknown name, or weights that are not there.
        CheckpointError: the weight file is not the one that the name promises.
    """
    if name in _EFFLITE0_PX:
        return find_efflite0(weights)
    if name == "inception":
        return find_inception(weights)
    if name.startswith(("onnx:", "torchscript:")):
        return external_file(name)
    raise _unknown(name)


def _unknown(name: str) -> ConfigError:
    return ConfigError(
        f"unknown feature extractor {name!r}",
        "use efflite0, efflite0-128, inception, onnx:PATH or torchscript:PATH",
    )


def _strictly_loaded(network: Net, path: Path) -> Net:
    try:
        network.load_state_dict(load_state(path), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit the network: {error}", "fetch the file again") from error
    return network
