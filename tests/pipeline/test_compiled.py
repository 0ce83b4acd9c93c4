from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.base import ARTIFACTS, IMAGE, LOCAL_MARKER, RUN_ID
from graftgan.kfp_io import CONFIG, KNOBS, knobs
from graftgan.params import find
from graftgan.stages.specs import STAGES, StageSpec, stage
from pipelines import transfer

SCHEMAS = {kind: artifact.schema_title for kind, artifact in ARTIFACTS.items()}


@pytest.fixture(scope="module")
def compiled() -> dict[str, Any]:
    (document,) = yaml.safe_load_all(transfer.COMPILED.read_text())
    assert isinstance(document, dict)
    return document


def test_what_is_checked_in_is_what_compiles() -> None:
    assert transfer.main(["compile", "--check"]) == 0


def test_a_stale_file_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "transfer.yaml"
    stale.write_text(transfer.COMPILED.read_text().replace("comp-rank", "comp-order"))
    assert transfer.main(["compile", "--check", "--output", str(stale)]) == 1
    assert "pipelines.transfer compile" in capsys.readouterr().err
    assert transfer.main(["compile", "--check", "--output", str(tmp_path / "absent.yaml")]) == 1


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


def test_every_pipeline_parameter_is_the_configuration_or_a_declared_knob(compiled: dict[str, Any]) -> None:
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {CONFIG, *KNOBS}
    assert len(KNOBS) <= 12
    for name, knob in KNOBS.items():
        assert find(knob.key), name
        assert parameters[name]["defaultValue"] == ""
        assert knob.key in parameters[name]["description"]


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_a_component_has_the_ports_and_types_of_its_stage(compiled: dict[str, Any], spec: StageSpec) -> None:
    component = compiled["components"][f"comp-{spec.name}"]
    inputs = component.get("inputDefinitions", {})
    origins = {name: origin.split(".") for name, origin in spec.inputs.items()}
    assert _types(inputs) == {n: SCHEMAS[stage(w).port(p).kind] for n, (w, p) in origins.items()}
    own = {port.name: SCHEMAS[port.kind] for port in spec.outputs}
    assert _types(component["outputDefinitions"]) == own | {
        "result": "system.Metrics",
        "summary": "system.Markdown",
    }
    assert set(inputs["parameters"]) == {CONFIG, *knobs(spec)}


def _types(definitions: dict[str, Any]) -> dict[str, str]:
    return {n: a["artifactType"]["schemaTitle"] for n, a in definitions.get("artifacts", {}).items()}


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_a_task_runs_the_command_line_in_the_one_image(compiled: dict[str, Any], spec: StageSpec) -> None:
    container = compiled["deploymentSpec"]["executors"][f"exec-{spec.name}"]["container"]
    assert container["image"] == IMAGE
    assert container["command"] == ["env", LOCAL_MARKER, RUN_ID, "graftgan", spec.name]
    assert container["args"] == ["--kfp-executor-input", "{{$}}"]


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_artifacts_flow_as_the_table_says(compiled: dict[str, Any], spec: StageSpec) -> None:
    task = compiled["root"]["dag"]["tasks"][spec.name]
    wired = {
        name: f"{a['taskOutputArtifact']['producerTask']}.{a['taskOutputArtifact']['outputArtifactKey']}"
        for name, a in task["inputs"].get("artifacts", {}).items()
    }
    assert wired == spec.inputs
    assert task["inputs"]["parameters"] == {
        name: {"componentInputParameter": name} for name in (CONFIG, *knobs(spec))
    }


def test_caching_is_off_because_its_key_does_not_see_the_images(compiled: dict[str, Any]) -> None:
    assert all("enableCache" not in t["cachingOptions"] for t in compiled["root"]["dag"]["tasks"].values())
