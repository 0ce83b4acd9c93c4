from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from graftgan.cli import cli
from graftgan.contract import canonical_json
from graftgan.errors import ConfigError
from graftgan.identity import resolve_identity
from graftgan.kfp_finish import FinalState, card, close_run, finish
from graftgan.params import resolve
from graftgan.tracker import open_tracker

FAILED = {
    "state": "FAILED",
    "pipelineJobResourceName": "runs/7",
    "error": {"code": 9, "message": "task `rank`"},
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KFP_RUN_ID", "kfp-run-7")
    track = {"mode": "journal", "uri": f"sqlite:///{tmp_path}/m.db", "artifacts": str(tmp_path / "artifacts")}
    return {"track": track}


def handler_input(place: Path, config: dict[str, Any], status: Any, **values: Any) -> str:
    artifact = {"name": "summary", "uri": str(place / "summary"), "metadata": {}}
    return json.dumps(
        {
            "inputs": {
                "parameterValues": {"config_json": canonical_json(config), "status": status, **values}
            },
            "outputs": {
                "artifacts": {"summary": {"artifacts": [artifact]}},
                "outputFile": str(place / "deep" / "executor_output.json"),
            },
        }
    )


@pytest.mark.parametrize(
    ("state", "expected"), [("SUCCEEDED", "FINISHED"), ("FAILED", "FAILED"), ("CANCELLED", "KILLED")]
)
def test_the_parent_run_gets_the_state_of_the_pipeline(
    state: str, expected: str, config: dict[str, Any], tmp_path: Path
) -> None:
    from graftgan.sync import sync
    from graftgan.tracker import journal_root
    from graftgan.tracking import Connection

    journalled = resolve(config, "test")
    with open_tracker(journalled, "prepare") as tracker:
        tracker.log_metrics({"images": 3.0})
    live = resolve({"track": config["track"] | {"mode": "live"}}, "test")
    told = close_run(live, FinalState(state, "runs/7", "no space" if state == "FAILED" else ""))
    connection = Connection(live.track)
    runs = connection.client.search_runs(["1"])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert parent.info.status == expected
    assert parent.data.tags["graftgan.kfp.state"] == state
    assert ("graftgan.kfp.error" in parent.data.tags) == (state == "FAILED")
    assert parent.data.tags["kfp.pipeline_run_id"] == "kfp-run-7"
    assert parent.data.metrics == {"prepare.images": 3.0}
    assert told == f"MLflow run {parent.info.run_id} is {expected}."
    assert sync(journal_root() / resolve_identity(live).key, live.track).events == 0


def test_a_run_that_failed_before_any_stage_is_still_told(config: dict[str, Any]) -> None:
    from graftgan.tracking import Connection

    live = resolve({"track": config["track"] | {"mode": "live"}}, "test")
    assert "is FAILED" in close_run(live, FinalState("FAILED", "", ""))
    (run,) = Connection(live.track).client.search_runs(["1"])
    assert run.info.status == "FAILED"
    assert asdict(resolve_identity(live))["kfp_run"] == "kfp-run-7"


def test_a_server_that_is_away_fails_nothing(config: dict[str, Any]) -> None:
    away = {"track": config["track"] | {"mode": "live", "uri": "http://127.0.0.1:9", "timeout_s": 0.5}}
    assert "stays open" in close_run(resolve(away, "test"), FinalState("SUCCEEDED", "", ""))


@pytest.mark.parametrize(("mode", "told"), [("off", "Tracking is off"), ("journal", "graftgan sync")])
def test_without_live_tracking_nothing_is_closed(mode: str, told: str, config: dict[str, Any]) -> None:
    params = resolve({"track": config["track"] | {"mode": mode}}, "test")
    assert told in close_run(params, FinalState("SUCCEEDED", "", ""))


def test_secrets_in_the_error_of_a_run_reach_neither_tag_nor_card(config: dict[str, Any]) -> None:
    from graftgan.tracking import Connection

    told = "cannot fetch https://me:pl4nted@host/x?sig=pl4nted"
    final = FinalState.of(json.dumps({**FAILED, "error": {"message": told}}))
    live = resolve({"track": config["track"] | {"mode": "live"}}, "test")
    closed = close_run(live, final)
    (run,) = Connection(live.track).client.search_runs(["1"])
    assert run.data.tags["graftgan.kfp.error"] == "cannot fetch https://host/x?***"
    assert "pl4nted" not in card(final, closed)


def test_the_handler_writes_a_card_and_its_output(config: dict[str, Any], tmp_path: Path) -> None:
    finish(handler_input(tmp_path, config, FAILED, tracking_uri="http://127.0.0.1:9"))
    text = (tmp_path / "summary").read_text()
    assert text.startswith("# Run failed\n") and "Error: task \\`rank\\`" in text
    written = json.loads((tmp_path / "deep" / "executor_output.json").read_text())
    assert written["artifacts"]["summary"]["artifacts"][0]["uri"] == str(tmp_path / "summary")


def test_a_run_that_learns_a_list_of_tasks_is_closed_too(config: dict[str, Any], tmp_path: Path) -> None:
    listed = {"tasks": {"a": {"data": {"make": "grey", "target": "x"}}}, **config}
    words = ["task", "finish-lifelong", "--kfp-executor-input", handler_input(tmp_path, listed, FAILED)]
    assert CliRunner().invoke(cli, words).exception is None
    text = (tmp_path / "summary").read_text()
    assert text.startswith("# Run failed") and "task \\`rank\\`" in text
    wrong = ["task", "finish", *words[2:]]
    assert isinstance(CliRunner().invoke(cli, wrong).exception, ConfigError)


def test_the_status_is_read_in_both_spellings_and_as_text() -> None:
    local = {"state": "FAILED", "pipeline_job_resource_name": "runs/7", "error": {"message": "task `rank`"}}
    assert FinalState.of(FAILED) == FinalState.of(local) == FinalState.of(json.dumps(FAILED))
    assert FinalState.of({"state": "SUCCEEDED", "error": {}}) == FinalState("SUCCEEDED", "", "")
    assert "Error" not in card(FinalState("SUCCEEDED", "", ""), "Closed.")


@pytest.mark.parametrize("status", [None, "", "done", {}, {"error": {}}])
def test_what_is_no_final_status_is_named(status: Any, config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="status"):
        finish(handler_input(tmp_path, config, status))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"inputs": {"parameterValues": {}}, "outputs": {}}'])
def test_what_is_no_executor_input_is_named(text: str) -> None:
    with pytest.raises(ConfigError):
        finish(text)
