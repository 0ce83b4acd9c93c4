from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training.nets import copies, recipe

from graftgan.errors import ConfigError
from graftgan.gans.folding import adapters, plain_state
from graftgan.transfer import method
from graftgan.transfer.gan_memory import FurtherBias, StyleModulation
from transfer import parametrised
from transfer.families import count, moved, names, on_meta, small, train, trainer

RUN = {"method": "gan_memory"}
RAW = {"method": "gan_memory", "gan_memory": {"normalise": False}}
FAMILIES = ("resnet_gan", "stylegan2")
LAYERS = {
    "resnet_gan": {"fc"} | {f"resnet_{s}_{b}.conv_{i}" for s in range(4) for b in (0, 1) for i in (0, 1)},
    "stylegan2": {
        "mapping.fc0",
        "synthesis.b4.conv1",
        "synthesis.b4.conv1.affine",
        "synthesis.b4.torgb.affine",
    }
    | {f"synthesis.b{r}.conv{i}{part}" for r in (8, 16, 32) for i in (0, 1) for part in ("", ".affine")}
    | {f"synthesis.b{r}.torgb.affine" for r in (8, 16, 32)},
}


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3)])
def test_it_is_the_formula_and_the_weight_at_the_start(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape) * 3 + 1
    layer = StyleModulation(weight)
    torch.testing.assert_close(layer(weight), weight, rtol=1e-6, atol=1e-6)
    flat = weight if len(shape) == 2 else weight.flatten(2)
    mean, deviation = flat.mean(-1), flat.std(-1, correction=1)
    torch.testing.assert_close(layer.gamma.detach().reshape(mean.shape), deviation)
    torch.testing.assert_close(layer.beta.detach().reshape(mean.shape), mean)
    with torch.no_grad():
        layer.gamma.normal_()
        layer.beta.normal_()
    gamma, beta = (t.detach().reshape(mean.shape)[..., None] for t in (layer.gamma, layer.beta))
    expected = gamma * (flat - mean[..., None]) / deviation[..., None] + beta
    torch.testing.assert_close(layer(weight).detach(), expected.view(shape), rtol=1e-4, atol=1e-5)


def test_gradients_are_the_closed_forms() -> None:
    weight, upstream = torch.randn(5, 4, 3, 3), torch.randn(5, 4, 3, 3)
    layer = StyleModulation(weight)
    (layer(weight) * upstream).sum().backward()
    normal = (weight - weight.mean((2, 3), keepdim=True)) / weight.std((2, 3), keepdim=True)
    assert layer.gamma.grad is not None and layer.beta.grad is not None
    torch.testing.assert_close(
        layer.gamma.grad, (upstream * normal).sum((2, 3), keepdim=True), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(layer.beta.grad, upstream.sum((2, 3), keepdim=True))


def test_dead_filters_stay_finite_and_keep_their_shift() -> None:
    weight = torch.randn(3, 2, 3, 3)
    weight[1, 0] = 0.25
    layer = StyleModulation(weight)
    assert (layer.gamma.detach()[1, 0].item(), layer.deviation[1, 0].item()) == (0, 1)
    torch.testing.assert_close(layer(weight), weight, rtol=1e-6, atol=1e-6)


def test_without_normalisation_the_start_is_exact() -> None:
    weight = torch.randn(3, 2, 3, 3)
    assert torch.equal(StyleModulation(weight, normalise=False)(weight), weight)
    assert torch.equal(FurtherBias(weight)(weight), weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_start_is_the_source(family: str) -> None:
    run, plain = trainer(family, **RUN), trainer(family)
    assert adapters(run.gan.generator).keys() == adapters(run.gan.generator_ema).keys()
    source = parametrised.images(plain.gan)
    difference = (parametrised.images(run.gan) - source).abs().max() / source.abs().max()
    assert float(difference) <= 1e-6
    parametrised.check_start_is_the_source(family, **RAW)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_moves_by_name(family: str) -> None:
    run = trainer(family, **RUN)
    g, d = moved(run)
    added = set(adapters(run.gan.generator))
    assert {name.split(".parametrizations")[0] for name in added} == LAYERS[family]
    # With what noise there is at the start, StyleGAN2's torgb styles and all else get gradients.
    assert g == added
    head = {"resnet_gan": "fc.", "stylegan2": "b4."}[family]
    of_d = set(adapters(run.gan.discriminator))
    assert of_d and not {n for n in of_d if n.startswith(head)}
    assert d == of_d | names(run.gan.discriminator, head)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_keeps_its_bits(family: str) -> None:
    run, source = trainer(family, **RUN), small(family)
    train(run, 0)
    before = copies(run.gan.generator)
    train(run, 3)
    for name, tensor in copies(run.gan.generator).items():
        if name.endswith(".original"):
            plain = name.replace(".parametrizations", "").removesuffix(".original")
            assert torch.equal(tensor, source.generator.get_parameter(plain)), name
        elif name not in adapters(run.gan.generator) and not name.endswith("w_avg"):
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_it_is_a_plain_checkpoint_of_the_same_images(family: str, tmp_path: Path) -> None:
    parametrised.check_folding(family, tmp_path, **RUN)


def test_the_average_follows() -> None:
    parametrised.check_average_follows("resnet_gan", **RUN)


def test_a_run_goes_on_exactly(tmp_path: Path) -> None:
    parametrised.check_resuming(tmp_path, **RUN)


def test_a_plain_discriminator_moves_whole() -> None:
    run = trainer("resnet_gan", **RUN, **{"gan_memory": {"modulate_d": False}})
    assert not adapters(run.gan.discriminator)
    assert moved(run)[1] == names(run.gan.discriminator, "")


def test_where_the_sums_are_taken_is_not_seen() -> None:
    """Filters in another memory layout fold to the same bits."""
    first, second = (trainer("resnet_gan", **RUN) for _ in range(2))
    second.gan.generator.to(memory_format=torch.contiguous_format)
    states = [plain_state(run.gan.generator) for run in (first, second)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_counts_of_the_published_network() -> None:
    gan = on_meta("resnet_gan", resolution=256, variant="resnet4", embed_dim=1, stages=7)
    assert (count(gan.generator), count(gan.discriminator)) == (52_161_732, 47_952_065)
    method("gan_memory").apply(gan, recipe(**RUN))
    assert count(gan.generator) == 10_549_248
    assert count(gan.discriminator) == 10_501_056 + 16_385


@pytest.mark.parametrize("family", ["biggan", "biggan_deep", "stylegan3", "dcgan"])
def test_other_families_are_refused(family: str) -> None:
    with pytest.raises(ConfigError, match=rf"finetune.method=gan_memory .* family={family}") as error:
        method("gan_memory").apply(small(family), recipe(**RUN))
    assert "rank.sources" in error.value.remedy


def test_a_fresh_discriminator_is_not_modulated() -> None:
    gan = small("stylegan2")
    gan.fresh = ("discriminator",)
    with pytest.raises(ConfigError, match=r"modulate_d=true with finetune.fresh_discriminator=true"):
        method("gan_memory").apply(gan, recipe(**RUN))
    method("gan_memory").apply(gan, recipe(method="gan_memory", gan_memory={"modulate_d": False}))
