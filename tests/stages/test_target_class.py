from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import multivariate_normal
from torch import Tensor

from graftgan.data.dataset import ImageSet
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build, sample
from graftgan.gans.reclass import class_axes, reclass
from graftgan.gans.spec import GanSpec
from graftgan.stages.start import starting_point
from graftgan.stages.target_class import class_mixture, gaussian_posterior, one_hot, softmax, told
from stages.test_finetune import Workshop

RESNET = {"family": "resnet_gan", "resolution": 32, "variant": "resnet2", "z_dim": 6, "nfilter": 4,
          "nfilter_max": 8, "classes": 3, "embed_dim": 4}  # fmt: skip


class Brightness(torch.nn.Module):
    """A classifier of three classes by the mean of an image: dark, middle, bright."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))[:, None]
        return 20 * (mean - torch.tensor([-1.0, 0.0, 1.0])).abs().neg()


class Pictures(ImageSet):
    """An image set in memory."""

    def __init__(self, images: np.ndarray, labels: list[int]) -> None:
        self.pixels, self.ids = images, np.array(labels, np.int32)

    def images(self, split: str) -> Any:
        return self.pixels

    def labels(self, split: str) -> Any:
        return self.ids


def params(workshop: Workshop, **changes: Any) -> Any:
    return workshop.job(**{f"finetune__target_class__{key}": value for key, value in changes.items()}).params


def shades(*values: int) -> np.ndarray:
    return np.stack([np.full((32, 32, 3), value, np.uint8) for value in values])


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    return Workshop(tmp_path).furnish()


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    torch.jit.script(Brightness()).save(str(tmp_path / "classifier.pt"))
    return f"torchscript:{tmp_path / 'classifier.pt'}?px=32&range=-1_1"


@pytest.fixture
def gan() -> Gan:
    return build(GanSpec.from_dict(RESNET), 0)


# Shares of classes


def test_the_posterior_is_bayes_rule() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(3, 50, 4)) + 2 * rng.normal(size=(3, 1, 4))
    features = rng.normal(size=(6, 4))
    means = samples.mean(1)
    variance = ((samples - means[:, None]) ** 2).mean()
    densities = np.stack([multivariate_normal(m, variance * np.eye(4)).pdf(features) for m in means], axis=1)
    np.testing.assert_allclose(
        gaussian_posterior(features, samples), densities / densities.sum(1, keepdims=True), rtol=1e-8
    )


def test_softmax_and_one_hot_by_hand() -> None:
    found = softmax(np.log(np.array([[1.0, 3.0], [2.0, 2.0]])) + 1000)
    np.testing.assert_allclose(found, [[0.25, 0.75], [0.5, 0.5]])
    assert one_hot(found).tolist() == [[0, 1], [1, 0]]


def test_equal_samples_do_not_divide_by_zero() -> None:
    assert np.isfinite(gaussian_posterior(np.zeros((2, 3)), np.zeros((4, 5, 3)))).all()


def test_a_sure_classifier_makes_nearest_and_soft_the_same(
    workshop: Workshop, classifier: str, gan: Gan
) -> None:
    data = Pictures(shades(0, 0, 255, 128), [-1, -1, -1, -1])
    nearest, soft = (
        class_mixture(gan, data, 1, params(workshop, rows=rows, classifier=classifier))
        for rows in ("nearest", "soft")
    )
    assert nearest is not None and soft is not None
    assert nearest.tolist() == [[0.5, 0.25, 0.25]]
    torch.testing.assert_close(nearest, soft, rtol=0, atol=1e-4)


def test_an_unsure_classifier_makes_them_differ(workshop: Workshop, classifier: str, gan: Gan) -> None:
    data = Pictures(shades(60, 60), [0, 0])
    nearest, soft = (
        class_mixture(gan, data, 1, params(workshop, rows=rows, classifier=classifier))
        for rows in ("nearest", "soft")
    )
    assert nearest is not None and soft is not None
    assert float(soft.max()) < 0.99
    assert float(soft.sum()) == pytest.approx(1)
    assert sorted(nearest[0].tolist()) == [0, 0, 1]


def test_each_class_of_the_run_has_its_own_mixture(workshop: Workshop, classifier: str, gan: Gan) -> None:
    data = Pictures(shades(0, 255, 0, 255), [0, 1, 0, 1])
    mixture = class_mixture(gan, data, 2, params(workshop, rows="nearest", classifier=classifier))
    assert mixture is not None
    assert mixture.tolist() == [[1, 0, 0], [0, 0, 1]]
    three = class_mixture(gan, data, 3, params(workshop, rows="nearest", classifier=classifier))
    assert three is not None
    torch.testing.assert_close(three[2], torch.full((3,), 1 / 3, dtype=torch.float64))
    assert told(mixture, 2) == "the run's 2 classes start from the source's, most from 0 (50%), 2 (50%)"


def test_a_classifier_of_other_classes_is_refused(workshop: Workshop, classifier: str) -> None:
    four = build(GanSpec.from_dict({**RESNET, "classes": 4}), 0)
    with pytest.raises(ConfigError, match=r"finetune\.target_class\.classifier has 3 classes.*4"):
        class_mixture(four, Pictures(shades(0), [0]), 1, params(workshop, rows="soft", classifier=classifier))


def test_without_a_classifier_the_sources_samples_tell(workshop: Workshop, gan: Gan) -> None:
    with torch.no_grad():
        # Apart by far, so that any features can tell the classes.
        for generator in (gan.generator, gan.generator_ema):
            generator.get_parameter("embedding.weight").copy_(torch.eye(3, 4))
            generator.get_parameter("fc.weight")[:, 6:] *= 20
    data = Pictures(sample(gan.generator_ema, 4, 99, labels=2), [-1] * 4)
    mixture = class_mixture(gan, data, 1, params(workshop, rows="nearest", samples=4))
    assert mixture is not None
    assert mixture.tolist() == [[0, 0, 1]]


def test_the_mean_asks_for_nothing(workshop: Workshop, gan: Gan) -> None:
    assert class_mixture(gan, Pictures(shades(0), [0]), 1, params(workshop)) is None


# Networks


def test_a_mixture_of_classes_is_that_of_every_tensor_that_has_classes(gan: Gan) -> None:
    mixture = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    changed = reclass(gan, 2, mixture)
    for network, axes in class_axes(gan.spec).items():
        old, new = getattr(gan, network).state_dict(), getattr(changed, network).state_dict()
        for name, tensor in old.items():
            if name in axes:
                assert axes[name] == 0
                wanted = torch.stack([0.25 * tensor[0] + 0.75 * tensor[1], tensor[2]])
                torch.testing.assert_close(new[name], wanted)
            else:
                assert torch.equal(new[name], tensor)


def test_classes_along_another_axis_are_mixed_too() -> None:
    from stages.models import tiny_gan

    gan = tiny_gan(0, classes=3)
    changed = reclass(gan, 1, torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
    old, new = (g.generator.get_parameter("mapping.embed.weight") for g in (gan, changed))
    assert torch.equal(new, old[:, 1:2])


def test_one_class_alone_makes_what_it_made(gan: Gan) -> None:
    one = reclass(gan, 1, torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
    z = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = gan.generator(z, torch.ones(3, dtype=torch.long))
        torch.testing.assert_close(one.generator(z, torch.zeros(3, dtype=torch.long)), wanted)


def test_a_run_starts_from_the_class_that_is_nearest(workshop: Workshop, classifier: str) -> None:
    entry = workshop.source("near", 1, classes=3)
    (workshop.root / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    data = ImageSet.open(workshop.out / "prepare" / "dataset")
    asked = params(workshop, rows="nearest", classifier=classifier)
    found = starting_point("near", data, asked, workshop.root / "cache")
    # Noise is neither dark nor bright.
    assert "most from 1 (100%)" in found.changes[0]
    plain = starting_point("near", data, params(workshop), workshop.root / "cache")
    assert "each starts as their mean" in plain.changes[0]
    name = "mapping.embed.weight"
    assert not torch.equal(found.gan.generator.get_parameter(name), plain.gan.generator.get_parameter(name))
