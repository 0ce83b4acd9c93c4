"""What networks refuse is said before the inversion, and asking leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stages.test_finetune import Workshop, quick
from training.nets import EVERYTHING, copies, equal, everything, make, recipe, tiny

from graftgan.contract import digest_path
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build
from graftgan.stages import finetune
from graftgan.training.trainer import Trainer
from graftgan.transfer import method
from graftgan.transfer.penalties import make_penalties
from graftgan.transfer.rehearsal import rehearse
from transfer.families import small

PRIOR = {"finetune__prior": "gmm", "finetune__inversion__epochs": 2}
FRESH = {"fresh_discriminator": True}
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("stylegan2", {"method": "freeze_d", "freeze_d_layers": 99}, "freeze_d_layers=99", "rank.choose"),
    ("biggan", {"method": "freeze_d", "freeze_d_blocks": 99}, "freeze_d_blocks=99", "rank.choose"),
    ("stylegan2", {"method": "cdc", "cdc": {"patch_px": [9, 10]}}, "finetune.cdc.patch_px", "D's blocks"),
    ("dcgan", {"method": "filter_transfer"}, "finetune.method=filter_transfer", "family=dcgan"),
    ("biggan", {"style_mixing": 0.5}, "finetune.style_mixing=0.5", "rank.choose"),
    ("resnet_gan", {"path_length_weight": 2}, "finetune.path_length_weight=2", "family=resnet_gan"),
    ("stylegan2", {"method": "gan_memory", **FRESH}, "gan_memory.modulate_d", "fresh_discriminator"),
    ("stylegan2", {"penalties": ["ewc"], **FRESH}, "penalties: ewc", "fresh_discriminator"),
    (
        "stylegan2",
        {"penalties": ["l2_sp"], "l2_sp_on_d": True, **FRESH},
        "l2_sp_on_d=true",
        "fresh_discriminator",
    ),
    ("stylegan2", {"penalties": ["cdc"], "cdc": {"layers": 99}}, "finetune.cdc.layers", "family=stylegan2"),
    ("stylegan2", {"penalties": ["bsd"], "bsd_k": 9, "batch": 16}, "finetune.bsd_k is 9", "rank.choose"),
]
TERMS: dict[str, Any] = {"penalties": ["bsd", "l2_sp", "ewc", "cdc"], "bsd_k": 2, "ewc_samples": 2}


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    return Workshop(tmp_path).furnish()


def flags(gan: Gan) -> list[tuple[str, bool, bool]]:
    """What asks for gradients, and in which mode the networks are."""
    networks = (gan.generator, gan.discriminator, gan.generator_ema)
    return [(n, p.requires_grad, net.training) for net in networks for n, p in net.named_parameters()]


@pytest.mark.parametrize(("family", "changes", "first", "second"), REFUSED, ids=str)
def test_what_networks_refuse_is_known_from_copies(
    family: str, changes: dict[str, Any], first: str, second: str
) -> None:
    gan, settings = small(family), recipe(prior="gmm", **changes)
    gan.fresh = ("discriminator",) if settings.fresh_discriminator else ()
    before = flags(gan)
    with pytest.raises(ConfigError) as error:
        rehearse(gan, method(settings.method), settings)
    assert first in error.value.message and second in error.value.message, error.value.message
    assert error.value.remedy and flags(gan) == before


@pytest.mark.parametrize("name", ["full", "freeze_d", "lora", "gan_memory", "cdc", "ewc"])
def test_a_run_has_the_same_bits_with_a_rehearsal_and_without(name: str) -> None:
    own = {"penalties": [term for term in TERMS["penalties"] if term != name]}
    settings = {**TERMS, **EVERYTHING, "method": name, **own}

    def run(rehearsed: bool) -> tuple[Trainer, torch.Tensor]:
        gan = build(tiny(), 0)
        before, asked = copies(gan.generator) | copies(gan.discriminator), flags(gan)
        torch.manual_seed(5)
        if rehearsed:
            rehearse(gan, method(name), recipe(**settings))
        random = torch.get_rng_state()
        assert equal(before, copies(gan.generator) | copies(gan.discriminator)) and flags(gan) == asked
        trainer = make(gan=gan, **settings)
        trainer.add_penalties(make_penalties(trainer.settings))
        trainer.step()
        return trainer, random

    (with_it, random), (without, same) = run(True), run(False)
    assert torch.equal(random, same)
    assert equal(everything(with_it), everything(without))
    assert with_it.meter.take() == without.meter.take()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"finetune__method": "freeze_d", "finetune__freeze_d_layers": 99}, r"finetune\.freeze_d_layers=99"),
        ({"finetune__penalties": "[cdc]", "finetune__cdc__layers": 99}, r"finetune\.cdc\.layers"),
    ],
)
def test_the_stage_says_it_before_it_inverts(workshop: Workshop, changes: dict[str, Any], text: str) -> None:
    workshop.fails(ConfigError, text, **PRIOR, **changes)
    assert not list((workshop.root / "cache").glob("inversions/*"))


def test_the_stage_writes_the_same_bytes_as_without(
    workshop: Workshop, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = quick(**PRIOR, finetune__penalties="[l2_sp]")
    asked: list[str] = []

    def nothing(gan: Gan, chosen: Any, settings: Any) -> None:
        asked.append(chosen.name)

    workshop.run(**changes)
    other = Workshop(tmp_path_factory.mktemp("other")).furnish()
    monkeypatch.setattr(finetune, "rehearse", nothing)
    other.run(**changes)
    assert asked == ["full"]
    assert digest_path(workshop.models / "chosen") == digest_path(other.models / "chosen")


def test_the_stage_refuses_what_would_begin_after_its_end(workshop: Workshop) -> None:
    late = {"finetune__method": "adafm", "finetune__adafm__start_kimg": 0.03}
    text = r"finetune\.adafm\.start_kimg=0\.03 with finetune\.budget\.epochs=1: with 24 training images"
    workshop.fails(ConfigError, text, **late, finetune__budget="{epochs: 1}")
