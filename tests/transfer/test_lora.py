from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training.nets import recipe

from graftgan.errors import ConfigError
from graftgan.gans.folding import adapters
from graftgan.transfer import method
from graftgan.transfer.lora import LowRank, modulated
from transfer import parametrised
from transfer.families import count, moved, names, on_meta, small, train, trainer

RUN = {"method": "lora", "adapter_rank": 2}
FAMILIES = ("stylegan2", "stylegan3")
LAYERS = {"synthesis.b4.conv1"} | {f"synthesis.b{r}.conv{i}" for r in (8, 16, 32) for i in (0, 1)}


def drawn(rank: int, seed: int = 0) -> tuple[torch.Tensor, LowRank]:
    weight = torch.randn(6, 5, 3, 3)
    return weight, LowRank(weight, rank, torch.Generator().manual_seed(seed))


def test_it_is_the_weight_until_b_moves_and_then_of_its_rank() -> None:
    weight, layer = drawn(2)
    assert torch.equal(layer(weight), weight)
    torch.nn.init.normal_(layer.b)
    change = (layer(weight) - weight).flatten(1)
    torch.testing.assert_close(change, layer.b @ layer.a / 2**0.5, rtol=1e-5, atol=1e-5)
    assert int(torch.linalg.matrix_rank(change, rtol=1e-4)) == 2


def test_gradients_are_the_closed_forms() -> None:
    weight, layer = drawn(3)
    torch.nn.init.normal_(layer.b)
    upstream = torch.randn_like(weight)
    (layer(weight) * upstream).sum().backward()
    g = upstream.flatten(1)
    torch.testing.assert_close(layer.a.grad, layer.b.t() @ g / 3**0.5)
    torch.testing.assert_close(layer.b.grad, g @ layer.a.t() / 3**0.5)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_a_step_on_b_moves_weights_by_the_step_whatever_the_rank(rank: int) -> None:
    weight = torch.zeros(64, 32, 3, 3)
    layer = LowRank(weight, rank, torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.b.copy_(0.002 * torch.randn(64, rank, generator=torch.Generator().manual_seed(1)).sign())
    assert float(layer(weight).detach().std()) == pytest.approx(0.002, rel=0.1)


def test_half_precision_leaves_the_weight_in_full() -> None:
    weight, layer = drawn(2)
    torch.nn.init.normal_(layer.b)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = weight + (layer.b @ layer.a * layer.gain).float().view(6, 5, 3, 3)
        inside = layer(weight)
    assert inside.dtype is torch.float32
    assert torch.equal(inside, layer(weight))
    assert not torch.equal(inside, rounded)


def test_modulated_convolutions_are_those_between_feature_maps() -> None:
    assert set(modulated(small("stylegan2").generator)) == LAYERS
    of_3 = modulated(small("stylegan3").generator)
    assert all(name.startswith("synthesis.L") for name in of_3)
    assert not [name for name in of_3 if name.endswith("_32_3")]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_start_is_the_source_bit_for_bit(family: str) -> None:
    parametrised.check_start_is_the_source(family, **RUN)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_adapters_move_in_g_and_all_of_d(family: str) -> None:
    run = trainer(family, **RUN)
    g, d = moved(run)
    assert g == set(adapters(run.gan.generator))
    assert d == names(run.gan.discriminator, "")


def test_weights_keep_their_bits() -> None:
    parametrised.check_frozen_originals("stylegan2", LAYERS, **RUN)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_average_follows(family: str) -> None:
    parametrised.check_average_follows(family, **RUN)


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_it_is_a_plain_checkpoint_of_the_same_images(family: str, tmp_path: Path) -> None:
    parametrised.check_folding(family, tmp_path, **RUN)


def test_half_precision_trains_it_too() -> None:
    run = train(trainer("stylegan2", **RUN, precision="bf16"), 2)
    assert run.finite()
    assert all(p.dtype is torch.float32 for p in run.gan.generator.parameters())


def test_a_run_goes_on_exactly(tmp_path: Path) -> None:
    parametrised.check_resuming(tmp_path, **RUN)


def test_the_seed_decides_the_start_and_the_global_generator_does_not() -> None:
    starts = []
    for global_seed, seed in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(global_seed)
        gan = small("stylegan2")
        method("lora").apply(gan, recipe(**RUN, seed=seed))
        starts.append(next(p for name, p in adapters(gan.generator).items() if name.endswith(".a")))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("rank", [1, 4])
def test_counts_at_full_size(rank: int) -> None:
    gan = on_meta("stylegan2", resolution=256, channel_base=16384, w_dim=512, z_dim=512, mapping_layers=8)
    method("lora").apply(gan, recipe(method="lora", adapter_rank=rank))
    width = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}
    convolutions = [(512, 512)] + [
        pair for r in (8, 16, 32, 64, 128, 256) for pair in ((width[r // 2], width[r]), (width[r], width[r]))
    ]
    assert count(gan.generator) == rank * sum(9 * i + o for i, o in convolutions)
    assert count(gan.generator, False) == 24_767_458


def test_path_length_and_mixing_work_with_a_fixed_mapping() -> None:
    run = train(trainer("stylegan2", **RUN, path_length_weight=2.0, style_mixing=0.9))
    assert run.finite()


@pytest.mark.parametrize("family", ["biggan", "biggan_deep", "resnet_gan"])
def test_a_family_without_modulation_is_refused(family: str) -> None:
    with pytest.raises(ConfigError, match=rf"finetune.method=lora .* family={family}") as error:
        trainer(family, **RUN)
    assert "stylegan2" in error.value.remedy


def test_a_rank_above_a_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"finetune.adapter_rank=5 with finetune.method=lora") as error:
        trainer("stylegan2", method="lora", adapter_rank=5)
    assert "4 or less" in error.value.remedy


def test_the_bits_do_not_depend_on_where_tensors_lie_in_memory() -> None:
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, 3, 3, generator=rng)
    adapter = LowRank(weight, 4, rng)
    with torch.no_grad():
        adapter.b.normal_(generator=rng)
    expected = adapter(weight).detach()
    for offset in range(1, 9):
        for name in ("a", "b"):
            tensor = getattr(adapter, name).detach()
            room = torch.empty(tensor.numel() + offset)[offset:].view(tensor.shape).copy_(tensor)
            setattr(adapter, name, torch.nn.Parameter(room))
        assert torch.equal(adapter(weight), expected), offset
    matrix = adapter.b.double() @ adapter.a.double() / 2
    assert torch.allclose(expected.double(), weight + matrix.view(weight.shape), atol=1e-5)
