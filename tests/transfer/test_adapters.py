from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training.nets import copies, equal, make

from graftgan.checkpoints.adapters import Adapter, Library, read_adapter, write_adapter
from graftgan.checkpoints.store import WEIGHTS, adapter_tensors, gan_tensors, load_gan, same_law, save_gan
from graftgan.contract import digest_file
from graftgan.errors import CheckpointError, ConfigError
from graftgan.gans.base import Gan, build, sample
from graftgan.gans.laws import MinedNormal, TruncatedNormal
from graftgan.gans.prior import Mixture, Prior
from graftgan.gans.spec import GanSpec
from graftgan.transfer import METHODS, method
from graftgan.transfer.adapters import PLACES, apply, extract, interpolate, load_base, parts, transplant
from transfer.families import SIZES, small, train, trainer

HEAD = {"head": "small", "calibration_samples": 20}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("stylegan2", {"adapter_rank": 2}),
    "lora on stylegan3": ("stylegan3", {"method": "lora", "adapter_rank": 2}),
    "adafm": ("stylegan2", {"low_level_from_px": 16}),
    "adafm on biggan": ("biggan", {"method": "adafm", "low_level_from_px": 16}),
    "adafm on biggan_deep": ("biggan_deep", {"method": "adafm", "low_level_from_px": 16}),
    "adafm with a small head": (
        "resnet_gan", {"method": "adafm", "low_level_from_px": 16, "filter_transfer": HEAD},
    ),
    "filter_transfer": ("resnet_gan", {"low_level_from_px": 16}),
    "freeze_g": ("stylegan2", {}),
    "scale_shift": ("biggan", {}),
    "gan_memory": ("resnet_gan", {}),
    "gan_memory with classes": ("resnet_gan", {"method": "gan_memory", "gan_memory": {"classes": 3}}),
    "gan_memory on stylegan2": ("stylegan2", {"method": "gan_memory"}),
}  # fmt: skip


def task(
    family: str, base: Path, name: str, seed: int = 0, **settings: Any
) -> tuple[Adapter, dict[str, Any], Gan]:
    """Train a few steps; the adapter, the folded tensors, and the folded networks."""
    run = trainer(family, method=name, ema_half_life_kimg=0.004, **settings)
    run.rng.manual_seed(seed)
    for _ in range(3):
        run.step()
    best, added = gan_tensors(run.gan), adapter_tensors(run.gan.generator_ema)
    average = {n.removeprefix("generator_ema."): t for n, t in best.items() if n.startswith("generator_ema.")}
    spec, digest = run.gan.spec, digest_file(base / WEIGHTS)
    adapter = extract(load_gan(base), spec, run.settings, digest, average, added)
    method(name).finish(run.gan)
    return adapter, average, run.gan


@pytest.fixture
def bases(tmp_path: Path) -> Path:
    for family in {family for family, _ in RUNS.values()}:
        (tmp_path / family).mkdir()
        save_gan(small(family), tmp_path / family)
    return tmp_path


@pytest.mark.parametrize("label", RUNS)
def test_base_and_adapter_are_the_folded_model_bit_for_bit(label: str, bases: Path) -> None:
    family, settings = RUNS[label]
    settings = {"name": label, **settings}
    name = settings.pop("method", settings.pop("name"))
    settings.pop("name", None)
    adapter, average, folded = task(family, bases / family, name, **settings)
    write_adapter(adapter, bases / "it.safetensors")
    again = apply(load_base(bases / family, adapter, "it"), read_adapter(bases / "it.safetensors"))
    assert equal(dict(again.generator_ema.state_dict()), average)
    assert equal(dict(again.generator.state_dict()), average)
    assert again.spec == folded.spec
    assert (sample(again.generator_ema, 3, 0) == sample(folded.generator_ema, 3, 0)).all()
    source = load_gan(bases / family)
    judge = copies(source.discriminator)
    if again.spec.classes != source.spec.classes:
        judge |= {f"fc.{n}": judge[f"fc.{n}"].repeat_interleave(3, dim=0) for n in ("weight", "bias")}
    assert equal(copies(again.discriminator), judge)
    if label != "adafm with a small head":
        assert adapter.values < sum(p.numel() for p in source.generator.parameters())
    (bases / "out").mkdir()
    save_gan(again, bases / "out")
    assert equal(gan_tensors(load_gan(bases / "out")), gan_tensors(again))


def test_only_what_moved_is_in_it(bases: Path) -> None:
    adapter, _, _ = task("resnet_gan", bases / "resnet_gan", "gan_memory")
    assert set(parts(adapter)) == {"gamma", "beta", "shift"}
    assert parts(adapter)["shift"] < parts(adapter)["gamma"] == parts(adapter)["beta"]
    adapter, _, _ = task("stylegan2", bases / "stylegan2", "lora", adapter_rank=2)
    assert set(parts(adapter)) == {"a", "b", "w_avg"}


def test_every_method_that_leaves_little_to_store_is_among_these() -> None:
    tried = {settings.get("method", label) for label, (_, settings) in RUNS.items()}
    shipped = {"freeze_g", "scale_shift", "filter_transfer", "adafm", "lora", "gan_memory"}
    assert shipped <= tried and shipped <= {name for name, found in METHODS.items() if found.adapter}
    assert not METHODS["full"].adapter and not METHODS["freeze_d"].adapter


def test_a_source_without_a_discriminator_stays_without(bases: Path) -> None:
    gan = small("stylegan2")
    gan.fresh = ("discriminator",)
    (bases / "alone").mkdir()
    save_gan(gan, bases / "alone")
    adapter, average, _ = task("stylegan2", bases / "alone", "gan_memory")
    again = apply(load_base(bases / "alone", adapter, "it"), adapter)
    assert again.fresh == ("discriminator",) and equal(dict(again.generator_ema.state_dict()), average)


@pytest.fixture
def library(bases: Path) -> Library:
    """Two tasks of one residual base, as two runs that never heard of each other."""
    base = bases / "resnet_gan"
    shelf = Library.create(bases / "shelf", base)
    for seed, name in enumerate(("first", "second")):
        write_adapter(task("resnet_gan", base, "gan_memory", seed)[0], bases / f"{name}.safetensors")
        shelf.add(name, bases / f"{name}.safetensors")
    return shelf


def mixture(z_dim: int = 8, at: float = 0.0, shift: float = 1.0) -> Mixture:
    means = torch.stack([torch.full((z_dim,), -shift), torch.full((z_dim,), shift)])
    half = torch.eye(z_dim).expand(2, z_dim, z_dim) / 2
    return Mixture.of_moments(torch.tensor([0.3, 0.7]), means, half).at(at)


def miner(z_dim: int = 8) -> MinedNormal:
    rng = torch.Generator().manual_seed(2)
    return MinedNormal(((torch.randn(z_dim, z_dim, generator=rng), torch.randn(z_dim, generator=rng)),))


LAWS: dict[str, Prior] = {
    "mixture": mixture(), "mixture on its way": mixture(at=0.4), "miner": miner(),
    "truncated": TruncatedNormal(8, 0.3),
}  # fmt: skip


@pytest.mark.parametrize("law", LAWS)
def test_the_law_of_the_base_does_not_come_back(law: str, bases: Path) -> None:
    base = small("stylegan2")
    base.prior = LAWS[law]
    (bases / "lawful").mkdir()
    save_gan(base, bases / "lawful")
    adapter, _, folded = task("stylegan2", bases / "lawful", "lora", adapter_rank=2)
    loaded = load_base(bases / "lawful", adapter, "it")
    assert loaded.prior is not None and folded.prior is None
    again = apply(loaded, adapter)
    assert again.prior is None and again.generator.prior is None
    assert (sample(again.generator_ema, 4, 0) == sample(folded.generator_ema, 4, 0)).all()
    assert same_law(loaded.prior, LAWS[law]), "the base keeps its own"
    shelf = Library.create(bases / "shelf", bases / "lawful")
    write_adapter(adapter, bases / "it.safetensors")
    for name in ("one", "two"):
        shelf.add(name, bases / "it.safetensors")
    between = interpolate(shelf.load_base(), shelf.read("one"), shelf.read("two"), 0.5)
    blend = apply(shelf.load_base(), between)
    assert (sample(blend.generator_ema, 4, 0) == sample(folded.generator_ema, 4, 0)).all()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("base_law", [None, TruncatedNormal(8, 2.0)], ids=["plain base", "lawful base"])
def test_the_law_of_the_run_is_in_its_file(base_law: Prior | None, law: str, bases: Path) -> None:
    base = small("stylegan2")
    base.prior = base_law
    (bases / "base").mkdir()
    save_gan(base, bases / "base")
    plain, _, folded = task("stylegan2", bases / "base", "lora", adapter_rank=2)
    write_adapter(replace(plain, prior=LAWS[law]), bases / "with.safetensors")
    write_adapter(plain, bases / "without.safetensors")
    found = read_adapter(bases / "with.safetensors")
    assert found.prior is not None and same_law(found.prior, LAWS[law])
    assert equal(found.tensors, plain.tensors) and found.values == plain.values
    again = apply(load_base(bases / "base", found, "it"), found)
    folded.prior = LAWS[law]
    mine = sample(folded.generator_ema, 4, 0)
    assert (sample(again.generator_ema, 4, 0) == mine).all()
    (bases / "out").mkdir()
    save_gan(again, bases / "out")
    assert (sample(load_gan(bases / "out").generator_ema, 4, 0) == mine).all()
    folded.prior = None
    assert not (sample(folded.generator_ema, 4, 0) == mine).all()
    size = sum(t.numel() * t.element_size() for t in LAWS[law].tensors().values())
    more = (bases / "with.safetensors").stat().st_size - (bases / "without.safetensors").stat().st_size
    assert size < more < size + 600


def test_a_law_that_has_become_normal_needs_no_tensors(bases: Path) -> None:
    adapter, _, _ = task("stylegan2", bases / "stylegan2", "lora", adapter_rank=2)
    write_adapter(adapter, bases / "plain.safetensors")
    write_adapter(replace(adapter, prior=mixture(at=1.0)), bases / "arrived.safetensors")
    assert (bases / "plain.safetensors").read_bytes() == (bases / "arrived.safetensors").read_bytes()
    assert read_adapter(bases / "arrived.safetensors").prior is None


def test_a_law_of_other_latents_is_refused(bases: Path) -> None:
    adapter, _, _ = task("stylegan2", bases / "stylegan2", "lora", adapter_rank=2)
    with pytest.raises(CheckpointError, match="of length 5, which do not fit the network's of 8"):
        apply(load_gan(bases / "stylegan2"), replace(adapter, prior=TruncatedNormal(5, 1.0)))


def test_a_small_head_on_a_source_of_one_class(bases: Path) -> None:
    sizes = {**SIZES["resnet_gan"], "classes": 1}
    base = build(GanSpec.from_dict({"family": "resnet_gan", "resolution": 32, **sizes}), 1)
    (bases / "one").mkdir()
    save_gan(base, bases / "one")
    run = make(gan=base, batch=2, r1_interval=1, method="adafm", low_level_from_px=16, filter_transfer=HEAD)
    train(run, 2)
    best, added = gan_tensors(run.gan), adapter_tensors(run.gan.generator_ema)
    average = {n.removeprefix("generator_ema."): t for n, t in best.items() if n.startswith("generator_ema.")}
    digest, source = digest_file(bases / "one" / WEIGHTS), load_gan(bases / "one")
    write_adapter(extract(source, run.gan.spec, run.settings, digest, average, added), bases / "it")
    again = apply(source, read_adapter(bases / "it"))
    method("adafm").finish(run.gan)
    assert again.spec == run.gan.spec == again.discriminator.spec and again.spec.classes == 0
    assert equal(dict(again.generator_ema.state_dict()), average)
    assert equal(copies(again.discriminator), copies(source.discriminator))
    assert (sample(again.generator_ema, 3, 0) == sample(run.gan.generator_ema, 3, 0)).all()


def drawn(library: Library, adapter: Adapter) -> np.ndarray:
    return sample(apply(library.load_base(), adapter).generator_ema, 3, 0)


def test_the_first_task_is_as_it_was_after_the_second(library: Library, bases: Path) -> None:
    alone = Library.create(bases / "alone-shelf", bases / "resnet_gan")
    alone.add("first", bases / "first.safetensors")
    assert (drawn(alone, alone.read("first")) == drawn(library, library.read("first"))).all()
    assert not (drawn(library, library.read("second")) == drawn(library, library.read("first"))).all()


def test_applying_leaves_the_base_alone_so_that_it_serves_every_task(library: Library) -> None:
    base = library.load_base()
    before = copies(base.generator_ema)
    first, second = (library.read(name) for name in library.names())
    swapped = [apply(base, adapter) for adapter in (first, second, first)]
    assert equal(copies(base.generator_ema), before)
    assert equal(copies(swapped[0].generator_ema), copies(swapped[2].generator_ema))


def test_between_two_tasks_the_ends_are_the_tasks_and_the_way_is_continuous(library: Library) -> None:
    base = library.load_base()
    first, second = library.read("first"), library.read("second")
    for share, end in ((0.0, first), (1.0, second)):
        assert equal(interpolate(base, first, second, share).tensors, end.tensors)
    z = torch.randn(2, base.spec.z_dim)

    def images(share: float) -> torch.Tensor:
        with torch.no_grad():
            made: torch.Tensor = apply(base, interpolate(base, first, second, share)).generator_ema(z)
        return made

    far = float((images(1.0) - images(0.0)).abs().max())
    for end, inside in ((0.0, 1e-3), (1.0, 1 - 1e-3)):
        assert 0 < float((images(inside) - images(end)).abs().max()) < 0.02 * far
    half = interpolate(base, first, second, 0.5).tensors
    name = next(iter(half))
    torch.testing.assert_close(half[name], (first.tensors[name] + second.tensors[name]) / 2)


def test_between_two_tasks_of_one_law_it_stays(library: Library) -> None:
    base = library.load_base()
    first, second = (replace(library.read(name), prior=mixture()) for name in library.names())
    for made in (interpolate(base, first, second, 0.5), transplant(base, {"gamma": first, "beta": second})):
        assert same_law(made.prior, mixture()) and made.origin == {} and made.after == ()
        assert same_law(apply(base, made).prior, mixture())


def test_what_only_one_task_changed_starts_from_the_base(library: Library) -> None:
    base, first = library.load_base(), library.read("first")
    bias = "conv_img.bias"
    more = replace(library.read("second"), tensors={**library.read("second").tensors, bias: torch.ones(3)})
    start = base.generator_ema.get_parameter(bias).detach()
    torch.testing.assert_close(interpolate(base, first, more, 0.25).tensors[bias], start + (1 - start) / 4)


def test_a_part_alone_changes_images_and_all_parts_are_the_task(library: Library) -> None:
    base, task_of = library.load_base(), library.read("second")
    plain = sample(base.generator_ema, 3, 0)
    z = torch.randn(2, base.spec.z_dim)
    with torch.no_grad():
        before = base.generator_ema(z)
        for part in parts(task_of):
            alone = apply(base, transplant(base, {part: task_of})).generator_ema(z)
            assert not torch.allclose(alone, before, rtol=0, atol=1e-6), part
    whole = transplant(base, dict.fromkeys(parts(task_of), task_of))
    assert equal(whole.tensors, task_of.tensors)
    mixed = transplant(base, {"gamma": task_of, "beta": library.read("first")})
    for name, tensor in mixed.tensors.items():
        origin = {"gamma": task_of, "beta": library.read("first")}.get(name.rsplit(".", 1)[1])
        assert torch.equal(tensor, origin.tensors[name] if origin else torch.zeros_like(tensor)), name
    assert plain.shape == drawn(library, mixed).shape


def test_adapters_of_different_kinds_are_not_combined(library: Library) -> None:
    base, first = library.load_base(), library.read("first")
    other = replace(first, method="adafm")
    with pytest.raises(ConfigError, match="differ in method"):
        interpolate(base, first, other, 0.5)
    with pytest.raises(ConfigError, match="differ in base_sha256"):
        transplant(base, {"gamma": first, "beta": replace(first, base_sha256="0" * 64)})
    lawful = replace(first, prior=mixture())
    for one, two in ((first, lawful), (lawful, replace(first, prior=TruncatedNormal(8, 0.3)))):
        with pytest.raises(ConfigError, match="law of their latents") as error:
            interpolate(base, one, two, 0.0)
        laws = [adapter.prior.note if adapter.prior else "N(0, I)" for adapter in (one, two)]
        assert all(law in error.value.message for law in laws)
        with pytest.raises(ConfigError, match="law of their latents"):
            transplant(base, {"gamma": one, "beta": two})
    moved_on = replace(first, prior=mixture(at=0.5))
    with pytest.raises(ConfigError, match=r"lambda = 0 to .* lambda = 0\.5 to"):
        interpolate(base, lawful, moved_on, 0.5)
    with pytest.raises(ConfigError, match="has no part 'a'"):
        transplant(base, {"a": first})
    with pytest.raises(ConfigError, match="no part was chosen"):
        transplant(base, {})


@pytest.mark.parametrize(
    "change",
    [
        {"method": "unheard"},
        {"settings": {}},
        {"settings": {**dict.fromkeys(PLACES, 4), "filter_transfer": 4}},
        {"method": "lora"},
        {"tensors": {"fc.parametrizations.weight.0.absent": torch.ones(1)}},
        {"tensors": {"fc.parametrizations.weight.0.gamma": torch.ones(1)}},
        {"spec": {}},
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(change: dict[str, Any], library: Library) -> None:
    base = library.load_base()
    with pytest.raises(CheckpointError, match="fit"):
        apply(base, replace(library.read("first"), **copy.deepcopy(change)))


def test_training_after_all_is_not_disturbed(bases: Path) -> None:
    """The tensors that are taken out share no memory with the run."""
    run = trainer("resnet_gan", method="gan_memory")
    taken = adapter_tensors(run.gan.generator_ema)
    before = {name: tensor.clone() for name, tensor in taken.items()}
    train(run, 1)
    assert equal(taken, before)
