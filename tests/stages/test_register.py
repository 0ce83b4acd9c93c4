"""The register stage with real tiny models, a real extractor and a real registry in a local store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR
from tracking.support import free_port, params_for, python_examples, run_as_documented

from graftgan.config import Params, Track
from graftgan.context import Context, NullTracker, Registered, Registry
from graftgan.contract import Outcome, digest_path
from graftgan.errors import CheckpointError, MissingInput, TryAgain
from graftgan.gans.base import Gan, sample
from graftgan.identity import RunIdentity
from graftgan.journal import ALIAS_TAG, PREDECESSOR_TAG, REASON_TAG, SUPERSEDED_TAG, read_events
from graftgan.registry import MlflowRegistry
from graftgan.stages.register import run
from graftgan.sync import sync
from graftgan.tracker import JournalTracker, journal_root, open_registry, open_tracker
from graftgan.versions import promote
from stages.models import tiny_gan, write_dataset, write_models, write_scores

TEST_IMAGES = 48
GOOD, BAD, ALIKE = 1, 2, 3
QUICK = {"extractor": "efflite0-128", "samples": 48}


@pytest.fixture(scope="module")
def test_images() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return sample(tiny_gan(GOOD).generator_ema, TEST_IMAGES, 123)


@dataclass
class Bench:
    """Runs the stage again and again in one place, as a pipeline would."""

    place: Path
    track: Track
    images: np.ndarray[Any, np.dtype[np.uint8]]
    runs: int = 0

    def params(self, mode: str = "enforce", **changes: Any) -> Params:
        return params_for(
            self.track,
            evaluate=QUICK,
            registry={"name": "faces", "gate": {"mode": mode, **changes}},
            runtime={"device": "cpu"},
        )

    def inputs(self, gan: Gan, images: np.ndarray[Any, np.dtype[np.uint8]] | None = None) -> dict[str, Path]:
        self.runs += 1
        folder = self.place / f"in{self.runs}"
        digest = write_dataset(folder / "dataset", self.images if images is None else images)
        report = folder / "report.html"
        report.write_text("<html></html>")
        return {
            "dataset": folder / "dataset",
            "models": write_models(folder / "models", gan, digest),
            "scores": write_scores(folder / "scores", digest),
            "report": report,
        }

    @contextmanager
    def context(self, params: Params, registry: bool = True) -> Iterator[Context]:
        identity = RunIdentity(f"key{self.runs}", "pipeline", "explicit")
        with open_tracker(params_for(replace_mode(self.track)), "register", identity) as tracker:
            found = open_registry(params, tracker) if registry else None
            yield Context(self.place / "state", self.place / "cache", tracker=tracker, registry=found)

    def register(self, inputs: dict[str, Path], params: Params, registry: bool = True) -> dict[str, Any]:
        with self.context(params, registry) as ctx:
            self.outcome, self.package = self.stage(inputs, params, ctx)
        decision: dict[str, Any] = json.loads((self.place / "state" / "decision.json").read_text())
        return decision

    def stage(self, inputs: dict[str, Path], params: Params, ctx: Context) -> tuple[Outcome, Path]:
        package = self.place / f"package{len(list(self.place.glob('package*')))}"
        package.mkdir()
        return run(inputs, params, {"package": package}, ctx), package

    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.track.uri, self.track.uri)

    def versions(self) -> list[Any]:
        return list(self.client().search_model_versions("name = 'faces'"))

    def aliases(self) -> dict[str, str]:
        found = self.client().get_registered_model("faces").aliases
        return {str(alias): str(version) for alias, version in found.items()}

    def alias(self, name: str) -> str:
        return str(self.client().get_model_version_by_alias("faces", name).version)


def replace_mode(track: Track) -> Track:
    """Journal only: the tests send themselves, so no follower process is needed."""
    return track.model_copy(update={"mode": "journal"})


@pytest.fixture
def bench(place: Path, store: Track, test_images: np.ndarray[Any, np.dtype[np.uint8]]) -> Bench:
    return Bench(place, store, test_images)


def test_first_model_becomes_champion_and_can_be_loaded_by_alias(bench: Bench) -> None:
    decision = bench.register(bench.inputs(tiny_gan(GOOD)), bench.params())
    assert (decision["alias"], decision["version"], decision["applied"]) == ("champion", "1", True)
    (version,) = bench.versions()
    assert version.tags["graftgan.package"] == digest_path(bench.package) == decision["key"]
    assert version.tags["graftgan.dataset"] and version.tags["graftgan.method"] == "full"
    assert version.tags["graftgan.source"] == "open-peeps" and version.tags["graftgan.protocol"]
    assert version.tags["graftgan.code"] and version.tags["graftgan.git_revision"] == "0123abc-dirty"
    assert version.description.startswith("# faces: micah.parquet at 32 px")
    model = mlflow.pyfunc.load_model("models:/faces@champion")
    images = model.predict(pd.DataFrame({"seed": [7], "truncation_psi": [1.0]}))
    assert np.array_equal(images, sample(tiny_gan(GOOD).generator_ema, 1, 7, 1.0))
    (use,) = python_examples((bench.package / "card.md").read_text())
    drawn = run_as_documented(bench.place, use)["images"]
    assert np.array_equal(drawn[0], sample(tiny_gan(GOOD).generator_ema, 1, 0, 1.0)[0])
    stage = bench.client().get_run(version.run_id)
    assert stage.data.tags["graftgan.stage"] == "register"
    (output,) = stage.outputs.model_outputs
    assert version.source == f"models:/{output.model_id}"
    logged = bench.client().get_logged_model(output.model_id)
    (score,) = logged.metrics
    assert (score.key, score.value) == ("kid_efflite0", 0.0123)
    assert logged.source_run_id == version.run_id and str(logged.status) == "READY"


def test_same_package_is_never_registered_twice(bench: Bench) -> None:
    inputs = bench.inputs(tiny_gan(GOOD))
    bench.register(inputs, bench.params())
    first = (bench.outcome, digest_path(bench.package))
    decision = bench.register(inputs, bench.params())
    assert (bench.outcome, digest_path(bench.package)) == first
    assert len(bench.versions()) == 1
    assert decision["version"] == "1" and not decision["applied"] and "before" in decision["reason"]


def test_better_model_takes_the_champions_place_and_a_worse_one_does_not(bench: Bench) -> None:
    bench.register(bench.inputs(tiny_gan(BAD)), bench.params())
    better = bench.register(bench.inputs(tiny_gan(GOOD)), bench.params())
    assert (better["alias"], better["version"], better["champion"]) == ("champion", "2", "1")
    assert better["low"] <= better["difference"] <= better["high"] < 0
    old = bench.client().get_model_version("faces", "1")
    assert old.tags["graftgan.superseded_by"] == "2"
    worse = bench.register(bench.inputs(tiny_gan(ALIKE)), bench.params())
    assert (worse["alias"], worse["version"]) == ("challenger", "3")
    assert worse["difference"] > 0 and "not surely better" in worse["reason"]
    assert (bench.alias("champion"), bench.alias("challenger")) == ("2", "3")
    kept = bench.client().get_model_version("faces", "3").tags
    assert kept["graftgan.reason"] == worse["reason"]


def test_gain_within_the_margin_is_not_enough(bench: Bench) -> None:
    bench.register(bench.inputs(tiny_gan(BAD)), bench.params())
    decision = bench.register(bench.inputs(tiny_gan(GOOD)), bench.params(min_gain=1e6))
    assert decision["alias"] == "challenger" and "by more than 1e+06" in decision["reason"]
    assert bench.alias("champion") == "1"


def test_dry_run_registers_but_moves_no_alias(bench: Bench) -> None:
    bench.register(bench.inputs(tiny_gan(BAD)), bench.params())
    inputs = bench.inputs(tiny_gan(GOOD))
    decision = bench.register(inputs, bench.params("dry-run"))
    assert (decision["alias"], decision["applied"], decision["version"]) == ("champion", False, "2")
    assert bench.alias("champion") == "1"
    enforced = bench.register(inputs, bench.params())
    assert enforced["applied"] and enforced["version"] == "2" and bench.alias("champion") == "2"


def test_gate_off_promotes_without_comparing(bench: Bench) -> None:
    bench.register(bench.inputs(tiny_gan(GOOD)), bench.params())
    decision = bench.register(bench.inputs(tiny_gan(BAD)), bench.params("off"))
    assert decision["alias"] == "champion" and decision["difference"] is None
    assert bench.alias("champion") == "2"


def test_champion_of_other_images_or_another_size_is_not_compared(bench: Bench) -> None:
    bench.register(bench.inputs(tiny_gan(GOOD)), bench.params())
    other = 255 - bench.images
    decision = bench.register(bench.inputs(tiny_gan(BAD), other), bench.params())
    assert decision["alias"] == "challenger" and "other images" in decision["reason"]
    grey = tiny_gan(BAD, channels=1)
    inputs = bench.inputs(grey)
    decision = bench.register(inputs, bench.params())
    assert decision["alias"] == "challenger" and "another size" in decision["reason"]
    assert bench.alias("champion") == "1"


def test_champion_whose_files_are_gone_is_not_compared(bench: Bench) -> None:
    bench.register(bench.inputs(tiny_gan(GOOD)), bench.params())
    for weights in (bench.place / "artifacts").rglob("model.safetensors"):
        weights.unlink()
    decision = bench.register(bench.inputs(tiny_gan(BAD)), bench.params())
    assert decision["alias"] == "challenger" and "cannot be read" in decision["reason"]


def test_too_few_test_images_never_crown(bench: Bench) -> None:
    bench.images = bench.images[:2]
    bench.register(bench.inputs(tiny_gan(BAD)), bench.params())
    decision = bench.register(bench.inputs(tiny_gan(GOOD)), bench.params())
    assert decision["alias"] == "challenger" and "too few test images" in decision["reason"]


def test_without_a_registry_the_request_waits_in_the_journal(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = bench.inputs(tiny_gan(GOOD))
    decision = bench.register(inputs, bench.params(), registry=False)
    outcome, digest = bench.outcome, digest_path(bench.package)
    assert decision["version"] == "" and "graftgan sync" in decision["reason"]
    assert "packed but not registered" in caplog.text
    assert sync(journal_root(), bench.track).complete
    (version,) = bench.versions()
    assert version.tags["graftgan.package"] == decision["key"] and bench.alias("champion") == "1"
    assert sync(journal_root(), bench.track).events == 0
    again = bench.register(inputs, bench.params())
    assert again["version"] == "1" and len(bench.versions()) == 1
    assert (bench.outcome, digest_path(bench.package)) == (outcome, digest), "the registry is no result"


def test_second_model_registered_by_sync_is_a_challenger(bench: Bench) -> None:
    bench.register(bench.inputs(tiny_gan(BAD)), bench.params())
    bench.register(bench.inputs(tiny_gan(GOOD)), bench.params(), registry=False)
    assert sync(journal_root(), bench.track).complete
    assert (bench.alias("champion"), bench.alias("challenger")) == ("1", "2")
    bench.register(bench.inputs(tiny_gan(ALIKE)), bench.params("off"), registry=False)
    assert sync(journal_root(), bench.track).complete
    assert bench.alias("champion") == "3"


class Failing:
    """A registry whose server dies at the given call; before that, the real one."""

    def __init__(self, real: Registry, at: str) -> None:
        self._real, self._at, self._dead = real, at, False

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self._dead = self._dead or name == self._at
            if self._dead and name == "available":
                return False
            if self._dead:
                raise TryAgain("the server is gone")
            return getattr(self._real, name)(*arguments)

        return call


@pytest.mark.parametrize("at", ["find", "download", "promote"])
def test_server_that_dies_at_any_call_leaves_one_version_after_sync(bench: Bench, at: str) -> None:
    bench.register(bench.inputs(tiny_gan(BAD)), bench.params())
    inputs, params = bench.inputs(tiny_gan(GOOD)), bench.params()
    with bench.context(params) as ctx:
        assert ctx.registry is not None
        bench.stage(inputs, params, replace(ctx, registry=Failing(ctx.registry, at)))
    report = sync(journal_root(), bench.track)
    assert report.complete and report.refused == (), str(report)
    assert len(bench.versions()) == 2
    assert (bench.alias("champion"), bench.alias("challenger")) == ("1", "2")


WRITES = ("set_model_version_tag", "set_registered_model_alias", "delete_registered_model_alias")


def fail_once(registry: Registry | None, at: int, error: BaseException) -> list[str]:
    """Let the writing call number `at` of an open registry fail; return the calls as they come."""
    assert isinstance(registry, MlflowRegistry)
    calls: list[str] = []

    def failing(name: str, real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            if len(calls) == at:
                raise error
            return real(*arguments)

        return call

    for name in WRITES:
        setattr(registry._client, name, failing(name, getattr(registry._client, name)))
    return calls


def settled_by_rerun(bench: Bench, inputs: dict[str, Path], at: int) -> dict[str, Any]:
    """The process is killed at a write; the stage runs again."""
    with bench.context(bench.params()) as ctx, pytest.raises(SystemExit):
        fail_once(ctx.registry, at, SystemExit(137))
        bench.stage(inputs, bench.params(), ctx)
    return bench.register(inputs, bench.params())


def settled_by_sync(bench: Bench, inputs: dict[str, Path], at: int) -> None:
    """The server dies at a write; the journal is sent when it is back."""
    with bench.context(bench.params()) as ctx:
        fail_once(ctx.registry, at, MlflowException("away", error_code=INTERNAL_ERROR))
        bench.stage(inputs, bench.params(), ctx)
    report = sync(journal_root(), bench.track)
    assert report.complete and report.refused == () and report.events, str(report)


def tags_of(bench: Bench, version: str) -> dict[str, str]:
    return dict(bench.client().get_model_version("faces", version).tags)


@pytest.mark.parametrize("again", [settled_by_rerun, settled_by_sync])
def test_first_champion_stays_champion_when_its_promotion_is_cut_short(bench: Bench, again: Any) -> None:
    inputs = bench.inputs(tiny_gan(GOOD))
    again(bench, inputs, at=3)
    assert bench.aliases() == {"champion": "1"}
    tags = tags_of(bench, "1")
    assert (tags[ALIAS_TAG], tags[REASON_TAG]) == ("champion", "it is the first model of this name")
    assert PREDECESSOR_TAG not in tags and SUPERSEDED_TAG not in tags
    third = bench.register(inputs, bench.params())
    assert (third["alias"], third["applied"]) == ("champion", False)


@pytest.mark.parametrize("at", [4, 5])
@pytest.mark.parametrize("again", [settled_by_rerun, settled_by_sync])
def test_new_champion_is_never_measured_against_itself(bench: Bench, again: Any, at: int) -> None:
    bench.register(bench.inputs(tiny_gan(BAD)), bench.params())
    again(bench, bench.inputs(tiny_gan(GOOD)), at)
    assert bench.aliases() == {"champion": "2"}
    tags = tags_of(bench, "2")
    assert tags[ALIAS_TAG] == "champion" and tags[PREDECESSOR_TAG] == "1"
    assert tags[REASON_TAG].startswith("it is better: KID less the champion's (version 1)")
    assert tags_of(bench, "1")[SUPERSEDED_TAG] == "2"


@pytest.mark.parametrize("at", [1, 2, 3])
def test_promotion_cut_short_before_the_alias_moved_is_judged_again(bench: Bench, at: int) -> None:
    bench.register(bench.inputs(tiny_gan(BAD)), bench.params())
    decision = settled_by_rerun(bench, bench.inputs(tiny_gan(GOOD)), at)
    assert (decision["alias"], decision["version"], decision["champion"]) == ("champion", "2", "1")
    assert bench.alias("champion") == "2" and tags_of(bench, "1")[SUPERSEDED_TAG] == "2"


def test_challenger_crowned_by_hand_sheds_its_old_alias_even_if_cut_short(bench: Bench) -> None:
    bench.register(bench.inputs(tiny_gan(GOOD)), bench.params())
    inputs = bench.inputs(tiny_gan(BAD))
    bench.register(inputs, bench.params())
    with bench.context(bench.params()) as ctx:
        calls = fail_once(ctx.registry, 5, MlflowException("away", error_code=INTERNAL_ERROR))
        assert isinstance(ctx.registry, MlflowRegistry)
        with pytest.raises(TryAgain, match="away"):
            promote(ctx.registry, "faces", "2", "champion", "I like it")
        assert calls[-1] == "delete_registered_model_alias"
        assert bench.aliases() == {"champion": "2", "challenger": "2"}
        assert "already is champion" in promote(ctx.registry, "faces", "2", "champion", "once more")
    assert bench.aliases() == {"champion": "2"}
    assert (tags_of(bench, "2")[ALIAS_TAG], tags_of(bench, "2")[REASON_TAG]) == ("champion", "I like it")
    assert bench.register(inputs, bench.params())["alias"] == "champion"


def test_tracking_off_says_that_nothing_is_registered(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    ctx = Context(bench.place / "state", bench.place / "cache", tracker=NullTracker())
    outcome, package = bench.stage(bench.inputs(tiny_gan(GOOD)), bench.params(), ctx)
    assert outcome.metrics["package_bytes"] == sum(f.stat().st_size for f in package.iterdir())
    assert outcome.warnings == ()
    assert "will not be registered" in caplog.text


def test_decision_is_told_to_the_run(bench: Bench) -> None:
    params, inputs = bench.params(), bench.inputs(tiny_gan(GOOD))
    with bench.context(params) as ctx:
        bench.stage(inputs, params, ctx)
        assert isinstance(ctx.tracker, JournalTracker)
        tags = [e.data["tags"] for e in read_events(ctx.tracker.path) if e.kind == "tags"]
    assert tags[-1]["graftgan.register.decision"] == "champion"
    assert tags[-1]["graftgan.register.version"] == "1"


def test_package_says_where_it_comes_from(bench: Bench) -> None:
    bench.register(bench.inputs(tiny_gan(GOOD)), bench.params(), registry=False)
    facts = json.loads((bench.package / "model.json").read_text())
    assert facts["provenance"]["source_sha256"] == "cd" * 32
    assert facts["scores"] == {"kid_efflite0": {"value": 0.0123, "low": 0.011, "high": 0.0136}}
    assert facts["range"] == [-1.0, 1.0] and facts["schema"] == 1
    text = "".join((bench.package / name).read_text() for name in ("model.json", "card.md"))
    assert str(bench.place) not in text


def test_incomplete_inputs_are_named(bench: Bench) -> None:
    ctx = Context(bench.place / "state", bench.place / "cache")
    inputs = bench.inputs(tiny_gan(GOOD))
    scores = inputs["scores"] / "scores.json"
    scores.write_text(json.dumps({"runs": {}}))
    with pytest.raises(MissingInput, match="protocol"):
        bench.stage(inputs, bench.params(), ctx)
    scores.unlink()
    with pytest.raises(MissingInput, match=r"scores\.json"):
        bench.stage(inputs, bench.params(), ctx)
    inputs = bench.inputs(tiny_gan(GOOD))
    weights = inputs["models"] / "chosen" / "gan.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"gan\.safetensors"):
        bench.stage(inputs, bench.params(), ctx)


def test_registry_methods_keep_their_word(bench: Bench) -> None:
    bench.register(bench.inputs(tiny_gan(GOOD)), bench.params())
    key = digest_path(bench.package)
    with bench.context(bench.params()) as ctx:
        registry = ctx.registry
        assert isinstance(registry, MlflowRegistry)
        found = registry.find("faces", key)
        assert found is not None and (found.version, found.key) == ("1", key)
        assert registry.find("faces", "0" * 64) is None and registry.find("nobody", key) is None
        assert registry.champion("nobody") is None
        assert registry.publish("faces", bench.package, key, {}) == found
        assert digest_path(registry.download(found, bench.place / "fetched")) == key
        with pytest.raises(TryAgain):
            registry.promote(Registered("faces", "99", ""), "champion", "x")
        with pytest.raises(TryAgain):
            registry.download(Registered("faces", "99", ""), bench.place / "fetched")


def test_stage_runs_where_the_client_is_not_installed(bench: Bench) -> None:
    inputs = bench.inputs(tiny_gan(GOOD))
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "sys.modules['mlflow'] = None\n"
        "from graftgan.params import resolve\n"
        "from graftgan.context import Context\n"
        "from graftgan.stages.register import run\n"
        "inputs = {k: Path(v) for k, v in json.loads(sys.argv[1]).items()}\n"
        "out = Path(sys.argv[2])\n"
        "out.mkdir()\n"
        "run(inputs, resolve({}, 'x'), {'package': out}, Context(Path('s'), Path('c')))\n"
    )
    arguments = [json.dumps({k: str(v) for k, v in inputs.items()}), str(bench.place / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (bench.place / "out" / "model.safetensors").is_file()


def test_server_away_from_the_start(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    away = bench.track.model_copy(update={"uri": f"http://127.0.0.1:{free_port()}", "timeout_s": 1.0})
    params = params_for(away, registry={"name": "faces"})
    decision = bench.register(bench.inputs(tiny_gan(GOOD)), params)
    assert decision["version"] == "" and "no model registry" in caplog.text
