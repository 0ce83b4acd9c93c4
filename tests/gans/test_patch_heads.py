from __future__ import annotations

from typing import Any

import pytest
import torch
from transfer.families import OTHERS, SIZES, small

from graftgan.gans.base import Discriminator, build
from graftgan.gans.patch_heads import (
    PatchLayer,
    attach,
    detach,
    heads_of,
    is_patch_head,
    listening,
    patch_layers,
)
from graftgan.gans.spec import GanSpec

FAMILIES = (*SIZES, *OTHERS)


def network(family: str, resolution: int = 32, **sizes: Any) -> Discriminator:
    with torch.device("meta"):
        return build(GanSpec.from_dict({"family": family, "resolution": resolution, **sizes})).discriminator


def seen_side(discriminator: Discriminator, layer: PatchLayer) -> tuple[int, int]:
    """Height and width of the image pixels that one inner output pixel of a layer depends on."""
    # In float64 and evaluation mode no rounding and no batch hides a dependence.
    discriminator = discriminator.double().eval()
    side = discriminator.spec.resolution
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, side, side, generator=rng, dtype=torch.float64).requires_grad_(True)
    kept: list[torch.Tensor] = []
    hook = discriminator.get_submodule(layer.name).register_forward_hook(lambda m, i, o: kept.append(o))
    discriminator.features(image)
    hook.remove()
    assert kept[0].shape[1] == layer.channels
    middle = kept[0].shape[2] // 2
    (gradient,) = torch.autograd.grad(kept[0][0, :, middle, middle].sum(), image)
    rows = gradient[0].abs().sum(dim=0)
    spans = [torch.nonzero(rows.sum(dim=d)).flatten() for d in (1, 0)]
    return tuple(int(span[-1] - span[0] + 1) for span in spans)  # type: ignore[return-value]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_inner_pixel_sees_a_patch_of_the_named_side(family: str) -> None:
    gan = small(family)
    layers = patch_layers(gan.discriminator)
    inside = [layer for layer in layers if layer.patch_px <= 20]
    assert inside
    for layer in inside:
        assert seen_side(gan.discriminator, layer) == (layer.patch_px, layer.patch_px)


def test_patches_of_stylegan2_at_256_px() -> None:
    found = patch_layers(network("stylegan2", 256))
    assert [(layer.name, layer.patch_px) for layer in found[:4]] == [
        ("b256", 8), ("b128", 22), ("b64", 50), ("b32", 106),
    ]  # fmt: skip


def test_behind_attention_there_are_no_patches() -> None:
    with_attention = network("biggan", classes=2, g_ch=8, d_ch=8, d_attn=(16,))
    names = [layer.name for layer in patch_layers(with_attention)]
    stops = next(i for i, sizes in enumerate(with_attention.spec.d_blocks) if sizes.attention)
    assert names == [f"blocks.{i}.0" for i in range(stops + 1)]
    without = network("biggan", classes=2, g_ch=8, d_ch=8, d_attn=())
    assert len(patch_layers(without)) == len(without.spec.d_blocks) > len(names)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_start_at_nothing_and_leave_the_images_logits_alone(family: str) -> None:
    gan = small(family)
    discriminator, plain = gan.discriminator.eval(), small(family).discriminator.eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = torch.tensor([0, 1, 0, 1]) if gan.spec.classes else None
    layers = patch_layers(discriminator)[:2]
    heads = attach(discriminator, layers, torch.zeros(3, gan.spec.z_dim))
    assert heads_of(discriminator) is heads and heads_of(plain) is None
    with listening(discriminator) as features:
        logits = discriminator(images, labels)
    assert torch.equal(logits, plain(images, labels))
    patches = heads(features)
    assert len(patches) == len(layers)
    assert all(p.shape[0] == 4 and p.ndim == 3 and not p.any() for p in patches)
    added = set(dict(discriminator.named_parameters())) - set(dict(plain.named_parameters()))
    assert all(is_patch_head(name) for name in added)
    assert len(added) == 2 * len(layers)
    detach(gan)
    assert gan.discriminator.state_dict().keys() == plain.state_dict().keys()
    detach(gan)


def test_a_patchs_logit_is_linear_in_its_features_and_of_its_place_alone() -> None:
    gan = small("stylegan2")
    layers = patch_layers(gan.discriminator)[:1]
    heads = attach(gan.discriminator, layers, torch.zeros(1, 8))
    with torch.no_grad():
        heads.weight0.copy_(torch.arange(1.0, 1 + layers[0].channels))
        heads.bias0.fill_(0.5)
    images = torch.zeros(2, 3, 32, 32)
    images[1, :, :4, :4] = 1.0
    with listening(gan.discriminator) as features:
        gan.discriminator(images)
    (patches,) = heads(features)
    expected = features[0][1, :, 3, 5] @ heads.weight0 / layers[0].channels ** 0.5 + 0.5
    torch.testing.assert_close(patches[1, 3, 5], expected)
    differs = (patches[0] != patches[1]).nonzero()
    assert len(differs) > 0 and int(differs.max()) <= 4


def test_hooks_are_gone_after_an_error() -> None:
    gan = small("resnet_gan")
    layer = patch_layers(gan.discriminator)[0]
    attach(gan.discriminator, [layer], torch.zeros(1, 8))
    with pytest.raises(RuntimeError, match="stop"), listening(gan.discriminator):
        raise RuntimeError("stop")
    assert not gan.discriminator.get_submodule(layer.name)._forward_hooks
