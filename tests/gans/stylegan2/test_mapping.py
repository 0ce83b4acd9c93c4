from __future__ import annotations

import dataclasses

import pytest
import torch

from graftgan.gans.stylegan2.mapping import LabelMapping, Mapping

from . import reference
from .sizes import TINY

CONDITIONAL = dataclasses.replace(TINY, classes=3)


def _named(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"mapping.{k}": v.detach() for k, v in module.state_dict().items()}


def test_matches_the_reference() -> None:
    mapping = Mapping(TINY).double().eval()
    z = torch.randn(5, TINY.z_dim, dtype=torch.float64)
    expected = reference.mapping(z, _named(mapping), TINY.mapping_layers)
    ws = mapping(z)
    assert ws.shape == (5, TINY.num_ws, TINY.w_dim)
    for i in range(TINY.num_ws):
        torch.testing.assert_close(ws[:, i], expected, rtol=1e-10, atol=1e-12)


def test_scale_of_z_does_not_matter() -> None:
    mapping = Mapping(TINY).eval()
    z = torch.randn(4, TINY.z_dim)
    torch.testing.assert_close(mapping(z), mapping(z * 17), rtol=1e-4, atol=1e-6)


def test_conditional_matches_the_reference() -> None:
    mapping = Mapping(CONDITIONAL).double().eval()
    state = _named(mapping)
    assert state["mapping.fc0.weight"].shape == (12, 16 + 12)
    z, labels = torch.randn(3, 16, dtype=torch.float64), torch.tensor([2, 0, 2])
    one_hot = torch.eye(3, dtype=torch.float64)[labels]
    embedded = reference.unit(reference.dense(one_hot, state, "mapping.embed"))
    expected = reference.fc_stack(torch.cat([reference.unit(z), embedded], 1), state, 2)
    torch.testing.assert_close(mapping(z, labels)[:, 0], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mapping(z, one_hot)[:, 0], expected, rtol=1e-10, atol=1e-12)


def test_w_avg_follows_with_beta_0998_in_training_only() -> None:
    mapping = Mapping(TINY)
    z = torch.randn(64, TINY.z_dim)
    mapping.eval()
    mean = mapping(z)[:, 0].mean(0).detach()
    assert not mapping.w_avg.any()
    mapping.train()
    mapping(z, update_w_avg=False)
    assert not mapping.w_avg.any()
    expected = torch.zeros_like(mean)
    for _ in range(3):
        mapping(z)
        expected = 0.998 * expected + 0.002 * mean
    torch.testing.assert_close(mapping.w_avg, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("psi", [0.0, 0.3, 1.0, 1.5])
def test_truncation_interpolates_to_w_avg(psi: float) -> None:
    mapping = Mapping(TINY).eval()
    mapping.w_avg.normal_()
    z = torch.randn(4, TINY.z_dim)
    full = mapping(z)
    torch.testing.assert_close(mapping(z, None, psi), mapping.w_avg + psi * (full - mapping.w_avg))


def test_stays_in_float32_under_autocast() -> None:
    mapping = Mapping(CONDITIONAL).eval()
    z, labels = torch.randn(4, TINY.z_dim), torch.tensor([0, 1, 2, 0])
    expected = mapping(z, labels)
    with torch.autocast("cpu", torch.bfloat16):
        actual = mapping(z, labels)
    assert actual.dtype is torch.float32
    assert torch.equal(actual, expected)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="z of shape"):
        Mapping(TINY)(torch.randn(2, 5))
    with pytest.raises(ValueError, match="3 classes"):
        Mapping(CONDITIONAL)(torch.randn(2, 16))
    with pytest.raises(ValueError, match="labels of shape"):
        Mapping(CONDITIONAL)(torch.randn(2, 16), torch.zeros(2, 4))


def test_label_mapping_has_no_latent_and_no_mean() -> None:
    embed = LabelMapping(CONDITIONAL, 6)
    assert sorted(embed.state_dict()) == [
        f"{layer}.{kind}" for layer in ("embed", "fc0", "fc1") for kind in ("bias", "weight")
    ]
    assert embed(torch.tensor([0, 2])).shape == (2, 6)
