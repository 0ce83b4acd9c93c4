"""All three uses of class_embedding through the whole stage, on a tiny BigGAN with four classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transfer.families import SIZES

from graftgan.checkpoints.store import WEIGHTS, load_gan, read_tensors, save_gan
from graftgan.classes import fixed_latents, sample_vector
from graftgan.contract import digest_file
from graftgan.data.dataset import ImageSet
from graftgan.errors import ConfigError
from graftgan.gans.base import build, sample
from graftgan.gans.class_table import class_table
from graftgan.gans.laws import TruncatedNormal
from graftgan.gans.spec import GanSpec
from graftgan.metrics.features import make_extractor
from graftgan.metrics.kid import kid
from graftgan.stages.judging import KidJudge
from stages.test_finetune import Workshop, write_set

CLASSES = 4
KEY = "finetune.class_embedding."


def shop(folder: Path, labels: int = 0) -> Workshop:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 5))
    torch.jit.script(net).save(str(folder / "net.pt"))
    torch.nn.init.normal_(net[1].weight)
    torch.jit.script(net).save(str(folder / "judge.pt"))
    workshop = Workshop(folder)
    write_set(workshop.out / "prepare" / "dataset", labels=labels)
    workshop.rank("groups", None)
    spec = GanSpec.from_dict({"family": "biggan", "resolution": 32, **SIZES["biggan"], "classes": CLASSES})
    (folder / "groups").mkdir()
    save_gan(build(spec, 1), folder / "groups")
    entry = {"name": "groups", "path": "groups", "resolution": 32, "licence": "CC0-1.0", "title": "Groups"}
    entry["sha256"] = digest_file(folder / "groups" / WEIGHTS)
    (folder / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    return workshop


def judge_of(workshop: Workshop) -> str:
    return f"torchscript:{workshop.root / 'judge.pt'}?px=16&range=-1_1"


def settings(workshop: Workshop, **section: Any) -> dict[str, Any]:
    plain = {
        "finetune.method": "class_embedding", "finetune.controls": "[]", "finetune.style_mixing": 0,
        "finetune.budget": "{kimg: 0.064}", "finetune.evaluate_every_kimg": 0.016,
        f"{KEY}features": f"torchscript:{workshop.root / 'net.pt'}?px=16&range=-1_1",
        f"{KEY}starts": 2, f"{KEY}report_samples": 16, f"{KEY}judge": judge_of(workshop),
    }  # fmt: skip
    given = {**plain, **{f"{KEY}{name}": value for name, value in section.items()}}
    return {key.replace(".", "__"): value for key, value in given.items()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    return tmp_path


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in a if a[name].shape != b[name].shape or not torch.equal(a[name], b[name])}


TABLES = {"generator.shared.weight", "generator_ema.shared.weight"}


def test_repair_of_one_class_from_images_without_labels(home: Path) -> None:
    workshop = shop(home)
    result, _ = workshop.run(**settings(workshop, use="repair", classes="[2]"))
    chosen = workshop.models / "chosen"
    source, model, whole = (
        read_tensors(folder / WEIGHTS) for folder in (home / "groups", chosen, chosen / "whole")
    )
    assert load_gan(chosen).spec.classes == 1
    assert differing(source, whole) <= TABLES
    kept = [0, 1, 3]
    for name in TABLES:
        assert torch.equal(whole[name][kept], source[name][kept])
        assert torch.equal(whole[name][2], model[name][0]) or name == "generator.shared.weight"
    images = sample(load_gan(chosen).generator_ema, 3, 0, labels=0)
    assert (images == sample(load_gan(chosen / "whole").generator_ema, 3, 0, labels=2)).all()
    report = workshop.report()
    (facts,) = report["class_embedding"]["classes"]
    assert facts["source_class"] == 2 and facts["before"]["norm"] > 0 and "kid" in facts["after"]
    assert report["trainable_parameters"] == {"generator": 4, "discriminator": 0}
    judged = report["class_embedding"]
    assert judged["judge"] == judge_of(workshop) and "torchscript-judge" in judged["protocol"]
    assert not judged["judge_was_optimised"] and not any("optimised" in text for text in result.warnings)
    vector = np.load(chosen / "embedding-0.npy")
    assert vector.shape == (1, 4) and vector.dtype == np.float32
    assert vector[0] == pytest.approx(model["generator_ema.shared.weight"][0].numpy())
    assert (chosen / "classes.png").is_file()
    assert any("class 2 of source groups alone" in text for text in result.warnings)


def test_the_end_of_every_start_is_looked_at(home: Path) -> None:
    """Else what is looked at may be the row that the next start begins with."""
    workshop = shop(home)
    given = settings(workshop, use="repair", classes="[2]", starts=3)
    workshop.run(**{**given, "finetune__evaluate_every_kimg": 1000})
    curves = pd.read_csv(workshop.models / "chosen" / "curves.csv")
    looks = curves.images_seen[curves.kid_validation.notna()]
    batch = workshop.job(**given).params.finetune.batch
    third = 64 // batch // 3 * batch
    assert list(looks) == [0, third, 2 * third, 64]


@pytest.mark.parametrize("use", ["repair", "repurpose"])
def test_where_no_look_is_better_the_row_stays_as_it_was(
    home: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    monkeypatch.setattr(KidJudge, "improves", lambda self, new, best: False)
    workshop = shop(home)
    result, _ = workshop.run(**settings(workshop, use=use, classes="[2]" if use == "repair" else "[]"))
    table = class_table(load_gan(home / "groups").generator_ema)
    (row,) = class_table(load_gan(workshop.models / "chosen").generator_ema)
    assert torch.equal(row, table[2] if use == "repair" else table.mean(dim=0))
    report = workshop.report()
    (facts,) = report["class_embedding"]["classes"]
    assert report["images_seen"] == 0 and facts["moved"] == pytest.approx(0.0, abs=1e-6)
    assert any("what the run began with, which is kept" in text for text in result.warnings)
    curves = (workshop.models / "chosen" / "curves.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curves[1:3]] == ["0", "16"]


def test_the_report_is_about_images_that_were_held_out(home: Path) -> None:
    workshop = shop(home)
    workshop.run(**settings(workshop, use="repair", classes="[2]"))
    judged = workshop.report()["class_embedding"]
    (facts,) = judged["classes"]
    assert (facts["judged_on"], facts["judge_images"]) == ("test", 4)
    network = make_extractor(judge_of(workshop))
    assert judged["protocol"] == network.protocol
    real = network(ImageSet.open(workshop.out / "prepare" / "dataset").images("test"))
    generator = load_gan(workshop.models / "chosen").generator_ema.eval()
    images = sample_vector(generator, class_table(generator)[0], fixed_latents(generator, 16, 0))
    assert facts["after"]["kid"] == pytest.approx(kid(network(images), real).value, rel=1e-6)


def test_a_source_with_a_law_of_its_own_is_compared_under_the_models(home: Path) -> None:
    workshop = shop(home)
    source = load_gan(home / "groups")
    source.prior = TruncatedNormal(source.spec.z_dim, 0.1)
    save_gan(source, home / "groups")
    (entry,) = yaml.safe_load((home / "catalogue.yaml").read_text())
    entry["sha256"] = digest_file(home / "groups" / WEIGHTS)
    (home / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    workshop.run(**settings(workshop, use="repair", classes="[2]"))
    assert load_gan(workshop.models / "chosen").prior is None
    (facts,) = workshop.report()["class_embedding"]["classes"]
    generator, network = source.generator_ema.eval(), make_extractor(judge_of(workshop))
    generator.prior = None
    images = sample_vector(generator, class_table(generator)[2], fixed_latents(generator, 16, 0))
    real = network(ImageSet.open(workshop.out / "prepare" / "dataset").images("test"))
    assert facts["before"]["kid"] == pytest.approx(kid(network(images), real).value, rel=1e-6)


def test_debias_within_all_labelled_classes(home: Path) -> None:
    workshop = shop(home, labels=CLASSES)
    result, _ = workshop.run(**settings(workshop, use="debias", classes="[1, 3]", objective="discriminator"))
    chosen = workshop.models / "chosen"
    source, model = read_tensors(home / "groups" / WEIGHTS), read_tensors(chosen / WEIGHTS)
    assert differing(source, model) <= TABLES
    for name in TABLES:
        assert torch.equal(model[name][[0, 2]], source[name][[0, 2]])
    assert not (chosen / "whole").exists()
    rows = workshop.report()["class_embedding"]["classes"]
    assert [c["row"] for c in rows] == [1, 3]
    # One test image a class is too few; of validation images class 1 has three and class 3 two.
    assert [(c["judged_on"], c["judge_images"]) for c in rows] == [("validation", 3), ("train", 6)]
    assert any("compares class 3 with training images" in text for text in result.warnings)


def test_repurpose_makes_a_class_for_each_label(home: Path) -> None:
    workshop = shop(home, labels=2)
    workshop.run(**settings(workshop, objective="probe"))
    chosen = workshop.models / "chosen"
    assert load_gan(chosen).spec.classes == 2
    whole = load_gan(chosen / "whole")
    assert whole.spec.classes == CLASSES + 2
    source = load_gan(home / "groups")
    assert torch.equal(class_table(whole.generator_ema)[:CLASSES], class_table(source.generator_ema))
    for label in range(CLASSES):
        old = sample(source.generator_ema, 2, 0, labels=label)
        assert (sample(whole.generator_ema, 2, 0, labels=label) == old).all()
    rows = workshop.report()["class_embedding"]["classes"]
    assert [row["began_at"] for row in rows] == ["the mean of all classes"] * 2


def test_the_same_run_gives_the_same_bytes(home: Path) -> None:
    workshop = shop(home)
    digests = []
    for seed in (0, 0):
        workshop.run(resume="never", **settings(workshop, use="repair", classes="[2]"), finetune__seed=seed)
        digests.append(digest_file(workshop.models / "chosen" / WEIGHTS))
        (workshop.out / "finetune" / "result.json").unlink(missing_ok=True)
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("labels", "section", "text"),
    [
        (0, {"use": "repair", "classes": "[9]"}, "classes has 9"),
        (0, {"use": "repair", "classes": "[0, 1]"}, "the images are of one"),
        (6, {"use": "repair", "classes": "[0]"}, "labels up to 5"),
        (0, {"use": "repair"}, "classes is empty"),
    ],
)
def test_wrong_classes_are_named(home: Path, labels: int, section: dict[str, Any], text: str) -> None:
    workshop = shop(home, labels=labels)
    workshop.fails(ConfigError, text, **settings(workshop, **section))


def test_a_source_without_classes_is_refused(home: Path) -> None:
    workshop = shop(home)
    (home / "catalogue.yaml").write_text(yaml.safe_dump([workshop.source("groups", 1)]))
    workshop.fails(ConfigError, "class_embedding", **settings(workshop))
