"""`lifelong/dvc.yaml` and the compiled pipeline: what is checked in, how it is wired, and what it does."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from stages.lifelong_project import TASKS, description, with_fourth, write_params, write_project

from components.base import IMAGE, LOCAL_MARKER, RUN_ID
from graftgan import kfp_io
from graftgan.cli import cli
from graftgan.contract import digest_path
from graftgan.errors import ConfigError
from graftgan.kfp_io import ITEM
from graftgan.lifelong_config import LifelongParams
from graftgan.lifelong_params import dumps_lifelong, load_lifelong, loads_lifelong, resolve_section
from graftgan.stages.lifelong_specs import lifelong_stages
from pipelines import lifelong

ROOT = Path(__file__).parents[2]
SHIPPED = load_lifelong(ROOT / "lifelong" / "params.yaml")
SPECS = lifelong_stages(tuple(SHIPPED.tasks))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "lifelong" / "dvc.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def compiled() -> dict[str, Any]:
    (loaded,) = yaml.safe_load_all(lifelong.COMPILED.read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("action", ["dvc", "compile"])
def test_what_is_checked_in_is_what_the_list_gives(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lifelong.main([action, "--check"]) == 0
    shorter = tmp_path / "params.yaml"
    raw = yaml.safe_load((ROOT / "lifelong" / "params.yaml").read_text())
    raw["tasks"].popitem()
    shorter.write_text(yaml.safe_dump(raw, sort_keys=False))
    assert lifelong.main([action, "--check", "--params", str(shorter)]) == 1
    assert f"python -m pipelines.lifelong {action}" in capsys.readouterr().err


def test_the_shipped_list_has_five_tasks_of_64_px_on_shipped_sets() -> None:
    data = [task.data for task in SHIPPED.tasks.values()]
    assert len(data) >= 5 and all(d.resolution == 64 for d in data)
    assert {d.kind for d in data} == {"paired", "unpaired"}
    paths = {path for d in data for path in (d.input, d.target) if path}
    assert all((ROOT / path).is_file() for path in paths)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_dvc_stages_read_their_own_tasks_and_what_earlier_stages_write(
    document: dict[str, Any], spec: Any
) -> None:
    entry = document["stages"][spec.name]
    assert entry["wdir"] == ".." and entry["cmd"].endswith("--params lifelong/params.yaml")
    outs = {out for other in document["stages"].values() for out in other["outs"]}
    assert {dep for dep in entry["deps"] if dep.startswith("out/")} <= outs
    keys = [key for group in entry.get("params", []) for key in group["lifelong/params.yaml"]]
    raw = yaml.safe_load((ROOT / "lifelong" / "params.yaml").read_text())
    for key in keys:
        section: Any = raw
        for part in key.split("."):
            section = section[part]
    assert not any(key.startswith(("runtime", "track")) for key in keys)


def test_a_task_reruns_no_stage_of_an_earlier_one() -> None:
    short, long = lifelong_stages(("a", "b")), lifelong_stages(("a", "b", "c"))
    kept = {spec.name: spec for spec in long}
    assert all(kept[spec.name] == spec for spec in short if spec.name.endswith(("-a", "-b")))


def test_steps_run_the_command_line_and_are_told_the_task(compiled: dict[str, Any]) -> None:
    executors, steps = compiled["deploymentSpec"]["executors"], compiled["root"]["dag"]["tasks"]
    assert len(executors) == len(steps) == len(SPECS)
    for name, executor in executors.items():
        kind = name.removeprefix("exec-lifelong-").split("-")[0]
        container = executor["container"]
        assert container["image"] == IMAGE
        assert container["command"] == ["env", LOCAL_MARKER, RUN_ID, "graftgan", "lifelong", kind]
    told = [
        (
            re.sub(r"-\d+$", "", step["componentRef"]["name"]),
            step["inputs"]["parameters"][ITEM]["runtimeValue"]["constant"],
        )
        for step in steps.values()
        if ITEM in step["inputs"]["parameters"]
    ]
    assert sorted(told) == sorted(
        (f"comp-lifelong-{kind}", task) for kind in ("learn", "evaluate") for task in SHIPPED.tasks
    )
    assert all("enableCache" not in step["cachingOptions"] for step in steps.values())


def test_steps_are_chained_as_the_stages_are(compiled: dict[str, Any]) -> None:
    steps = compiled["root"]["dag"]["tasks"]
    shown = {key: step["taskInfo"]["name"] for key, step in steps.items()}
    for step in steps.values():
        spec = next(s for s in SPECS if s.name == step["taskInfo"]["name"])
        wired = {}
        for name, artifact in step["inputs"].get("artifacts", {}).items():
            origin = artifact["taskOutputArtifact"]
            wired[name] = f"{shown[origin['producerTask']]}.{origin['outputArtifactKey']}"
        assert wired == spec.inputs


def test_the_text_that_the_pipeline_takes_keeps_the_order_of_tasks() -> None:
    raw = description()
    raw["tasks"] = {"zebra": raw["tasks"]["grey"], "ape": raw["tasks"]["grey"]}
    params = resolve_section(raw, LifelongParams, "here")
    assert list(loads_lifelong(dumps_lifelong(params)).tasks) == ["zebra", "ape"]
    assert loads_lifelong(dumps_lifelong(params)) == params


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a list of three tasks; only to be copied."""
    root = tmp_path_factory.mktemp("lifelong-template") / "project"
    root.mkdir()
    write_project(root)
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in (".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / ".gitignore").write_text("/out/\n.graftgan/\n__pycache__/\n")
    return root


@pytest.fixture(scope="module")
def copied(tiny: Path, project_at: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda place: project_at(Path(shutil.copytree(tiny, place / "project", symlinks=True)))


@pytest.fixture(scope="module")
def by_cli(copied: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    project = copied(tmp_path_factory.mktemp("cli"))
    project.run("graftgan", "lifelong", "run")
    return project


def written(root: Path) -> dict[str, bytes]:
    return {
        path.parent.name: path.read_bytes()
        for path in (root / "out").rglob("result.json")
        if path.with_name("run.json").exists()
    }


@pytest.mark.nightly
def test_the_compiled_pipeline_gives_what_the_command_line_gives(
    copied: Callable[[Path], Any], tmp_path: Path, by_cli: Any
) -> None:
    project = copied(tmp_path)
    words = ("--params", "lifelong/params.yaml")
    project.run("python", "-m", "pipelines.lifelong", "compile", *words, "--output", "lifelong.yaml")
    project.run(
        "python",
        "-m",
        "pipelines.lifelong",
        "run",
        *words,
        "--pipeline",
        "lifelong.yaml",
        "--root",
        "artifacts",
    )
    (run,) = (project.root / "artifacts").iterdir()
    found = {json.loads(path.read_text())["stage"]: path.read_bytes() for path in run.glob("*/result")}
    expected = written(by_cli.root)
    assert found == expected and len(found) == 1 + 2 * len(TASKS) + 3
    assert all(str(by_cli.root) not in raw.decode() for raw in found.values())
    verified = next(p.parent for p in run.glob("*/result") if json.loads(p.read_text())["stage"] == "verify")
    assert digest_path(verified / "bank") == digest_path(by_cli.root / "out" / "lifelong" / "bank")


def test_dvc_takes_the_file_and_sees_the_chain(copied: Callable[[Path], Any], tmp_path: Path) -> None:
    project = copied(tmp_path)
    text = lifelong.dvc_text(load_lifelong(project.root / "lifelong" / "params.yaml"))
    (project.root / "lifelong" / "dvc.yaml").write_text(text)
    project.git_commit()
    shown = project.run("dvc", "dag", "--dot", "lifelong/dvc.yaml").stdout
    edges = set(re.findall(r'"lifelong/dvc.yaml:([\w-]+)" -> "lifelong/dvc.yaml:([\w-]+)"', shown))
    wanted = {
        (origin.split(".")[0], spec.name)
        for spec in lifelong_stages(TASKS)
        for origin in spec.inputs.values()
    }
    assert edges == wanted


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '(?:lifelong/dvc.yaml:)?([\w-]+)'", output)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_dvc_gives_the_same_a_second_repro_nothing_and_a_fourth_task_its_own_stages(
    copied: Callable[[Path], Any], tmp_path: Path, by_cli: Any
) -> None:
    project = copied(tmp_path)
    make = ("python", "-m", "pipelines.lifelong", "dvc", "--params", "lifelong/params.yaml")
    make += ("--output", "lifelong/dvc.yaml")
    project.run(*make)
    project.git_commit()
    repro = ("dvc", "repro", "lifelong/dvc.yaml")
    first = ran(project.run(*repro).stdout)
    assert sorted(first) == sorted(spec.name for spec in lifelong_stages(TASKS))
    results = {path.parent.name: path.read_bytes() for path in (project.root / "out").rglob("result.json")}
    assert {name: results[name] for name in first} == written(by_cli.root)
    assert ran(project.run(*repro).stdout) == []
    write_params(project.root, tasks=with_fourth())
    project.run(*make)
    assert ran(project.run(*repro).stdout) == ["learn-blur", "evaluate-blur", "verify", "report", "register"]
    proof = json.loads((project.root / "out" / "lifelong" / "proof.json").read_text())
    assert proof["additions"] == [*TASKS, "blur"] and proof["forgetting"] == 0.0
    assert json.loads(dumps_lifelong(load_lifelong(project.root / "lifelong" / "params.yaml")))["tasks"][
        "blur"
    ]


def test_a_step_that_failed_for_good_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    words = ["lifelong", "learn", "--kfp-executor-input"]
    given = executor_input(config_json=dumps_lifelong(SHIPPED), task="none-such")
    first, again = (CliRunner().invoke(cli, [*words, given]).exception for _ in range(2))
    other = executor_input(config_json=dumps_lifelong(SHIPPED), task="other")
    third = CliRunner().invoke(cli, [*words, other]).exception
    assert isinstance(first, ConfigError) and first.message.startswith("there is no task 'none-such'")
    assert isinstance(again, ConfigError) and again.message.startswith("not tried again")
    assert isinstance(third, ConfigError) and third.message.startswith("there is no task 'other'")


def executor_input(**parameters: str) -> str:
    outputs = {"artifacts": {}, "outputFile": "out.json"}
    return json.dumps({"inputs": {"parameterValues": parameters}, "outputs": outputs})


def test_knobs_override_the_list_and_unknown_ones_are_refused() -> None:
    config = dumps_lifelong(SHIPPED)
    call = kfp_io.read(
        executor_input(config_json=config, task="edges-to-micah", model_name="other", device=""),
        known=kfp_io.LIFELONG_KNOBS,
    )
    assert call.item == "edges-to-micah"
    params = loads_lifelong(call.config_json, call.assignments)
    assert params.registry.name == "other" and params.tasks == SHIPPED.tasks
    with pytest.raises(ConfigError, match="unknown pipeline parameter 'data_path'"):
        kfp_io.read(executor_input(data_path="x"), known=kfp_io.LIFELONG_KNOBS)
