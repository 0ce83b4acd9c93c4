from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from training.nets import copies, recipe

from graftgan.checkpoints.store import load_gan, save_gan
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build, sample
from graftgan.gans.folding import adapters
from graftgan.gans.reclass import reclass
from graftgan.gans.spec import GanSpec
from graftgan.transfer import method
from graftgan.transfer.small_head import UNUSED, cut_statistics, grafted_spec
from transfer.families import SIZES, count, moved, names, on_meta, small, train, trainer

HEAD = {"head": "small", "calibration_samples": 60}
RUN = {"method": "adafm", "low_level_from_px": 16, "filter_transfer": HEAD}
KEPT = ("resnet_2_", "resnet_3_", "conv_img.", "embedding.")


def published() -> dict[str, object]:
    return {"resolution": 128, "variant": "resnet2", "embed_dim": 1}


def test_counts_of_the_published_network() -> None:
    gan = on_meta("resnet_gan", **published())
    method("adafm").apply(gan, recipe(method="adafm", filter_transfer={"head": "small"}))
    total = sum(p.numel() for p in gan.generator.parameters())
    added = sum(p.numel() for p in adapters(gan.generator).values())
    frozen = count(gan.generator, False) - gan.generator.embedding.weight.numel()
    assert (total, added, frozen) == (30_092_228, 860_160, 4_046_275)
    assert total - added - frozen == 25_185_793


def test_as_many_tensors_are_copied_as_published() -> None:
    before = on_meta("resnet_gan", **published())
    gan = on_meta("resnet_gan", **published())
    method("filter_transfer").apply(gan, recipe(method="filter_transfer", filter_transfer={"head": "small"}))
    left = {name for name in gan.generator.state_dict() if not name.startswith("small.")} - UNUSED
    assert len(left) == 29 and left <= set(before.generator.state_dict())
    assert len(names(gan.discriminator, "")) - len(names(gan.discriminator, "fc.")) == 54


def test_blocks_are_the_sources_bit_for_bit_and_the_rest_is_fresh() -> None:
    source, run = small("resnet_gan"), trainer("resnet_gan", **{**RUN, "method": "filter_transfer"})
    for network in ("generator", "generator_ema"):
        old, new = (getattr(gan, network).state_dict() for gan in (source, run.gan))
        assert {n for n in new if not n.startswith("small.")} == {n for n in old if n.startswith(KEPT)}
        assert all(torch.equal(new[n], old[n]) for n in new if n.startswith(KEPT))
    assert not torch.equal(run.gan.discriminator.fc.weight, source.discriminator.fc.weight)
    assert torch.equal(run.gan.discriminator.conv_img.weight, source.discriminator.conv_img.weight)
    head, average = (net.small.state_dict() for net in (run.gan.generator, run.gan.generator_ema))
    assert all(torch.equal(head[n], average[n]) for n in head)


def test_the_head_is_the_seeds_and_the_global_generator_stays() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    weights = []
    for seed in (0, 0, 1):
        gan = small("resnet_gan")
        method("adafm").apply(gan, recipe(**RUN, seed=seed))
        weights.append(gan.generator.small.fc.weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_fixed_blocks_see_what_the_source_had_there() -> None:
    gan = small("resnet_gan")
    settings = recipe(**{**RUN, "filter_transfer": {**HEAD, "calibration_samples": 120}})
    spec = grafted_spec(gan, settings, 16)
    mean, deviation = cut_statistics(gan.generator, spec, settings)
    z = torch.randn(120, 8, generator=torch.Generator().manual_seed(0))
    maps = gan.generator.before_stage(2, z).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, maps.mean(1))
    torch.testing.assert_close(deviation, maps.std(1))
    method("adafm").apply(gan, settings)
    made = gan.generator.small(torch.randn(64, 8), "random").detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(made.mean(1), mean.float(), rtol=0.05, atol=0.02)
    torch.testing.assert_close(made.std(1), deviation.float(), rtol=0.05, atol=0.02)


def test_what_moves_by_name_and_every_part_of_the_head_does() -> None:
    run = trainer("resnet_gan", **RUN)
    g, d = moved(run)
    added = set(adapters(run.gan.generator))
    assert added and g == names(run.gan.generator, "small.") | added
    assert d == names(run.gan.discriminator, "") - names(run.gan.discriminator, "resnet_0_", "conv_img.")


def test_scales_and_shifts_wait_for_their_phase() -> None:
    run = trainer("resnet_gan", **RUN, adafm={"start_kimg": 0.004})
    resting = method("adafm").resting
    assert resting is not None
    run.add_phases(partial(resting, run.gan, run.settings))
    first = copies(run.gan.generator)
    train(run, 2)
    assert all(torch.equal(first[n], p) for n, p in adapters(run.gan.generator).items())
    train(run, 1)
    assert not any(torch.equal(first[n], p) for n, p in adapters(run.gan.generator).items())
    assert all(
        torch.equal(first[n], t) for n, t in copies(run.gan.generator).items() if n.endswith("original")
    )


def test_it_is_saved_loaded_and_sampled_like_any_other(tmp_path: Path) -> None:
    run = train(trainer("resnet_gan", **RUN), 2)
    drawn = sample(run.gan.generator_ema, 3, 0)
    save_gan(run.gan, tmp_path)
    again = load_gan(tmp_path)
    assert again.spec == run.gan.spec and again.spec.head_px == 16
    assert (sample(again.generator_ema, 3, 0) == drawn).all()


def test_a_result_can_be_a_source_again(tmp_path: Path) -> None:
    run = trainer("resnet_gan", **RUN)
    method("adafm").finish(run.gan)
    settings = recipe(method="adafm", low_level_from_px=16)
    method("adafm").apply(run.gan, settings)
    assert count(run.gan.generator) > 0
    assert not run.gan.generator.get_parameter("embedding.weight").requires_grad
    again = recipe(**{**RUN, "low_level_from_px": 32})
    method("adafm").finish(run.gan)
    method("adafm").apply(run.gan, again)
    assert run.gan.spec.head_px == 32


def test_the_latent_can_be_shorter() -> None:
    run = train(trainer("resnet_gan", **{**RUN, "filter_transfer": {**HEAD, "head_z_dim": 4}}), 1)
    assert run.gan.spec.z_dim == 4 and sample(run.gan.generator_ema, 2, 0).shape == (2, 32, 32, 3)


def conditional(classes: int, variant: str = "resnet2") -> Gan:
    sizes = {**SIZES["resnet_gan"], "variant": variant, "classes": classes}
    return build(GanSpec.from_dict({"family": "resnet_gan", "resolution": 32, **sizes}), seed=1)


@pytest.mark.parametrize("variant", ["resnet2", "resnet4"])
def test_a_source_of_one_class_loses_it_with_its_head(variant: str) -> None:
    """As the paper's own source, of many classes, is adapted to images without labels."""
    gan = reclass(conditional(10, variant), 1)
    before = {name: copies(getattr(gan, name)) for name in ("generator", "generator_ema", "discriminator")}
    settings = recipe(**RUN)
    method("adafm").even_out(gan, settings)
    method("adafm").apply(gan, settings)
    assert gan.spec.classes == 0 == gan.generator.spec.classes == gan.discriminator.spec.classes
    assert tuple(gan.generator.embedding.weight.shape) == (1, 2)
    assert len(gan.discriminator.fc.weight) == 1
    method("adafm").finish(gan)
    kept = [n for n in copies(gan.generator_ema) if not n.startswith("small.")]
    assert kept and all(torch.equal(copies(gan.generator_ema)[n], before["generator_ema"][n]) for n in kept)
    judge = {n: t for n, t in copies(gan.discriminator).items() if not n.startswith("fc.")}
    assert all(torch.equal(t, before["discriminator"][n]) for n, t in judge.items())
    assert sample(gan.generator_ema, 2, 0).shape == (2, 32, 32, 3)


def test_the_maps_at_the_cut_are_measured_in_the_one_class() -> None:
    source = conditional(1)
    settings = recipe(**RUN)
    mean, deviation = cut_statistics(source.generator, grafted_spec(source, settings, 16), settings)
    z = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(60, dtype=torch.long)
    maps = source.generator.before_stage(2, z, ids).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, maps.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(deviation, maps.std(1), rtol=1e-5, atol=1e-6)


def test_several_classes_are_refused_by_both_settings() -> None:
    with pytest.raises(
        ConfigError, match=r"filter_transfer\.head=small .*rank\.choose has 3 .*data\.path"
    ) as error:
        method("adafm").apply(conditional(3), recipe(**RUN))
    for key in ("finetune.filter_transfer.head=source", "data.path", "rank.choose"):
        assert key in error.value.remedy


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("stylegan2", {}, r"finetune.filter_transfer.head=small .* family=stylegan2"),
        ("resnet_gan", {"low_level_from_px": 4}, r"finetune.low_level_from_px=4 .*head=small"),
        ("resnet_gan", {"low_level_from_px": 20}, r"finetune.low_level_from_px=20 .*head=small"),
    ],
)
def test_networks_without_a_place_for_it_are_refused(
    family: str, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        method("adafm").apply(small(family), recipe(**{**RUN, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filter_transfer": {"head_z_dim": 4}}, "head_z_dim=4 with finetune.filter_transfer.head=source"),
        ({"prior": "gmm", "filter_transfer": HEAD}, "finetune.prior=gmm with .*head=small"),
        ({"adafm": {"start_kimg": 1}}, "finetune.adafm.start_kimg=1 with finetune.budget.kimg=1"),
    ],
)
def test_settings_that_cannot_go_together_are_refused(changes: dict[str, object], message: str) -> None:
    check = method("adafm").check
    assert check is not None
    with pytest.raises(ConfigError, match=message):
        check(recipe(method="adafm", **changes))
    check(recipe(method="adafm"))
