"""What `auto` takes goes with the settings and the sources, and what has no effect is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from training.nets import recipe
from transfer.families import small

from graftgan.checkpoints.catalogue import SCRATCH
from graftgan.checkpoints.store import WEIGHTS, load_gan, save_gan
from graftgan.config import Finetune, Params
from graftgan.contract import digest_file
from graftgan.data.dataset import ImageSet
from graftgan.errors import ConfigError
from graftgan.params import load
from graftgan.stages.deciding import budget_kimg, said_before, unused_from_scratch, with_method
from graftgan.stages.start import starting_point
from graftgan.transfer import method
from graftgan.transfer.penalties import make_penalties
from stages.test_finetune import Workshop

pytestmark = pytest.mark.usefixtures("rules")


def without_discriminator(folder: Path) -> None:
    held = load_file(folder / WEIGHTS)
    save_file({n: t for n, t in held.items() if not n.startswith("discriminator.")}, folder / WEIGHTS)


def shelve(root: Path, family: str, lacking: bool = False, images: int = 4, **dataset: Any) -> Workshop:
    """A set of so many training images, and a source of a family, which may lack its discriminator."""
    workshop = Workshop(root).furnish(train=images, **dataset)
    save_gan(small(family), root / "near")
    if lacking:
        without_discriminator(root / "near")
    sha256 = digest_file(root / "near" / WEIGHTS)
    entry = {"name": "near", "path": "near", "sha256": sha256, "resolution": 32}
    (root / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    return workshop


def decided(workshop: Workshop, *names: str, **changes: Any) -> tuple[Params, str]:
    data = ImageSet.open(workshop.out / "prepare" / "dataset")
    # Other families than StyleGANs have no styles to mix, whatever the method.
    family = load_gan(workshop.root / "near").spec.family
    plain = {} if family == "stylegan2" else {"finetune__style_mixing": 0}
    params = load(None, workshop.assignments(**{"finetune__method": "auto", **plain, **changes}))
    return with_method(params, data, names or ("near",), workshop.root / "cache")


FRESH = {"finetune__fresh_discriminator": "true"}
CASES = {
    "fresh D": (
        1000, "stylegan2", FRESH,
        "adafm", ["gan_memory did better", "finetune.gan_memory.modulate_d=true"],
    ),
    "fresh D and few images": (
        25, "resnet_gan", FRESH, "l2_sp", ["ewc did better", "finetune.fresh_discriminator"],
    ),
    "a penalty that a method brings": (
        25, "resnet_gan", {"finetune__penalties": "[ewc]"},
        "l2_sp", ["lora did better, but not for family resnet_gan", "ewc did better", "finetune.penalties"],
    ),
    "a penalty that the last one brings": (
        1000, "dcgan", {"finetune__penalties": "[cdc]"},
        "full", ["gan_memory, adafm, scale_shift, lora did better, but not for family dcgan",
                 "cdc did better", "finetune.penalties"],
    ),
    "a batch without halves": (
        1000, "dcgan", {"finetune__batch": 5}, "full", ["cdc did better", "finetune.batch=5"],
    ),
    "a prior that moves the class": (
        1000, "biggan", {"finetune__prior": "gmm", "finetune__inversion.learn_class": "true"},
        "cdc", ["adafm did better", "scale_shift did better", "finetune.inversion.learn_class"],
    ),
    "a prior and a small head": (
        1000, "biggan", {"finetune__prior": "gmm", "finetune__filter_transfer.head": "small"},
        "scale_shift", ["adafm did better", "finetune.prior=gmm", "finetune.filter_transfer.head=small"],
    ),
    "a small head for another family": (
        1000, "biggan", {"finetune__filter_transfer.head": "small"},
        "scale_shift", ["adafm did better", "finetune.filter_transfer.head=small"],
    ),
    "classes that the images lack": (
        1000, "stylegan2", {"finetune__gan_memory.classes": 4},
        "adafm", ["gan_memory did better", "finetune.gan_memory.classes=4"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_method_that_the_settings_refuse_gives_way_and_the_key_is_named(case: str, tmp_path: Path) -> None:
    images, family, changes, expected, parts = CASES[case]
    workshop = shelve(tmp_path, family, lacking=changes is FRESH, images=images)
    params, why = decided(workshop, **changes)
    assert params.finetune.method == expected
    assert why.startswith(f"for {images} training images: ")
    for part in parts:
        assert part in why, why
    # And the real networks take it.
    data = ImageSet.open(workshop.out / "prepare" / "dataset")
    gan = starting_point("near", data, params, workshop.root / "cache").gan
    method(expected).apply(gan, params.finetune)
    for penalty in make_penalties(params.finetune):
        penalty.start(gan, params.finetune)


def test_settings_that_go_with_the_best_leave_it(tmp_path: Path) -> None:
    params, why = decided(shelve(tmp_path, "stylegan2", images=1000), **FRESH)
    assert params.finetune.method == "gan_memory" and "did better" not in why
    assert "with stylegan2 sources only" not in why and "kimg, and this run" not in why


def test_every_source_of_the_run_counts(tmp_path: Path) -> None:
    workshop = shelve(tmp_path, "stylegan2", images=1000)
    (tmp_path / "other").mkdir()
    save_gan(small("stylegan2"), tmp_path / "other")
    without_discriminator(tmp_path / "other")
    entries = yaml.safe_load((tmp_path / "catalogue.yaml").read_text())
    sha256 = digest_file(tmp_path / "other" / WEIGHTS)
    entries.append({**entries[0], "name": "other", "path": "other", "sha256": sha256})
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump(entries))
    assert decided(workshop, "near", SCRATCH, **FRESH)[0].finetune.method == "gan_memory"
    assert decided(workshop, "near", "other", **FRESH)[0].finetune.method == "adafm"


def test_sizes_are_those_of_the_images(tmp_path: Path) -> None:
    # At its own 64 px the source would have something to modulate from 64 px on; cut to 32 px it has not.
    workshop = Workshop(tmp_path).furnish(train=1000)
    entry = workshop.source("near", 1, resolution=64) | {"resolution": 64}
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    changes = {"finetune__low_level_from_px": 64, "finetune__gan_memory.classes": 4}
    params, why = decided(workshop, **changes)
    assert params.finetune.method == "scale_shift"
    assert "adafm did better, but does not go with the settings: finetune.low_level_from_px=64" in why


def test_settings_that_no_method_goes_with_are_refused_at_once(tmp_path: Path) -> None:
    workshop = shelve(tmp_path, "stylegan2", lacking=True, images=25)
    with pytest.raises(ConfigError, match="ewc asks the source's discriminator"):
        decided(workshop, finetune__penalties="[ewc]", **FRESH)


def test_a_named_method_stays(tmp_path: Path) -> None:
    workshop = shelve(tmp_path, "dcgan")
    params, why = decided(workshop, finetune__method="cdc")
    assert (params.finetune.method, why) == ("cdc", "")


def test_from_scratch_nothing_is_decided(tmp_path: Path) -> None:
    params, why = decided(shelve(tmp_path, "stylegan2"), SCRATCH)
    assert (params.finetune.method, why) == ("full", "")


@pytest.mark.parametrize(
    ("budget", "kimg"),
    [
        ({"kimg": 24}, 24.0),
        ({"epochs": 10}, 10.0),
        ({"kimg": 3, "minutes": 5}, 3.0),
        ({"minutes": 5}, math.inf),
    ],
)
def test_a_budget_is_told_in_kimg(budget: dict[str, float], kimg: float) -> None:
    assert budget_kimg(recipe(budget=budget), 1000) == pytest.approx(kimg)


def test_a_longer_run_than_those_compared_is_told(tmp_path: Path) -> None:
    workshop = shelve(tmp_path, "stylegan2", images=25)
    _, why = decided(workshop, finetune__budget="{kimg: 24}")
    assert "methods were compared at 3 kimg, and this run has 24 kimg" in why
    _, why = decided(workshop, finetune__budget="{kimg: 6}")
    assert "methods were compared" not in why


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, None),
        ({"method": "lora"}, "finetune.method=lora: no effect"),
        ({"method": "auto"}, "finetune.method=auto: no effect"),
        (
            {"penalties": ["bsd", "cdc"], "prior": "gmm"},
            "finetune.penalties=[bsd, cdc], finetune.prior=gmm: no effect",
        ),
    ],
)
def test_what_has_no_effect_from_scratch_is_named(changes: dict[str, Any], keys: str | None) -> None:
    told = unused_from_scratch(Finetune.model_validate(changes))
    assert [text[: len(keys or "")] for text in told] == ([keys] if keys else [])


def test_each_run_is_told_what_is_its_own(tmp_path: Path) -> None:
    data = ImageSet.open(shelve(tmp_path, "stylegan2", images=25).out / "prepare" / "dataset")
    asked = Finetune.model_validate({"prior": "gmm"})
    adapted = {"chosen": "near", "worst": "far", "scratch": SCRATCH}
    told = said_before(adapted, asked, asked, data)
    assert list(told) == ["chosen"] and "finetune.penalties=[bsd] for 25 images" in told["chosen"][0]
    told = said_before({"chosen": SCRATCH, "worst": "far"}, asked, asked, data)
    assert "no effect on this run" in told["chosen"][0] and "penalties=[bsd]" in told["worst"][0]
