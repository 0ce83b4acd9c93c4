"""A residual GAN of many classes, adapted to images without labels with the small head, and evaluated.

So it is in Zhao et al. 2020, whose source is a class-conditional network and whose targets have one class.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from faults.harness import Colours
from transfer.families import SIZES

from graftgan.checkpoints.adapters import ADAPTER
from graftgan.checkpoints.store import WEIGHTS, load_gan, save_gan
from graftgan.context import Context
from graftgan.contract import digest_file, read_json
from graftgan.engine import Job, default_paths, run_job
from graftgan.errors import ConfigError
from graftgan.gans.base import build, sample
from graftgan.gans.spec import GanSpec
from graftgan.params import load
from graftgan.stages.specs import stage
from stages.test_finetune import LAST, Workshop, quick

HEAD = {
    "finetune__method": "adafm", "finetune__low_level_from_px": 16, "finetune__style_mixing": 0,
    "finetune__filter_transfer": "{head: small, calibration_samples: 20}",
}  # fmt: skip
KEPT = ("resnet_2_", "resnet_3_", "conv_img.")


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    return Workshop(tmp_path)


def settled(workshop: Workshop, classes: int, **dataset: Any) -> Workshop:
    """A set of images, and a residual source of these classes in the place of the chosen one."""
    workshop.furnish(**{"test": 24, **dataset})
    entry = workshop.source("near", 1)
    spec = GanSpec.from_dict(
        {"family": "resnet_gan", "resolution": 32, **SIZES["resnet_gan"], "classes": classes}
    )
    save_gan(build(spec, 1), workshop.root / "near")
    entry["sha256"] = digest_file(workshop.root / "near" / WEIGHTS)
    (workshop.root / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    workshop.rank("near", None)
    return workshop


def evaluated(workshop: Workshop) -> dict[str, Any]:
    torch.jit.script(Colours()).save(str(workshop.root / "colours.pt"))
    settings = {
        "evaluate.extractor": f"torchscript:{workshop.root / 'colours.pt'}?px=16", "evaluate.samples": 24,
        "runtime.device": "cpu", "runtime.workers": 1, "track.mode": "off",
    }  # fmt: skip
    params = load(None, [f"{key}={value}" for key, value in settings.items()])
    job = Job(stage("evaluate"), params, *default_paths(stage("evaluate"), workshop.out))
    run_job(job, lambda state: Context(state, workshop.root / "cache"))
    return dict(read_json(workshop.out / "evaluate" / "scores" / "scores.json"))


def test_ten_classes_become_one_and_the_low_level_blocks_stay(workshop: Workshop) -> None:
    settled(workshop, 10)
    workshop.run(**quick(**HEAD))
    source, model = load_gan(workshop.root / "near"), load_gan(workshop.models / "chosen")
    assert source.spec.classes == 10 and model.spec.classes == 0 and model.spec.head_px == 16
    before, after = (dict(gan.generator_ema.state_dict()) for gan in (source, model))
    low = [name for name in before if name.startswith(KEPT)]
    filters = {name for name in low if before[name].ndim == 4 and before[name].shape[-1] == 3}
    # Shown planes have their scales and shifts; all else is copied.
    same = {name for name in low if torch.equal(before[name], after[name])}
    assert len(low) > len(filters) > 0
    assert set(low) > same >= set(low) - {name for name in filters if ".conv_" in name}
    report = workshop.report()
    assert any("source near has 10 classes, the run 1" in text for text in report["warnings"])
    assert not (workshop.models / "chosen" / ADAPTER).exists()
    drawn = sample(model.generator_ema, 4, 0)
    assert drawn.shape == (4, 32, 32, 3) and not np.array_equal(drawn[0], drawn[1])
    record = evaluated(workshop)
    values = {score["name"]: score["value"] for score in record["runs"]["chosen"]["scores"]}
    assert values and all(value is None or math.isfinite(value) for value in values.values())
    assert any(value is not None for value in values.values())


def test_a_source_of_one_class_keeps_its_adapter(workshop: Workshop) -> None:
    settled(workshop, 1)
    workshop.run(**quick(**HEAD))
    model = load_gan(workshop.models / "chosen")
    assert model.spec.classes == 0 and (workshop.models / "chosen" / ADAPTER).is_file()


def test_one_label_for_all_images_of_a_source_of_one_class_is_left_out(workshop: Workshop) -> None:
    settled(workshop, 1, labels=1)
    workshop.run(**quick(**HEAD))
    assert load_gan(workshop.models / "chosen").spec.classes == 0


def test_labelled_images_are_refused_by_both_settings(workshop: Workshop) -> None:
    settled(workshop, 10, labels=3)
    found = r"finetune\.filter_transfer\.head=small .* rank\.choose has 10 .*data\.path"
    error = workshop.fails(ConfigError, found, **HEAD)
    assert "data.path" in error.remedy and "head=source" in error.remedy


TRUST_REGION = {
    "finetune__penalties": "[bsd]", "finetune__bsd_k": 3, "finetune__style_mixing": 0,
    "finetune__inversion": "{epochs: 3, lr: 0.05, batch: 10, learn_class: true}",
    "finetune__target_class": "{rows: nearest, samples: 2}", "finetune__r1_on_fakes": "true",
}  # fmt: skip


@pytest.mark.parametrize("prior", ["gmm", "gmm_to_normal"])
def test_a_mixture_and_its_penalty_in_the_setting_of_their_paper(workshop: Workshop, prior: str) -> None:
    """Zhang et al. 2023: a residual GAN of many classes, one of which the images become."""
    settled(workshop, 10)
    workshop.run(**quick(**TRUST_REGION, finetune__prior=prior))
    folder, report = workshop.models / "chosen", workshop.report()
    model = load_gan(folder)
    assert model.spec.family == "resnet_gan" and model.spec.classes == 1
    assert any("10 classes: the run's 1 classes start from" in text for text in report["warnings"])
    assert read_json(folder / "inversion.json")["learnt"] == ["embedding.weight"]
    header = (folder / "curves.csv").read_text().splitlines()[0].split(",")
    assert {"penalty_bsd", "penalty_bsd_d", "penalty_r1_fakes", "prior_lambda"} <= set(header)
    assert report["prior"]["kind"] == prior and report["penalties"] == ["bsd"]
    at = report["prior"]["lambda"]
    assert (model.prior is None) == (at == 1.0) and (at == 0.0) == (prior == "gmm")
    fitted = load_gan(folder, LAST).prior
    assert (fitted is None) == (prior == "gmm_to_normal"), "at the end of the run it has arrived"
    drawn = sample(model.generator_ema, 4, 0)
    model.prior = None
    assert np.array_equal(sample(model.generator_ema, 4, 0), drawn) == (at == 1.0)
