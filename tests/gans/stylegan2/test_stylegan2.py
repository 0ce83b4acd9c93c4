from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from graftgan.gans.base import Gan, build, parameter_count, sample
from graftgan.gans.stylegan2 import StyleGAN2Spec, build_networks

from .sizes import DEMO, TINY

HALF = StyleGAN2Spec(channel_base=16384)


def _on_meta(spec: StyleGAN2Spec) -> Gan:
    with torch.device("meta"):
        return build(spec)


@pytest.mark.parametrize(
    ("resolution", "channel_base", "generator", "discriminator"),
    [
        (256, 32768, 30_034_338, 28_864_129),
        (1024, 32768, 30_370_060, 29_012_513),
        (256, 16384, 24_767_458, 24_001_089),
        (1024, 16384, 24_900_764, 24_038_161),
    ],
)
def test_parameter_counts_of_the_public_checkpoints(
    resolution: int, channel_base: int, generator: int, discriminator: int
) -> None:
    gan = _on_meta(StyleGAN2Spec(resolution=resolution, channel_base=channel_base))
    assert (parameter_count(gan.generator), parameter_count(gan.discriminator)) == (generator, discriminator)


def test_demo_size() -> None:
    gan = _on_meta(DEMO)
    assert parameter_count(gan.generator) == pytest.approx(0.33e6, rel=0.01)
    assert parameter_count(gan.discriminator) == pytest.approx(0.29e6, rel=0.01)


def test_generator_keys_and_shapes_are_the_public_ones() -> None:
    state = {k: tuple(v.shape) for k, v in _on_meta(HALF).generator.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {"mapping.w_avg": (512,), "synthesis.b4.const": (512, 4, 4)}
    for i in range(8):
        expected |= {f"mapping.fc{i}.weight": (512, 512), f"mapping.fc{i}.bias": (512,)}
    widths = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}
    for r, out in widths.items():
        convs = {"conv1": out} if r == 4 else {"conv0": widths[r // 2], "conv1": out}
        for conv, inner in convs.items():
            name = f"synthesis.b{r}.{conv}"
            expected |= {
                f"{name}.weight": (out, inner, 3, 3),
                f"{name}.bias": (out,),
                f"{name}.noise_const": (r, r),
                f"{name}.noise_strength": (),
                f"{name}.affine.weight": (inner, 512),
                f"{name}.affine.bias": (inner,),
            }
        rgb = f"synthesis.b{r}.torgb"
        expected |= {
            f"{rgb}.weight": (3, out, 1, 1),
            f"{rgb}.bias": (3,),
            f"{rgb}.affine.weight": (out, 512),
            f"{rgb}.affine.bias": (out,),
        }
    assert state == expected
    # The public files hold 144 tensors, of which 20 are the fixed filter.
    assert len(state) == 144 - 20


def test_discriminator_keys_and_shapes_are_the_public_ones() -> None:
    state = {k: tuple(v.shape) for k, v in _on_meta(HALF).discriminator.state_dict().items()}
    assert len(state) == 64 - 26
    assert state["b256.fromrgb.weight"] == (64, 3, 1, 1)
    assert state["b256.fromrgb.bias"] == (64,)
    assert state["b128.conv0.weight"] == (128, 128, 3, 3)
    assert state["b128.conv1.weight"] == (256, 128, 3, 3)
    assert state["b128.conv1.bias"] == (256,)
    assert state["b128.skip.weight"] == (256, 128, 1, 1)
    assert state["b4.conv.weight"] == (512, 513, 3, 3)
    assert state["b4.fc.weight"] == (512, 8192)
    assert state["b4.out.weight"] == (1, 512)
    assert "b128.skip.bias" not in state
    assert "b128.fromrgb.weight" not in state


def test_conditional_keys() -> None:
    gan = _on_meta(StyleGAN2Spec(resolution=32, channel_base=16384, classes=10, mapping_layers=2))
    generator = {k: tuple(v.shape) for k, v in gan.generator.state_dict().items()}
    assert generator["mapping.embed.weight"] == (512, 10)
    assert generator["mapping.fc0.weight"] == (512, 1024)
    discriminator = {k: tuple(v.shape) for k, v in gan.discriminator.state_dict().items()}
    assert discriminator["mapping.embed.weight"] == (512, 10)
    assert discriminator["mapping.fc7.weight"] == (512, 512)
    assert discriminator["b4.out.weight"] == (512, 512)


def test_weights_survive_a_file(tmp_path: Path) -> None:
    gan, other = build(TINY, seed=0), build(TINY, seed=1)
    save_file(gan.generator.state_dict(), tmp_path / "g.safetensors")
    save_file(gan.discriminator.state_dict(), tmp_path / "d.safetensors")
    other.generator.load_state_dict(load_file(tmp_path / "g.safetensors"), strict=True)
    other.discriminator.load_state_dict(load_file(tmp_path / "d.safetensors"), strict=True)
    assert (sample(other.generator, 2, seed=0) == sample(gan.generator, 2, seed=0)).all()
    img = torch.randn(4, 3, 32, 32)
    assert torch.equal(other.discriminator(img), gan.discriminator(img))


def _train(gan: Gan, dtype: torch.dtype, device: str = "cpu", steps: int = 3) -> list[float]:
    """Every phase of training once a step: both losses, R1 and path length."""
    adam = [
        torch.optim.Adam(n.parameters(), 2e-3, betas=(0.0, 0.99)) for n in (gan.generator, gan.discriminator)
    ]
    real = torch.rand(8, 3, 32, 32, device=device) * 2 - 1
    values = []
    for _ in range(steps):
        with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
            ws = gan.generator.mixed_styles(torch.randn(8, gan.spec.z_dim, device=device))  # type: ignore[operator]
            fake = gan.generator.synthesis(ws)  # type: ignore[operator]
            loss_g = F.softplus(-gan.discriminator(fake)).mean()
            noise = torch.randn_like(fake) / 32
        (grad,) = torch.autograd.grad((fake * noise).sum(), ws, create_graph=True)
        path = grad.square().sum(2).mean(1).sqrt()
        adam[0].zero_grad()
        (loss_g + (path - path.detach().mean()).square().mean()).backward()
        adam[0].step()
        leaf = real.clone().requires_grad_()
        with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
            logits = gan.discriminator(torch.cat([fake.detach(), leaf]), mbstd_split=2)
        (grad,) = torch.autograd.grad(logits[8:].sum(), leaf, create_graph=True)
        r1 = grad.square().sum((1, 2, 3)).mean()
        loss_d = F.softplus(logits[:8]).mean() + F.softplus(-logits[8:]).mean()
        adam[1].zero_grad()
        (loss_d + 0.1 * r1).backward()
        adam[1].step()
        values += [float(v.detach()) for v in (loss_g, path.mean(), loss_d, r1)]
    return values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_phase_trains_and_repeats(dtype: torch.dtype) -> None:
    runs = []
    for _ in range(2):
        gan = build(DEMO, seed=0)
        torch.manual_seed(5)
        runs.append(_train(gan, dtype))
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in gan.generator.parameters())
        assert all(torch.isfinite(p).all() for p in gan.discriminator.parameters())
    assert runs[0] == runs[1]
    assert all(0 <= value < 1e3 for value in runs[0])


def test_bfloat16_training_starts_like_float32() -> None:
    runs = []
    for dtype in (torch.float32, torch.bfloat16):
        gan = build(DEMO, seed=0)
        torch.manual_seed(5)
        runs.append(_train(gan, dtype, steps=1))
    assert runs[1] == pytest.approx(runs[0], rel=0.03)


def test_conditional_networks_pass_gradients_to_both_embeddings() -> None:
    spec = dataclasses.replace(TINY, classes=3)
    generator, discriminator = build_networks(spec)
    labels = torch.tensor([0, 1, 2, 0])
    discriminator(generator(torch.randn(4, 16), labels), labels).sum().backward()
    for net in (generator, discriminator):
        grad = net.get_parameter("mapping.embed.weight").grad
        assert grad is not None
        assert (grad.abs().amax(0) > 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_phase_trains_on_a_gpu(dtype: torch.dtype) -> None:
    gan = build(DEMO, seed=0).to("cuda")
    values = _train(gan, dtype, "cuda")
    assert all(0 <= value < 1e3 for value in values)
    assert all(torch.isfinite(p).all() for n in (gan.generator, gan.discriminator) for p in n.parameters())


@pytest.mark.gpu
def test_gpu_and_cpu_agree() -> None:
    gan = build(DEMO, seed=0)
    cpu = sample(gan.generator_ema, 8, seed=0).astype(int)
    gan.to("cuda")
    assert abs(sample(gan.generator_ema, 8, seed=0).astype(int) - cpu).max() <= 2
