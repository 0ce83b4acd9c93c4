from __future__ import annotations

import pytest
import torch
from training.nets import EVERYTHING, equal, everything, recipe

from graftgan.errors import ConfigError
from graftgan.transfer import method
from transfer.families import RESOLVED, UNRESOLVED, count, moved, names, on_meta, small, train, trainer

KEPT = {
    "stylegan3": ("mapping.", "synthesis.input.", "synthesis.L0_"),
    "biggan_deep": ("embeddings.", "generator.gen_z.", *(f"generator.layers.{j}." for j in (0, 1, 2))),
    "stylegan2": ("mapping.", "synthesis.b4.", "synthesis.b8."),
    "biggan": ("shared.", "linear.", "blocks.0.", "blocks.1."),
    "resnet_gan": ("embedding.", "fc.", "resnet_0_", "resnet_1_"),
}
# At 32 px the layers of the small StyleGAN3 have two rates of samples.
BLOCKS = {"stylegan3": 1}
LAST = {
    "stylegan2": "synthesis.b8.conv1", "stylegan3": "synthesis.L0_36_8", "biggan": "blocks.1.0",
    "biggan_deep": "generator.layers.2", "resnet_gan": "resnet_1_1",
}  # fmt: skip


@pytest.mark.parametrize("family", RESOLVED)
def test_the_small_sizes_keep_their_bits_and_all_else_moves(family: str) -> None:
    run = trainer(family, method="freeze_g", freeze_g_blocks=BLOCKS.get(family, 2))
    g, d = moved(run)
    assert g == names(run.gan.generator, "") - names(run.gan.generator, *KEPT[family])
    assert d == names(run.gan.discriminator, "")


def test_a_fixed_spectral_norm_keeps_its_vectors_too() -> None:
    run = trainer("biggan", method="freeze_g", freeze_g_blocks=2)
    before = {name: b.clone() for name, b in run.gan.generator.named_buffers() if name.endswith("u0")}
    train(run)
    for name, buffer in run.gan.generator.named_buffers():
        if name in before:
            assert torch.equal(buffer, before[name]) is name.startswith(KEPT["biggan"]), name


@pytest.mark.parametrize("family", RESOLVED)
def test_the_same_latent_keeps_its_small_features(family: str) -> None:
    run = trainer(family, method="freeze_g", freeze_g_blocks=BLOCKS.get(family, 2))
    last = LAST[family]
    seen: list[torch.Tensor] = []
    run.gan.generator.get_submodule(last).register_forward_hook(lambda *call: seen.append(call[2].clone()))
    z, labels = torch.randn(2, run.gan.spec.z_dim), torch.tensor([0, 1])
    for steps in (0, 2):
        train(run, steps)
        run.gan.generator.eval()(z, labels if run.gan.spec.classes else None, noise_mode="const")
    assert torch.equal(seen[0], seen[-1])


def test_fixing_nothing_is_full_fine_tuning_bit_for_bit() -> None:
    none = train(trainer("stylegan2", method="freeze_g", freeze_g_blocks=0))
    assert equal(everything(none), everything(train(trainer("stylegan2"))))


def test_everything_else_of_a_recipe_works_with_a_fixed_mapping() -> None:
    run = train(trainer("stylegan2", method="freeze_g", freeze_g_blocks=1, **EVERYTHING), 4)
    assert run.finite()
    assert run.meter.take()["path_length"] > 0


def test_counts_at_full_size() -> None:
    gan = on_meta("stylegan2", resolution=256, channel_base=16384, w_dim=512, z_dim=512, mapping_layers=8)
    method("freeze_g").apply(gan, recipe(method="freeze_g", freeze_g_blocks=2))
    affine, conv, rgb = 513 * 512, 512 * 512 * 9 + 512 + 1, 3 * 512 + 3
    b4 = 512 * 16 + conv + rgb + 2 * affine
    b8 = 2 * conv + rgb + 3 * affine
    assert count(gan.generator, False) == 8 * 513 * 512 + b4 + b8


def test_fixing_every_size_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"finetune.freeze_g_blocks=4 with finetune.method=freeze_g"
    ) as error:
        trainer("stylegan2", method="freeze_g", freeze_g_blocks=4)
    assert "3 or less" in error.value.remedy


@pytest.mark.parametrize("family", UNRESOLVED)
def test_a_family_without_sizes_is_refused(family: str) -> None:
    with pytest.raises(ConfigError, match=rf"finetune.method=freeze_g .* family={family}"):
        method("freeze_g").apply(small(family), recipe(method="freeze_g"))
