"""`benchmarks/classes.py`: its variants can be run, another network judges, and its table says so."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from stages.test_class_embedding import settings, shop

from graftgan.checkpoints.catalogue import Catalogue
from graftgan.context import Context
from graftgan.gans.class_table import class_table
from graftgan.metrics.features import make_extractor
from graftgan.transfer.class_settings import preset
from graftgan.transfer.combinations import check_settings
from scripts import loaded

classes: Any = loaded("classes")
classifiers: Any = loaded("classifiers")
NETWORKS = ("torchscript:optimised.pt?px=32", "torchscript:judge.pt?px=32")
CATALOGUE = classes.ROOT / "zoo" / "classes.yaml"
ALL = [variant for use in classes.USES for variant in classes.variants(use)]


@pytest.mark.parametrize("variant", ALL, ids=lambda variant: variant.name)
def test_every_variant_can_be_run_and_has_another_judge(variant: Any) -> None:
    params = variant.settings(CATALOGUE, 1.5, "efflite0", *NETWORKS)
    check_settings(params.finetune)
    section, shown = params.finetune.class_embedding, classes.USES[variant.use]
    assert (section.use, section.objective) == (shown.use, variant.objective)
    assert section.judge != section.features and section.judge_classifier == NETWORKS[1]
    assert section.classifier == (NETWORKS[0] if variant.objective == "classifier" else None)
    assert [classes.SETS[output] for output in section.classifier_classes] == [Path(params.data.path).stem]
    assert Path(params.data.path).is_file() and Path(params.rank.catalogue).is_file()


def test_both_weights_of_the_diversity_are_tried() -> None:
    found: dict[tuple[str, str], list[float]] = {}
    for one in ALL:
        section = one.settings(CATALOGUE, 1.5, "efflite0", *NETWORKS).finetune.class_embedding
        found.setdefault((one.use, one.objective), []).append(preset(section).alpha)
    for objective in ("mmd", "probe", "discriminator", "classifier"):
        assert found["repair", objective] == found["restore", objective] == [0.0, 0.5]
        assert found["debias", objective] == [0.0, 1.0]
        assert len(found["repurpose", objective]) == 1
    assert found["repair", "inversion"] == [0.0] and found["debias", "realism"] == [1.0]
    assert ("repurpose", "realism") not in found
    assert [key for key in found if key[0] == "untouched"] == [("untouched", "mmd")]
    assert len({one.name for one in ALL}) == len(ALL) == 37


def test_a_finished_run_is_judged_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    workshop = shop(tmp_path)
    params = workshop.job(**settings(workshop, use="repair", classes="[2]")).params
    ctx = Context(state=tmp_path / "states", cache=tmp_path / "cache")
    given = (
        classes.Variant("repair", "mmd"),
        params,
        tmp_path / "runs",
        workshop.out / "prepare" / "dataset",
    )
    facts = classes.tune(*given, ctx)
    assert (facts["use"], facts["objective"], facts["alpha"]) == ("repair", "mmd", 0.0)
    assert (facts["judged_on"], facts["judge_images"], facts["judge_was_optimised"]) == ("test", 4, False)
    assert facts["cpu_s"] > 0
    text = classes.table(
        {"kimg": 0.064, "protocol": facts["protocol"], "classifiers": SURE, "runs": {"a": facts}}
    )
    cells = text.splitlines()[-1].split(" | ")
    assert cells[:3] == ["| `repair`: the collapsed class, personas", "`mmd`", "0"]
    assert cells[3] == f"{facts['before']['kid']:.2f} → {facts['after']['kid']:.2f}"
    # Four images are too few for the share of variety.
    assert cells[5] == "–"
    assert classes.tune(*given, ctx) == facts


def test_a_class_is_given_the_vector_of_the_collapsed_one(tmp_path: Path) -> None:
    catalogue = Catalogue(classes.spoil(tmp_path), tmp_path)
    sound, spoilt = (
        catalogue.load(source, tmp_path) for source in catalogue.select([classes.SOURCE, classes.SPOILT])
    )
    for network in ("generator", "generator_ema"):
        before, after = (class_table(getattr(gan, network)) for gan in (sound, spoilt))
        changed = (before != after).any(dim=1).nonzero().flatten().tolist()
        assert changed == [classes.USES["restore"].row]
        assert torch.equal(after[classes.USES["restore"].row], before[classes.COLLAPSED])


SURE = {"optimised": 0.99, "judge": 0.985}


def side(kid: float) -> dict[str, float]:
    return {"kid": kid, "per_latent": 1.0, "real_share": 0.5, "accuracy": 0.75}


def test_the_table_names_the_split_and_the_network_that_judge() -> None:
    run = {
        "use": "debias", "objective": "mmd", "alpha": 1.0, "judged_on": "test", "judge_images": 900,
        "before": side(2.0), "after": side(1.25), "cpu_s": 12.4,
    }  # fmt: skip
    text = classes.table({"kimg": 1.5, "protocol": "net@1", "classifiers": SURE, "runs": {"a": run}})
    assert "on 900 test images by `net@1`" in text and "right for 99.0%" in text and "for 98.5%." in text
    row = (
        "| `debias`: the biased class, big-smile | `mmd` | 1 | 2.00 → 1.25 | 1.00 → 1.00 | 0.50 → 0.50 "
        "| 0.75 → 0.75 | 12 |"
    )
    assert text.splitlines()[-1] == row
    run["cpu_s"] = None
    unknown = classes.table({"kimg": 1.5, "protocol": "net@1", "classifiers": SURE, "runs": {"a": run}})
    assert unknown.splitlines()[-1] == row.replace("| 12 |", "| – |")


def test_the_two_classifiers_learn_on_images_that_they_do_not_share(tmp_path: Path) -> None:
    """Squares of three greys and some noise: either network must tell those it never saw."""
    rng, files = np.random.default_rng(0), []
    for name, grey in {"dark": 40, "middle": 128, "light": 215}.items():
        noise = rng.integers(-20, 20, (400, 32, 32, 3))
        blobs = []
        for image in np.clip(grey + noise, 0, 255).astype(np.uint8):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            blobs.append(file.getvalue())
        files.append(tmp_path / f"{name}.parquet")
        pq.write_table(pa.table({"image": blobs}), files[-1])
    made = classifiers.make_pair(files, 16, tmp_path / "nets")
    assert list(made) == ["optimised", "judge"]
    light = classifiers.pictures(files[2], 16)
    assert light.shape == (400, 16, 16, 3)
    for one in made.values():
        assert one["accuracy"] > 0.95
        assert set(make_extractor(one["extractor"])(light).argmax(axis=1)) == {2}
    weights = [torch.jit.load(tmp_path / "nets" / f"{name}.pt").state_dict()["0.weight"] for name in made]
    assert not torch.equal(*weights)
