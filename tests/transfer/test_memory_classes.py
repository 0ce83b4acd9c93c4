from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stages.test_finetune import Workshop, quick
from training.nets import copies, equal, recipe

from graftgan.checkpoints.adapters import ADAPTER, read_adapter
from graftgan.checkpoints.store import gan_tensors, load_gan, save_gan
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build, sample
from graftgan.gans.folding import adapters
from graftgan.gans.spec import GanSpec
from graftgan.transfer import method
from graftgan.transfer.adapters import apply
from graftgan.transfer.gan_memory import ClassModulation, StyleModulation
from graftgan.transfer.memory_classes import add_classes
from transfer.families import SIZES, count, moved, names, on_meta, small, train, trainer

CLASSES = {"method": "gan_memory", "gan_memory": {"classes": 3}}


def residual(variant: str, **sizes: Any) -> Gan:
    spec = {"family": "resnet_gan", "resolution": 32, **SIZES["resnet_gan"], "variant": variant, **sizes}
    return build(GanSpec.from_dict(spec), 1)


def images(gan: Gan, label: int | None) -> torch.Tensor:
    z = torch.randn(4, gan.spec.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made: torch.Tensor = gan.generator_ema(z, None if label is None else torch.full((4,), label))
    return made


@pytest.mark.parametrize("variant", ["resnet2", "resnet4"])
@pytest.mark.parametrize("modulate", [False, True])
def test_every_class_is_the_source_at_the_start(variant: str, modulate: bool) -> None:
    gan, plain = residual(variant), residual(variant)
    if modulate:
        method("gan_memory").apply(gan, recipe(**CLASSES))
    else:
        add_classes(gan, 3)
    pictures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for label in range(3):
        torch.testing.assert_close(images(gan, label), images(plain, None), rtol=0, atol=2e-6)
        with torch.no_grad():
            logits = gan.discriminator(pictures, torch.full((4,), label))
            torch.testing.assert_close(logits, plain.discriminator(pictures), rtol=1e-4, atol=1e-5)
    assert (gan.spec.classes, gan.spec.embed_dim) == (3, plain.spec.embed_dim + 3)
    assert gan.generator.spec == gan.generator_ema.spec == gan.discriminator.spec == gan.spec


@pytest.mark.parametrize("variant", ["resnet2", "resnet4"])
def test_the_last_columns_are_biases_of_classes(variant: str) -> None:
    gan, plain = residual(variant), residual(variant)
    add_classes(gan, 3)
    bias = torch.randn(len(plain.generator_ema.fc.bias), generator=torch.Generator().manual_seed(2))
    length = 2**0.5 if gan.spec.layout.unit_embedding else 1.0
    with torch.no_grad():
        gan.generator_ema.fc.weight[:, -2] = bias * length
        plain.generator_ema.fc.bias += bias
    torch.testing.assert_close(images(gan, 1), images(plain, None), rtol=0, atol=2e-6)
    torch.testing.assert_close(images(gan, 0), images(residual(variant), None), rtol=0, atol=2e-6)


def test_the_modulation_leaves_the_classes_columns_to_themselves() -> None:
    weight = torch.randn(6, 8) * 2 + 1
    weight[:, -3:] = 0
    layer, alone = ClassModulation(weight, True, 3), StyleModulation(weight[:, :-3])
    torch.testing.assert_close(layer(weight), weight, rtol=1e-6, atol=1e-6)
    assert layer.gamma.shape == (6, 1) and layer.classes.shape == (6, 3)
    with torch.no_grad():
        for parameter in (layer.gamma, alone.gamma):
            parameter.fill_(0.7)
        layer.classes.normal_()
    expected = torch.cat([alone(weight[:, :-3]), layer.classes], dim=1)
    assert torch.equal(layer(weight), expected)


def test_what_moves_and_what_keeps_its_bits() -> None:
    run = trainer("resnet_gan", **CLASSES, batch=4)
    train(run, 0)
    before = copies(run.gan.generator)
    g, d = moved(run)
    assert g == set(adapters(run.gan.generator)) and "fc.parametrizations.weight.0.classes" in g
    assert d == set(adapters(run.gan.discriminator)) | names(run.gan.discriminator, "fc.")
    after = copies(run.gan.generator)
    fixed = [name for name in after if name not in g]
    assert "embedding.weight" in fixed and all(torch.equal(after[n], before[n]) for n in fixed)


def test_classes_part_when_they_are_trained() -> None:
    run = train(trainer("resnet_gan", **CLASSES, batch=6, lr_generator=0.02), 3)
    columns = run.gan.generator.fc.parametrizations.weight[0].classes
    assert len({tuple(column.tolist()) for column in columns.T}) == 3
    assert not torch.allclose(images(run.gan, 0), images(run.gan, 1), rtol=0, atol=1e-4)


def test_folded_it_is_a_plain_conditional_checkpoint(tmp_path: Path) -> None:
    run = train(trainer("resnet_gan", **CLASSES, batch=4), 2)
    made, tensors = images(run.gan, 2), gan_tensors(run.gan)
    method("gan_memory").finish(run.gan)
    torch.testing.assert_close(images(run.gan, 2), made, rtol=0, atol=1e-6)
    save_gan(run.gan, tmp_path)
    again = load_gan(tmp_path)
    assert equal(gan_tensors(again), tensors) and again.spec.classes == 3
    assert (sample(again.generator_ema, 3, 0) == sample(run.gan.generator_ema, 3, 0)).all()


def test_counts_of_the_published_variant() -> None:
    gan = on_meta("resnet_gan", resolution=256, variant="resnet4", embed_dim=1, stages=7)
    method("gan_memory").apply(gan, recipe(method="gan_memory", gan_memory={"classes": 6}))
    assert count(gan.generator) == 10_647_552
    assert count(gan.discriminator) == 10_501_056 + 6 * 16_385


@pytest.mark.parametrize(
    ("gan", "words"),
    [(small("stylegan2"), "not family=stylegan2"), (residual("resnet2", classes=2), "for a source with 2")],
    ids=["family", "classes"],
)
def test_other_sources_are_refused(gan: Gan, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"finetune\.gan_memory\.classes=3 .* {words}"):
        method("gan_memory").apply(gan, recipe(**CLASSES))


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    found = Workshop(tmp_path).furnish(labels=3)
    save_gan(small("resnet_gan"), tmp_path / "near")
    return found


def test_a_run_keeps_an_adapter_that_makes_its_conditional_model(workshop: Workshop) -> None:
    from graftgan.checkpoints.store import WEIGHTS
    from graftgan.contract import digest_file

    catalogue = workshop.root / "catalogue.yaml"
    lines = catalogue.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "sha256" in line)
    lines[at] = lines[at].split(":")[0] + f": {digest_file(workshop.root / 'near' / WEIGHTS)}"
    catalogue.write_text("\n".join(lines) + "\n")
    keys = {"finetune__method": "gan_memory", "finetune__style_mixing": 0}
    workshop.run(**quick(**keys, finetune__gan_memory="{classes: 3}"))
    folder = workshop.models / "chosen"
    model = load_gan(folder)
    assert model.spec.classes == 3
    made = apply(load_gan(workshop.root / "near"), read_adapter(folder / ADAPTER)).generator_ema.state_dict()
    assert equal(dict(made), dict(model.generator_ema.state_dict()))
    assert not [text for text in workshop.report()["warnings"] if "has no classes" in text]


def test_images_of_other_classes_are_refused(workshop: Workshop) -> None:
    workshop.fails(
        ConfigError,
        r"finetune\.gan_memory\.classes=4, but the training images of data\.path have 3 classes",
        finetune__method="gan_memory", finetune__gan_memory="{classes: 4}",
    )  # fmt: skip
