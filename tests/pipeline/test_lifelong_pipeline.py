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
from graftgan.errors import ConfigError, MissingInput
from graftgan.kfp_io import CONFIG, DIGESTS, ITEM, LIFELONG_KNOBS
from graftgan.lifelong_config import LifelongParams
from graftgan.lifelong_params import dumps_lifelong, load_lifelong, loads_lifelong, resolve_section
from graftgan.stages.lifelong_specs import lifelong_stages
from pipelines import lifelong, lint, profiles

ROOT = Path(__file__).parents[2]
SHIPPED = load_lifelong(ROOT / "lifelong" / "params.yaml")
SPECS = lifelong_stages(tuple(SHIPPED.tasks))
PINNED = f"registry/graftgan@sha256:{'0' * 64}"


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
    executors, steps = dict(compiled["deploymentSpec"]["executors"]), steps_of(compiled)
    last = executors.pop("exec-finish-lifelong")["container"]
    assert last["command"] == ["env", LOCAL_MARKER, RUN_ID, "graftgan", "task", "finish-lifelong"]
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
    assert all(step["cachingOptions"] == {} for step in steps.values())


def steps_of(compiled: dict[str, Any]) -> dict[str, Any]:
    """Return the tasks within the exit handler."""
    found: dict[str, Any] = compiled["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    return found


def test_the_exit_handler_runs_whatever_happened_and_gets_the_final_status(compiled: dict[str, Any]) -> None:
    outer = compiled["root"]["dag"]["tasks"]
    assert set(outer) == {"exit-handler-1", "finish-lifelong"}
    assert outer["exit-handler-1"]["taskInfo"]["name"] == "lifelong"
    last = outer["finish-lifelong"]
    assert last["taskInfo"]["name"] == "finish"
    assert last["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    given = last["inputs"]["parameters"]
    assert given["status"]["taskFinalStatus"] == {"producerTask": "exit-handler-1"}
    assert set(given) == {"status", CONFIG, "tracking_uri"}


def test_the_cache_key_of_every_step_holds_the_list_and_the_digests_of_its_images(
    compiled: dict[str, Any],
) -> None:
    for step in steps_of(compiled).values():
        given, kind = step["inputs"]["parameters"], step["taskInfo"]["name"].split("-")[0]
        assert CONFIG in given and (DIGESTS in given) == (kind != "create")
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {CONFIG, DIGESTS, *LIFELONG_KNOBS}
    assert all(parameter["description"] for parameter in parameters.values())


@pytest.mark.parametrize("name", ["small-gpu", "large-gpu"])
def test_a_cluster_caches_asks_for_digests_and_trains_on_its_gpus(name: str, tmp_path: Path) -> None:
    words = ["compile", "--profile", name, "--image", PINNED, "--output", str(tmp_path / "l.yaml")]
    assert lifelong.main(words) == 0
    documents = [*yaml.safe_load_all((tmp_path / "l.yaml").read_text())]
    assert lint.lint(documents, release=True) == []
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert not parameters[DIGESTS].get("isOptional")
    steps = steps_of(documents[0])
    assert all(step["cachingOptions"] == {"enableCache": True} for step in steps.values())
    executors = documents[0]["deploymentSpec"]["executors"]
    gpus = {key for key, executor in executors.items() if "accelerator" in executor["container"]["resources"]}
    learning = {key for key in executors if key.startswith("exec-lifelong-learn")}
    assert learning <= gpus and len(learning) == len(SHIPPED.tasks)
    assert not any(key.startswith(("exec-lifelong-evaluate", "exec-lifelong-verify")) for key in gpus)
    profile = profiles.load(name, PINNED)
    assert profile.resources_of("learn-x", "lifelong-learn") == profile.resources["gpu"]
    own = profile.model_copy(update={"tasks": {"learn-x": "default", "lifelong-learn": "gpu"}})
    assert own.resources_of("learn-x", "lifelong-learn") == profile.resources["default"]


def test_cards_of_what_is_learnt_and_verified_show_pictures(compiled: dict[str, Any]) -> None:
    with_pictures = {spec.name for spec in SPECS if spec.pictures}
    assert with_pictures == {"verify", *(f"learn-{task}" for task in SHIPPED.tasks)}
    for spec in SPECS:
        for pattern in spec.pictures:
            assert spec.port(pattern.split("/")[0]).folder
    for step in steps_of(compiled).values():
        component = compiled["components"][step["componentRef"]["name"]]
        shown = component["outputDefinitions"]["artifacts"]
        assert ("pictures" in shown) == (step["taskInfo"]["name"] in with_pictures)


def test_steps_are_chained_as_the_stages_are(compiled: dict[str, Any]) -> None:
    steps = steps_of(compiled)
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
    assert (
        next(run.glob("**/finish-lifelong/summary"))
    ).read_text() == "# Run succeeded\n\nTracking is off.\n"
    for name in ("lifelong-learn", "lifelong-verify"):
        assert "data:image/" in next(run.glob(f"**/{name}/pictures")).read_text()
    found = {json.loads(path.read_text())["stage"]: path.read_bytes() for path in run.glob("**/result")}
    expected = written(by_cli.root)
    assert found == expected and len(found) == 1 + 2 * len(TASKS) + 3
    assert all(str(by_cli.root) not in raw.decode() for raw in found.values())
    verified = next(p.parent for p in run.glob("**/result") if json.loads(p.read_text())["stage"] == "verify")
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


def test_digests_of_other_images_stop_a_step_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-2")
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    (tmp_path / "x").write_bytes(b"images")
    raw = {"tasks": {"a": {"data": {"make": "grey", "target": str(tmp_path / "x")}}}}
    given = {"config_json": json.dumps(raw), "task": "a"}
    given["data_digests"] = json.dumps({"tasks.a.data.target": "0" * 64})
    words = ["lifelong", "learn", "--kfp-executor-input", executor_input(**given)]
    first, again = (CliRunner().invoke(cli, words).exception for _ in range(2))
    assert isinstance(first, MissingInput) and "tasks.a.data.target has digest" in first.message
    assert isinstance(again, MissingInput) and again.message.startswith("not tried again")


def test_the_digests_are_those_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_bytes(b"images")
    tasks = {"a": {"data": {"make": "grey", "target": str(tmp_path / "x")}}}
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    words = ["digests", "--params", str(tmp_path / "list.yaml")]
    assert lifelong.main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"tasks.a.data.target": digest_path(tmp_path / "x")}
    (tmp_path / "x").unlink()
    assert lifelong.main(words) == 4
    assert "x is not here" in capsys.readouterr().err


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
