"""Submitting, through kfp's own client, to a test double; it never met a real Kubeflow server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from kfp_double import State, serving

from graftgan.contract import digest_path
from graftgan.params import resolve
from pipelines import base, submit

PINNED = f"r/g@sha256:{'0' * 64}"


@pytest.fixture
def server() -> Iterator[tuple[str, State]]:
    with serving() as found:
        yield found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(submit, "POLL_S", 0.01)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images.zip").write_bytes(b"images")
    (tmp_path / "zoo.yaml").write_text("[]")
    params = resolve({"data": {"path": "images.zip"}, "rank": {"catalogue": "zoo.yaml"}}, "test")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    return tmp_path


def run(server: tuple[str, State], *more: str, action: str = "run") -> int:
    return submit.main([action, "transfer", "--host", server[0], *more])


def test_a_run_has_the_configuration_the_digests_and_a_version(
    server: tuple[str, State], place: Path
) -> None:
    assert run(server, "--experiment", "faces", "--title", "first") == 0
    state = server[1]
    (made,) = state.runs.values()
    parameters = made["runtime_config"]["parameters"]
    assert json.loads(parameters["config_json"])["data"]["path"] == "images.zip"
    assert parameters["data_digest"] == digest_path(place / "images.zip")
    assert parameters["catalogue_digest"] == digest_path(place / "zoo.yaml")
    assert "arms" not in parameters
    assert made["display_name"] == "first"
    assert made["experiment_id"] == "e0" and state.experiments[0]["display_name"] == "faces"
    version = next(v for v in state.versions if v["pipeline_version_id"] == _version(made))
    assert version["display_name"] == submit.version_name(base.compiled_path("transfer"))
    assert "graftgan-transfer" in state.uploads[-1]


def _version(made: dict[str, Any]) -> str:
    return str(made["pipeline_version_reference"]["pipeline_version_id"])


def test_the_same_pipeline_is_uploaded_once_and_another_is_another_version(
    server: tuple[str, State], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server) == 0 and run(server) == 0
    assert len(server[1].uploads) == 2, "the pipeline and its first version"
    assert run(server, "--image", PINNED, "--set", "device=cpu") == 0
    assert run(server) == 0
    assert len(server[1].pipelines) == 1 and len(server[1].versions) == 3
    runs = list(server[1].runs.values())
    assert len({_version(r) for r in runs}) == 2 and len({_version(r) for r in runs[:2] + runs[3:]}) == 1
    assert capsys.readouterr().out.count(": known") == 2
    assert len(server[1].experiments) == 1


def test_methods_and_seeds_are_crossed(server: tuple[str, State], place: Path) -> None:
    assert run(server, "--methods", "full,lora", "--seeds", "0, 1") == 0
    assert run(server, "--seeds", "3") == 0
    assert run(server, "--methods", "full") == 0
    assert run(server, "--set", 'sources=["a", "b"]', "--set", "budget_kimg=2.5") == 0
    found = [r["runtime_config"]["parameters"] for r in server[1].runs.values()]
    assert found[0]["arms"] == ["full/0", "full/1", "lora/0", "lora/1"]
    assert found[1]["arms"] == ["configured/3"]
    assert found[2]["arms"] == ["full/0"]
    assert (found[3]["sources"], found[3]["budget_kimg"]) == (["a", "b"], 2.5)


def test_each_source_of_the_configuration_can_have_a_task(server: tuple[str, State], place: Path) -> None:
    entry = {"path": "x", "sha256": "a" * 64, "resolution": 32, "licence": "CC0-1.0"}
    entries = [entry | {"name": name} for name in ("one", "two", "three")]
    (place / "zoo.yaml").write_text(yaml.safe_dump(entries))
    assert run(server, "--each-source") == 0
    (made,) = server[1].runs.values()
    assert made["runtime_config"]["parameters"]["sources"] == ["one", "two", "three"]


def test_a_list_of_tasks_is_sent_as_its_own_pipeline_takes_it(
    server: tuple[str, State], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = ["--host", server[0], "--params", "list.yaml"]
    (place / "pictures").mkdir()
    (place / "pictures" / "a.png").write_bytes(b"a")
    tasks = {name: {"data": {"make": name, "target": "pictures"}} for name in ("grey", "edges")}
    tasks["swap"] = {"data": {"kind": "unpaired", "input": "pictures", "target": "pictures"}}
    (place / "list.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    assert submit.main(["run", "lifelong", *host, "--set", "device=cpu"]) == 0
    (made,) = server[1].runs.values()
    parameters = made["runtime_config"]["parameters"]
    assert set(parameters) == {"config_json", "device", "data_digests"}
    assert "tasks" in json.loads(parameters["config_json"])
    keys = ("grey.data.target", "edges.data.target", "swap.data.input", "swap.data.target")
    digest = digest_path(place / "pictures")
    assert json.loads(parameters["data_digests"]) == {f"tasks.{key}": digest for key in keys}
    assert submit.main(["run", "lifelong", *host, "--seeds", "1"]) == 2
    assert "no arms" in capsys.readouterr().err


def test_digests_of_tasks_whose_images_are_elsewhere_are_given(
    server: tuple[str, State], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "list.yaml").write_text(
        yaml.safe_dump({"tasks": {"a": {"data": {"make": "grey", "target": "x"}}}})
    )
    words = ["run", "lifelong", "--host", server[0], "--params", "list.yaml"]
    assert submit.main(words) == 4
    assert "x is not here" in capsys.readouterr().err
    digest = "a" * 64
    assert submit.main([*words, "--set", f"data_digests={{tasks.a.data.target: {digest}}}"]) == 0
    (made,) = server[1].runs.values()
    given = made["runtime_config"]["parameters"]["data_digests"]
    assert json.loads(given) == {"tasks.a.data.target": digest}


def test_a_secret_in_a_parameter_is_not_sent(
    server: tuple[str, State], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "http://me:" + "hunter2@mlflow"
    assert run(server, "--set", f"tracking_uri={address}") == 2
    raw = yaml.safe_load((place / "params.yaml").read_text())
    raw["track"]["uri"] = address
    (place / "params.yaml").write_text(yaml.safe_dump(raw))
    assert run(server) == 2
    told = capsys.readouterr().err
    assert "tracking_uri" in told and "track.uri" in told and "hunter2" not in told
    assert not server[1].uploads


@pytest.mark.parametrize(("end", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1)])
def test_waiting_tells_each_change_and_the_end(
    end: str, code: int, server: tuple[str, State], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server[1].states = ("PENDING", "RUNNING", "RUNNING", end)
    assert run(server, "--wait") == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"run r0: {end.lower()}"
    assert lines.count("prepare: running") == lines.count("rank: running") == 1
    assert lines.index("prepare: running") < lines.index(f"prepare: {end.lower()}")
    assert ("error: task rank" in lines) == (end == "FAILED")


def test_waiting_ends_after_its_time(
    server: tuple[str, State], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server[1].states = ("RUNNING",)
    assert run(server, "--wait", "--timeout-s", "0.05") == 75
    assert "--timeout-s" in capsys.readouterr().err


def test_a_recurring_run_takes_the_place_of_the_one_before(server: tuple[str, State], place: Path) -> None:
    cron = ["--cron", "0 0 6 * * 1", "--title", "weekly"]
    assert run(server, *cron, action="schedule") == 0
    assert run(server, "--cron", "0 0 6 * * 1", "--title", "other", action="schedule") == 0
    assert run(server, *cron, "--set", "device=cpu", action="schedule") == 0
    names = [r["display_name"] for r in server[1].recurring.values()]
    assert sorted(names) == ["other", "weekly"]
    weekly = next(r for r in server[1].recurring.values() if r["display_name"] == "weekly")
    assert weekly["runtime_config"]["parameters"]["device"] == "cpu"
    assert weekly["trigger"]["cron_schedule"]["cron"] == "0 0 6 * * 1"
    assert weekly["mode"] == "ENABLE" and _version(weekly)
    assert not server[1].runs


def test_images_that_are_not_here_need_their_digest(
    server: tuple[str, State], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "images.zip").unlink()
    assert run(server) == 4
    assert "--set data_digest=" in capsys.readouterr().err
    assert run(server, "--set", f"data_digest={'a' * 64}") == 0
    (made,) = server[1].runs.values()
    assert made["runtime_config"]["parameters"]["data_digest"] == "a" * 64


def test_a_server_that_fails_or_refuses_is_told(
    server: tuple[str, State], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server[1].refusal = 500
    assert run(server) == 75
    assert "does not answer" in capsys.readouterr().err
    server[1].refusal = 403
    assert run(server) == 2
    assert "refuses: 403" in capsys.readouterr().err


def test_digest_tells_the_sha256(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main(["digest", "images.zip"]) == 0
    assert capsys.readouterr().out.strip() == digest_path(place / "images.zip")
    assert submit.main(["digest", "absent"]) == 4


def test_the_report_of_a_run_comes_from_mlflow(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graftgan.errors import MissingInput
    from graftgan.sync import sync
    from graftgan.tracker import journal_root, open_tracker

    monkeypatch.setenv("GRAFTGAN_HOME", str(place / "home"))
    monkeypatch.setenv("KFP_RUN_ID", "kfp-7")
    track = {"mode": "journal", "uri": f"sqlite:///{place}/m.db", "artifacts": str(place / "artifacts")}
    params = resolve({"track": track}, "test")
    for name in ("rank", "report"):
        (place / name).mkdir()
        (place / name / "report").write_text(f"page of {name}")
        with open_tracker(params, name) as tracker:
            tracker.log_artifact(place / name / "report", "report")
    assert sync(journal_root(), params.track).complete
    target = submit.fetch_report(params.track, "kfp-7", place / "deep" / "report.html")
    assert target.read_text() == "page of report"
    with pytest.raises(MissingInput, match="kfp-8"):
        submit.fetch_report(params.track, "kfp-8", place / "other.html")
