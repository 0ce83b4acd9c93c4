"""What the blocks and the small head of a residual GAN share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

LRELU_SLOPE = 0.2
BRANCH_GAIN = 0.1


def activate(x: Tensor) -> Tensor:
    """Apply leaky ReLU with slope 0.2."""
    return F.leaky_relu(x, LRELU_SLOPE)
