"""The command line, `dvc repro` and the executed compiled pipeline do the same, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reporting.browsing import WIDTHS, browser, opens_whole, painted, wait

from graftgan.contract import digest_path
from graftgan.stages.specs import CLUSTER_STAGES, STAGES

__all__ = ["browser"]

# Three whole pipelines are made before the first test; a busy machine may need long for them.
pytestmark = pytest.mark.timeout(1800)
NAMES = [spec.name for spec in STAGES]


@pytest.fixture(scope="module")
def by_cli(make_project: Callable[[], Any]) -> Any:
    project = make_project()
    project.run("graftgan", "run", "--params", "params.yaml")
    return project


@pytest.fixture(scope="module")
def by_kfp(make_project: Callable[[], Any]) -> Path:
    project = make_project()
    project.run("python", "-m", "pipelines.transfer", "run", "--root", "artifacts")
    (run,) = (project.root / "artifacts").iterdir()
    assert isinstance(run, Path)
    return run


def task_of(run: Path, name: str) -> Path:
    """Return the folder of a task, wherever its fan-out put it."""
    (folder,) = (path.parent for path in run.glob(f"**/{name}/executor_output.json"))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_dvc_gives_the_result_of_the_command_line(by_cli: Any, reproduced: Any, name: str) -> None:
    assert reproduced.results()[name] == by_cli.results()[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_compiled_pipeline_gives_the_result_of_the_command_line(
    by_cli: Any, by_kfp: Path, name: str
) -> None:
    assert (task_of(by_kfp, name) / "result").read_bytes() == by_cli.results()[name]


def test_the_models_are_the_same_files(by_cli: Any, reproduced: Any, by_kfp: Path) -> None:
    for stage, port in (("finetune", "models"), ("register", "package")):
        folders = [
            by_cli.root / "out" / stage / port,
            reproduced.root / "out" / stage / port,
            task_of(by_kfp, stage) / port,
        ]
        assert len({digest_path(folder) for folder in folders}) == 1
        assert list(folders[0].rglob("*.safetensors"))


def test_the_kubeflow_artifacts_carry_the_digests_and_metrics(by_kfp: Path) -> None:
    for spec in (*STAGES, *CLUSTER_STAGES):
        task = task_of(by_kfp, spec.name)
        written = json.loads((task / "executor_output.json").read_text())["artifacts"]
        result = json.loads((task / "result").read_text())
        metadata = {name: entry["artifacts"][0]["metadata"] for name, entry in written.items()}
        assert metadata["result"] == result["metrics"]
        for name, entry in result["outputs"].items():
            assert metadata[name]["digest"] == entry["digest"] == digest_path(task / name)
        assert (task / "summary").read_text().startswith(f"# {spec.name}: done")
        assert ("pictures" in written) == bool(spec.pictures)
        if spec.pictures:
            assert "data:image/" in (task / "pictures").read_text()


def test_the_exit_handler_reports_the_final_state(by_kfp: Path) -> None:
    text = (task_of(by_kfp, "finish") / "summary").read_text()
    assert text == "# Run succeeded\n\nTracking is off.\n"


def test_one_arm_is_handed_on_as_it_was_configured(by_kfp: Path) -> None:
    compare = task_of(by_kfp, "compare")
    written = json.loads((compare / "executor_output.json").read_text())
    assert written["parameterValues"] == {"winner": "configured"}
    for port, (stage, name) in {
        "best_models": ("finetune", "models"),
        "best_scores": ("evaluate", "scores"),
    }.items():
        assert digest_path(compare / port) == digest_path(task_of(by_kfp, stage) / name)


def test_results_name_no_place_and_no_time(by_cli: Any) -> None:
    for name, raw in by_cli.results().items():
        text = raw.decode()
        assert str(by_cli.root) not in text and "/tmp" not in text, name
        assert not {"seconds", "finished", "host"} & set(json.loads(text)), name


@pytest.mark.parametrize("width", list(WIDTHS))
def test_the_report_of_a_real_run_opens_without_complaint(browser: Any, by_cli: Any, width: str) -> None:
    page = by_cli.root / "out" / "report" / "report.html"
    opens_whole(browser, page, width, charts=False)
    wait(lambda: len(painted(browser)) >= 5 and min(painted(browser).values()) > 0)
    digest = json.loads((by_cli.root / "out" / "prepare" / "dataset" / "dataset.json").read_text())["digest"]
    text = page.read_text(encoding="utf-8")
    assert digest in text and "Code revision" in text


@pytest.mark.nightly
def test_a_failing_stage_fails_every_runner(make_project: Callable[[], Any]) -> None:
    project = make_project()
    project.set("data.expectations.min_images", 10_000)
    assert project.run("graftgan", "run", "--params", "params.yaml", check=False).returncode == 3
    project.git_commit()
    assert project.run("dvc", "repro", check=False).returncode != 0
    ran = project.run("python", "-m", "pipelines.transfer", "run", "--root", "artifacts", check=False)
    assert ran.returncode != 0
    assert not list((project.root / "artifacts").glob("**/prepare/result"))
    assert not list((project.root / "artifacts").glob("**/rank"))
    (told,) = (project.root / "artifacts").glob("**/finish/summary")
    assert told.read_text().startswith("# Run failed")
