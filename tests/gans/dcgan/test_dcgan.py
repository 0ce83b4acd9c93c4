from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graftgan.errors import ConfigError
from graftgan.gans.base import autocast, build, parameter_count, sample
from graftgan.gans.dcgan import DCGANDiscriminator, DCGANSpec, build_networks
from graftgan.gans.spec import GanSpec
from graftgan.training.losses import discriminator_loss, generator_loss, r1_penalty
from tests.gans.dcgan import reference
from tests.gans.dcgan.sizes import TINY, lively


def on_meta(spec: DCGANSpec) -> tuple[nn.Module, nn.Module]:
    with torch.device("meta"):
        return build_networks(spec)


def double_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in network.state_dict().items()}


def images(count: int, spec: DCGANSpec = TINY, seed: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, spec.channels, spec.resolution, spec.resolution, generator=rng) * 2 - 1


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours.double() - theirs).abs().max() / theirs.abs().max()) <= 1e-5


def convolutions(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in network.state_dict().items() if t.ndim == 4}


def test_names_shapes_and_counts_are_the_published_ones() -> None:
    generator, discriminator = on_meta(DCGANSpec())
    assert convolutions(generator) == {
        "main.0.weight": (100, 512, 4, 4),
        "main.3.weight": (512, 256, 4, 4),
        "main.6.weight": (256, 128, 4, 4),
        "main.9.weight": (128, 64, 4, 4),
        "main.12.weight": (64, 3, 4, 4),
    }
    assert convolutions(discriminator) == {
        "main.0.weight": (64, 3, 4, 4),
        "main.2.weight": (128, 64, 4, 4),
        "main.5.weight": (256, 128, 4, 4),
        "main.8.weight": (512, 256, 4, 4),
        "main.11.weight": (1, 512, 4, 4),
    }
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for network, norms in ((generator, (1, 4, 7, 10)), (discriminator, (3, 6, 9))):
        named = {f"main.{index}.{part}" for index in norms for part in parts}
        assert set(network.state_dict()) == named | set(convolutions(network))
    assert parameter_count(generator) == 3_576_704
    assert parameter_count(discriminator) == 2_765_568


@pytest.mark.parametrize("resolution", DCGANSpec.RESOLUTIONS)
def test_every_size_can_be_built(resolution: int) -> None:
    spec = DCGANSpec(resolution=resolution, channels=4, z_dim=2, g_ch=1, d_ch=1)
    generator, discriminator = on_meta(spec)
    made = generator(torch.empty(1, 2, device="meta"))
    assert made.shape == (1, 4, resolution, resolution)
    assert discriminator(made).shape == (1, 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"resolution": 48}, "resolution is 48"),
        ({"resolution": 16}, "resolution is 16"),
        ({"g_ch": 0}, "g_ch is 0"),
        ({"d_ch": True}, "d_ch is True"),
        ({"classes": 3}, "classes is 3"),
    ],
)
def test_what_cannot_be_built_is_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GanSpec.from_dict({"family": "dcgan", **sizes})


def test_a_spec_survives_its_dictionary() -> None:
    assert GanSpec.from_dict(TINY.to_dict()) == TINY


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("spec", [TINY, DCGANSpec(resolution=64, channels=1, z_dim=3, g_ch=2, d_ch=1)])
def test_outputs_equal_the_formulas(spec: DCGANSpec, training: bool) -> None:
    gan = lively(spec)
    state_g, state_d = double_state(gan.generator), double_state(gan.discriminator)
    z = torch.randn(3, spec.z_dim, generator=torch.Generator().manual_seed(3))
    img = images(3, spec)
    gan.generator.train(training)
    gan.discriminator.train(training)
    with torch.no_grad():
        close(gan.generator(z), reference.generator(z.double(), state_g, training))
        close(gan.discriminator(img), reference.discriminator(img.double(), state_d, training))


def test_initial_weights_have_the_published_spread() -> None:
    gan = build(DCGANSpec(resolution=32, g_ch=32, d_ch=32), seed=0)
    for network in (gan.generator, gan.discriminator):
        state = network.state_dict()
        large = [t for t in state.values() if t.ndim == 4 and t.numel() > 10_000]
        assert len(large) >= 2
        assert all(abs(float(t.std()) - 0.02) < 1e-3 and abs(float(t.mean())) < 1e-3 for t in large)
        gains = torch.cat([state[name.replace("bias", "weight")] for name in state if name.endswith("bias")])
        assert 0.012 < float(gains.std()) < 0.028 and abs(float(gains.mean()) - 1) < 0.01


def test_parts_of_a_batch_keep_their_statistics_apart() -> None:
    judge = lively().discriminator
    fake, real = images(3), 0.3 * images(3, seed=4) + 0.5
    with torch.no_grad():
        apart = torch.cat([judge(fake), judge(real)])
        both = torch.cat([fake, real])
        torch.testing.assert_close(judge(both, mbstd_split=2), apart)
        assert not torch.allclose(judge(both), apart, atol=1e-2)
        judge.eval()
        torch.testing.assert_close(judge(both, mbstd_split=2), judge(both))


def test_features_are_what_the_last_layer_takes() -> None:
    judge = lively().discriminator
    assert isinstance(judge, DCGANDiscriminator)
    judge.eval()
    img = images(2)
    features = judge.features(img)
    assert features.shape == (2, 2 * 4 * 16)
    assert torch.equal(judge.logits(features), judge(img))
    torch.testing.assert_close(judge(img)[:, :, None, None], judge.main(img))


def statistics(network: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in network.buffers()]


def test_frozen_statistics_stay_and_are_used_in_training() -> None:
    generator = lively().generator.train()
    z = torch.randn(4, TINY.z_dim)
    generator.freeze_statistics()
    before = statistics(generator)
    images_frozen = generator(z)
    assert all(torch.equal(a, b) for a, b in zip(before, generator.buffers(), strict=True))
    torch.testing.assert_close(images_frozen, generator.eval()(z))
    images_frozen.sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in generator.parameters())
    generator.train().freeze_statistics(False)
    assert not torch.allclose(generator(z), images_frozen, atol=1e-2)
    assert not any(torch.equal(a, b) for a, b in zip(before, generator.buffers(), strict=True))


def test_a_training_step_moves_every_weight() -> None:
    gan = build(TINY, seed=3)
    networks = (gan.generator, gan.discriminator)
    adams = [torch.optim.Adam(n.parameters(), lr=1e-3) for n in networks]
    before = [p.clone() for n in networks for p in n.parameters()]
    fakes = gan.generator(torch.randn(2, TINY.z_dim))
    generator_loss(gan.discriminator(fakes)).backward()
    adams[0].step()
    adams[1].zero_grad()
    reals = images(2).requires_grad_(True)
    fake_logits, real_logits = gan.discriminator(torch.cat([fakes.detach(), reals]), mbstd_split=2).chunk(2)
    loss = discriminator_loss(real_logits, fake_logits) + 5 * r1_penalty(gan.discriminator(reals), reals)
    loss.backward()
    adams[1].step()
    after = [p for n in networks for p in n.parameters()]
    assert all(bool(torch.isfinite(p).all()) for p in after)
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_sampling(channels: int) -> None:
    spec = DCGANSpec(resolution=32, channels=channels, z_dim=6, g_ch=3, d_ch=2)
    generator = lively(spec).generator_ema
    drawn = sample(generator, 3, seed=4)
    assert drawn.shape == (3, 32, 32, channels)
    np.testing.assert_array_equal(drawn[:2], sample(generator, 2, seed=4, batch=1))
    assert not np.array_equal(drawn[0], drawn[1])
    with pytest.raises(ConfigError, match="no classes"):
        sample(generator, 1, 4, labels=0)


def test_truncation_shrinks_the_latent() -> None:
    generator = lively().generator_ema
    z = torch.randn(2, TINY.z_dim)
    assert torch.equal(generator(z, truncation_psi=0.5), generator(z * 0.5))
    still = generator(z, truncation_psi=0.0)
    assert torch.equal(still[0], still[1])


def test_half_precision_gives_float32_outputs_near_the_exact_ones() -> None:
    gan = lively()
    z = torch.randn(2, TINY.z_dim)
    with torch.no_grad(), autocast("cpu", torch.bfloat16):
        made, logits = gan.generator_ema(z), gan.discriminator(images(2))
    assert made.dtype is logits.dtype is torch.float32
    torch.testing.assert_close(made, gan.generator_ema(z), atol=0.05, rtol=0.05)


def test_wrong_inputs_are_named() -> None:
    gan = build(TINY, seed=0)
    with pytest.raises(ValueError, match=r"z of shape \(2, 5\): expected \[N, 6\]"):
        gan.generator(torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"expected \[N, 3, 32, 32\]"):
        gan.discriminator(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match="mbstd_split 2 does not divide the batch of 3"):
        gan.discriminator(images(3), mbstd_split=2)
