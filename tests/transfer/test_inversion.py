from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training.nets import tiny

from graftgan.gans.base import Generator, build, draw_latents, to_uint8
from graftgan.gans.reclass import class_axes, reclass
from graftgan.gans.spec import GanSpec
from graftgan.method_config import Inversion
from graftgan.transfer.inversion import Inverted, RowAdam, invert, redraw

RESNET = {"family": "resnet_gan", "resolution": 32, "variant": "resnet", "z_dim": 6, "nfilter": 4,
          "nfilter_max": 8, "stages": 4, "classes": 3, "embed_dim": 4}  # fmt: skip


class Linear(Generator):
    """Images that are a matrix times z, so that inversion has a closed form."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.spec = tiny(z_dim=4)
        rng = torch.Generator().manual_seed(seed)
        self.matrix = torch.nn.Parameter(torch.randn(4, 3 * 32 * 32, generator=rng) / 8)

    def forward(self, z: Tensor, labels: Any = None, psi: float = 1.0, noise: Any = "random") -> Tensor:
        return (z @ self.matrix).reshape(-1, 3, 32, 32)


def settings(**changes: Any) -> Inversion:
    return Inversion(**{"epochs": 60, "lr": 0.1, "batch": 4, **changes})


def own_images(generator: Generator, count: int, seed: int = 3) -> tuple[np.ndarray, Tensor, Any]:
    """Images that the generator can make, their latents and labels."""
    z, labels = draw_latents(generator.spec, count, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return to_uint8(generator.eval()(z, labels, 1.0, "const")), z, labels


def test_a_linear_generator_is_inverted_to_its_least_squares() -> None:
    generator = Linear()
    images = np.random.default_rng(0).integers(64, 192, (5, 32, 32, 3), dtype=np.uint8)
    found = invert(generator, images, None, settings(epochs=400), seed=0)
    flat = (images.transpose(0, 3, 1, 2).reshape(5, -1) / 127.5 - 1).T
    matrix = generator.matrix.detach().double().numpy().T
    wanted, squares, *_ = np.linalg.lstsq(matrix, flat, rcond=None)
    np.testing.assert_allclose(found.latents.numpy(), wanted.T, atol=2e-3)
    np.testing.assert_allclose(found.errors.numpy(), squares / len(flat), rtol=1e-3)


def test_a_ridge_shrinks_as_ridge_regression_does() -> None:
    generator, ridge = Linear(), 0.5
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = invert(generator, images, None, settings(epochs=400, ridge=ridge), seed=0)
    flat = (images.transpose(0, 3, 1, 2).reshape(3, -1) / 127.5 - 1).T
    matrix = generator.matrix.detach().double().numpy().T
    wanted = np.linalg.solve(
        matrix.T @ matrix / len(flat) + ridge * np.eye(4) / 4, matrix.T @ flat / len(flat)
    )
    np.testing.assert_allclose(found.latents.numpy(), wanted.T, atol=2e-3)


def test_images_of_the_generator_itself_are_found() -> None:
    generator = build(GanSpec.from_dict({**RESNET, "classes": 0}), 0).generator_ema
    images, _, _ = own_images(generator, 3)
    start, few, many = (invert(generator, images, None, settings(epochs=n), seed=0) for n in (1, 20, 200))
    assert float(many.errors.max()) < 1e-3
    assert float(many.errors.mean()) < float(few.errors.mean()) < float(start.errors.mean())
    assert many.gain > 1.5
    assert not [text for text in many.warnings() if "random samples" in text]


def test_a_row_depends_on_its_own_image_alone() -> None:
    generator = Linear()
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    first = invert(generator, images, None, settings(), seed=0).latents
    changed = images.copy()
    changed[1] = 255 - changed[1]
    second = invert(generator, changed, None, settings(), seed=0).latents
    rest = [0, 2, 3, 4, 5]
    torch.testing.assert_close(first[rest], second[rest], rtol=0, atol=1e-6)
    assert float((first[1] - second[1]).abs().max()) > 0.1
    cut = invert(generator, images, None, settings(batch=5), seed=0).latents
    torch.testing.assert_close(first, cut, rtol=0, atol=1e-5)


def test_row_adam_is_adam_for_rows_that_are_never_absent() -> None:
    table = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    leaf = table.clone().requires_grad_(True)
    theirs, ours = torch.optim.Adam([leaf], lr=0.05), RowAdam(table.clone())
    for _ in range(20):
        leaf.grad = leaf.detach() ** 3
        gradient = ours.table**3
        theirs.step()
        for rows in (slice(0, 3), slice(3, 4)):
            ours.step(rows, gradient[rows], 0.05)
    torch.testing.assert_close(ours.table, leaf.detach())


def test_absent_rows_rest() -> None:
    adam = RowAdam(torch.zeros(2, 3))
    adam.step(slice(0, 2), torch.ones(2, 3), 0.1)
    kept = adam.table[1].clone()
    adam.step(slice(0, 1), torch.ones(1, 3), 0.1)
    assert torch.equal(adam.table[1], kept)
    assert float(adam.table[0, 0]) == pytest.approx(-0.2, rel=1e-4)


def test_the_rate_drops_where_it_is_told_to() -> None:
    images = np.zeros((1, 32, 32, 3), np.uint8)
    seen: list[float] = []

    class Watched(Linear):
        def forward(self, z: Tensor, *rest: Any) -> Tensor:
            if z.requires_grad:
                seen.append(float(z.detach()[0, 0]))
            return super().forward(z, *rest)

    invert(Watched(), images, None, settings(epochs=8, lr=1e-3, drop_at=0.5), seed=0)
    steps = np.abs(np.diff(seen))
    # Early Adam steps are as long as the rate.
    np.testing.assert_allclose(steps[:3], 1e-3, rtol=0.05)
    np.testing.assert_allclose(steps[4:], 1e-4, rtol=0.05)


def test_the_generator_is_given_back_as_it_was() -> None:
    generator = build(GanSpec.from_dict(RESNET), 0).generator.train()
    generator.fc.bias.requires_grad_(False)
    images, _, labels = own_images(generator, 3)
    generator.train()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    ids = labels.numpy().astype(np.int32)
    found = invert(generator, images, ids, settings(epochs=5), 0, ("embedding.weight",))
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())
    assert generator.training
    assert [n for n, p in generator.named_parameters() if not p.requires_grad] == ["fc.bias"]
    assert list(found.learnt) == ["embedding.weight"]
    assert not torch.equal(found.learnt["embedding.weight"], before["embedding.weight"])


def test_a_learnt_class_lowers_the_error_and_belongs_to_the_latents() -> None:
    gan = build(GanSpec.from_dict(RESNET), 0)
    images, _, _ = own_images(gan.generator, 6)
    one = reclass(gan, 1).generator
    ids = np.zeros(6, np.int32)
    fixed = invert(one, images, ids, settings(), 0)
    learnt = invert(one, images, ids, settings(), 0, ("embedding.weight",))
    assert float(learnt.errors.mean()) < float(fixed.errors.mean())
    one.get_parameter("embedding.weight").data.copy_(learnt.learnt["embedding.weight"])
    again = redraw(one, learnt, ids, [4, 0])
    squares = ((again / 127.5 - 1) - (images[[4, 0]] / 127.5 - 1)) ** 2
    np.testing.assert_allclose(squares.mean((1, 2, 3)), learnt.errors[[4, 0]].numpy(), atol=2e-4)


def test_the_length_of_a_class_embedding_makes_no_image() -> None:
    gan = build(GanSpec.from_dict({**RESNET, "variant": "resnet2"}), 0)
    generator: Any = gan.generator.eval()
    assert generator.spec.layout.unit_embedding
    z, labels = draw_latents(gan.spec, 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = generator(z, labels)
        generator.embedding.weight.mul_(7.0)
        torch.testing.assert_close(generator(z, labels), before, rtol=0, atol=1e-5)


def test_the_nearest_random_sample_is_the_nearest() -> None:
    generator = Linear()
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = invert(generator, images, None, settings(epochs=1), seed=4)
    rng = torch.Generator().manual_seed(4)
    z = torch.stack([torch.randn(4, generator=rng) for _ in range(3 + 1000)])[3:]
    with torch.no_grad():
        fakes = generator(z).flatten(1).numpy()
    flat = images.transpose(0, 3, 1, 2).reshape(3, -1) / 127.5 - 1
    wanted = [((fakes - row) ** 2).mean(1).min() for row in flat]
    np.testing.assert_allclose(found.nearest.numpy(), wanted, rtol=1e-4)


def test_random_samples_are_of_the_images_class() -> None:
    gan = build(GanSpec.from_dict(RESNET), 0)
    images, _, labels = own_images(gan.generator, 4)
    ids = labels.numpy().astype(np.int32)
    both = invert(gan.generator, images, ids, settings(epochs=1), seed=4).nearest
    assert bool(torch.isfinite(both).all())
    for row in range(4):
        alone = invert(gan.generator, images, np.full(4, ids[row]), settings(epochs=1), seed=4).nearest
        torch.testing.assert_close(both[row], alone[row], rtol=1e-4, atol=1e-6)


def inverted(errors: list[float], nearest: list[float], scale: float = 1.0) -> Inverted:
    return Inverted(scale * torch.ones(len(errors), 4), torch.tensor(errors), torch.tensor(nearest))


def test_what_is_told_about_an_inversion() -> None:
    good = inverted([0.1, 0.3, 0.2], [0.6, 0.6, 0.6])
    assert good.gain == pytest.approx(3.0)
    assert good.norm == pytest.approx(1.0)
    assert good.worst_first() == [1, 2, 0]
    assert good.warnings() == []
    (poor,) = inverted([0.5], [0.7]).warnings()
    assert "1.40 times nearer" in poor
    (far,) = inverted([0.1], [0.6], scale=2.0).warnings()
    assert "4.00" in far
    assert "finetune.inversion.lr" in far


def test_an_inversion_goes_through_tensors() -> None:
    one = replace(inverted([0.5], [0.7]), learnt={"embedding.weight": torch.ones(2)})
    again = Inverted.of_tensors(one.tensors())
    assert again.tensors().keys() == one.tensors().keys()
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in one.tensors().items())


def test_class_axes_are_where_classes_are() -> None:
    axes = class_axes(GanSpec.from_dict(RESNET))
    assert axes["generator"] == axes["generator_ema"] == {"embedding.weight": 0}
    assert axes["discriminator"] == {"fc.weight": 0, "fc.bias": 0}
    assert class_axes(tiny(classes=2))["generator"] == {"mapping.embed.weight": 1}
    assert class_axes(tiny())["generator"] == {}
