"""`graftgan lifelong` with three real tiny tasks: outputs, proof, skipping, resuming, exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from planted import PLANTED, leaks, left
from stages.lifelong_project import SIDE, TASKS, task_data, with_fourth, write_params, write_project

from graftgan import cli as cli_module
from graftgan.bank.store import Bank
from graftgan.bank.tasks import verify
from graftgan.context import StopSignal
from graftgan.contract import digest_path
from graftgan.errors import CheckpointError, ConfigError, Interrupted, MissingInput

OUT = Path("out/lifelong")
PAIRED = ["images_seen", "loss_d", "loss_g", "loss_l1", "l1_validation", "l1_low", "l1_high"]
UNPAIRED = ["images_seen", "loss_g", "loss_g_back", "loss_cycle", "loss_cycle_back", "loss_identity"]
UNPAIRED += ["loss_identity_back", "loss_d", "loss_d_back", "kid_validation", "kid_low", "kid_high"]
CURVES = {"grey": PAIRED, "edges": PAIRED, "swap": UNPAIRED}


BACKGROUNDS = {"grey": "#ffffff", "edges": "#204060", "swap": "#ffffff"}


def call(*words: object) -> Result:
    return CliRunner().invoke(cli_module.cli, ["lifelong", *map(str, words)])


def done(*words: object) -> Result:
    result = call(*words)
    assert result.exception is None, result.exception
    return result


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose list was learnt once; only to be copied."""
    root = tmp_path_factory.mktemp("lifelong") / "project"
    root.mkdir()
    write_project(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(StopSignal, "install", lambda self: None)
        for name, secret in PLANTED.items():
            patch.setenv(name, secret)
        done("run")
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = Path(shutil.copytree(finished, tmp_path / "project"))
    monkeypatch.chdir(root)
    # The test's own handlers stay in place.
    monkeypatch.setattr(StopSignal, "install", lambda self: None)
    return root


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def stamps() -> dict[str, int]:
    return {p.as_posix(): p.stat().st_mtime_ns for p in OUT.rglob("run.json")}


def ran(before: dict[str, int]) -> set[str]:
    return {Path(path).parent.name for path, stamp in stamps().items() if before.get(path) != stamp}


def test_no_planted_secret_is_in_what_the_run_leaves(finished: Path) -> None:
    found = left(finished)
    assert len(found) > 20 and leaks(found) == []


def test_the_bank_holds_the_tasks_in_their_order_and_is_whole(project: Path) -> None:
    bank, back = Bank(OUT / "bank"), Bank(OUT / "bank-back")
    assert tuple(task.name for task in bank.tasks) == TASKS
    assert [task.name for task in back.tasks] == ["swap"]
    assert bank.task("edges").init == "warm:grey" and bank.manifest.share == 0.5
    assert {task.name: task.background for task in bank.tasks} == BACKGROUNDS
    assert verify(bank) == () and verify(back) == ()
    assert not list(OUT.rglob(".lock"))


def test_how_each_task_was_computed_is_beside_its_stage(project: Path) -> None:
    told = [facts["switches"] for p in OUT.rglob("run.json") if "switches" in (facts := read(p))]
    assert len(told) == len(TASKS)
    assert {choices["memory_format"] for choices in told} == {"contiguous"}
    assert {choices["adam"] for choices in told} == {"fused"}


def test_each_task_leaves_scores_costs_curves_and_pictures(project: Path) -> None:
    for index, name in enumerate(TASKS, 1):
        facts = read(OUT / "tasks" / name / "result.json")
        assert (facts["name"], facts["index"]) == (name, index)
        kid = facts["scores"]["kid_torchscript_colours"]
        assert kid["low"] <= kid["value"] <= kid["high"]
        assert facts["images"]["train"] + facts["images"]["validation"] + facts["images"]["test"] >= 100
        columns = 2 if name == "swap" else 3
        width, height = Image.open(OUT / "tasks" / name / "examples.png").size
        assert (width, height) == (columns * 66 + 2, 8 * 66 + 2)
        lines = (OUT / "tasks" / name / "curves.csv").read_text().splitlines()
        assert lines[0].split(",") == CURVES[name] and len(lines) > 1
    edges = read(OUT / "tasks" / "edges" / "result.json")
    assert edges["added"] == edges["free"] + edges["mix"] < edges["full"]
    grey = read(OUT / "tasks" / "grey" / "result.json")
    assert edges["cumulative"] == grey["cumulative"] + edges["added"]


def test_every_task_is_scored_after_every_addition_and_nothing_is_forgotten(project: Path) -> None:
    rows = read(OUT / "scores.json")["rows"]
    assert [row["after"] for row in rows] == list(TASKS)
    assert [sorted(row["tasks"]) for row in rows] == [sorted(TASKS[: i + 1]) for i in range(3)]
    assert rows[0]["tasks"]["grey"] == rows[2]["tasks"]["grey"]
    assert rows[0]["tasks"]["grey"]["outputs_sha256"] != rows[1]["tasks"]["edges"]["outputs_sha256"]
    own = read(OUT / "tasks" / "grey" / "result.json")["scores"]["l1"]["value"]
    assert rows[2]["tasks"]["grey"]["scores"]["l1"]["value"] == pytest.approx(own, abs=1e-3)
    proof = read(OUT / "proof.json")
    assert proof["forgetting"] == 0.0 and proof["additions"] == list(TASKS)
    digests = {entry["name"]: entry["outputs_sha256"] for entry in proof["tasks"]}
    assert {name: list(found) for name, found in digests.items()} == {
        "grey": sorted(TASKS),
        "edges": ["edges", "swap"],
        "swap": ["swap"],
    }
    assert all(len(set(found.values())) == 1 for found in digests.values())
    assert "forgetting is 0" in (OUT / "report" / "verdict.md").read_text()
    page = (OUT / "report" / "report.html").read_text()
    assert page.count("same bits") >= 3 and page.count("data:image/png") >= 3
    assert all(name in page for name in TASKS)


def test_a_second_run_does_nothing_and_a_dry_run_says_so(project: Path) -> None:
    before = stamps()
    assert done("run", "--dry-run").output.count("up to date") == 1 + 2 * 3 + 3
    done("run")
    assert ran(before) == set()


def test_a_task_at_the_end_of_the_list_runs_its_own_stages_only(project: Path) -> None:
    before, outputs = stamps(), read(OUT / "proof.json")["tasks"][0]["outputs_sha256"]["grey"]
    learnt = digest_path(OUT / "steps" / "learn-swap" / "learnt")
    write_params(project, tasks=with_fourth())
    done("run")
    assert ran(before) == {"learn-blur", "evaluate-blur", "verify", "report", "register"}
    assert digest_path(OUT / "steps" / "learn-swap" / "learnt") == learnt
    proof = read(OUT / "proof.json")
    assert set(proof["tasks"][0]["outputs_sha256"].values()) == {outputs}
    assert len(proof["tasks"][0]["outputs_sha256"]) == 4


def test_a_recipe_of_one_task_reruns_it_and_what_builds_on_it(project: Path) -> None:
    before = stamps()
    done("run", "--set", "tasks.edges.train={lr: 0.01}")
    assert "learn-grey" not in ran(before) and "evaluate-grey" not in ran(before)
    assert {"learn-edges", "evaluate-edges", "learn-swap", "verify"} <= ran(before)


def test_the_start_of_a_task_may_be_chosen_by_the_ranking(project: Path) -> None:
    done("learn", "edges", "--set", "tasks.edges.init=auto")
    facts = read(OUT / "steps" / "learn-edges" / "learnt" / "tasks" / "edges" / "result.json")
    assert facts["init"] in ("random", "warm:grey") and facts["init"] in facts["why"]


def test_a_stopped_task_goes_on_to_the_same_bank(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digest_path(OUT / "steps" / "learn-edges" / "learnt")
    shutil.rmtree(OUT / "steps" / "learn-edges")
    from graftgan.training import translation

    step, steps = translation.TranslationTrainer.step, []

    def stopping(self: Any) -> None:
        step(self)
        steps.append(1)
        if len(steps) == 2:
            signals[0].requested = True

    signals: list[StopSignal] = []

    def install(self: StopSignal) -> None:
        signals.append(self)

    monkeypatch.setattr(StopSignal, "install", install)
    monkeypatch.setattr(translation.TranslationTrainer, "step", stopping)
    with pytest.raises(Interrupted):
        call("learn", "edges")
    assert len(steps) == 2
    assert not (OUT / "steps" / "learn-edges" / "learnt").exists()
    done("learn", "edges", "--resume", "must")
    assert len(steps) == 4
    assert digest_path(OUT / "steps" / "learn-edges" / "learnt") == whole


def test_a_damaged_bank_stops_verify_and_is_named(project: Path) -> None:
    path = OUT / "steps" / "learn-swap" / "learnt" / "bank" / "filters" / "model.4.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    error = call("verify").exception
    assert isinstance(error, CheckpointError) and error.exit_code == 5
    assert "filters/model.4.safetensors: layer model.4, task swap" in str(error)
    assert (OUT / "bank" / "manifest.json").exists(), "the bank of before stays"


def test_a_task_that_makes_other_images_is_named(project: Path) -> None:
    path = OUT / "steps" / "evaluate-swap" / "scores.json"
    table = read(path)
    table["rows"][2]["tasks"]["grey"]["outputs_sha256"] = "0" * 64
    path.write_text(json.dumps(table))
    error = call("verify").exception
    assert isinstance(error, CheckpointError) and "grey makes other images since swap" in str(error)
    table["rows"][2]["tasks"]["grey"]["environment"] = {"torch": "another"}
    path.write_text(json.dumps(table))
    done("verify")
    proof = read(OUT / "proof.json")
    assert "different processors" in proof["statement"] and proof["tasks"][0]["environments"] == 2


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["learn"], SystemExit, ""),
        (["learn", "gone"], ConfigError, "there is no task 'gone'"),
        (["run", "--params", "gone.yaml"], MissingInput, "gone.yaml cannot be read"),
        (["run", "--set", "tasks.gone.init=random"], ConfigError, "the tasks are grey, edges, swap"),
        (["run", "--set", "tasks.grey.init=warm:edges"], ConfigError, "the earlier tasks are: none"),
        (["run", "--set", "tasks.grey.train={lrr: 1}"], ConfigError, "lrr"),
        (["run", "--set", "tasks.grey.date=1"], ConfigError, "unknown key 'tasks.grey.date'"),
        (["run", "--set", "bank.generator=unet_128"], ConfigError, "multiple of 128"),
        (["run", "--set", "bank.share=[0.5]"], ConfigError, "lambda"),
        (["run", "--set", "tasks.grey.data.target=gone"], MissingInput, "tasks.grey.data.target: gone"),
    ],
)
def test_bad_input_ends_with_a_code_and_a_name(
    project: Path, words: list[str], kind: type[BaseException], message: str
) -> None:
    error = call(*words).exception
    assert isinstance(error, kind), error
    assert message in str(error) if message else error.code == 2  # type: ignore[attr-defined]


def test_a_dry_run_looks_at_the_images_of_every_task_and_at_lambda(project: Path) -> None:
    plan = done("run", "--dry-run", "--force").output
    assert "checks tasks.edges.data.target:" in plan and "images, not yet decoded" in plan
    assert "checks bank.share leaves" in plan and "checks scores.extractor=" in plan
    before = digest_path(OUT)
    wrong = ["tasks.swap.data.target=gone", "tasks.edges.data.target=empty", "bank.share=[0.5]"]
    Path("empty").mkdir()
    result = call("run", "--dry-run", *(word for pair in wrong for word in ("--set", pair)))
    assert isinstance(result.exception, ConfigError) and "lambda lists 1 numbers" in str(result.exception)
    assert "FAILS: tasks.swap.data.target: gone does not exist" in result.output
    assert "FAILS: tasks.edges.data.target: empty holds no image" in result.output
    assert digest_path(OUT) == before


def test_a_missing_input_names_the_command_that_makes_it(project: Path) -> None:
    shutil.rmtree(OUT / "steps" / "learn-grey")
    error = call("learn", "edges").exception
    assert isinstance(error, MissingInput) and "run `graftgan lifelong learn grey`" in str(error)


def test_an_unpaired_task_is_added_by_hand_to_a_bank_and_its_ways_back(project: Path) -> None:
    given = yaml.safe_load((project / "lifelong" / "params.yaml").read_text())
    (project / "data.yaml").write_text(yaml.safe_dump(task_data(kind="unpaired", input="others")))
    for name in ("train", "scores"):
        (project / f"{name}.yaml").write_text(yaml.safe_dump(given[name]))
    sizes = ["--generator", "resnet_6", "--ngf", "2", "--lambda", "0.5", "--device", "cpu"]
    words = [
        "tasks",
        "add",
        "first",
        "--data",
        "data.yaml",
        "--train",
        "train.yaml",
        "--scores",
        "scores.yaml",
    ]
    runner = CliRunner()
    added = runner.invoke(cli_module.cli, [*words, *sizes])
    assert added.exception is None, added.exception
    assert "first is task 1; kid_torchscript_colours" in added.output
    words[2] = "second"
    added = runner.invoke(cli_module.cli, [*words, "--init", "warm:first", "--back", "bank-back"])
    assert added.exception is None, added.exception
    bank, back = Bank(Path("bank")), Bank(Path("bank-back"))
    for made in (bank, back):
        assert [(t.name, t.init) for t in made.tasks] == [("first", "random"), ("second", "warm:first")]
        assert verify(made) == ()
    assert list(bank.task("first").scores) == ["kid_torchscript_colours"]
    assert bank.task("first").outputs.sha256 != back.task("first").outputs.sha256
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save("in.png")
    for folder in ("bank", "bank-back"):
        made_by = runner.invoke(
            cli_module.cli, ["tasks", "run", "second", "in.png", "--bank", folder, "--out", folder + "-made"]
        )
        assert made_by.exception is None, made_by.exception
    assert Path("bank-made/in.png").read_bytes() != Path("bank-back-made/in.png").read_bytes()


@pytest.mark.nightly
def test_a_tracked_run_nests_its_stages_and_registers_a_champion(project: Path) -> None:
    import mlflow

    uri = f"sqlite:///{project / 'mlflow.db'}"
    track = {"mode": "live", "uri": uri, "artifacts": str(project / "artifacts"), "timeout_s": 60.0}
    write_params(project, track={**track, "experiment": "lifelong", "system_metrics": False})
    done("run", "--force")
    client = mlflow.MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("lifelong")
    runs = client.search_runs([experiment.experiment_id])
    stages = {run.data.tags["graftgan.stage"]: run for run in runs if "graftgan.stage" in run.data.tags}
    assert {"create", "learn-grey", "evaluate-swap", "verify", "report", "register"} <= set(stages)
    assert len({run.data.tags["mlflow.parentRunId"] for run in stages.values()}) == 1
    assert stages["learn-edges"].data.params["tasks.edges.init"] == "warm:grey"
    assert stages["verify"].data.metrics["forgetting"] == 0.0 and stages["learn-grey"].data.metrics["l1"] > 0
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/tiny-bank@champion")
    assert set(model.metadata.signature.inputs.input_names()) == {"task", "image"}
