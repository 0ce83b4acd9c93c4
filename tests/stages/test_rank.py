"""rank, through the engine: what is measured once, what is refused, what is chosen and why."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from faults.harness import Colours
from PIL import Image

from graftgan.checkpoints.store import SPEC, WEIGHTS, load_gan, save_gan
from graftgan.cli import main
from graftgan.context import Context, StopSignal
from graftgan.contract import Result, digest_file
from graftgan.data.dataset import ImageSet
from graftgan.engine import Job, default_paths, run_job
from graftgan.errors import ConfigError, DataError, GraftganError
from graftgan.gans.base import build, sample
from graftgan.gans.dcgan import DCGANSpec
from graftgan.metrics import neighbours, reals
from graftgan.metrics.density_coverage import density_coverage
from graftgan.metrics.features import make_extractor
from graftgan.metrics.features.base import BatchedExtractor
from graftgan.metrics.frechet import frechet_estimate
from graftgan.metrics.kid import kid
from graftgan.metrics.precision_recall import covered, precision, recall
from graftgan.params import load
from graftgan.stages import rank
from graftgan.stages.specs import stage
from stages.models import tiny_spec
from stages.test_finetune import write_set

SAMPLES = 24
NEIGHBOURS = 5


class Coarser(torch.nn.Module):
    """Other features than `Colours`: of quarters."""

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(img, 2).flatten(1)


class Shelf:
    """A folder with an image set, sources and a network of features, and the stage run on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        torch.jit.script(Colours()).save(str(root / "colours.pt"))
        write_set(root / "out" / "prepare" / "dataset")
        self.write([self.source("near", tiny_spec(), 1), self.source("far", tiny_spec(), 2)])

    @property
    def extractor(self) -> str:
        return f"torchscript:{self.root / 'colours.pt'}?px=16"

    @property
    def ranking(self) -> Path:
        return self.root / "out" / "rank" / "ranking"

    def source(self, name: str, spec: Any, seed: int = 0, **facts: Any) -> dict[str, Any]:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        save_gan(build(spec, seed), folder)
        entry = {"name": name, "path": name, "sha256": digest_file(folder / WEIGHTS), "licence": "CC0-1.0"}
        return entry | {"resolution": spec.resolution, "title": f"The {name} one", **facts}

    def write(self, entries: list[dict[str, Any]]) -> None:
        (self.root / "catalogue.yaml").write_text(yaml.safe_dump(entries))

    def assignments(self, **changes: Any) -> list[str]:
        settings = {
            "rank.catalogue": self.root / "catalogue.yaml", "rank.samples": SAMPLES,
            "rank.neighbours": NEIGHBOURS, "rank.extractor": self.extractor, "rank.selector": "kid",
            "finetune.scratch": "{z_dim: 8, w_dim: 8, mapping_layers: 1, channel_base: 128, channel_max: 8}",
            "runtime.device": "cpu", "runtime.workers": 1, "track.mode": "off",
        } | {key.replace("__", "."): value for key, value in changes.items()}  # fmt: skip
        return [f"{key}={value}" for key, value in settings.items()]

    def run(self, out: str = "out", **changes: Any) -> tuple[Result, bool]:
        params = load(None, self.assignments(**changes))
        job = Job(stage("rank"), params, *default_paths(stage("rank"), self.root / out))
        return run_job(job, lambda state: Context(state, self.root / "cache"))

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.ranking / "ranking.json").read_text()))

    def fails(self, kind: type[GraftganError], text: str, **changes: Any) -> GraftganError:
        with pytest.raises(kind, match=text) as caught:
            self.run(**changes)
        assert not self.ranking.exists()
        assert not (self.root / "out" / "rank" / "result.json").exists()
        return caught.value


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shelf, Result]:
    """A ranking, only to be read."""
    shelf = Shelf(tmp_path_factory.mktemp("ranked"))
    return shelf, shelf.run()[0]


class Counted:
    """Counts the images that pass through feature networks, and those that generators are asked for."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.features = 0
        self.asked: list[int] = []
        call = BatchedExtractor.__call__

        def counted(extractor: BatchedExtractor, images: Any) -> Any:
            self.features += len(images)
            return call(extractor, images)

        def counted_sample(generator: Any, n: int, *rest: Any) -> Any:
            self.asked.append(n)
            return sample(generator, n, *rest)

        patch.setattr(BatchedExtractor, "__call__", counted)
        patch.setattr(rank, "sample", counted_sample)


def watch_tiles(patch: pytest.MonkeyPatch) -> set[float]:
    """Collect the memory that every search for neighbours is given, in MiB."""
    seen: set[float] = set()
    shape = neighbours.tile_shape

    def watched(memory_mib: float, *rest: Any, **named: Any) -> tuple[int, int]:
        seen.add(memory_mib)
        return shape(memory_mib, *rest, **named)

    patch.setattr(neighbours, "tile_shape", watched)
    return seen


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    yield Counted(monkeypatch)


def test_a_second_target_samples_no_source_again(shelf: Shelf, counted: Counted) -> None:
    shelf.run()
    assert counted.asked.count(SAMPLES) == 3
    first = counted.features
    assert first == 34 + 3 * SAMPLES
    write_set(shelf.root / "other" / "prepare" / "dataset", train=40)
    counted.asked.clear()
    shelf.run("other")
    assert counted.asked == [], "nor are the sheets drawn again"
    assert counted.features - first == 40 + 10
    mine, others = (shelf.root / place / "rank/ranking/sheets" for place in ("out", "other"))
    for name in ("near", "far", "scratch"):
        assert (others / f"{name}.png").read_bytes() == (mine / f"{name}.png").read_bytes()


@pytest.mark.parametrize("done", [1, 2])
def test_a_killed_ranking_goes_on_at_its_source(
    shelf: Shelf, counted: Counted, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    watched = rank.sample

    def killed(generator: Any, n: int, *rest: Any) -> Any:
        if n == SAMPLES and counted.asked.count(SAMPLES) == done:
            raise KeyboardInterrupt
        return watched(generator, n, *rest)

    monkeypatch.setattr(rank, "sample", killed)
    with pytest.raises(KeyboardInterrupt):
        shelf.run()
    assert not shelf.ranking.exists()
    assert counted.features == 34 + done * SAMPLES
    monkeypatch.setattr(rank, "sample", watched)
    result, _ = shelf.run()
    assert counted.features == 34 + 3 * SAMPLES
    for folder in ("out/rank", "cache"):
        shutil.rmtree(shelf.root / folder)
    whole, _ = shelf.run()
    assert result.outputs == whole.outputs


@pytest.mark.parametrize(
    "change", [{"rank__seed": 1}, {"rank__samples": SAMPLES + 1}, {"rank__extractor": "px8"}]
)
def test_what_changes_the_samples_or_their_features_is_measured_again(
    shelf: Shelf, counted: Counted, change: dict[str, Any]
) -> None:
    shelf.run()
    first = counted.features
    if "rank__extractor" in change:
        change = {"rank__extractor": shelf.extractor.replace("px=16", "px=8")}
    shelf.run(**change)
    assert counted.features - first >= 3 * SAMPLES


def test_a_source_that_was_trained_on_is_measured_again_and_no_other(shelf: Shelf, counted: Counted) -> None:
    shelf.run()
    first = counted.features
    shelf.write([shelf.source("near", tiny_spec(), 1), shelf.source("far", tiny_spec(), 3)])
    shelf.run()
    assert counted.features - first == SAMPLES


def test_another_network_in_the_same_file_is_noticed(shelf: Shelf) -> None:
    before = shelf.run()[0]
    assert not shelf.run()[1]
    torch.jit.script(Coarser()).save(str(shelf.root / "colours.pt"))
    after, ran = shelf.run()
    assert ran
    assert after.outputs["ranking"].digest != before.outputs["ranking"].digest


def test_every_search_keeps_to_the_memory_of_the_setting_and_scores_do_not_depend_on_it(
    ranked: tuple[Shelf, Result], shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_tiles(monkeypatch)
    shelf.run(runtime__memory_mib=1.5)
    assert seen == {1.5}
    measures = [{key: row[key] for key in rank.SCORES} for row in shelf.record()["rows"]]
    assert measures == [{key: row[key] for key in rank.SCORES} for row in ranked[0].record()["rows"]]


def test_one_more_source_costs_nothing_of_the_target_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Radii and kernel sums of the target, and moments of its parts, are made once in a process."""
    radii: list[int] = []
    search, sums, of_parts = reals.squared_radii, reals.within_sums, reals.RealMoments
    made = {"within": 0, "moments": 0}

    def counted(x: Any, *rest: Any) -> Any:
        radii.append(len(x))
        return search(x, *rest)

    def counted_sums(real: Any) -> Any:
        made["within"] += 1
        return sums(real)

    def counted_moments(*given: Any, **named: Any) -> Any:
        made["moments"] += 1
        return of_parts(*given, **named)

    monkeypatch.setattr(reals, "squared_radii", counted)
    monkeypatch.setattr(reals, "within_sums", counted_sums)
    monkeypatch.setattr(reals, "RealMoments", counted_moments)
    shelf.run()
    assert len(shelf.record()["rows"]) == 3
    assert (radii, made) == ([34], {"within": 1, "moments": 1})
    shelf.run(rank__samples=20)
    assert (radii, made) == ([34, 34], {"within": 2, "moments": 2}), "the next ranking begins afresh"


def test_scores_are_those_of_the_metrics_on_the_same_features(ranked: tuple[Shelf, Result]) -> None:
    shelf, result = ranked
    extractor = make_extractor(shelf.extractor)
    data = ImageSet.open(shelf.root / "out" / "prepare" / "dataset")
    target = extractor(np.concatenate([data.images("train"), data.images("validation")]))
    rows = {row["name"]: row for row in shelf.record()["rows"]}
    assert set(rows) == {"near", "far", "scratch"}
    for name in ("near", "far"):
        features = extractor(sample(load_gan(shelf.root / name).generator_ema, SAMPLES, 0))
        density, coverage = density_coverage(features, target, k=5)
        expected = {
            "recall": recall(target, features, k=NEIGHBOURS),
            "precision": precision(features, target, k=NEIGHBOURS),
            "density": density, "coverage": coverage,
            "kid": kid(features, target), "fd": frechet_estimate(features, target),
        }  # fmt: skip
        for metric, estimate in expected.items():
            assert rows[name][metric]["value"] == pytest.approx(estimate.value, rel=1e-6), metric
        assert rows[name]["kid"]["low"] == pytest.approx(expected["kid"].low, rel=1e-6)
    assert result.metrics == {
        "recall": rows[shelf.record()["choice"]["name"]]["recall"]["value"], "sources": 2.0,
    }  # fmt: skip


def test_the_folder_holds_tables_and_pictures(ranked: tuple[Shelf, Result]) -> None:
    shelf, _ = ranked
    record = shelf.record()
    files = {p.relative_to(shelf.ranking).as_posix() for p in shelf.ranking.rglob("*") if p.is_file()}
    assert files == {
        "ranking.json", "ranking.csv", "target.png", "uncovered.png",
        "sheets/near.png", "sheets/far.png", "sheets/scratch.png",
    }  # fmt: skip
    for name in files:
        if name.endswith(".png"):
            Image.open(shelf.ranking / name).load()
    table = list(csv.DictReader((shelf.ranking / "ranking.csv").open()))
    assert [row["name"] for row in table] == [row["name"] for row in record["rows"]]
    assert [float(row["kid"]) for row in table] == sorted(float(row["kid"]) for row in table)
    assert record["rows"][0]["name"] == record["choice"]["name"]


def test_uncovered_shows_the_images_that_the_choice_does_not_reach(shelf: Shelf) -> None:
    shelf.run(rank__choose="near")
    extractor = make_extractor(shelf.extractor)
    data = ImageSet.open(shelf.root / "out" / "prepare" / "dataset")
    images = np.concatenate([data.images("train"), data.images("validation")])
    gan = load_gan(shelf.root / "near")
    features = extractor(sample(gan.generator_ema, SAMPLES, 0))
    outside = images[~covered(extractor(images), features, k=NEIGHBOURS)]
    assert len(outside) > 0
    picture = np.asarray(Image.open(shelf.ranking / "uncovered.png").convert("RGB"))
    cell, gap = 64, 2
    assert picture.shape[0] == -(-min(len(outside), 32) // 8) * (cell + gap) + gap
    first = picture[gap : gap + cell, gap : gap + cell]
    assert np.array_equal(first, outside[0].repeat(2, axis=0).repeat(2, axis=1))


def test_where_everything_is_covered_the_sheet_is_empty(shelf: Shelf) -> None:
    drawn_from(shelf, "near")
    shelf.run(rank__samples=38, rank__choose="near")
    (row,) = (row for row in shelf.record()["rows"] if row["name"] == "near")
    assert row["recall"]["value"] == 1.0
    assert np.asarray(Image.open(shelf.ranking / "uncovered.png").convert("RGB")).min() == 255


def drawn_from(shelf: Shelf, source: str) -> None:
    """Put samples of a source in the place of the images."""
    stored = np.lib.format.open_memmap(shelf.root / "out" / "prepare" / "dataset" / "images.npy", mode="r+")
    stored[:] = sample(load_gan(shelf.root / source).generator_ema, len(stored), 0)
    stored.flush()


@pytest.mark.parametrize("name", ["far", "scratch"])
def test_a_choice_by_name_is_kept_and_said(shelf: Shelf, name: str) -> None:
    shelf.run(rank__choose=name)
    choice = shelf.record()["choice"]
    assert choice["name"] == name
    assert choice["why"].startswith(f"{name} was asked for by rank.choose; its samples have KID ")
    assert shelf.record()["worst"] not in (name, "scratch", None)


def test_a_choice_that_is_no_candidate_is_refused(shelf: Shelf) -> None:
    error = shelf.fails(ConfigError, "rank.choose: 'nobody' is not a candidate", rank__choose="nobody")
    assert "near, far" in error.remedy
    assert error.exit_code == 2
    shelf.fails(ConfigError, "'nobody' is not in", rank__sources="[nobody]")


def test_equal_sources_are_tied_and_the_sentence_says_what_decided(shelf: Shelf) -> None:
    shelf.write([shelf.source(name, tiny_spec(), 1) for name in ("b", "a")])
    drawn_from(shelf, "a")
    shelf.run()
    record = shelf.record()
    assert [row["name"] for row in record["rows"]] == ["a", "b", "scratch"], (
        "where all is equal the name decides"
    )
    assert record["tied"] == ["a", "b"] or record["tied"] == ["b", "a"]
    why = record["choice"]["why"]
    assert why.startswith("a: its samples have KID ")
    assert "not clearly more or less than b; among equals more recall decides" in why
    assert "Recall would choose it too" in why


def test_among_sources_of_equal_recall_more_training_images_decide(shelf: Shelf) -> None:
    counts = {"small": 10, "large": 2000}
    shelf.write([shelf.source(name, tiny_spec(), 1, images=count) for name, count in counts.items()])
    drawn_from(shelf, "small")
    shelf.run(rank__selector="recall")
    choice = shelf.record()["choice"]
    assert choice["name"] == "large"
    assert "not clearly more or less than" in choice["why"] and "small" in choice["why"]
    assert "more training images and then the lower Fréchet distance decide" in choice["why"]
    # What decides is in the digest of the catalogue, so another number is another ranking.
    assert not shelf.run(rank__selector="recall")[1]
    shelf.write([shelf.source(name, tiny_spec(), 1, images=10) for name in counts])
    assert shelf.run(rank__selector="recall")[1]
    assert {row["training_images"] for row in shelf.record()["rows"]} == {10, 0}
    (shelf.root / "small" / "card.json").write_text('{"data": {"images": 9999}}')
    assert not shelf.run(rank__selector="recall")[1]


def dcgan(shelf: Shelf, name: str, **changes: Any) -> dict[str, Any]:
    """Write a source of a family that cannot be cut or grown."""
    sizes: dict[str, Any] = {"resolution": 64, "z_dim": 8, "g_ch": 2, "d_ch": 2} | changes
    return shelf.source(name, DCGANSpec(**sizes))


def test_a_source_of_another_size_is_left_out_and_named(shelf: Shelf) -> None:
    shelf.write([shelf.source("near", tiny_spec(), 1), dcgan(shelf, "big")])
    result, _ = shelf.run()
    assert [row["name"] for row in shelf.record()["rows"] if row["kind"] == "source"] == ["near"]
    assert "big was left out: it makes 64 px images of 3 channels" in result.warnings
    assert result.metrics["sources"] == 1.0


def test_where_no_source_fits_the_stage_ends_with_2(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.write([dcgan(shelf, "big"), dcgan(shelf, "grey", channels=1)])
    # The test's own handlers stay in place.
    monkeypatch.setattr(StopSignal, "install", lambda self: None)
    words = [word for text in shelf.assignments() for word in ("--set", text)]
    (shelf.root / "params.yaml").write_text("{}")
    given = ["--params", shelf.root / "params.yaml", "--out", shelf.root / "out", *words]
    monkeypatch.setattr(sys, "argv", ["graftgan", "rank", *map(str, given)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "no source in" in said and "makes 32 px images of 3 channels" in said
    assert "fix: change data.resolution, add a source, or set rank.choose=scratch" in said
    assert not shelf.ranking.exists()
    shelf.run(rank__choose="scratch")
    assert shelf.record()["choice"]["name"] == "scratch"


def test_a_left_out_source_cannot_be_chosen(shelf: Shelf) -> None:
    shelf.write([shelf.source("near", tiny_spec(), 1), dcgan(shelf, "big")])
    error = shelf.fails(ConfigError, "rank.choose: 'big' is not a candidate", rank__choose="big")
    assert "it makes 64 px images of 3 channels" in str(error)


def test_a_size_that_the_family_can_be_cut_to_is_ranked(shelf: Shelf) -> None:
    shelf.write([shelf.source("wide", tiny_spec(resolution=64), 1)])
    shelf.run()
    (row,) = (row for row in shelf.record()["rows"] if row["kind"] == "source")
    assert row["resolution"] == 64
    assert json.loads((shelf.root / "wide" / SPEC).read_text())["resolution"] == 64


def test_more_neighbours_than_samples_are_a_configuration_error(shelf: Shelf) -> None:
    error = shelf.fails(ConfigError, "rank.neighbours", rank__neighbours=SAMPLES)
    assert "rank.samples" in str(error)


def test_nine_images_are_too_few(shelf: Shelf) -> None:
    write_set(shelf.root / "few" / "prepare" / "dataset", train=9, validation=0)
    with pytest.raises(DataError, match="ranking needs 10 images besides the test images, there are 9"):
        shelf.run("few")


def test_a_set_that_nothing_covers_is_warned_of(shelf: Shelf) -> None:
    result, _ = shelf.run(rank__low_recall=1.0)
    assert any("no source covers your data" in text for text in result.warnings)
    assert any("recall is counted on 34 images: its steps are 0.029" in text for text in result.warnings)
