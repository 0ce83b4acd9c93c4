"""All stages against real PostgreSQL, S3 and MLflow: faults, a killed server, and planted secrets."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from planted import MARK, PLANTED, leaks, left

from graftgan.contract import Result
from graftgan.journal import pending_bytes
from graftgan.stages.specs import STAGES
from stores.projects import PATIENCE_S, Project, write_project
from stores.services import Stack

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)
STAGE_NAMES = {spec.name for spec in STAGES}


def count(stack: Stack, sql: str) -> int:
    return int(stack.postgres.query(sql)[0][0])


def sync_until_complete(project: Project, tries: int = 5) -> str:
    for _ in range(tries):
        code, output = project.run("sync")
        if code == 0:
            return output
        assert code == 75, output
    raise AssertionError(output)


def assert_all_there(stack: Stack, project: Project, name: str) -> None:
    """Everything the journals hold is on the server: runs, points, artifacts, one champion."""
    client = MlflowClient(stack.mlflow.uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.info.run_name for run in runs} >= STAGE_NAMES and len(runs) == len(STAGE_NAMES) + 1
    stored = stack.postgres.query(
        "select key, value, timestamp, step from metrics join runs using (run_uuid) "
        f"where experiment_id = {experiment.experiment_id}"
    )
    sent = project.points()
    assert len(sent) > 50
    # The server has the scores of the registered model besides.
    assert Counter(row for row in stored if row in set(sent)) == Counter(sent)
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert client.get_model_version_by_alias(name, "champion").version == version.version
    keys = stack.store.keys("mlflow", f"artifacts/{experiment.experiment_id}/")
    assert any(key.endswith("/report.html") for key in keys), keys
    assert any(key.endswith("/artifacts/package/model.safetensors") for key in keys), keys


@pytest.fixture(scope="module")
def tired(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, str]]:
    """A run with images and sources at s3://, while a fifth of the store's requests fail."""
    from graftgan.remote import push

    root = tmp_path_factory.mktemp("tired")
    project = write_project(root, stack, "tired", images="s3://team/sets/images.zip")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in stack.store.environment().items():
            patch.setenv(key, value)
        push(root / "images.zip", "s3://team/sets/images.zip")
        push(root / "zoo", "s3://team/zoo")
    (root / "images.zip").unlink()
    stack.proxy.reset()
    stack.proxy.rate = 0.2
    # The store's own keys are real ones and are searched for as well.
    secrets = {name: value for name, value in PLANTED.items() if name.startswith("MLFLOW_")}
    secrets["MLFLOW_TRACKING_URI"] = stack.mlflow.uri.replace("://", f"://somebody:{MARK}-uri@")
    planted = Project(root, dict(project.env) | secrets)
    try:
        code, output = planted.run("run", "--set", "rank.catalogue=s3://team/zoo/catalogue.yaml")
        assert code == 0, output
        output += sync_until_complete(planted)
        faults = sum(stack.proxy.failed.values())
        assert faults > 0.1 * stack.proxy.requests > 2, (faults, stack.proxy.requests)
    finally:
        stack.proxy.rate = 0.0
    yield planted, output


def test_a_fifth_of_failing_store_requests_loses_nothing(stack: Stack, tired: tuple[Project, str]) -> None:
    assert_all_there(stack, tired[0], "tired")


def test_images_and_sources_at_s3_give_the_bytes_of_local_ones(
    stack: Stack, tired: tuple[Project, str], tmp_path: Path
) -> None:
    beside = write_project(tmp_path / "local", stack, "beside")
    code, output = beside.run("prepare", "--set", "track.mode=off")
    assert code == 0, output
    mine, theirs = (Result.read(p.root / "out" / "prepare" / "result.json") for p in (beside, tired[0]))
    assert mine.inputs == theirs.inputs and mine.outputs == theirs.outputs and mine.outputs


def test_the_registered_model_comes_from_the_store_and_draws(
    stack: Stack, tired: tuple[Project, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import numpy as np
    import pandas as pd

    from graftgan.packages import load_package

    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.mlflow.uri)
    mlflow.set_tracking_uri(stack.mlflow.uri)
    mlflow.set_registry_uri(stack.mlflow.uri)
    model = mlflow.pyfunc.load_model("models:/tired@champion")
    images = model.predict(pd.DataFrame({"seed": [3, 4]}))
    package = load_package(tired[0].root / "out" / "register" / "package")
    expected = np.concatenate([package.sample(1, 3), package.sample(1, 4)])
    assert np.array_equal(images, expected)


def test_the_model_card_is_the_description_in_the_registry(stack: Stack, tired: tuple[Project, str]) -> None:
    version = MlflowClient(stack.mlflow.uri).get_model_version_by_alias("tired", "champion")
    card = (tired[0].root / "out" / "register" / "package" / "card.md").read_text()
    assert version.description == card[:5000] and version.description.startswith("# ")


def test_no_planted_secret_is_in_anything_that_was_written(stack: Stack, tired: tuple[Project, str]) -> None:
    """Outputs, logs, journal, caches, every row of the database, and every object in the store."""
    project, output = tired
    texts = {"output": output.encode()} | left(project.root)
    for table, *_ in stack.postgres.query("select tablename from pg_tables where schemaname = 'public'"):
        texts[f"table {table}"] = str(stack.postgres.query(f'select * from "{table}"')).encode()
    client = stack.store.client()
    for key in stack.store.keys("mlflow"):
        texts[f"object {key}"] = client.get_object(Bucket="mlflow", Key=key)["Body"].read()
    assert len(texts) > 60
    assert "params" in str(texts["table params"]) or texts["table params"] != b"[]"
    assert leaks(texts, stack.store.secret, stack.store.key, stack.postgres.password) == []


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("data.path=s3://AKIA:planted-7f3a9c@team/x.zip", "AWS_SECRET_ACCESS_KEY"),
        ("rank.catalogue=s3://AKIA:planted/7f3a9c@team/c.yaml", "AWS_SECRET_ACCESS_KEY"),
        ("track.uri=http://me:planted-7f3a9c@host:5000", "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_a_secret_in_a_parameter_is_refused_and_written_nowhere(
    stack: Stack, tmp_path: Path, assignment: str, words: str
) -> None:
    project = write_project(tmp_path, stack, "refused")
    code, output = project.run("run", "--set", assignment)
    assert code == 2 and words in output, output
    for text in [output, *(p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*") if p.is_file())]:
        assert "planted" not in text and "7f3a9c" not in text


def test_a_killed_server_loses_nothing(stack: Stack, tmp_path: Path) -> None:
    project = write_project(tmp_path, stack, "killed")
    process = project.start("run")
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "rank" not in stages_on_the_server(stack, "killed"):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.1)
        stack.mlflow.kill()
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        stack.mlflow.start()
    assert process.returncode == 0, output
    waiting = [p for p in (tmp_path / "home" / "journal").rglob("*.jsonl") if pending_bytes(p)]
    assert waiting and "graftgan sync" in output, output
    sync_until_complete(project)
    assert_all_there(stack, project, "killed")
    before = count(stack, "select count(*) from metrics")
    assert "0 events sent" in sync_until_complete(project)
    assert count(stack, "select count(*) from metrics") == before, "a second sync doubles nothing"


def stages_on_the_server(stack: Stack, name: str) -> set[str]:
    rows = stack.postgres.query(
        f"select runs.name from runs join experiments using (experiment_id) where experiments.name = '{name}'"
    )
    return {str(row[0]) for row in rows}
