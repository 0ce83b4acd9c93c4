"""The history of generated images that a discriminator is shown again (Shrivastava et al. 2017, 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Keeps generated images and, once full, swaps a random one for half of those that come in.

    Args:
        size: Images kept; 0 passes everything through.
        seed: Seed of the pool's own random numbers.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.rng = torch.Generator().manual_seed(seed)
        self.images: list[Tensor] = []

    def exchange(self, fakes: Tensor) -> Tensor:
        """Return as many images [N, C, H, W] as came in, new or from the history, without gradients."""
        if not self.size:
            return fakes.detach()
        return torch.stack([self._one(image) for image in fakes.detach().float()])

    def _one(self, image: Tensor) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image.clone())
            return image
        if float(torch.rand((), generator=self.rng)) < 0.5:
            return image
        place = int(torch.randint(self.size, (), generator=self.rng))
        old, self.images[place] = self.images[place], image.clone()
        return old

    def state_dict(self) -> dict[str, Any]:
        """Return images and random state."""
        return {"images": list(self.images), "rng": self.rng.get_state()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go back to a saved pool, exactly."""
        self.images = [image.to(device) for image in state["images"]]
        self.rng.set_state(state["rng"])
