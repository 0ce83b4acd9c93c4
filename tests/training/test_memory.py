from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.gans.translation import TranslatorSpec, build_translator
from graftgan.lifelong_config import Kind, Translate
from graftgan.training import memory
from graftgan.training.memory import HEADROOM, Need, available_bytes, estimate, warning
from graftgan.training.translators import make_translators
from graftgan.world import World, belonging
from tests.gans.biggan.sizes import TINY as BIGGAN
from tests.gans.dcgan.sizes import TINY as DCGAN

SPEC = StyleGAN2Spec(resolution=32, z_dim=8, w_dim=8, mapping_layers=1, channel_base=256, channel_max=16)
CPU = torch.device("cpu")


def kept_on_cpu(batch: int) -> int:
    """Count what autograd keeps for the D phase with real numbers, by storage address."""
    gan = build(SPEC, seed=0)
    own = {t.untyped_storage().data_ptr() for t in gan.discriminator.state_dict().values()}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        gan.discriminator(torch.randn(2 * batch, 3, 32, 32), None, 2)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)


def test_what_is_counted_without_numbers_is_what_is_kept_with_them() -> None:
    with torch.device("meta"):
        gan = build(SPEC)
        counted = memory._discriminator_phase(gan, 4)
    # Some operations keep a copy on `meta` that they share on a CPU.
    kept = kept_on_cpu(4)
    assert kept <= counted <= 1.2 * kept


def test_fixed_memory_is_weights_gradients_moments_and_the_average() -> None:
    gan = build(SPEC, seed=0)
    need = estimate(SPEC, 8)
    assert need is not None

    def size(network: torch.nn.Module) -> int:
        return sum(t.nbytes for t in network.state_dict().values())

    assert need.fixed_bytes == 5 * size(gan.generator) + 4 * size(gan.discriminator)


def test_the_rest_grows_with_the_batch_alone() -> None:
    small, large = estimate(SPEC, 4), estimate(SPEC, 32)
    assert small is not None and large is not None
    assert large.image_bytes == pytest.approx(small.image_bytes, rel=0.1)
    assert small.fixed_bytes == large.fixed_bytes
    assert large.total_bytes == large.fixed_bytes + int(HEADROOM * large.image_bytes * 32)


def test_more_pixels_need_more() -> None:
    small, large = estimate(SPEC, 4), estimate(replace(SPEC, resolution=128), 4)
    assert small is not None and large is not None
    assert large.image_bytes > 3 * small.image_bytes


@pytest.mark.parametrize("spec", [BIGGAN, DCGAN], ids=["biggan", "dcgan"])
def test_other_families_are_counted_too(spec: object) -> None:
    need = estimate(spec, 4)  # type: ignore[arg-type]
    assert need is not None and need.image_bytes > 4 * 3 * 32 * 32


def test_the_batch_that_fits_is_a_power_of_two() -> None:
    need = Need(fixed_bytes=1000, image_bytes=100, batch=64)
    assert need.total_bytes == 1000 + 8000
    assert [need.batch_that_fits(free) for free in (900, 1000, 1124, 1125, 1250, 2000, 9000)] == [
        0, 0, 0, 1, 2, 8, 64,
    ]  # fmt: skip
    for free in (1125, 2000, 9000):
        fits = need.batch_that_fits(free)
        assert Need(1000, 100, fits).total_bytes <= free < Need(1000, 100, 2 * fits).total_bytes


def test_a_warning_names_the_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    need = estimate(SPEC, 64)
    assert need is not None
    monkeypatch.setattr(memory, "available_bytes", lambda device: need.total_bytes)
    assert warning(SPEC, 64, CPU) is None
    monkeypatch.setattr(memory, "available_bytes", lambda device: need.total_bytes - 1)
    text = warning(SPEC, 64, CPU)
    assert text is not None and "finetune.batch=64" in text and "finetune.batch=32 would fit" in text
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10)
    assert "not even a batch of 1" in str(warning(SPEC, 64, CPU))
    monkeypatch.setattr(memory, "available_bytes", lambda device: None)
    assert warning(SPEC, 64, CPU) is None


def test_each_worker_has_its_part_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    part = estimate(SPEC, 16)
    assert part is not None
    monkeypatch.setattr(memory, "available_bytes", lambda device: part.total_bytes)
    assert "finetune.batch=16 would fit" in str(warning(SPEC, 64, CPU))
    with belonging(World(1, 4)):
        assert warning(SPEC, 64, CPU) is None
        assert "each of 4 workers" in str(warning(SPEC, 128, CPU))
        assert "finetune.batch=64 would fit" in str(warning(SPEC, 128, CPU))


TRANSLATOR = TranslatorSpec(kind="resnet_6", ngf=4)


def recipe(**values: object) -> Translate:
    return Translate.model_validate({"batch": 2, "ndf": 4, "precision": "fp32", **values})


def test_a_task_is_counted_without_numbers_as_it_is_with_them() -> None:
    settings = recipe()
    need = memory.estimate_translation(TRANSLATOR, "paired", settings, 32)
    assert need is not None
    networks = make_translators("paired", build_translator(TRANSLATOR), settings, 32)
    given, wanted = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    own = {t.untyped_storage().data_ptr() for n in networks.named().values() for t in n.state_dict().values()}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        memory._translation_step(networks, settings, given, wanted)
    real = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)
    assert real <= need.image_bytes * 2 + 2 <= 1.3 * real


def test_two_ways_and_identities_need_more_than_one() -> None:
    def need(kind: Kind, **values: object) -> Need:
        found = memory.estimate_translation(TRANSLATOR, kind, recipe(**values), 32)
        assert found is not None
        return found

    paired, both, without = need("paired"), need("unpaired"), need("unpaired", identity_weight=0.0)
    assert both.fixed_bytes > 1.9 * paired.fixed_bytes
    assert both.image_bytes > without.image_bytes > paired.image_bytes
    averaged = need("paired", ema_half_life_kimg=1.0)
    assert 0 < averaged.fixed_bytes - paired.fixed_bytes < paired.fixed_bytes
    assert need("paired", batch=8).image_bytes == pytest.approx(paired.image_bytes, rel=0.1)


def test_a_shortage_names_the_key_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    need = Need(fixed_bytes=1000, image_bytes=100, batch=64)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1250)
    assert "train.batch=64" in str(memory.shortage(need, "train.batch", CPU))
    assert "train.batch=2 would fit" in str(memory.shortage(need, "train.batch", CPU))
    assert memory.shortage(None, "train.batch", CPU) is None


def test_the_cpu_has_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 17)
    assert available_bytes(CPU) == 17
