from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import rel_entr, softmax
from torch import Tensor
from training.nets import copies, equal, everything, recipe

from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build
from graftgan.gans.dcgan.spec import DCGANSpec
from graftgan.transfer.penalties import make_penalties
from graftgan.transfer.penalties.cdc import (
    DistanceConsistency,
    compared_layers,
    distance_consistency,
    layer_outputs,
    similarity_logits,
)
from transfer.families import SIZES, small
from transfer.penalties.runs import moved, networks, silent, trained

IMAGES, LOGITS = torch.zeros(4, 3, 32, 32), torch.zeros(4, 1)
FAMILIES = tuple(SIZES)


def started(gan: Gan, **keys: Any) -> DistanceConsistency:
    penalty = DistanceConsistency()
    penalty.start(gan, recipe(cdc=keys))
    return penalty


def features(*shapes: tuple[int, ...], seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


def by_scipy(source: list[Tensor], adapted: list[Tensor]) -> float:
    means = []
    for old, new in zip(source, adapted, strict=True):
        rows = []
        for layer in (old, new):
            flat = layer.flatten(1).double().numpy()
            cosine = 1 - cdist(flat, flat, "cosine")
            off = cosine[~np.eye(len(flat), dtype=bool)].reshape(len(flat), -1)
            rows.append(softmax(off, axis=1))
        means.append(rel_entr(*rows).mean())
    return float(np.mean(means))


@pytest.mark.parametrize("shapes", [((4, 6),), ((5, 3, 4, 4), (5, 2, 8, 8)), ((3, 1),)])
def test_the_term_is_the_relative_entropy_of_softmaxed_cosines(shapes: tuple[tuple[int, ...], ...]) -> None:
    source, adapted = features(*shapes, seed=1), features(*shapes, seed=2)
    found = float(distance_consistency(source, adapted))
    assert found == pytest.approx(by_scipy(source, adapted), rel=1e-4)
    assert found > 0


def test_similarities_leave_the_image_itself_out_and_keep_the_order_of_the_others() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    expected = torch.tensor([[0.0, -1.0], [0.0, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(similarity_logits(rows), expected)


def test_lengths_of_features_do_not_count_but_directions_do() -> None:
    (source,), (adapted,) = features((4, 6), seed=1), features((4, 6), seed=2)
    lengths = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    plain = distance_consistency([source], [adapted])
    torch.testing.assert_close(distance_consistency([source], [adapted * lengths]), plain)
    assert float(distance_consistency([source], [source * lengths])) == pytest.approx(0.0, abs=1e-7)


def test_images_that_become_alike_are_what_it_minds() -> None:
    (source,) = features((6, 40), seed=3)
    mean = source.mean(dim=0, keepdim=True)
    rng = np.random.default_rng(0)
    turned = source @ torch.from_numpy(np.linalg.qr(rng.standard_normal((40, 40)))[0].astype(np.float32))
    source[:3] += 5.0
    kinds = distance_consistency([source], [source.roll(3, 0)])
    collapsed = distance_consistency([source], [mean + 0.01 * source])
    assert float(collapsed) > 0.0 and float(kinds) > 0.0
    (again,) = features((6, 40), seed=3)
    assert float(distance_consistency([again], [turned])) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_source_it_is_nothing_and_pulls_nowhere(family: str) -> None:
    gan = moved(small(family), 0.05)
    gan.generator.train()
    gan.generator.freeze_statistics()
    penalty = started(gan)
    assert penalty.layers
    parameters = list(gan.generator.parameters())

    def pull() -> float:
        term = penalty.generator_term(gan, IMAGES, LOGITS, silent)
        values.append(float(term.detach()))
        found = torch.autograd.grad(term, parameters, allow_unused=True)
        return max(float(gradient.abs().max()) for gradient in found if gradient is not None)

    values: list[float] = []
    at_the_source = pull()
    moved(gan, 0.1)
    assert at_the_source < 1e-4 * pull()
    assert values[0] == 0.0 < values[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_away_from_the_source_it_pulls_and_leaves_no_trace(family: str) -> None:
    gan = small(family)
    gan.generator.train()
    penalty = started(gan)
    moved(gan, 0.1)
    before, drawn = copies(gan.generator), torch.get_rng_state()
    term = penalty.generator_term(gan, IMAGES, LOGITS, silent)
    torch.autograd.backward(term)
    assert float(term.detach()) > 0
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in gan.generator.parameters())
    assert all(p.grad is None for p in gan.discriminator.parameters())
    assert equal(before, copies(gan.generator))
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(module.training for module in gan.generator.modules())


def test_dcgans_transposed_convolutions_are_compared_but_for_the_one_that_writes_the_image() -> None:
    generator = build(DCGANSpec(resolution=32, z_dim=8, g_ch=4, d_ch=4), 0).generator
    names = compared_layers(generator)
    convolutions = [n for n, m in generator.named_modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert names == convolutions[:-1]


def test_layers_count_from_the_latent() -> None:
    gan = networks()
    assert compared_layers(gan.generator)[:3] == [
        "synthesis.b4.conv1",
        "synthesis.b8.conv0",
        "synthesis.b8.conv1",
    ]
    assert started(gan, layers=2).layers == ["synthesis.b4.conv1", "synthesis.b8.conv0"]
    assert len(started(gan).layers) == 7


def test_outputs_are_those_of_a_pass_without_random_noise() -> None:
    gan = networks()
    with torch.no_grad():
        for name, parameter in gan.generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(1.0)
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    first, second = (layer_outputs(gan.generator, ["synthesis.b8.conv1"], z, None)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (3, 8, 8, 8)
    assert not gan.generator.synthesis.b8.conv1._forward_hooks


def test_the_source_stays_what_it_was_and_latents_are_new_each_time() -> None:
    gan = networks()
    penalty = started(gan)
    source = copies(penalty.source)
    moved(gan, 0.1)
    terms = [float(penalty.generator_term(gan, IMAGES, LOGITS, silent).detach()) for _ in range(2)]
    assert terms[0] != terms[1]
    assert equal(source, copies(penalty.source))


def test_a_state_brings_the_same_latents_back() -> None:
    gan = networks()
    first, second = started(gan), started(gan)
    moved(gan, 0.1)
    first.generator_term(gan, IMAGES, LOGITS, silent)
    second.load_state_dict(first.state_dict())
    values = [float(p.generator_term(gan, IMAGES, LOGITS, silent).detach()) for p in (first, second)]
    assert values[0] == values[1]


def test_a_strong_weight_keeps_similarities_nearer() -> None:
    def distance(weight: float) -> float:
        run = trained(5, ("cdc",), cdc={"weight": weight}, lr_generator=0.02)
        judge = DistanceConsistency()
        judge.start(networks(), recipe(cdc={"weight": 1.0, "batch": 16}))
        return float(judge.generator_term(run.gan, IMAGES, LOGITS, silent).detach())

    assert distance(1e5) < 0.5 * distance(0.0)


def test_without_patches_the_method_is_full_with_the_penalty() -> None:
    assert [p.name for p in make_penalties(recipe(method="cdc"))] == ["cdc"]
    by_method, by_penalty = trained(2, (), method="cdc", cdc={"patches": False}), trained(2, ("cdc",))
    assert equal(everything(by_method), everything(by_penalty))
    assert make_penalties(recipe(method="cdc", cdc={"weight": 0.0})) == []


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.cdc\.layers is 99, .* family=stylegan2") as error:
        started(networks(), layers=99)
    assert "7 or less" in error.value.remedy
    gan = networks()
    gan.generator.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"finetune\.penalties: cdc .* finetune\.method"):
        started(gan)
