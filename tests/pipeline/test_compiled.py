from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.base import ARTIFACTS, IMAGE, LOCAL_MARKER, RUN_ID, outputs_of, pins
from graftgan.errors import ConfigError
from graftgan.kfp_io import CONFIG, KNOBS, PINS, knobs
from graftgan.params import find
from graftgan.stages.specs import CLUSTER_STAGES, STAGES, StageSpec, stage
from pipelines import base, compile, profiles, transfer

SCHEMAS = {kind: artifact.schema_title for kind, artifact in ARTIFACTS.items()}
COMPILED = base.compiled_path("transfer")
ALL = (*STAGES, *CLUSTER_STAGES)
FAN_OUTS = {"rank-source": "sources", "finetune": "arms", "evaluate": "arms"}


@pytest.fixture(scope="module")
def compiled() -> dict[str, Any]:
    (document,) = yaml.safe_load_all(COMPILED.read_text())
    assert isinstance(document, dict)
    return document


def tasks(spec: Mapping[str, Any], graph: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield name, task and fan-out of every task that runs a container."""
    for name, task in graph["dag"]["tasks"].items():
        component = spec["components"].get(task["componentRef"]["name"], {})
        if "dag" in component:
            within = task["taskInfo"]["name"] if "iteratorPolicy" in task else ""
            for inner, found, fan_out in tasks(spec, component):
                yield inner, found, fan_out or within
        else:
            yield name, task, ""


@pytest.fixture(scope="module")
def found(compiled: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    return {name: (task, fan_out) for name, task, fan_out in tasks(compiled, compiled["root"])}


@pytest.mark.parametrize("name", base.NAMES)
def test_what_is_checked_in_is_what_compiles(name: str) -> None:
    assert compile.main([name, "--check"]) == 0


def test_a_pipelines_own_module_compiles_it_too() -> None:
    assert transfer.main(["compile", "--check"]) == 0


def test_a_stale_file_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "transfer.yaml"
    stale.write_text(COMPILED.read_text().replace("comp-rank", "comp-order"))
    assert transfer.main(["compile", "--check", "--output", str(stale)]) == 1
    assert "pipelines.compile transfer" in capsys.readouterr().err
    assert transfer.main(["compile", "--check", "--output", str(tmp_path / "absent.yaml")]) == 1


def test_an_unknown_pipeline_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert compile.main(["transfers"]) == 2
    assert "'transfers'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="transfer"):
        base.build("os", profiles.load("local"))


def test_a_cluster_profile_does_not_overwrite_what_is_checked_in(capsys: pytest.CaptureFixture[str]) -> None:
    before = COMPILED.read_bytes()
    assert compile.main(["transfer", "--image", f"r/g@sha256:{'0' * 64}"]) == 2
    assert "--output" in capsys.readouterr().err
    assert COMPILED.read_bytes() == before


def test_the_image_of_every_task_can_be_chosen(tmp_path: Path) -> None:
    image = "registry/graftgan@sha256:" + "0" * 64
    assert transfer.main(["compile", "--image", image, "--output", str(tmp_path / "t.yaml")]) == 0
    (document,) = yaml.safe_load_all((tmp_path / "t.yaml").read_text())
    images = {e["container"]["image"] for e in document["deploymentSpec"]["executors"].values()}
    assert images == {image}


def test_the_compiled_text_survives_a_round_trip_through_the_messages(compiled: dict[str, Any]) -> None:
    spec = pipeline_spec_pb2.PipelineSpec()
    json_format.ParseDict(compiled, spec)
    assert json_format.MessageToDict(spec) == compiled
    deployment = pipeline_spec_pb2.PipelineDeploymentConfig()
    json_format.ParseDict(compiled["deploymentSpec"], deployment)
    assert json_format.MessageToDict(deployment) == compiled["deploymentSpec"]


def test_every_pipeline_parameter_is_the_configuration_or_declared(compiled: dict[str, Any]) -> None:
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {CONFIG, *PINS, *KNOBS} - {"arm"} | {"arms"}
    assert len(parameters) <= 12
    types = {"text": "STRING", "number": "NUMBER_DOUBLE", "names": "LIST"}
    for name, knob in KNOBS.items():
        assert find(knob.key), name
        if name != "arm":
            assert parameters[name]["parameterType"] == types[knob.kind]
            assert parameters[name]["defaultValue"] == knob.neutral
            assert knob.key in parameters[name]["description"]
    assert parameters["arms"] | {"description": ""} == {
        "parameterType": "LIST", "defaultValue": ["configured"], "isOptional": True, "description": "",
    }  # fmt: skip
    assert all(parameter["description"] for parameter in parameters.values())


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_a_component_has_the_ports_and_types_of_its_stage(compiled: dict[str, Any], spec: StageSpec) -> None:
    component = compiled["components"][f"comp-{spec.name}"]
    inputs = component.get("inputDefinitions", {})
    origins = {name: origin.split(".") for name, origin in (spec.inputs | spec.warm).items()}
    assert _types(inputs) == {n: SCHEMAS[stage(w).port(p).kind] for n, (w, p) in origins.items()}
    listed = {n for n, a in inputs.get("artifacts", {}).items() if a.get("isArtifactList")}
    assert listed == {*spec.many, *spec.warm}
    outputs = component["outputDefinitions"]
    own = {port.name: SCHEMAS[port.kind] for port in spec.outputs}
    card = {"result": "system.Metrics", "summary": "system.Markdown"}
    pictures = {"pictures": "system.HTML"} if spec.pictures else {}
    assert _types(outputs) == own | card | pictures
    assert set(outputs.get("parameters", {})) == set(spec.told)
    assert set(inputs["parameters"]) == {CONFIG, *knobs(spec), *pins(spec)}


def _types(definitions: dict[str, Any]) -> dict[str, str]:
    return {n: a["artifactType"]["schemaTitle"] for n, a in definitions.get("artifacts", {}).items()}


def test_ports_with_pictures_name_outputs_of_their_stage() -> None:
    for spec in ALL:
        for pattern in (*spec.pictures, *spec.told.values()):
            assert spec.port(pattern.split("/")[0]).folder, pattern
    assert {s.name for s in ALL if s.pictures} == {"rank", "finetune", "evaluate"}
    assert [p.name for p in outputs_of(stage("rank"))][-1] == "pictures"


@pytest.mark.parametrize("name", [*(spec.name for spec in ALL), "finish"])
def test_a_task_runs_the_command_line_in_the_one_image(compiled: dict[str, Any], name: str) -> None:
    container = compiled["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
    assert container["image"] == IMAGE
    group = [] if name in {spec.name for spec in STAGES} else ["task"]
    assert container["command"] == ["env", LOCAL_MARKER, RUN_ID, "graftgan", *group, name]
    assert container["args"] == ["--kfp-executor-input", "{{$}}"]


def test_sources_and_arms_fan_out_and_nothing_else(found: dict[str, tuple[Any, str]]) -> None:
    assert {name: fan_out for name, (_, fan_out) in found.items() if fan_out} == FAN_OUTS
    assert set(found) == {spec.name for spec in ALL} | {"finish"}


def test_fan_outs_have_a_limit_of_tasks_at_once(compiled: dict[str, Any]) -> None:
    body = compiled["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    limits = {
        t["taskInfo"]["name"]: t["iteratorPolicy"]["parallelismLimit"]
        for t in body.values()
        if "iteratorPolicy" in t
    }
    assert limits == {"sources": 2, "arms": 2}


def test_artifacts_flow_as_the_table_says(found: dict[str, tuple[Any, str]]) -> None:
    fanned = {"best_models": "compare.best_models", "best_scores": "compare.best_scores"}
    best = {"models": fanned["best_models"], "scores": fanned["best_scores"]}
    for spec in ALL:
        task, fan_out = found[spec.name]
        wired = {n: _origin(a) for n, a in task["inputs"].get("artifacts", {}).items()}
        expected = dict(spec.inputs | spec.warm)
        if spec.name in ("report", "register"):
            expected |= {name: origin for name, origin in best.items() if name in expected}
        for name, origin in wired.items():
            writer, port = expected[name].split(".")
            assert origin.endswith(f"{writer}-{port}") or origin == expected[name], (spec.name, name, fan_out)
        assert set(wired) == set(expected)


def _origin(artifact: dict[str, Any]) -> str:
    if "componentInputArtifact" in artifact:
        return str(artifact["componentInputArtifact"])
    output = artifact["taskOutputArtifact"]
    return f"{output['producerTask']}.{output['outputArtifactKey']}"


def test_later_tasks_get_the_winners_method_and_seed(found: dict[str, tuple[Any, str]]) -> None:
    arm = found["report"][0]["inputs"]["parameters"]["arm"]["taskOutputParameter"]
    assert arm == {"producerTask": "compare", "outputParameterKey": "winner"}
    assert "arm" not in found["register"][0]["inputs"]["parameters"]


def test_the_exit_handler_gets_the_final_status_and_runs_whatever_happened(
    found: dict[str, tuple[Any, str]],
) -> None:
    task, _ = found["finish"]
    assert task["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    status = task["inputs"]["parameters"]["status"]["taskFinalStatus"]
    assert status == {"producerTask": "exit-handler-1"}


def test_no_task_is_cached_where_the_image_has_no_digest(found: dict[str, tuple[Any, str]]) -> None:
    assert all(task["cachingOptions"] == {} for task, _ in found.values())


def test_the_cache_key_of_every_task_holds_configuration_and_digests() -> None:
    for spec in ALL:
        expected = {"data_digest"} if spec.name == "prepare" else {"data_digest", "catalogue_digest"}
        assert set(pins(spec)) == expected


def test_pipelines_and_components_load_no_network_library() -> None:
    code = (
        "import sys, pipelines.transfer, pipelines.lint, pipelines.diff, pipelines.submit, components.finish;"
        "sys.exit(bool({'torch', 'mlflow', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0
