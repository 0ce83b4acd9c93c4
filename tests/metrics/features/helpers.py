from __future__ import annotations

import numpy as np


def pictures(n: int, px: int = 40, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random uint8 images, NHWC."""
    return np.random.default_rng(seed).integers(0, 256, (n, px, px, channels), dtype=np.uint8)
