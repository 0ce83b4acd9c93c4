from __future__ import annotations

import pytest
import torch
from training.nets import recipe

from graftgan.errors import ConfigError
from graftgan.gans.base import sample
from graftgan.transfer import method
from transfer.families import count, moved, names, on_meta, small, train, trainer

FAMILIES = ("stylegan2", "stylegan3", "biggan", "biggan_deep")


def scales_and_shifts(family: str) -> set[str]:
    """By what each name ends with, not by one pattern of the whole."""
    found = set()
    for name in names(small(family).generator, ""):
        parts = name.split(".")
        if family.startswith("stylegan"):
            wanted = parts[0] == "synthesis" and parts[1] != "input" and (
                "affine" in parts or parts[-1] == "bias"
            )  # fmt: skip
        elif family == "biggan":
            wanted = {"bn1", "bn2"} & set(parts) or parts[:2] == ["output_layer", "0"]
        else:
            wanted = any(part.startswith("bn") for part in parts)
        if wanted:
            found.add(name)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_scales_and_shifts_move_and_nothing_else_of_g(family: str) -> None:
    g, d = moved(trainer(family, method="scale_shift"), 2)
    assert g == scales_and_shifts(family)
    assert d == names(small(family).discriminator, "")


@pytest.mark.parametrize(("family", "vector"), [("biggan", "u0"), ("biggan_deep", "weight_u")])
def test_the_spectral_norms_of_fixed_weights_stay(family: str, vector: str) -> None:
    run = trainer(family, method="scale_shift")
    before = {name: b.clone() for name, b in run.gan.generator.named_buffers() if name.endswith(vector)}
    train(run)
    for name, buffer in run.gan.generator.named_buffers():
        if name in before:
            norm_layer = any(part.startswith("bn") for part in name.split("."))
            assert torch.equal(buffer, before[name]) is not norm_layer, name


def test_the_start_is_the_source() -> None:
    source = small("stylegan2")
    run = trainer("stylegan2", method="scale_shift")
    assert (sample(run.gan.generator, 2, 0) == sample(source.generator, 2, 0)).all()


def test_counts_at_full_size() -> None:
    gan = on_meta("stylegan2", resolution=256, channel_base=16384, w_dim=512, z_dim=512, mapping_layers=8)
    method("scale_shift").apply(gan, recipe(method="scale_shift"))
    assert count(gan.generator) + count(gan.generator, False) == 24_767_458
    width = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}
    convolutions = [(512, 512)] + [
        pair for r in (8, 16, 32, 64, 128, 256) for pair in ((width[r // 2], width[r]), (width[r], width[r]))
    ]
    rgb = [(w, 3) for w in width.values()]
    assert count(gan.generator) == sum(513 * i + o for i, o in convolutions + rgb)


def test_a_family_without_scales_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"finetune.method=scale_shift .* family=resnet_gan") as error:
        trainer("resnet_gan", method="scale_shift")
    assert "adafm" in error.value.remedy
