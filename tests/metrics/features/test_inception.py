from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from graftgan.errors import CheckpointError
from graftgan.metrics.features import make_extractor
from graftgan.metrics.features.inception import ConvUnit, FidInception, MixedC, MixedE
from graftgan.metrics.features.resize import TF1_BILINEAR, resize_images
from graftgan.metrics.features.weights import (
    file_sha256,
    load_state,
)

from .helpers import pictures


def test_inception_has_the_published_keys_and_shapes(random_inception: Path) -> None:
    state = load_state(random_inception)
    assert len(state) == 94 * 5 + 2
    assert state["Conv2d_1a_3x3.conv.weight"].shape == (32, 3, 3, 3)
    assert state["Mixed_5b.branch_pool.conv.weight"].shape == (32, 192, 1, 1)
    assert state["Mixed_6b.branch7x7_2.conv.weight"].shape == (128, 128, 1, 7)
    assert state["Mixed_7c.branch3x3dbl_3b.bn.running_var"].shape == (384,)
    assert state["fc.weight"].shape == (1008, 2048)
    parameters = sum(v.numel() for k, v in state.items() if "running" not in k and not k.startswith("fc"))
    assert parameters == 21_785_568


def test_inception_strict_load_runs_at_299(
    random_inception: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prefix = file_sha256(random_inception)[:8]
    monkeypatch.setattr("graftgan.metrics.features.weights.INCEPTION_SHA256_PREFIX", prefix)
    extractor = make_extractor("inception", weights=random_inception)
    assert (extractor.dim, extractor.input_px, extractor.name) == (2048, 299, "inception")
    assert extractor.protocol.startswith("inception@299/tf1-bilinear/")
    images = pictures(1, 32)
    plain = FidInception().eval()
    plain.load_state_dict(load_state(random_inception), strict=True)
    pixels = resize_images(torch.from_numpy(images).permute(0, 3, 1, 2).float(), TF1_BILINEAR, 299)
    with torch.inference_mode():
        expected = plain((pixels - 128) / 128).numpy()
    np.testing.assert_allclose(extractor(images), expected, rtol=1e-3, atol=1e-4)
    state = load_state(random_inception)
    state.pop("Mixed_7c.branch_pool.conv.weight")
    broken = tmp_path / "broken.pth"
    torch.save(state, broken)
    monkeypatch.setattr("graftgan.metrics.features.weights.INCEPTION_SHA256_PREFIX", file_sha256(broken)[:8])
    with pytest.raises(CheckpointError, match=r"Mixed_7c\.branch_pool"):
        make_extractor("inception", weights=broken)


def pool_branch(block: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Last channels of a block whose pool branch hands its input through."""
    unit = block.branch_pool
    assert isinstance(unit, ConvUnit)
    with torch.no_grad():
        unit.conv.weight.zero_()
        for channel in range(unit.conv.out_channels):
            unit.conv.weight[channel, channel] = 1
        return block.eval()(x)[:, -unit.conv.out_channels :] * (1 + 1e-3) ** 0.5


def test_average_pools_do_not_count_the_padding() -> None:
    x = torch.ones(1, 768, 5, 5)
    pooled = pool_branch(MixedC(768, 128), x)
    torch.testing.assert_close(pooled, torch.ones_like(pooled))


def test_only_the_last_block_pools_by_maximum() -> None:
    x = torch.zeros(1, 1280, 5, 5)
    x[:, :, 2, 2] = 9.0
    average = pool_branch(MixedE(1280, max_pool=False), x)
    maximum = pool_branch(MixedE(1280, max_pool=True), x)
    torch.testing.assert_close(average[0, 0, 1:4, 1:4], torch.ones(3, 3))
    torch.testing.assert_close(maximum[0, 0, 1:4, 1:4], torch.full((3, 3), 9.0))
    network = FidInception()
    assert (network.Mixed_7b.max_pool, network.Mixed_7c.max_pool) == (False, True)
