from __future__ import annotations

import pytest
import torch

from graftgan.gans.biggan import BigGANDiscriminator, BigGANSpec
from graftgan.gans.biggan.spec import D_HALVINGS

from .filling import fill
from .reference import as_arrays, judge
from .sizes import PLAIN, TINY, VARIANTS


def _discriminator(spec: BigGANSpec) -> BigGANDiscriminator:
    torch.manual_seed(0)
    discriminator = BigGANDiscriminator(spec).eval()
    fill(discriminator)
    return discriminator


def _images(spec: BigGANSpec, n: int = 2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    return torch.rand(n, spec.channels, spec.resolution, spec.resolution, generator=rng) * 2 - 1


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_logits_are_those_of_the_formulas(spec: BigGANSpec) -> None:
    discriminator = _discriminator(spec)
    state, images = as_arrays(discriminator.state_dict()), _images(spec)
    labels = torch.tensor([1, 0]) if spec.classes else None
    logits = discriminator(images, labels)
    assert logits.shape == (2, 1)
    for i in range(2):
        label = None if labels is None else int(labels[i])
        expected = judge(state, images[i].double().numpy(), label, D_HALVINGS[spec.resolution])
        assert float(logits[i].detach()) == pytest.approx(expected, rel=1e-5)


def test_logits_are_a_function_of_features() -> None:
    discriminator = _discriminator(TINY)
    images, labels = _images(TINY), torch.tensor([2, 1])
    features = discriminator.features(images, 2)
    assert features.shape == (2, 8)
    assert torch.equal(discriminator.logits(features, labels), discriminator(images, labels))


def test_an_image_is_judged_by_itself() -> None:
    discriminator = _discriminator(PLAIN)
    images = _images(PLAIN, 4)
    torch.testing.assert_close(discriminator(images, mbstd_split=2)[3:], discriminator(images[3:]))


def test_classes_change_the_logit_and_weights_mix_them() -> None:
    discriminator = _discriminator(TINY)
    images = _images(TINY, 1).expand(3, -1, -1, -1)
    first, second, mixed = discriminator(images, torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0]]))
    assert not torch.allclose(first, second)
    torch.testing.assert_close(mixed, (first + second) / 2)


def test_power_iterations_converge_to_the_spectral_norm_in_training() -> None:
    discriminator = _discriminator(TINY)
    discriminator.train()
    images, labels = _images(TINY), torch.tensor([0, 1])
    for _ in range(60):
        discriminator(images, labels)
    for name, module in discriminator.named_modules():
        if hasattr(module, "u0"):
            largest = torch.linalg.matrix_norm(module.weight.flatten(1), 2)
            assert float(module.sv0) == pytest.approx(float(largest.detach()), rel=0.02), name


def test_wrong_inputs_are_named() -> None:
    discriminator = _discriminator(TINY)
    with pytest.raises(ValueError, match="images of shape"):
        discriminator(torch.zeros(1, 3, 16, 16), torch.tensor([0]))
    with pytest.raises(ValueError, match="3 classes"):
        discriminator(_images(TINY))
