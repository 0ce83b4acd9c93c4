"""What a run of the real stages leaves in MLflow when its journal is sent later, and in the report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from faults.harness import write_project
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from graftgan.config import Track
from graftgan.context import NullTracker, StopSignal
from graftgan.contract import read_json
from graftgan.engine import Job, default_paths
from graftgan.identity import ENVIRONMENT
from graftgan.params import load
from graftgan.runner import run_stage, track_dataset
from graftgan.stages.specs import stage
from graftgan.sync import sync
from graftgan.tracker import journal_root

CHAIN = ("prepare", "rank", "finetune", "evaluate", "report")
ENLARGED = "48 images are smaller than 32 pixels and were enlarged"
WITHOUT_PARTNER = "dataset.json labels 1 images that are not there, such as 'absent.png'"


@dataclass
class Recorder(NullTracker):
    """A tracker that keeps the image sets that it is told of."""

    datasets: list[tuple[str, str, str, str]] = field(default_factory=list)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        self.datasets.append((name, digest, source, context))


@dataclass(frozen=True)
class Tracked:
    """A project whose stages ran, and the store that was told afterwards."""

    out: Path
    client: MlflowClient
    experiment: str

    def runs(self) -> dict[str, list[Run]]:
        """Return the runs by name; the first of a name is the oldest."""
        found: dict[str, list[Run]] = {}
        for run in self.client.search_runs([self.experiment], order_by=["attributes.start_time ASC"]):
            found.setdefault(run.info.run_name, []).append(run)
        return found

    def files(self, run: Run, folder: str = "") -> dict[str, int]:
        """Return the sizes of all artifacts of a run."""
        found: dict[str, int] = {}
        for item in self.client.list_artifacts(run.info.run_id, folder or None):
            found |= self.files(run, item.path) if item.is_dir else {item.path: item.file_size}
        return found

    def parent(self, run: Run) -> Run:
        return self.client.get_run(run.data.tags["mlflow.parentRunId"])


def write_small_pictures(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    labels = []
    for number in range(48):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((20, 20), Image.Resampling.BICUBIC).save(folder / f"{number:03}.png")
        labels.append(f'["{number:03}.png", 0]')
    labels.append('["absent.png", 0]')
    (folder / "dataset.json").write_text(f'{{"labels": [{", ".join(labels)}]}}')


def run_stages(place: Path, names: tuple[str, ...], *settings: str) -> list[bool]:
    params = load(
        place / "params.yaml",
        ["data.path=pictures", "track.mode=journal", "track.system_metrics=false", *settings],
    )
    jobs = [Job(stage(name), params, *default_paths(stage(name), place / "out")) for name in names]
    return [run_stage(job, StopSignal())[1] for job in jobs]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Tracked]:
    place = tmp_path_factory.mktemp("tracked") / "project"
    write_project(place)
    write_small_pictures(place / "pictures")
    shutil.copy(empty_store, place / "mlflow.db")
    track = Track(uri=f"sqlite:///{place / 'mlflow.db'}", artifacts=str(place / "artifacts"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ENVIRONMENT:
            patch.delenv(name, raising=False)
        patch.setenv("GRAFTGAN_HOME", str(place / "home"))
        patch.setenv("GRAFTGAN_CACHE", str(place / "cache"))
        patch.chdir(place)
        assert run_stages(place, CHAIN) == [True] * 5
        # Other parameters are another pipeline run, of which only the last two stages are not up to date.
        assert run_stages(place, CHAIN[:4], "evaluate.samples=17") == [False, False, False, True]
        assert run_stages(place, CHAIN, "evaluate.samples=17", "report.title=Other")[:4] == [False] * 4
        report = sync(journal_root(), track)
        assert report.complete and not report.refused, str(report)
        client = MlflowClient(track.uri)
        experiment = client.get_experiment_by_name(track.experiment)
        assert experiment is not None
        yield Tracked(place / "out", client, experiment.experiment_id)


def test_the_run_of_finetune_holds_all_but_the_weights(tracked: Tracked) -> None:
    files = tracked.files(tracked.runs()["finetune"][0])
    chosen = tracked.out / "finetune" / "models" / "chosen"
    readable = {path for path in chosen.iterdir() if path.suffix != ".safetensors"}
    assert {"model.json", "spec.json", "curves.csv", "samples.png", "timeline.png"} <= {
        p.name for p in readable
    }
    assert files == {f"finetune/models/chosen/{path.name}": path.stat().st_size for path in readable}


def test_the_runs_of_other_stages_hold_what_people_look_at(tracked: Tracked) -> None:
    runs = tracked.runs()
    prepare = set(tracked.files(runs["prepare"][0]))
    assert {"prepare/dataset/dataset.json", "prepare/data_docs/index.html"} <= prepare
    assert not {Path(name).suffix for name in prepare} - {".json", ".html", ".css"}
    ranking = {
        f"rank/ranking/{name}" for name in ("ranking.json", "ranking.csv", "target.png", "sheets/tiny.png")
    }
    assert ranking <= set(tracked.files(runs["rank"][0]))
    scores = {f"evaluate/scores/{name}" for name in ("scores.json", "scores.csv", "samples/chosen.png")}
    assert scores <= set(tracked.files(runs["evaluate"][0]))
    assert set(tracked.files(runs["report"][0])) == {"report/report.html", "report/verdict.md"}


def test_every_stage_names_the_image_set_and_so_does_each_parent(tracked: Tracked) -> None:
    digest = read_json(tracked.out / "prepare" / "dataset" / "dataset.json")["digest"][:36]
    runs = tracked.runs()
    contexts = {}
    for name in CHAIN:
        for run in runs[name]:
            for each in (run, tracked.parent(run)):
                (given,) = each.inputs.dataset_inputs
                assert (given.dataset.name, given.dataset.digest) == ("pictures", digest)
            (own,) = run.inputs.dataset_inputs
            contexts[name] = {tag.key: tag.value for tag in own.tags}["mlflow.data.context"]
    assert contexts == {
        "prepare": "training",
        "rank": "training",
        "finetune": "training",
        "evaluate": "test",
        "report": "reporting",
    }
    assert [len(runs[name]) for name in CHAIN] == [1, 1, 1, 2, 2]
    parents = {
        run.info.run_id
        for name in ("finetune", "evaluate", "report")
        for run in map(tracked.parent, runs[name])
    }
    assert len(parents) == 3, "evaluate and report ran again, each below a parent of its own"


def test_the_report_tells_what_prepare_warned_of(tracked: Tracked) -> None:
    warnings = read_json(tracked.out / "prepare" / "result.json")["warnings"]
    assert {ENLARGED, WITHOUT_PARTNER} <= set(warnings)
    assert read_json(tracked.out / "prepare" / "dataset" / "dataset.json")["warnings"] == warnings
    page = (tracked.out / "report" / "report.html").read_text(encoding="utf-8")
    verdict = (tracked.out / "report" / "verdict.md").read_text(encoding="utf-8")
    assert ENLARGED in page and f"Warning: {ENLARGED}" in verdict
    assert page.count("labels 1 images that are not there") == 1


def test_facts_that_cannot_be_read_are_left_to_the_stage(tmp_path: Path) -> None:
    tracker, paths = Recorder(), {"dataset": tmp_path}
    track_dataset(stage("rank"), paths, tracker)
    for text in ("{", "[]", '{"digest": "ab"}'):
        (tmp_path / "dataset.json").write_text(text)
        track_dataset(stage("rank"), paths, tracker)
    assert tracker.datasets == []
    (tmp_path / "dataset.json").write_text('{"digest": "ab", "source": "set.zip"}')
    track_dataset(stage("evaluate"), paths, tracker)
    track_dataset(stage("rank-source"), paths, tracker)
    track_dataset(stage("prepare"), {"data_docs": tmp_path}, tracker)
    assert tracker.datasets == [("set", "ab", "set.zip", "test")]
