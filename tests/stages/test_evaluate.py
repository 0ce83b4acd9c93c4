"""evaluate, through the engine: the scores are the metrics' own, on the right images, by one protocol."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.harness import Colours
from PIL import Image

from graftgan.checkpoints.store import load_gan, save_gan
from graftgan.context import Context
from graftgan.contract import Result, read_json, write_json
from graftgan.data.dataset import ImageSet
from graftgan.engine import Job, default_paths, run_job
from graftgan.errors import ConfigError, DataError, GraftganError, MissingInput, ProtocolMismatch
from graftgan.gans.base import build, sample, to_uint8
from graftgan.gans.laws import TruncatedNormal
from graftgan.gans.prior import Mixture, Prior
from graftgan.metrics import copying
from graftgan.metrics.cache import FeatureCache
from graftgan.metrics.copying import copy_report
from graftgan.metrics.features import make_extractor
from graftgan.metrics.features.base import BatchedExtractor
from graftgan.metrics.kid import paired_kid_difference
from graftgan.metrics.neighbours import nearest
from graftgan.metrics.scores import ScoreSettings, evaluate_features
from graftgan.params import load
from graftgan.reporting.sheets import save_png, sheet
from graftgan.stages import evaluate
from graftgan.stages.specs import stage
from stages.models import tiny_spec, write_models
from stages.test_finetune import write_set
from stages.test_rank import watch_tiles

SAMPLES = 24
SPLITS = {"train": 30, "validation": 10, "test": 24}


class Desk:
    """A folder with an image set and models, and the stage run on them."""

    def __init__(self, root: Path, **dataset: Any) -> None:
        self.root = root
        torch.jit.script(Colours()).save(str(root / "colours.pt"))
        write_set(self.dataset, **{**SPLITS, **dataset})
        models = root / "out" / "finetune" / "models"
        write_models(models, build(tiny_spec(), 1), ImageSet.open(self.dataset).digest)
        self.models = models
        self.report("chosen", flip=True)

    @property
    def dataset(self) -> Path:
        return self.root / "out" / "prepare" / "dataset"

    @property
    def scores(self) -> Path:
        return self.root / "out" / "evaluate" / "scores"

    @property
    def extractor(self) -> str:
        return f"torchscript:{self.root / 'colours.pt'}?px=16"

    def report(self, folder: str, **changed: Any) -> None:
        path = self.models / folder / "model.json"
        write_json(path, read_json(path) | changed)

    def add(self, run: str, seed: int, source: str | None) -> None:
        """Add a control run."""
        folder = self.models / run
        folder.mkdir()
        save_gan(build(tiny_spec(), seed), folder)
        write_json(folder / "model.json", read_json(self.models / "chosen" / "model.json"))
        self.report(run, run=run, source=source)

    def run(self, **changes: Any) -> tuple[Result, bool]:
        settings = {
            "evaluate.extractor": self.extractor, "evaluate.samples": SAMPLES, "runtime.device": "cpu",
            "runtime.workers": 1, "track.mode": "off",
        } | {key.replace("__", "."): value for key, value in changes.items()}  # fmt: skip
        params = load(None, [f"{key}={value}" for key, value in settings.items()])
        job = Job(stage("evaluate"), params, *default_paths(stage("evaluate"), self.root / "out"))
        return run_job(job, lambda state: Context(state, self.root / "cache"))

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.scores / "scores.json").read_text()))

    def features(self, split: str) -> Any:
        return make_extractor(self.extractor)(ImageSet.open(self.dataset).images(split))

    def samples(self, run: str) -> Any:
        return sample(load_gan(self.models / run).generator_ema, SAMPLES, 0)

    def fails(self, kind: type[GraftganError], text: str, **changes: Any) -> GraftganError:
        with pytest.raises(kind, match=text) as caught:
            self.run(**changes)
        assert not self.scores.exists()
        return caught.value


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Result]:
    """Three runs and their scores, only to be read."""
    desk = Desk(tmp_path_factory.mktemp("scored"))
    desk.add("worst", 2, "far")
    desk.add("scratch", 3, None)
    return desk, desk.run()[0]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that pass through feature networks."""
    sizes: list[int] = []
    call = BatchedExtractor.__call__

    def counting(extractor: BatchedExtractor, images: Any) -> Any:
        sizes.append(len(images))
        return call(extractor, images)

    monkeypatch.setattr(BatchedExtractor, "__call__", counting)
    return sizes


def test_scores_are_those_of_the_metrics_on_the_same_features(scored: tuple[Desk, Result]) -> None:
    desk, result = scored
    record = desk.record()
    extractor = make_extractor(desk.extractor)
    train = ImageSet.open(desk.dataset).images("train")
    mirrored = extractor(np.ascontiguousarray(train[:, :, ::-1]))
    assert list(record["runs"]) == ["chosen", "scratch", "worst"]
    for run in record["runs"]:
        expected = evaluate_features(
            extractor(desk.samples(run)), desk.features("test"), desk.features("train"), extractor.protocol,
            train_mirrored=mirrored, settings=ScoreSettings(),
        )  # fmt: skip
        found = record["runs"][run]["scores"]
        assert [score["name"] for score in found] == [score.name for score in expected]
        for mine, theirs in zip(found, expected, strict=True):
            for key in ("value", "low", "high", "floor"):
                wanted = getattr(theirs, key)
                assert mine[key] == (None if wanted is None else pytest.approx(wanted, rel=1e-6, abs=1e-9))
            assert mine["protocol"] == extractor.protocol
            if mine["value"] is not None:
                assert result.metrics[f"{mine['name']}_{run}"] == mine["value"]
    copy = copy_report(
        extractor(desk.samples("chosen")), desk.features("train"), desk.features("test"), mirrored=mirrored
    )
    assert copy.copying is not None
    assert record["runs"]["chosen"]["copy"]["auc"] == pytest.approx(copy.copying.value)


def test_runs_are_compared_in_pairs_with_the_chosen_one(scored: tuple[Desk, Result]) -> None:
    desk, _ = scored
    extractor = make_extractor(desk.extractor)
    rows = desk.record()["paired"]
    assert [(row["a"], row["b"]) for row in rows] == [("chosen", "scratch"), ("chosen", "worst")]
    for row in rows:
        expected = paired_kid_difference(
            extractor(desk.samples("chosen")), extractor(desk.samples(row["b"])), desk.features("test")
        )
        assert row["difference"] == pytest.approx(expected.value, rel=1e-6)
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), rel=1e-6)
        sign = "chosen" if expected.high < 0 else row["b"] if expected.low > 0 else "undecided"
        assert row["better"] == sign


def test_the_folder_holds_tables_and_pictures(scored: tuple[Desk, Result]) -> None:
    desk, _ = scored
    runs = ("chosen", "scratch", "worst")
    files = {p.relative_to(desk.scores).as_posix() for p in desk.scores.rglob("*") if p.is_file()}
    pictures = {f"{kind}/{run}.png" for kind in ("samples", "pairs") for run in runs}
    assert files == pictures | {f"interpolation/{run}.gif" for run in runs} | {
        "real.png", "scores.json", "scores.csv", "metrics.json",
    }  # fmt: skip
    for name in files:
        if name.endswith(("png", "gif")):
            Image.open(desk.scores / name).load()
    flat = json.loads((desk.scores / "metrics.json").read_text())
    table = list(csv.DictReader((desk.scores / "scores.csv").open()))
    for row in table:
        value = flat[row["run"]][row["metric"]]
        assert float(row["value"]) == value if row["value"] else value is None
    assert len(table) == sum(len(values) for values in flat.values())
    assert desk.record()["verdict"].startswith("The model adapted from open-peeps by full has kid_")


def test_a_second_evaluation_measures_nothing_again(desk: Desk, counted: list[int]) -> None:
    desk.run()
    assert sum(counted) == SAMPLES + 24 + 30 + 30
    counted.clear()
    _, ran = desk.run(evaluate__confidence=0.9)
    assert ran
    assert not counted
    desk.run(evaluate__seed=1)
    assert sum(counted) == SAMPLES


def test_every_search_keeps_to_the_memory_of_the_setting_and_scores_do_not_depend_on_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.run()
    before = desk.record()
    seen = watch_tiles(monkeypatch)
    desk.run(runtime__memory_mib=1.5)
    assert not seen, "the memory is no reason to score again"
    desk.run(runtime__memory_mib=1.5, evaluate__seed=1)
    assert seen == {1.5}
    desk.run(runtime__memory_mib=1.5)
    assert desk.record() == before


def test_a_killed_evaluation_goes_on_at_its_run(
    desk: Desk, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.add("worst", 2, "far")
    call, wanted = BatchedExtractor.__call__, 2 * SAMPLES + 24 + 30 + 30

    def killed(extractor: BatchedExtractor, images: Any) -> Any:
        if sum(counted) + len(images) > wanted - SAMPLES:
            raise KeyboardInterrupt
        return call(extractor, images)

    monkeypatch.setattr(BatchedExtractor, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        desk.run()
    before = sum(counted)
    assert before >= SAMPLES and not desk.scores.exists()
    monkeypatch.setattr(BatchedExtractor, "__call__", call)
    desk.run()
    # What was whole is not measured again: at most the run that was cut short.
    assert sum(counted) == wanted


def change_one_pixel(desk: Desk, packed: bool) -> None:
    """Add 1 to one channel of one test image; `packed` tells its manifest too, as another folder would."""
    from graftgan.data.dataset import content_digest

    data = ImageSet.open(desk.dataset)
    manifest = data.manifest.copy()
    row = int(manifest.index[manifest["split"] == "test"][3])
    pixels = np.lib.format.open_memmap(desk.dataset / "images.npy", mode="r+")
    pixels[row, 5, 7, 1] ^= 1
    pixels.flush()
    if not packed:
        return
    import hashlib

    from graftgan.data.dataset import write_manifest

    manifest.loc[row, "sha256"] = hashlib.sha256(pixels[row].tobytes()).hexdigest()
    facts = data.facts | {"digest": content_digest(manifest, 32, 3, [])}
    write_manifest(desk.dataset, manifest, facts)


def test_pairs_show_the_samples_that_are_scored_and_their_neighbours(scored: tuple[Desk, Result]) -> None:
    """From all the samples of a run, beside each pair's training image and nearest test image."""
    desk, _ = scored
    extractor, data = make_extractor(desk.extractor), ImageSet.open(desk.dataset)
    train, test = data.images("train"), data.images("test")
    mirrored = np.ascontiguousarray(train[:, :, ::-1])
    for run in ("chosen", "worst"):
        fakes = desk.samples(run)
        features = extractor(fakes)
        report = copy_report(
            features, desk.features("train"), desk.features("test"), mirrored=extractor(mirrored), pairs=8
        )
        cells = []
        for pair in report.pairs:
            own = features[pair.fake : pair.fake + 1]
            index, _ = nearest(own, desk.features("test"))
            cells += [fakes[pair.fake], (mirrored if pair.mirrored else train)[pair.train], test[index[0]]]
        save_png(sheet(np.stack(cells), 3, cell_px=96), desk.root / "expected.png")
        assert (desk.scores / "pairs" / f"{run}.png").read_bytes() == (
            desk.root / "expected.png"
        ).read_bytes()


def test_each_search_and_each_block_of_samples_is_done_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.add("worst", 2, "far")
    searched: list[int] = []
    search = copying.nearest

    def counted(a: Any, *rest: Any) -> Any:
        searched.append(len(a))
        return search(a, *rest)

    asked: list[set[int]] = []
    make = evaluate.sample_blocks

    def watched(*given: Any, **named: Any) -> Any:
        asked.append(set(named["blocks"]))
        return make(*given, **named)

    monkeypatch.setattr(copying, "nearest", counted)
    monkeypatch.setattr(evaluate, "sample_blocks", watched)
    desk.run(evaluate__samples=1000)
    assert sorted(searched) == [24, 1000, 1000], "each run's samples once, the test images once"
    assert len(asked) == 2
    assert all(1 <= len(blocks) <= 8 for blocks in asked), "of 16 blocks, those of the 8 pairs"


@pytest.mark.parametrize("packed", [True, False])
def test_one_changed_pixel_is_measured_anew(desk: Desk, counted: list[int], packed: bool) -> None:
    before = {score["name"]: score["value"] for score in _first(desk)["scores"]}
    counted.clear()
    change_one_pixel(desk, packed)
    after = {score["name"]: score["value"] for score in _first(desk)["scores"]}
    assert sum(counted) == 24, "the test images alone"
    kid = next(name for name in before if name.startswith("kid_"))
    assert before[kid] != after[kid]
    extractor = make_extractor(desk.extractor)
    expected = evaluate_features(
        extractor(desk.samples("chosen")), desk.features("test"), None, extractor.protocol
    )
    assert after[kid] == pytest.approx(next(s.value for s in expected if s.name == kid), rel=1e-6)


def _first(desk: Desk) -> dict[str, Any]:
    desk.run()
    return dict(desk.record()["runs"]["chosen"])


def test_features_of_another_protocol_are_refused(desk: Desk) -> None:
    """A cache file that was moved to another name is not compared with what it does not belong to."""
    desk.run()
    other = make_extractor(desk.extractor.replace("px=16", "px=8"))
    files = sorted((desk.root / "cache" / "features").rglob("*.safetensors"))
    for file in files:
        FeatureCache(desk.root / "x").put("content", other.protocol, np.zeros((3, 48), np.float32))
        (moved,) = (desk.root / "x").rglob("*.safetensors")
        file.write_bytes(moved.read_bytes())
    with pytest.raises(ProtocolMismatch, match="protocol is") as caught:
        desk.run(evaluate__confidence=0.9)
    assert caught.value.exit_code == 2
    assert "delete the file" in caught.value.remedy


def test_a_damaged_cache_file_is_made_again(desk: Desk, counted: list[int]) -> None:
    before = desk.run()[0]
    for file in (desk.root / "cache" / "features").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    counted.clear()
    after, _ = desk.run(evaluate__truncation_psi=1.0, evaluate__confidence=0.951)
    assert sum(counted) == SAMPLES + 24 + 30 + 30
    assert after.metrics == before.metrics


def test_a_bit_that_flipped_in_a_cache_file_is_noticed(desk: Desk, counted: list[int]) -> None:
    before = desk.run()[0]
    for file in (desk.root / "cache" / "features").rglob("*.safetensors"):
        raw = bytearray(file.read_bytes())
        raw[-3] ^= 64
        file.write_bytes(bytes(raw))
    counted.clear()
    after, _ = desk.run(evaluate__confidence=0.951)
    assert after.metrics == before.metrics
    assert sum(counted) == SAMPLES + 24 + 30 + 30


def test_without_test_images_the_training_images_are_the_reference_and_it_is_said(tmp_path: Path) -> None:
    desk = Desk(tmp_path, test=0, missing={"test": "data.split.test is 0"})
    result, _ = desk.run()
    record = desk.record()
    assert (record["reference"], record["n_test"]) == ("train", 30)
    assert any("no test images (data.split.test is 0)" in text for text in result.warnings)
    assert record["runs"]["chosen"]["copy"] == {"available": False, "reason": "there are no test images"}
    assert "on 30 train images" in record["verdict"]
    assert "whether it copies training images cannot be told" in record["verdict"]
    copying = {s["name"]: s for s in record["runs"]["chosen"]["scores"] if s["name"].startswith("copying")}
    assert [score["value"] for score in copying.values()] == [None]
    assert not any(name.startswith("copying") for name in result.metrics)


def test_fewer_reference_images_than_training_images_are_no_trouble(tmp_path: Path) -> None:
    desk = Desk(tmp_path, test=0, missing={"test": "data.split.test is 0"})
    desk.run(evaluate__max_test_images=20)
    assert desk.record()["n_test"] == 20


def test_few_images_are_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path, train=9, test=0, missing={"test": "3 of 12 images fell to it"})
    error = desk.fails(DataError, "scores need 10 images, there are 9")
    assert error.exit_code == 3


@pytest.mark.parametrize("key", ["neighbours", "recall_neighbours"])
def test_more_neighbours_than_images_are_a_configuration_error(desk: Desk, key: str) -> None:
    error = desk.fails(ConfigError, f"evaluate.{key} is 12", **{f"evaluate__{key}": 12})
    assert error.remedy == "use at most 11"


def test_models_without_a_chosen_one_are_refused(desk: Desk) -> None:
    desk.add("scratch", 3, None)
    (desk.models / "chosen" / "model.json").unlink()
    error = desk.fails(MissingInput, "holds no model called chosen")
    assert error.exit_code == 4


def test_another_network_in_the_same_file_is_noticed(desk: Desk) -> None:
    desk.run()
    assert not desk.run()[1]
    torch.jit.script(Darker()).save(str(desk.root / "colours.pt"))
    assert desk.run()[1]


class Darker(torch.nn.Module):
    """Other features than `Colours`."""

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(img, 4).flatten(1) / 2


def mixture() -> Mixture:
    means = torch.stack([torch.full((8,), -2.0), torch.full((8,), 1.0)])
    return Mixture.of_moments(torch.tensor([0.4, 0.6]), means, torch.eye(8).expand(2, 8, 8) / 4)


@pytest.mark.parametrize("law", [mixture(), TruncatedNormal(8, 0.3)], ids=["mixture", "truncated"])
def test_a_model_is_scored_on_images_from_its_own_law(desk: Desk, law: Prior) -> None:
    """The same weights beside it, without the law, are another model."""
    desk.add("worst", 1, "far")
    gan = load_gan(desk.models / "chosen")
    gan.prior = law
    save_gan(gan, desk.models / "chosen")
    desk.run()
    record, extractor = desk.record(), make_extractor(desk.extractor)
    rng = torch.Generator().manual_seed(0)
    own = torch.stack([law.draw_one(rng) for _ in range(SAMPLES)])
    with torch.no_grad():
        drawn = to_uint8(load_gan(desk.models / "chosen").generator_ema(own, None, 1.0, "const"))
    assert not np.array_equal(drawn, desk.samples("worst"))
    plain, mine = (load_gan(desk.models / run).generator_ema.state_dict() for run in ("worst", "chosen"))
    assert all(torch.equal(plain[name], mine[name]) for name in plain)
    values = {}
    for run, images in (("chosen", drawn), ("worst", desk.samples("worst"))):
        expected = evaluate_features(
            extractor(images), desk.features("test"), desk.features("train"), extractor.protocol,
            settings=ScoreSettings(),
        )  # fmt: skip
        values[run] = {score.name: score.value for score in expected if score.name.startswith(("kid", "fid"))}
        found = {score["name"]: score["value"] for score in record["runs"][run]["scores"]}
        assert values[run]
        for name, value in values[run].items():
            assert found[name] == (None if value is None else pytest.approx(value, rel=1e-5, abs=1e-8))
    differ = [
        n
        for n, v in values["chosen"].items()
        if v is not None and v != pytest.approx(values["worst"][n], rel=0.05)
    ]
    assert differ
    shown = {run: (desk.scores / "samples" / f"{run}.png").read_bytes() for run in values}
    walks = {run: (desk.scores / "interpolation" / f"{run}.gif").read_bytes() for run in values}
    assert shown["chosen"] != shown["worst"] and walks["chosen"] != walks["worst"]
