from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest, truncnorm
from torch import nn

from graftgan.checkpoints.prior_file import beside, write_prior
from graftgan.contract import atomic_path
from graftgan.errors import CheckpointError, TryAgain
from graftgan.gans.laws import MinedNormal, TruncatedNormal, law_of, mined
from graftgan.gans.prior import PREFIX, split_prior

DIM = 6


def layers(*widths: int, seed: int = 0) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    rng = torch.Generator().manual_seed(seed)
    sizes = (DIM, *widths, DIM)
    return tuple(
        (torch.randn(b, a, generator=rng), torch.randn(b, generator=rng)) for a, b in pairwise(sizes)
    )


def test_a_miner_is_a_perceptron_added_to_its_input() -> None:
    weights = layers(4, 3)
    network = nn.Sequential(
        nn.Linear(DIM, 4), nn.LeakyReLU(0.2), nn.Linear(4, 3), nn.LeakyReLU(0.2), nn.Linear(3, DIM)
    )
    for (weight, bias), layer in zip(weights, (network[0], network[2], network[4]), strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    u = torch.randn(7, DIM, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mined(u, weights), u + network(u).detach())


def test_a_linear_miner_gives_a_normal_law_of_known_moments() -> None:
    ((weight, bias),) = layers()
    drawn = MinedNormal(((weight, bias),)).draw(20_000, torch.Generator().manual_seed(0)).double()
    root = torch.eye(DIM) + weight
    np.testing.assert_allclose(drawn.mean(0), bias, atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.numpy().T), root @ root.t(), atol=0.5)


def test_a_miner_whose_last_layer_is_0_draws_normal_numbers_bit_for_bit() -> None:
    first, (weight, bias) = layers(4)
    law = MinedNormal((first, (weight * 0, bias * 0)))
    drawn = law.draw(3, torch.Generator().manual_seed(5))
    rng = torch.Generator().manual_seed(5)
    assert torch.equal(drawn, torch.stack([torch.randn(DIM, generator=rng) for _ in range(3)]))


def test_a_truncated_normal_law_is_scipys() -> None:
    drawn = TruncatedNormal(50, 0.3).draw(200, torch.Generator().manual_seed(0)).flatten().double().numpy()
    assert np.abs(drawn).max() <= 0.3
    assert kstest(drawn, truncnorm(-0.3, 0.3).cdf).pvalue > 0.01
    wide = TruncatedNormal(50, 8.0).draw(200, torch.Generator().manual_seed(0)).flatten().double().numpy()
    assert kstest(wide, "norm").pvalue > 0.01
    assert np.isfinite(wide).all()


@pytest.mark.parametrize("law", [MinedNormal(layers(4)), TruncatedNormal(DIM, 0.3)])
def test_a_longer_series_begins_with_the_same_latents_and_none_is_empty(law: MinedNormal) -> None:
    long, short = (law.draw(n, torch.Generator().manual_seed(3)) for n in (5, 2))
    assert torch.equal(long[:2], short)
    assert law.draw(0).shape == (0, DIM)
    assert law.draw_one().shape == (DIM,)
    assert law.position == 0.0


@pytest.mark.parametrize("law", [MinedNormal(layers(4, 3)), TruncatedNormal(DIM, 0.3)])
def test_a_law_comes_back_from_its_tensors(law: MinedNormal) -> None:
    rest, again = split_prior({"generator.x": torch.zeros(1), **law.tensors()}, "file")
    assert list(rest) == ["generator.x"]
    assert type(again) is type(law)
    assert again is not None and again.z_dim == DIM
    drawn = [one.draw(4, torch.Generator().manual_seed(1)) for one in (law, again)]
    assert torch.equal(*drawn)
    assert again.note == law.note and law.recipe


@pytest.mark.parametrize("law", [MinedNormal(layers(4)), TruncatedNormal(DIM, 0.3)])
def test_an_export_has_it_beside(law: MinedNormal, tmp_path: Path) -> None:
    told = write_prior(law, tmp_path / "model.onnx")
    with np.load(tmp_path / "model.onnx.prior.npz") as arrays:
        assert {PREFIX + name for name in arrays} == set(law.tensors())
        assert all(np.array_equal(arrays[n.removeprefix(PREFIX)], t) for n, t in law.tensors().items())
    assert law.recipe in told


def test_a_disk_that_fills_up_leaves_the_earlier_prior_beside_the_earlier_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prior(TruncatedNormal(DIM, 0.3), tmp_path / "model.onnx")
    before = (tmp_path / "model.onnx.prior.npz").read_bytes()

    def full(file: Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(TryAgain, match="no space left"):
        write_prior(TruncatedNormal(DIM, 0.5), tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx.prior.npz"]
    assert (tmp_path / "model.onnx.prior.npz").read_bytes() == before


@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("last", range(5))
def test_an_export_that_dies_leaves_no_model_beside_the_prior_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int, moved: bool
) -> None:
    model, prior = tmp_path / "model.onnx", tmp_path / "model.onnx.prior.npz"

    def export(text: str, law: TruncatedNormal | None) -> None:
        with atomic_path(model) as temporary:
            temporary.write_text(text)
            beside(law, model)

    def found() -> tuple[str | None, float | None]:
        law = float(np.load(prior)["limit"]) if prior.exists() else None
        return model.read_text() if model.exists() else None, law

    count = 0

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def step(*given: object, **more: object) -> object:
            nonlocal count
            # What follows a death, such as tidying up, does not happen either.
            if (count := count + 1) > last:
                raise KeyboardInterrupt
            return real(*given, **more)

        return step

    export("old", TruncatedNormal(DIM, 0.25))
    for name in ("rename", "unlink"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))
    law = TruncatedNormal(DIM, 0.5) if moved else None
    with suppress(KeyboardInterrupt):
        export("new", law)
    monkeypatch.undo()
    new = 0.5 if moved else None
    assert found() in {("old", 0.25), (None, 0.25), (None, new), ("new", new)}
    assert (found() == ("new", new)) == (count <= last)


def test_facts_say_what_it_is() -> None:
    assert MinedNormal(layers(4)).facts() == {"kind": "mined", "layers": 2}
    assert TruncatedNormal(DIM, 0.5).facts() == {"kind": "truncated_normal", "limit": 0.5}
    assert "0.5" in TruncatedNormal(DIM, 0.5).note


def test_the_recipe_of_a_miner_is_what_it_draws() -> None:
    law = MinedNormal(layers(4))
    parts = {name.removeprefix(PREFIX): tensor for name, tensor in law.tensors().items()}
    u = torch.randn(DIM, generator=torch.Generator().manual_seed(2))
    x = parts["weight0"] @ u + parts["bias0"]
    x = parts["weight1"] @ F.leaky_relu(x, 0.2) + parts["bias1"]
    torch.testing.assert_close(law.draw_one(torch.Generator().manual_seed(2)), u + x)
    assert "leaky_relu(x, 0.2)" in law.recipe


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("weight1", None), ("bias0", torch.zeros(5)), ("weight0", torch.full((4, DIM), float("nan"))),
        ("weight0", torch.zeros(4)), ("more", torch.zeros(1)), ("weight1", torch.zeros(DIM + 1, 4)),
    ],
)  # fmt: skip
def test_a_damaged_miner_is_refused(name: str, tensor: torch.Tensor | None) -> None:
    tensors = MinedNormal(layers(4)).tensors()
    if tensor is None:
        del tensors[PREFIX + name]
    else:
        tensors[PREFIX + name] = tensor
    with pytest.raises(CheckpointError, match="file holds a damaged prior"):
        split_prior(tensors, "file")


@pytest.mark.parametrize("changes", [{"limit": -1.0}, {"limit": float("inf")}, {"z_dim": 0}, {"other": 1}])
def test_a_damaged_limit_is_refused(changes: dict[str, float]) -> None:
    tensors = TruncatedNormal(DIM, 0.3).tensors()
    tensors |= {PREFIX + name: torch.tensor(value) for name, value in changes.items()}
    with pytest.raises(CheckpointError, match="file holds a damaged prior"):
        split_prior(tensors, "file")


def test_parts_of_another_law_are_left_to_it() -> None:
    assert law_of({"weights": torch.ones(1), "means": torch.zeros(1, 2)}) is None
