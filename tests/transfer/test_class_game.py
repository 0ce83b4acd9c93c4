from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training.nets import equal, pictures, recipe

from graftgan.errors import DataError
from graftgan.gans.base import Gan, build
from graftgan.gans.class_table import take_classes
from graftgan.gans.spec import GanSpec
from graftgan.transfer import method
from graftgan.transfer.class_embedding import ClassTuner
from graftgan.transfer.class_game import NewClass, logits_of, mean_row
from graftgan.transfer.direct import Task
from transfer.families import SIZES, on_meta, small
from transfer.test_class_embedding import moved, network, states  # noqa: F401

FAMILIES = ("biggan", "biggan_deep", "resnet_gan")


def classy(family: str) -> Gan:
    if family != "resnet_gan":
        return small(family)
    return build(GanSpec.from_dict({"family": family, "resolution": 32, **SIZES[family], "classes": 3}), 1)


def images(count: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tuner(features: str, family: str = "biggan", classes: int = 1, **section: Any) -> ClassTuner:
    """A tuner of new classes, from pictures whose brightness tells the class."""
    whole = classy(family)
    gan = take_classes(whole, [0] * classes)
    labels = np.arange(12, dtype=np.int32) % classes if classes > 1 else None
    changes, count = section.pop("whole", {}), section.pop("pictures", 12)
    usual = {"use": "repurpose", "objective": "discriminator", "init": ["mean"], "features": features}
    settings = recipe(
        method="class_embedding", controls=(),
        class_embedding={**usual, "starts": 2, "steps_per_latents": 2, **section},
        **{"budget": {"kimg": 0.032}, "evaluate_every_kimg": 0.016, "lr_cooldown": 0.0, **changes},
    )  # fmt: skip
    method("class_embedding").apply(gan, settings)
    return ClassTuner(Task(gan, pictures(count), labels, settings, torch.device("cpu"), whole))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_row_of_a_known_class_gives_that_classs_logits(family: str) -> None:
    discriminator = classy(family).discriminator.eval()
    with torch.no_grad():
        features = discriminator.features(images())
        if family == "resnet_gan":
            rows = torch.cat([discriminator.fc.weight, discriminator.fc.bias[:, None]], dim=1)
        else:
            rows = discriminator.embed(torch.arange(3))
        for known in range(3):
            labels = torch.full((6,), known)
            logits = discriminator(images(), labels)[:, 0]
            torch.testing.assert_close(logits_of(discriminator, features, rows[known]), logits)
        torch.testing.assert_close(mean_row(discriminator), rows.mean(dim=0))


def test_both_sides_play_the_hinge_game() -> None:
    discriminator = classy("biggan").discriminator.eval()
    game = NewClass.of_images(discriminator, images(5, seed=1))
    row = game.start + 0.3
    with torch.no_grad():
        fake = logits_of(discriminator, discriminator.features(images()), row)
        real = logits_of(discriminator, discriminator.features(images(5, seed=1)), row)
        torch.testing.assert_close(game.fool(images(), row), -fake.mean())
        torch.testing.assert_close(
            game.judge(images(), row), F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        )
        torch.testing.assert_close(game(images()), game.fool(images(), game.start))


def test_the_row_learns_to_tell_the_images_from_others() -> None:
    discriminator = classy("resnet_gan").discriminator.eval().requires_grad_(False)
    game = NewClass.of_images(discriminator, images() * 0.1 + 0.8)
    others = images(seed=2) * 0.1 - 0.8
    row = game.start.clone().requires_grad_(True)
    adam, before = torch.optim.Adam([row], lr=0.02), float(game.judge(others, row).detach())
    for _ in range(60):
        adam.zero_grad()
        torch.autograd.backward(game.judge(others, row))
        adam.step()
    assert float(game.judge(others, row).detach()) < 0.2 * before
    with torch.no_grad():
        assert float(game.fool(others, row)) > 0.8 > -0.8 > float(game.fool(images() * 0.1 + 0.8, row))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_class_vector_moves_and_the_row_beside_it(family: str, network: str) -> None:  # noqa: F811
    run = tuner(network, family)
    before, rows = states(run.source), [row.detach().clone() for row in run.rows]
    name = {"biggan": "shared", "biggan_deep": "embeddings", "resnet_gan": "embedding"}[family]
    assert moved(run, 2) == {f"g.{name}.weight", f"ema.{name}.weight"}
    assert equal(states(run.source), before)
    # The second start has not begun.
    assert not torch.equal(run.rows[0], rows[0]) and torch.equal(run.rows[1], rows[1])
    told = run.meter.take()
    assert {"loss_objective", "loss_class_judge"} <= told.keys()


def test_each_side_gets_the_gradient_of_its_own_loss(network: str) -> None:  # noqa: F811
    run = tuner(network, alpha=0.0)
    game, turn = run.objectives[0], run.turn()
    assert isinstance(game, NewClass)
    torch.autograd.backward(run.loss())
    vector, row = run.vectors[0], run.rows[0]
    made = run.draw(run.batch_latents(turn.step), vector)
    (of_vector,) = torch.autograd.grad(game.fool(made, row.detach()), vector)
    (of_row,) = torch.autograd.grad(game.judge(made.detach(), row), row)
    torch.testing.assert_close(vector.grad, of_vector)
    torch.testing.assert_close(row.grad, of_row)


def test_each_new_class_has_a_row_of_its_own_images(network: str) -> None:  # noqa: F811
    run = tuner(network, classes=2)
    assert len(run.rows) == len(run.vectors) == 4
    first, second = run.objectives
    assert not torch.equal(first.real, second.real) and torch.equal(first.start, second.start)
    assert moved(run, 2) == {"g.shared.weight", "ema.shared.weight"}


def test_a_run_goes_on_exactly(network: str) -> None:  # noqa: F811
    whole, first, second = (tuner(network) for _ in range(3))
    moved(whole, 4), moved(first, 2)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    moved(second, 2)
    assert equal(states(second.gan), states(whole.gan))
    assert all(torch.equal(a, b) for a, b in zip(second.rows, whole.rows, strict=True))


def test_other_objectives_have_no_rows(network: str) -> None:  # noqa: F811
    assert tuner(network, objective="mmd").rows == []


def test_without_images_there_is_no_game(network: str) -> None:  # noqa: F811
    with pytest.raises(DataError, match=r"class 0 has 1 training images, .*objective=discriminator"):
        tuner(network, pictures=1)


def test_at_full_size_it_is_1664_numbers() -> None:
    """The sheet's upper end: a vector of 128 and a projection of 1536 in BigGAN at 128 px."""
    gan = on_meta("biggan", resolution=128, classes=10)
    assert gan.generator.shared.weight.shape[1] + gan.discriminator.embed.weight.shape[1] == 1664
