"""Networks of feature extractors as functions that gradients go through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl

import torch
from torch import Tensor, nn

from graftgan.errors import CheckpointError, ConfigError
from graftgan.metrics.features.base import VALUE_RANGES
from graftgan.metrics.features.efficientnet_lite import EfficientNetLite0
from graftgan.metrics.features.resize import BICUBIC_ANTIALIAS, resize_images
from graftgan.metrics.features.weights import find_efflite0, load_state

EFFLITE0_PX = {"efflite0": 224, "efflite0-128": 128}


class Differentiable(nn.Module):
    """Images [N, 1 or 3, R, R] in [-1, 1] to what a network makes of them, resized and scaled as it expects.

    Unlike the extractors that scores come from, nothing is rounded to bytes.

    Args:
        network: Takes float32 [N, 3, px, px].
        px: Side of its input.
        value_range: A key of `VALUE_RANGES`.
    """

    offset: Tensor
    divisor: Tensor

    def __init__(self, network: Callable[[Tensor], Tensor], px: int, value_range: str) -> None:
        super().__init__()
        self.network, self.px = network, px
        offset, divisor = VALUE_RANGES[value_range]
        self.register_buffer("offset", torch.tensor(offset).view(1, 3, 1, 1))
        self.register_buffer("divisor", torch.tensor(divisor).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images to rows [N, dim]."""
        pixels = ((images.float() + 1) * 127.5).clamp(0, 255)
        pixels = resize_images(pixels, BICUBIC_ANTIALIAS, self.px).expand(-1, 3, -1, -1)
        return self.network((pixels - self.offset) / self.divisor)


def differentiable_features(name: str) -> Differentiable:
    """Return the feature network of an extractor, efflite0 or efflite0-128.

    Raises:
        ConfigError: Gradients cannot go through the extractor of that name.
    """
    if name.startswith("torchscript:"):
        return differentiable_script(name)
    if name not in EFFLITE0_PX:
        raise ConfigError(
            f"no gradient goes through the feature extractor {name!r}",
            "use efflite0, efflite0-128 or torchscript:PATH?px=N",
        )
    network = EfficientNetLite0()
    network.load_state_dict(load_state(find_efflite0()), strict=True)
    return Differentiable(network.folded(), EFFLITE0_PX[name], "127_128")


def differentiable_script(name: str) -> Differentiable:
    """Return the network of ``torchscript:PATH?px=N[&range=R]``; `range` defaults to imagenet.

    Raises:
        ConfigError: The name is not of that form, or the file is not there.
        CheckpointError: The file is not TorchScript.
    """
    kind, _, rest = name.partition(":")
    file, _, query = rest.partition("?")
    if kind == "onnx":
        raise ConfigError(
            f"{name}: no gradient goes through an ONNX file", "export the network as TorchScript instead"
        )
    settings = dict(parse_qsl(query))
    px, value_range = settings.pop("px", ""), settings.pop("range", "imagenet")
    if kind != "torchscript" or settings or not px.isdecimal() or value_range not in VALUE_RANGES:
        raise ConfigError(
            f"{name!r} does not name a network",
            f"write torchscript:PATH?px=224&range={'|'.join(VALUE_RANGES)}",
        )
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(f"{name}: no file at {path}", "correct the path after the colon")
    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise CheckpointError(f"{path}: cannot be read as TorchScript: {error}", "export it again") from None
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return Differentiable(module, int(px), value_range)
