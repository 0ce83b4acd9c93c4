from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from graftgan.checkpoints.catalogue import SCRATCH
from graftgan.checkpoints.store import WEIGHTS
from graftgan.config import Finetune
from graftgan.contract import digest_file
from graftgan.data.dataset import ImageSet
from graftgan.errors import ConfigError
from graftgan.gans.base import build
from graftgan.params import load
from graftgan.stages.start import Start, can_fit, starting_point
from graftgan.transfer import METHODS
from stages.models import tiny_spec
from stages.test_finetune import Workshop


def start(root: Path, dataset: dict[str, Any] | None = None, name: str = "near", **spec: Any) -> Start:
    """Start from a source with this spec on a set of this kind."""
    workshop = Workshop(root).furnish(**dataset or {})
    entry = workshop.source("near", 1, **spec) | {"resolution": spec.get("resolution", 32)}
    (root / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    return begin(workshop, name)


def begin(workshop: Workshop, name: str = "near", **changes: Any) -> Start:
    data = ImageSet.open(workshop.out / "prepare" / "dataset")
    return starting_point(name, data, load(None, workshop.assignments(**changes)), workshop.root / "cache")


def test_a_source_that_fits_is_left_as_it_is(tmp_path: Path) -> None:
    found = start(tmp_path)
    assert found.source is not None and found.source.name == "near"
    assert found.changes == () and found.gan.spec == tiny_spec()


def test_scratch_has_no_source(tmp_path: Path) -> None:
    found = start(tmp_path, name=SCRATCH)
    assert found.source is None and found.gan.spec.resolution == 32


@pytest.mark.parametrize("resolution", [64, 128])
def test_a_source_of_larger_images_is_cut_and_says_so(tmp_path: Path, resolution: int) -> None:
    found = start(tmp_path, resolution=resolution)
    assert found.gan.spec.resolution == 32
    assert found.changes == (
        "source near was cut to 32 px and 3 channels: "
        "2 tensors are new, and are trained whatever finetune.method fixes",
    )


def test_other_channels_are_reconciled(tmp_path: Path) -> None:
    found = start(tmp_path, {"channels": 1})
    assert found.gan.spec.channels == 1 and "was changed to 32 px and 1 channels" in found.changes[0]


def test_a_source_with_classes_learns_images_without_labels_as_one_class(tmp_path: Path) -> None:
    found = start(tmp_path, classes=4)
    assert found.gan.spec.classes == 1
    assert "4 classes, the run 1" in found.changes[0]


def test_more_labels_than_classes_start_from_the_mean(tmp_path: Path) -> None:
    found = start(tmp_path, {"labels": 5}, classes=3)
    assert found.gan.spec.classes == 5


def test_labels_that_a_source_has_classes_for_are_used_as_they_are(tmp_path: Path) -> None:
    found = start(tmp_path, {"labels": 2}, classes=3)
    assert found.gan.spec.classes == 3 and found.changes == ()


def test_fewer_labels_than_classes_are_classes_of_their_own_where_rows_are_chosen(tmp_path: Path) -> None:
    source = build(tiny_spec(classes=3), 1).generator.get_parameter("mapping.embed.weight").detach()
    chosen = {"finetune__target_class__rows": "nearest", "finetune__target_class__samples": 2}
    plain = start(tmp_path, {"labels": 2}, classes=3)
    assert plain.gan.spec.classes == 3
    found = begin(Workshop(tmp_path), **chosen)
    assert found.gan.spec.classes == 2 and "start from the source's, most from" in found.changes[0]
    shares = torch.linalg.lstsq(
        source, found.gan.generator.get_parameter("mapping.embed.weight").detach()
    ).solution
    torch.testing.assert_close(shares.sum(0), torch.ones(2), rtol=0, atol=1e-4)
    assert float((shares - 1 / 3).abs().max()) > 0.01, "not the mean of all"


def test_choosing_rows_for_the_sources_own_classes_has_no_effect_and_it_is_told(tmp_path: Path) -> None:
    start(tmp_path, {"labels": 3}, classes=3)
    found = begin(Workshop(tmp_path), finetune__target_class__rows="soft")
    assert found.gan.spec.classes == 3
    assert found.changes == (
        "finetune.target_class.rows=soft has no effect: the images have the source's classes",
    )


def test_labels_are_left_out_with_a_source_without_classes(tmp_path: Path) -> None:
    found = start(tmp_path, {"labels": 2})
    assert found.gan.spec.classes == 0 and "labels of the images are not used" in found.changes[0]


def test_keys_of_what_a_source_has_or_has_not_are_told_to_have_no_effect(tmp_path: Path) -> None:
    start(tmp_path)
    chosen = {"finetune__target_class__rows": "soft", "finetune__fresh_discriminator": "true"}
    found = begin(Workshop(tmp_path), **chosen)
    assert found.changes == (
        "finetune.target_class.rows=soft has no effect: source near has no classes",
        "finetune.fresh_discriminator has no effect: source near has a discriminator",
    )
    assert found.gan.fresh == ()


def test_a_generator_alone_is_refused_unless_a_fresh_discriminator_is_asked_for(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path).furnish()
    entry = workshop.source("near", 1)
    weights = tmp_path / "near" / WEIGHTS
    save_file({k: v for k, v in load_file(weights).items() if not k.startswith("discriminator")}, weights)
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump([entry | {"sha256": digest_file(weights)}]))
    with pytest.raises(ConfigError, match="has no discriminator") as error:
        begin(workshop)
    assert "finetune.fresh_discriminator=true" in error.value.remedy and "2022" in str(error.value)
    found = begin(workshop, finetune__fresh_discriminator="true")
    assert found.gan.fresh == ("discriminator",) and "fresh one is trained" in found.changes[0]
    assert len(found.changes) == 1
    for name in (name for name in METHODS if METHODS[name].fixes_d):
        fixing = begin(workshop, finetune__fresh_discriminator="true", finetune__method=name)
        assert f"finetune.method={name} fixes nothing of D" in fixing.changes[1]


def test_methods_that_fix_a_part_of_d_are_known() -> None:
    gan, settings = build(tiny_spec(), 0), Finetune()
    every = {name for name, _ in gan.discriminator.named_parameters()}
    found = {
        name
        for name, method in METHODS.items()
        if method.direct is None and name != "gan_memory"
        and every - method.trainable_discriminator(gan, settings)
    }  # fmt: skip
    # GAN Memory modulates a D rather than fix a part of it, and refuses a fresh one.
    assert found == {name for name in METHODS if METHODS[name].fixes_d}


def test_families_that_can_be_cut_fit_other_sizes(tmp_path: Path) -> None:
    Workshop(tmp_path).furnish()
    data = ImageSet.open(tmp_path / "out" / "prepare" / "dataset")
    assert can_fit(tiny_spec(resolution=64), data)
