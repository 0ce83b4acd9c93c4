"""A bank as an MLflow model: a real bank, a real local store, and a consumer that knows nothing of us."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from bank.banks import SIZE_PX, TINY, grown, shake
from mlflow.exceptions import MlflowException
from PIL import Image

from graftgan.bank.package import load_bank_package
from graftgan.bank.store import Bank
from graftgan.bank.tasks import begin, exact, finish, load_task
from graftgan.config import Track
from graftgan.context import Context, Registry
from graftgan.contract import digest_path, write_json
from graftgan.errors import CheckpointError, TryAgain
from graftgan.gans.base import to_uint8
from graftgan.identity import RunIdentity
from graftgan.lifelong_config import LifelongParams
from graftgan.lifelong_params import resolve_section
from graftgan.serving_limits import MAX_ROWS
from graftgan.stages.lifelong_register import run
from graftgan.stages.lifelong_specs import lifelong_stage
from graftgan.sync import sync
from graftgan.tracker import journal_root, open_registry, open_tracker
from graftgan.tracking import save_pyfunc
from stages.lifelong_project import description

NAMES = ("t1", "t2")


def png(seed: int, side: int = SIZE_PX) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(raw: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(raw)))


def directly(bank: Bank, task: str, raw: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    images = torch.from_numpy(pixels_of(raw).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with exact():
        return to_uint8(load_task(bank, task)(images))[0]


def add(bank: Bank, name: str, seed: int) -> None:
    begun = begin(bank, name, "random", seed=seed)
    shake(begun.generator, seed)
    finish(bank, begun, size_px=SIZE_PX)


def write_inputs(folder: Path, bank: Bank) -> dict[str, Path]:
    """Write what the stages before leave of a bank, with made-up scores."""
    folder.mkdir()
    shutil.copytree(bank.folder, folder / "bank", ignore=shutil.ignore_patterns(".lock"))
    names = [task.name for task in bank.tasks]
    scores = {"l1": {"value": 0.125, "low": 0.1, "high": 0.15, "stderr": 0.01}}
    for index, name in enumerate(names, 1):
        (folder / "tasks" / name).mkdir(parents=True)
        facts = {
            "name": name, "index": index, "kind": "paired", "init": "random", "images": {"train": 70},
            "data": {"make": "grey", "target": "pictures", "input": None, "kind": "paired", "resolution": 16},
            "added": 100, "ratio": 0.5, "cumulative": 100 * index, "cumulative_ratio": 0.5 * index,
            "warnings": ["few images"], "scores": scores, "licences": [["pictures", "CC0-1.0"]],
        }  # fmt: skip
        write_json(folder / "tasks" / name / "result.json", facts)
        (folder / "tasks" / name / "examples.png").write_bytes(png(index))
    entry = {"scores": scores, "images": 20, "outputs_sha256": "0" * 64}
    rows = [{"after": names[-1], "index": len(names), "tasks": dict.fromkeys(names, entry)}]
    protocol = {"extractor": "colours", "confidence": 0.95, "max_images": 1000}
    write_json(folder / "scores.json", {"protocol": protocol, "rows": rows})
    write_json(folder / "proof.json", {"statement": "forgetting is 0."})
    return {name: folder / (name + ("" if name in ("bank", "tasks") else ".json")) for name in
            ("bank", "tasks", "scores", "proof")}  # fmt: skip


@dataclass
class Bench:
    """Registers banks again and again in one place, as a pipeline would."""

    place: Path
    track: Track
    runs: int = 0

    def params(self, names: tuple[str, ...], gate: str) -> LifelongParams:
        task = {"data": {"target": "pictures", "make": "grey", "resolution": SIZE_PX}}
        raw = description(
            tasks=dict.fromkeys(names, task),
            registry={"name": "bank", "gate": gate},
            track=self.track.model_copy(update={"mode": "live"}).model_dump(),
        )
        return resolve_section(raw, LifelongParams, "test")

    @contextmanager
    def context(self, params: LifelongParams, registry: bool) -> Iterator[Context]:
        identity = RunIdentity(f"key{self.runs}", "pipeline", "explicit")
        # Journal only: nothing is sent behind the test's back.
        quiet = params.model_copy(update={"track": params.track.model_copy(update={"mode": "journal"})})
        spec = lifelong_stage(tuple(params.tasks), "register")
        with open_tracker(quiet, "register", identity, spec) as tracker:
            found: Registry | None = open_registry(params, tracker) if registry else None
            yield Context(self.place / "state", self.place / "cache", tracker=tracker, registry=found)

    def register(self, bank: Bank, gate: str = "enforce", registry: bool = True) -> dict[str, Any]:
        self.runs += 1
        inputs = write_inputs(self.place / f"in{self.runs}", bank)
        params = self.params(tuple(task.name for task in bank.tasks), gate)
        self.package = self.place / f"package{self.runs}"
        self.package.mkdir()
        with self.context(params, registry) as ctx:
            self.outcome = run(inputs, params, {"package": self.package}, ctx)
        decision: dict[str, Any] = json.loads((self.place / "state" / "decision.json").read_text())
        return decision

    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.track.uri, self.track.uri)

    def alias(self, name: str) -> str:
        return str(self.client().get_model_version_by_alias("bank", name).version)


@pytest.fixture
def bench(place: Path, store: Track) -> Bench:
    return Bench(place, store)


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return grown(tmp_path / "bank", ["random", "warm:t1"])


def test_first_bank_becomes_champion_and_translates_by_alias(bench: Bench, bank: Bank) -> None:
    decision = bench.register(bank)
    assert (decision["alias"], decision["version"], decision["applied"]) == ("champion", "1", True)
    model = mlflow.pyfunc.load_model("models:/bank@champion")
    files = [png(1), png(2), png(1)]
    made = model.predict(pd.DataFrame({"task": ["t1", "t1", "t2"], "image": files}))
    assert list(made) == ["image"]
    for raw, task, file in zip(made["image"], ("t1", "t1", "t2"), files, strict=True):
        assert np.array_equal(pixels_of(raw), directly(bank, task, file))
    assert made["image"][0] != made["image"][2]
    (version,) = bench.client().search_model_versions("name = 'bank'")
    assert version.tags["graftgan.tasks"] == "t1,t2" and version.tags["graftgan.lambda"] == "0.25"
    assert version.tags["graftgan.bank"] == bank.head and version.tags["graftgan.generator"] == "resnet_6"
    assert version.tags["graftgan.package"] == digest_path(bench.package) == decision["key"]
    assert version.description.startswith("# bank: 2 image-to-image tasks")
    assert "- pictures: CC0-1.0" in version.description and "forgetting is 0." in version.description
    (output,) = bench.client().get_run(version.run_id).outputs.model_outputs
    metrics = {m.key: m.value for m in bench.client().get_logged_model(output.model_id).metrics}
    assert metrics == {"t1.l1": 0.125, "t2.l1": 0.125}


def test_the_stored_model_has_a_signature_an_example_and_no_pickle(bench: Bench, bank: Bank) -> None:
    bench.register(bank)
    model = mlflow.pyfunc.load_model("models:/bank@champion")
    signature = model.metadata.signature
    assert signature.inputs.input_names() == ["task", "image"]
    assert [str(t) for t in signature.inputs.input_types()] == ["DataType.string", "DataType.binary"]
    assert signature.outputs.input_names() == ["image"]
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/bank@champion"))
    assert not [p for p in folder.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt", ".pyc")]
    assert (folder / "input_example.json").exists()
    assert str(bench.place) not in (folder / "MLmodel").read_text()
    requirements = (folder / "requirements.txt").read_text()
    assert all(name in requirements for name in ("torch==", "pillow==", "filelock==", "safetensors=="))


def test_a_consumer_without_our_package_on_its_path_uses_the_stored_code(bench: Bench, bank: Bank) -> None:
    bench.register(bank)
    (bench.place / "in.png").write_bytes(png(5))
    code = (
        "import sys, pathlib, mlflow, pandas\n"
        "sys.path = [p for p in sys.path if not p.rstrip('/').endswith('/src')]\n"
        f"mlflow.set_tracking_uri({bench.track.uri!r})\n"
        "model = mlflow.pyfunc.load_model('models:/bank@champion')\n"
        "import graftgan; assert 'code' in graftgan.__file__, graftgan.__file__\n"
        "rows = pandas.DataFrame({'task': ['t2'], 'image': [pathlib.Path('in.png').read_bytes()]})\n"
        "pathlib.Path('out.png').write_bytes(model.predict(rows)['image'][0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=bench.place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert np.array_equal(pixels_of((bench.place / "out.png").read_bytes()), directly(bank, "t2", png(5)))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"task": ["t9"], "image": [png(1)]}, "row 0: task is 't9'; the tasks are t1, t2"),
        ({"task": ["t1", "t1"], "image": [png(1), b"no picture"]}, "row 1: image cannot be read"),
        ({"task": ["t1"] * (MAX_ROWS + 1), "image": [png(1)] * (MAX_ROWS + 1)}, "at most 64"),
        ({"task": ["t1"]}, "image"),
        ({"image": [png(1)]}, "task"),
    ],
)
def test_bad_rows_are_named(bench: Bench, bank: Bank, rows: dict[str, list[Any]], words: str) -> None:
    bench.register(bank)
    with pytest.raises(MlflowException) as caught:
        mlflow.pyfunc.load_model("models:/bank@champion").predict(pd.DataFrame(rows))
    assert words in str(caught.value)


def test_a_bank_with_all_tasks_of_the_champion_takes_its_place(bench: Bench, bank: Bank) -> None:
    bench.register(bank)
    again = bench.register(bank)
    assert again["version"] == "1" and not again["applied"] and "before" in again["reason"]
    add(bank, "t3", 9)
    grown_on = bench.register(bank)
    assert (grown_on["alias"], grown_on["version"], grown_on["champion"]) == ("champion", "2", "1")
    assert "all 2 tasks" in grown_on["reason"] and "1 more" in grown_on["reason"]
    assert bench.client().get_model_version("bank", "1").tags["graftgan.superseded_by"] == "2"


def test_a_bank_that_lacks_or_has_changed_a_task_is_challenger(
    bench: Bench, bank: Bank, tmp_path: Path
) -> None:
    bench.register(bank)
    shorter = bench.register(grown(tmp_path / "shorter", ["random"]))
    assert shorter["alias"] == "challenger" and "lacks t2" in shorter["reason"]
    other = Bank.create(tmp_path / "other", TINY)
    for seed, name in enumerate(NAMES, 50):
        add(other, name, seed)
    changed = bench.register(other)
    assert changed["alias"] == "challenger" and "changed t1, t2" in changed["reason"]
    assert (bench.alias("champion"), bench.alias("challenger")) == ("1", "3")
    assert bench.register(grown(tmp_path / "s", ["random"], share=0.5), "dry-run")["applied"] is False
    assert bench.alias("champion") == "1"
    add(other, "t3", 60)
    assert bench.register(other, "off")["alias"] == "champion" and bench.alias("champion") == "5"


def test_without_a_registry_the_bank_waits_in_the_journal(bench: Bench, bank: Bank) -> None:
    decision = bench.register(bank, registry=False)
    assert not decision["applied"] and "graftgan sync" in decision["reason"]
    assert bench.client().search_registered_models() == []
    assert sync(journal_root(), bench.track).complete
    assert bench.alias("champion") == "1"
    files = pd.DataFrame({"task": ["t1"], "image": [png(3)]})
    made = mlflow.pyfunc.load_model("models:/bank@champion").predict(files)["image"][0]
    assert np.array_equal(pixels_of(made), directly(bank, "t1", png(3)))


def test_a_package_of_other_tasks_or_another_kind_is_refused(bench: Bench, bank: Bank) -> None:
    bench.register(bank, registry=False)
    path = bench.package / "model.json"
    facts = json.loads(path.read_text())
    write_json(path, facts | {"tasks": {"t1": facts["tasks"]["t1"]}})
    with pytest.raises(CheckpointError, match="other tasks"):
        load_bank_package(bench.package)
    write_json(path, facts | {"kind": "other"})
    with pytest.raises(CheckpointError, match="not a bank's package"):
        load_bank_package(bench.package)


def test_a_registry_that_falls_silent_leaves_the_request_in_the_journal(
    bench: Bench, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graftgan.registry import MlflowRegistry

    def silent(*_: object) -> None:
        raise TryAgain("MLflow: no answer")

    monkeypatch.setattr(MlflowRegistry, "champion", silent)
    decision = bench.register(bank)
    assert not decision["applied"] and "no answer" in decision["reason"]
    assert "graftgan sync" in decision["reason"]


def test_a_server_takes_and_gives_images_as_base64(bench: Bench, bank: Bank) -> None:
    from mlflow.pyfunc.scoring_server import invocations

    bench.register(bank, registry=False)
    save_pyfunc(bench.package, bench.place / "model")
    model = mlflow.pyfunc.load_model(str(bench.place / "model"))
    rows = [{"task": "t2", "image": base64.b64encode(png(4)).decode()}]
    answer = invocations(
        json.dumps({"dataframe_records": rows}), "application/json", model, model.metadata.get_input_schema()
    )
    assert answer.status == 200, answer.response
    (made,) = json.loads(answer.response)["predictions"]
    assert np.array_equal(pixels_of(base64.b64decode(made["image"])), directly(bank, "t2", png(4)))
