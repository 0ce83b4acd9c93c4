"""A convolution and the ReLU behind it in one pass over memory, for inference on a CPU.

What a convolution writes need not be read and written again by its ReLU: oneDNN clips values before it writes
them. torch reaches that by an operator that its compiler uses, and which has no gradient. Where it cannot be
used the two run one after the other.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_DTYPES = (torch.float32, torch.bfloat16)
_ONE_PASS: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)


def clipped_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    groups: int = 1,
    most: float = math.inf,
) -> Tensor:
    """Return ``conv2d(x, ...)`` clipped to ``[0, most]``: ReLU, or with 6 ReLU6.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[O, C / groups, k, l]``.
        bias: ``[O]``, or none.
        stride: Of rows and of columns.
        padding: Zeros on both sides of rows and of columns.
        groups: Groups of channels.
        most: Largest value.
    """
    if in_one_pass(x):
        attribute, scalars = ("relu", []) if math.isinf(most) else ("hardtanh", [0.0, most])
        found: Tensor = _ONE_PASS(x, weight, bias, padding, stride, [1, 1], groups, attribute, scalars, "")
        return found
    found = F.conv2d(x, weight, bias, stride, padding, 1, groups)
    return F.relu(found, inplace=True) if math.isinf(most) else F.hardtanh(found, 0.0, most, inplace=True)


def in_one_pass(x: Tensor) -> bool:
    """Return whether the operator without a gradient can take these values."""
    return (
        _ONE_PASS is not None
        and torch.backends.mkldnn.is_available()
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and not torch.is_grad_enabled()
    )
