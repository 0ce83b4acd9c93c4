from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graftgan.checkpoints.imported import Content
from graftgan.checkpoints.readers import lucidrains
from graftgan.errors import CheckpointError

PATH = Path("model_12.pt")


def published(filters: tuple[int, ...] = (16, 16, 8), latent: int = 8, prefix: str = "G") -> dict[str, Any]:
    """Names and shapes of a small network of the public code, layer by layer."""
    state: dict[str, Any] = {
        "S.net.0.weight": torch.zeros(latent, latent),
        "S.net.0.bias": torch.zeros(latent),
    }
    state[f"{prefix}.initial_block"] = torch.zeros(1, filters[0], 4, 4)
    state[f"{prefix}.initial_conv.weight"] = torch.zeros(filters[0], filters[0], 3, 3)
    for index, (wide, narrow) in enumerate(zip((filters[0], *filters), filters, strict=False)):
        block = f"{prefix}.blocks.{index}"
        for number, channels in ((1, wide), (2, narrow)):
            state[f"{block}.to_style{number}.weight"] = torch.zeros(channels, latent)
            state[f"{block}.to_noise{number}.weight"] = torch.zeros(narrow, 1)
            state[f"{block}.conv{number}.weight"] = torch.zeros(narrow, channels, 3, 3)
        state[f"{block}.to_rgb.conv.weight"] = torch.zeros(3, narrow, 1, 1)
    state["D.blocks.0.conv_res.weight"] = torch.zeros(8, 3, 1, 1)
    state["D.blocks.0.conv_res.bias"] = torch.zeros(8)
    state["D.to_logit.weight"] = torch.zeros(1, 64)
    return state


@pytest.mark.parametrize("wrapped", [True, False])
def test_is_recognised_and_refused_with_the_tensors_that_stand_in_the_way(wrapped: bool) -> None:
    state = published()
    content = Content(PATH, "torch", {"GAN": state, "version": "1.9.0"} if wrapped else state)
    assert lucidrains.matches(content)
    with pytest.raises(CheckpointError) as caught:
        lucidrains.read(content)
    message = caught.value.message
    assert caught.value.exit_code == 5
    assert message.startswith(f"{PATH}: is a checkpoint of lucidrains/stylegan2-pytorch")
    assert "`G.blocks.0.conv2.weight` [16, 16, 3, 3] is a second convolution at 4x4 px" in message
    assert "`G.blocks.0.to_noise1.weight` [16, 1] scales noise by a number for each feature map" in message
    assert "`G.initial_conv.weight`" in message
    assert "`D.to_logit.weight`" in message
    assert "S.net.0.weight" in message


def test_only_what_the_file_holds_is_named() -> None:
    state = {name: value for name, value in published().items() if not name.startswith(("D.", "G.initial"))}
    with pytest.raises(CheckpointError) as caught:
        lucidrains.read(Content(PATH, "torch", {"GAN": state}))
    assert "D.to_logit" not in caught.value.message
    assert "initial_conv" not in caught.value.message
    assert "enlarged bilinearly" in caught.value.message


@pytest.mark.parametrize(
    "tree",
    [None, [], {}, {"GAN": 3}, {"GAN": {}}, {"g_ema": {}}, {"S.net.0.weight": 0}, published(prefix="H")],
)
def test_other_content_is_left_to_other_readers(tree: object) -> None:
    assert not lucidrains.matches(Content(PATH, "torch", tree))
