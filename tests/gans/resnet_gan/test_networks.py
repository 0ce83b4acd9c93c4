from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from graftgan.errors import ConfigError
from graftgan.gans.base import autocast, build, parameter_count, sample
from graftgan.gans.resnet_gan import LAYOUTS, ResnetGanSpec, build_networks
from graftgan.training.losses import discriminator_loss, generator_loss, r1_penalty
from tests.gans.resnet_gan import reference
from tests.gans.resnet_gan.sizes import CELEBA, CELEBA_HQ, IMAGENET, LSUN, tiny


def on_meta(spec: ResnetGanSpec) -> tuple[torch.nn.Module, torch.nn.Module]:
    with torch.device("meta"):
        return build_networks(spec)


@pytest.mark.parametrize(
    ("spec", "tensors_g", "parameters_g", "tensors_d", "parameters_d"),
    [
        (IMAGENET, 57, 100_535_747, 56, 108_260_776),
        (ResnetGanSpec(), 57, 100_280_003, 56, 91_892_161),
        (ResnetGanSpec(embed_dim=1), 57, 96_101_828, 56, 91_892_161),
        (CELEBA, 37, 52_161_732, 36, 47_952_065),
        (LSUN, 34, 67_849_284, 33, 59_429_953),
        (CELEBA_HQ, 46, 18_810_036, 45, 16_705_201),
    ],
)
def test_counts_at_full_size(
    spec: ResnetGanSpec, tensors_g: int, parameters_g: int, tensors_d: int, parameters_d: int
) -> None:
    generator, discriminator = on_meta(spec)
    assert (len(generator.state_dict()), parameter_count(generator)) == (tensors_g, parameters_g)
    assert (len(discriminator.state_dict()), parameter_count(discriminator)) == (tensors_d, parameters_d)


def published(blocks: dict[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of residual blocks, given the widths in and out of each."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (wide_in, wide_out) in blocks.items():
        hidden = min(wide_in, wide_out)
        shapes |= {f"{name}.conv_0.weight": (hidden, wide_in, 3, 3), f"{name}.conv_0.bias": (hidden,)}
        shapes |= {f"{name}.conv_1.weight": (wide_out, hidden, 3, 3), f"{name}.conv_1.bias": (wide_out,)}
        if wide_in != wide_out:
            shapes[f"{name}.conv_s.weight"] = (wide_out, wide_in, 1, 1)
    return shapes


RESNET2_G = {
    "resnet_0_0": (1024, 1024), "resnet_0_1": (1024, 1024), "resnet_1_0": (1024, 1024),
    "resnet_1_1": (1024, 1024), "resnet_2_0": (1024, 512), "resnet_2_1": (512, 512),
    "resnet_3_0": (512, 256), "resnet_3_1": (256, 256), "resnet_4_0": (256, 128), "resnet_4_1": (128, 128),
    "resnet_5_0": (128, 64), "resnet_5_1": (64, 64),
}  # fmt: skip
RESNET2_D = {
    "resnet_0_0": (64, 64), "resnet_0_1": (64, 128), "resnet_1_0": (128, 128), "resnet_1_1": (128, 256),
    "resnet_2_0": (256, 256), "resnet_2_1": (256, 512), "resnet_3_0": (512, 512), "resnet_3_1": (512, 1024),
    "resnet_4_0": (1024, 1024), "resnet_4_1": (1024, 1024), "resnet_5_0": (1024, 1024),
    "resnet_5_1": (1024, 1024),
}  # fmt: skip
RESNET3_G = {
    "resnet_0_0": (2048, 1024), "resnet_1_0": (1024, 1024), "resnet_2_0": (1024, 512),
    "resnet_3_0": (512, 256), "resnet_4_0": (256, 128), "resnet_5_0": (128, 64),
}  # fmt: skip
RESNET3_D = {
    "resnet_0_0": (64, 128), "resnet_1_0": (128, 256), "resnet_2_0": (256, 512), "resnet_3_0": (512, 1024),
    "resnet_4_0": (1024, 1024), "resnet_5_0": (1024, 2048),
}  # fmt: skip
RESNET4_G = {
    "resnet_0_0": (1024, 1024), "resnet_1_0": (1024, 1024), "resnet_2_0": (1024, 512),
    "resnet_3_0": (512, 256), "resnet_4_0": (256, 128), "resnet_5_0": (128, 64), "resnet_6_0": (64, 64),
}  # fmt: skip
RESNET4_D = {
    "resnet_0_0": (64, 64), "resnet_1_0": (64, 128), "resnet_2_0": (128, 256), "resnet_3_0": (256, 512),
    "resnet_4_0": (512, 1024), "resnet_5_0": (1024, 1024), "resnet_6_0": (1024, 1024),
}  # fmt: skip
RESNET_G = {
    "resnet.0": (512, 512), "resnet.2": (512, 512), "resnet.4": (512, 512), "resnet.6": (512, 256),
    "resnet.8": (256, 128), "resnet.10": (128, 64), "resnet.12": (64, 32), "resnet.14": (32, 16),
    "resnet.16": (16, 16),
}  # fmt: skip
RESNET_D = {
    "resnet.0": (16, 16), "resnet.2": (16, 32), "resnet.4": (32, 64), "resnet.6": (64, 128),
    "resnet.8": (128, 256), "resnet.10": (256, 512), "resnet.12": (512, 512), "resnet.14": (512, 512),
    "resnet.16": (512, 512),
}  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "stem", "blocks_g", "blocks_d"),
    [
        (IMAGENET, 1024, RESNET2_G, RESNET2_D),
        (CELEBA, 1024, RESNET4_G, RESNET4_D),
        (LSUN, 2048, RESNET3_G, RESNET3_D),
        (CELEBA_HQ, 512, RESNET_G, RESNET_D),
    ],
)
def test_names_and_shapes_are_the_published_ones(
    spec: ResnetGanSpec, stem: int, blocks_g: dict[str, tuple[int, int]], blocks_d: dict[str, tuple[int, int]]
) -> None:
    labels, side, near = (
        max(spec.classes, 1),
        7 if spec.variant in ("resnet3", "resnet4") else 3,
        spec.nfilter,
    )
    generator, discriminator = on_meta(spec)
    assert {name: tuple(t.shape) for name, t in generator.state_dict().items()} == {
        "embedding.weight": (labels, spec.embed_dim),
        "fc.weight": (stem * 16, 256 + spec.embed_dim),
        "fc.bias": (stem * 16,),
        "conv_img.weight": (3, near, side, side),
        "conv_img.bias": (3,),
        **published(blocks_g),
    }
    assert {name: tuple(t.shape) for name, t in discriminator.state_dict().items()} == {
        "fc.weight": (labels, stem * 16),
        "fc.bias": (labels,),
        "conv_img.weight": (near, 3, side, side),
        "conv_img.bias": (near,),
        **published(blocks_d),
    }


def double_state(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in network.state_dict().items()}


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours.detach().double() - theirs.detach()).abs().max() / theirs.detach().abs().max()) <= 1e-5


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("variant", LAYOUTS)
def test_outputs_equal_the_formulas(variant: str, classes: int) -> None:
    gan = build(tiny(variant, classes), seed=1)
    rng = torch.Generator().manual_seed(2)
    z = torch.randn(3, gan.spec.z_dim, generator=rng)
    img = torch.rand(3, 3, gan.spec.resolution, gan.spec.resolution, generator=rng) * 2 - 1
    given = torch.tensor([4, 0, 2]) if classes else None
    ids = torch.zeros(3, dtype=torch.long) if given is None else given
    with torch.no_grad():
        images, logits = gan.generator(z, given), gan.discriminator(img, given)
    assert float(images.std()) > 1e-3
    close(images, reference.generator(z.double(), ids, double_state(gan.generator), variant))
    close(logits, reference.discriminator(img.double(), ids, double_state(gan.discriminator), variant))


def test_a_larger_base_is_the_published_layout_at_a_larger_size() -> None:
    """The public code takes `size // 32` as the smallest side of `resnet2`."""
    gan = build(tiny("resnet2", resolution=64), seed=0)
    z = torch.randn(2, 6)
    images = gan.generator(z)
    assert images.shape == (2, 3, 64, 64)
    close(
        images, reference.generator(z.double(), torch.tensor([0, 0]), double_state(gan.generator), "resnet2")
    )


@pytest.mark.parametrize("variant", LAYOUTS)
def test_only_the_normalising_layouts_ignore_the_length_of_the_embedding(variant: str) -> None:
    gan = build(tiny(variant), seed=0)
    z = torch.randn(1, 6)
    before = gan.generator(z)
    with torch.no_grad():
        gan.generator.get_parameter("embedding.weight").mul_(3)
    same = torch.allclose(before, gan.generator(z), atol=1e-6)
    assert same == (variant in ("resnet", "resnet2"))


def test_features_are_what_the_last_layer_takes() -> None:
    discriminator = build(tiny("resnet2", classes=3), seed=0).discriminator
    img, labels = torch.randn(2, 3, 32, 32), torch.tensor([2, 1])
    features = discriminator.features(img)
    linear = discriminator.get_submodule("fc")(features)
    assert features.shape == (2, 32)
    assert torch.equal(discriminator(img, labels), linear.gather(1, labels[:, None]))
    assert torch.equal(discriminator(img, labels), discriminator(img, labels, mbstd_split=2))


def test_truncation_shrinks_the_latent() -> None:
    generator = build(tiny("resnet2"), seed=0).generator
    z = torch.randn(2, 6)
    assert torch.equal(generator(z, truncation_psi=0.5), generator(z * 0.5))
    still = generator(z, truncation_psi=0.0)
    assert torch.equal(still[0], still[1])


def test_an_unconditional_network_takes_the_embedding_of_label_0_whatever_is_given() -> None:
    generator = build(tiny("resnet4"), seed=0).generator
    z = torch.randn(2, 6)
    assert torch.equal(generator(z), generator(z, torch.tensor([7, 9])))


@pytest.mark.parametrize("channels", [1, 4])
def test_sampling(channels: int) -> None:
    spec = tiny("resnet2", classes=3, channels=channels)
    generator = build(spec, seed=0).generator_ema
    images = sample(generator, 3, seed=4)
    assert images.shape == (3, 32, 32, channels)
    np.testing.assert_array_equal(images[:2], sample(generator, 2, seed=4, batch=1))
    assert not np.array_equal(sample(generator, 1, 4, labels=0), sample(generator, 1, 4, labels=1))
    with pytest.raises(ConfigError, match="out of range"):
        sample(generator, 1, 4, labels=3)


@pytest.mark.parametrize("variant", LAYOUTS)
def test_a_training_step_moves_every_weight(variant: str) -> None:
    classes = 2
    gan = build(tiny(variant, classes), seed=3)
    labels = torch.tensor([0, 1])
    adams = [torch.optim.Adam(n.parameters(), lr=1e-3) for n in (gan.generator, gan.discriminator)]
    before = [p.clone() for n in (gan.generator, gan.discriminator) for p in n.parameters()]
    fakes = gan.generator(torch.randn(2, 6), labels)
    generator_loss(gan.discriminator(fakes, labels)).backward()
    adams[0].step()
    adams[1].zero_grad()
    reals = torch.rand(2, 3, gan.spec.resolution, gan.spec.resolution).requires_grad_(True)
    both = gan.discriminator(torch.cat([fakes.detach(), reals]), torch.cat([labels, labels]), mbstd_split=2)
    fake_logits, real_logits = both.chunk(2)
    loss = discriminator_loss(real_logits, fake_logits) + 5 * r1_penalty(real_logits, reals)
    loss.backward()
    adams[1].step()
    after = [p for n in (gan.generator, gan.discriminator) for p in n.parameters()]
    assert all(bool(torch.isfinite(p).all()) for p in after)
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_half_precision_gives_float32_outputs_near_the_exact_ones() -> None:
    gan = build(tiny("resnet2"), seed=0)
    z = torch.randn(2, 6)
    with torch.no_grad(), autocast("cpu", torch.bfloat16):
        images = gan.generator(z)
        logits = gan.discriminator(images)
    assert images.dtype is logits.dtype is torch.float32
    torch.testing.assert_close(images, gan.generator(z).detach(), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("z", "labels", "message"),
    [
        (torch.randn(2, 5), torch.tensor([0, 1]), r"z of shape \(2, 5\): expected \[N, 6\]"),
        (torch.randn(2, 6), None, "no labels: this network has 3 classes, pass 2 class ids"),
        (torch.randn(2, 6), torch.tensor([0]), r"labels of shape \(1,\)"),
        (torch.randn(2, 6), torch.randn(2, 3), r"labels of shape \(2, 3\)"),
    ],
)
def test_wrong_inputs_are_named(z: Tensor, labels: Tensor | None, message: str) -> None:
    generator = build(tiny("resnet2", classes=3), seed=0).generator
    with pytest.raises(ValueError, match=message):
        generator(z, labels)


def test_images_of_the_wrong_size_are_refused() -> None:
    discriminator = build(tiny("resnet2"), seed=0).discriminator
    with pytest.raises(ValueError, match=r"expected \[N, 3, 32, 32\]"):
        discriminator(torch.randn(1, 3, 64, 64))
