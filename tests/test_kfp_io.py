from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graftgan import kfp_io
from graftgan.contract import Entry, Result
from graftgan.errors import ConfigError, MissingInput
from graftgan.params import find, loads, override, parse_set, resolve
from graftgan.stages.specs import STAGES, stage


def executor_input(root: str, **parameters: Any) -> dict[str, Any]:
    def artifact(name: str, kind: str) -> dict[str, Any]:
        return {"name": name, "type": {"schemaTitle": kind}, "uri": f"{root}/{name}", "metadata": {"kept": 1}}

    return {
        "inputs": {
            "parameterValues": parameters,
            "artifacts": {"dataset": {"artifacts": [artifact("dataset", "system.Dataset")]}},
        },
        "outputs": {
            "artifacts": {
                name: {"artifacts": [artifact(name, kind)]}
                for name, kind in (
                    ("ranking", "system.Artifact"),
                    ("result", "system.Metrics"),
                    ("summary", "system.Markdown"),
                )
            },
            "outputFile": "/unused/executor_output.json",
        },
    }


RESULT = Result(
    stage="rank",
    config="c" * 64,
    code="d" * 64,
    inputs={"dataset": "a" * 64},
    outputs={"ranking": Entry("b" * 64, 12345)},
    metrics={"recall": 0.25, "sources": 6.0},
    warnings=("no source covers the data",),
)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("gs://bucket/a/b", "/gcs/bucket/a/b"),
        ("s3://bucket/a", "/s3/bucket/a"),
        ("minio://mlpipeline/v2/x", "/minio/mlpipeline/v2/x"),
        ("file:///data/x", "/data/x"),
        ("/plain/path", "/plain/path"),
        ("relative/path", "relative/path"),
    ],
)
def test_uris_map_to_where_the_launcher_puts_them(uri: str, path: str) -> None:
    assert kfp_io.local_path({"uri": uri}) == Path(path)


def test_the_mapping_is_the_one_of_kfp() -> None:
    from kfp import dsl

    for uri in ("gs://b/k/n", "s3://b/k/n", "minio://b/k/n", "/local/n"):
        assert str(kfp_io.local_path({"uri": uri})) == dsl.Artifact(uri=uri).path


def test_a_custom_path_wins_over_the_uri() -> None:
    assert kfp_io.local_path({"uri": "s3://b/k", "customPath": "/mnt/k"}) == Path("/mnt/k")


def test_an_unknown_store_is_named() -> None:
    with pytest.raises(ConfigError, match="hdfs://b/k") as caught:
        kfp_io.local_path({"uri": "hdfs://b/k"})
    assert "s3" in caught.value.remedy


def test_read_gives_paths_configuration_and_turned_knobs() -> None:
    message = executor_input("s3://bucket/run", config_json='{"rank":{"seed":3}}', choose="micah", sources="")
    call = kfp_io.read(json.dumps(message))
    assert call.inputs == {"dataset": Path("/s3/bucket/run/dataset")}
    assert call.outputs == {
        "ranking": Path("/s3/bucket/run/ranking"),
        "result": Path("/s3/bucket/run/result"),
    }
    assert loads(call.config_json).rank.seed == 3
    assert call.assignments == ['rank.choose="micah"']


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"config_json": ""},
        {"config_json": "{}", "arm": "", "choose": ""},
        {"arm": "configured", "sources": ["configured"], "budget_kimg": 0.0, "data_digest": ""},
        {"sources": "configured"},
    ],
)
def test_nothing_given_means_the_defaults(parameters: dict[str, Any]) -> None:
    call = kfp_io.read(json.dumps(executor_input("/x", **parameters)))
    assert loads(call.config_json) == loads("{}")
    assert call.assignments == []
    assert call.pins == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"outputs": {}}',
        '{"outputs": {"artifacts": {"a": {}}, "outputFile": "x"}}',
    ],
)
def test_what_is_not_an_executor_input_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError, match="executor input"):
        kfp_io.read(text)


def test_two_artifacts_where_one_is_expected_are_refused() -> None:
    message = executor_input("/x")
    message["inputs"]["artifacts"]["dataset"]["artifacts"] *= 2
    with pytest.raises(ConfigError, match="artifact dataset"):
        kfp_io.read(json.dumps(message))


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        kfp_io.read(json.dumps(executor_input("/x", learning_rate="1")))


TURNED = {
    "data_path": ("123", "123"),
    "catalogue": ('a "quoted": {zoo}.yaml', 'a "quoted": {zoo}.yaml'),
    "sources": (["micah", "open-peeps"], ["micah", "open-peeps"]),
    "choose": ("yes", "yes"),
    "arm": ("freeze_d/7", "freeze_d"),
    "budget_kimg": (1.5, 1.5),
    "model_name": ("faces", "faces"),
    "tracking_uri": ("http://mlflow:5000", "http://mlflow:5000"),
    "device": ("cuda:1", "cuda:1"),
}


@pytest.mark.parametrize("name", kfp_io.KNOBS)
def test_every_knob_reaches_its_key_as_the_schema_wants_it(name: str) -> None:
    text, expected = TURNED[name]
    call = kfp_io.read(json.dumps(executor_input("/x", **{name: text})))
    raw: dict[str, Any] = {}
    for assignment in call.assignments:
        override(raw, *parse_set(assignment))
    value: Any = resolve(raw, "test").model_dump()
    for part in kfp_io.KNOBS[name].key.split("."):
        value = value[part]
    assert value == expected
    assert find(kfp_io.KNOBS[name].key)


@pytest.mark.parametrize("value", [["a", "b"], "a, b", "[a, b]"])
def test_sources_may_be_a_list_or_a_text(value: Any) -> None:
    (assignment,) = kfp_io.KNOBS["sources"].assignments(value)
    assert parse_set(assignment) == ("rank.sources", ["a", "b"])


def test_one_source_of_a_fan_out_is_a_list_of_one() -> None:
    assert kfp_io.KNOBS["sources"].assignments("micah") == ['rank.sources=["micah"]']


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("full/3", {"finetune.method": "full", "finetune.seed": 3}),
        ("configured/3", {"finetune.seed": 3}),
        ("lora", {"finetune.method": "lora"}),
        ("configured", {}),
        ("", {}),
    ],
)
def test_an_arm_is_a_method_and_a_seed(arm: str, expected: dict[str, Any]) -> None:
    assert dict(parse_set(text) for text in kfp_io.KNOBS["arm"].assignments(arm)) == expected


@pytest.mark.parametrize("arm", ["full/x", "/3", "full/", "full/1.5"])
def test_what_is_no_arm_is_named(arm: str) -> None:
    with pytest.raises(ConfigError, match="METHOD/SEED"):
        kfp_io.KNOBS["arm"].assignments(arm)


def test_neutral_values_leave_the_configuration_alone() -> None:
    for knob in kfp_io.KNOBS.values():
        assert knob.assignments(knob.neutral) == []
        assert isinstance(knob.neutral, knob.type)


def listed(count: int, *names: str) -> dict[str, Any]:
    message = executor_input("/x")
    for name in names:
        message["inputs"]["artifacts"][name] = {
            "artifacts": [{"name": name, "uri": f"/x/{n}/{name}"} for n in range(count)]
        }
    return message


def test_the_inputs_of_a_fan_in_are_numbered() -> None:
    message = listed(2, "models", "scores", "trained", "scored")
    call = kfp_io.read(json.dumps(message), stage("compare"))
    assert {k: v for k, v in call.inputs.items() if k.startswith("models")} == {
        "models/0": Path("/x/0/models"),
        "models/1": Path("/x/1/models"),
    }
    assert len(call.inputs) == 9
    assert call.warm == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_warm_inputs_are_no_inputs(count: int) -> None:
    call = kfp_io.read(json.dumps(listed(count, "features")), stage("rank"))
    assert call.warm == [Path(f"/x/{n}/features") for n in range(count)]
    assert set(call.inputs) == {"dataset"}


def test_a_digest_that_differs_from_the_submitted_one_is_refused() -> None:
    call = kfp_io.read(json.dumps(executor_input("/x", data_digest="a" * 64, catalogue_digest="")))
    assert call.pins == {"data.path": "a" * 64}
    call.check_pins({"data.path": "a" * 64})
    call.check_pins({"rank.catalogue": "c" * 64})
    with pytest.raises(MissingInput, match=r"data\.path has digest b+, but the run was .* with a+"):
        call.check_pins({"data.path": "b" * 64})


def test_digests_of_a_list_of_tasks_are_by_key_and_only_what_is_read_is_compared() -> None:
    digests = {"tasks.a.data.target": "a" * 64, "tasks.b.data.target": "b" * 64}
    message = executor_input("/x", data_digests=json.dumps(digests), task="a")
    call = kfp_io.read(json.dumps(message), known=kfp_io.LIFELONG_KNOBS)
    assert call.pins == digests and call.item == "a"
    call.check_pins({"tasks.a.data.target": "a" * 64})
    with pytest.raises(MissingInput, match=r"tasks\.b\.data\.target has digest c+, but"):
        call.check_pins({"tasks.b.data.target": "c" * 64})
    for text in ("", "{}"):
        message = executor_input("/x", data_digests=text)
        assert kfp_io.read(json.dumps(message), known=kfp_io.LIFELONG_KNOBS).pins == {}


@pytest.mark.parametrize("text", ["nonsense", "[1]", '"x"', "7"])
def test_digests_that_are_no_mapping_are_refused(text: str) -> None:
    message = json.dumps(executor_input("/x", data_digests=text))
    with pytest.raises(ConfigError, match="data_digests is no JSON") as caught:
        kfp_io.read(message, known=kfp_io.LIFELONG_KNOBS)
    assert "pipelines.lifelong digests" in caught.value.remedy
    with pytest.raises(ConfigError, match="unknown pipeline parameter 'data_digests'"):
        kfp_io.read(message)


def test_each_stage_gets_only_the_knobs_it_reads() -> None:
    names = {spec.name: set(kfp_io.knobs(spec)) for spec in STAGES}
    assert "data_path" in names["prepare"] and "data_path" not in names["rank"]
    assert {"sources", "choose", "catalogue"} <= names["rank"]
    assert {"arm", "budget_kimg", "catalogue"} <= names["finetune"]
    assert "model_name" in names["register"]
    assert not {"arm", "sources"} & names["evaluate"]
    assert all({"tracking_uri", "device"} <= given for given in names.values())


def test_write_puts_digests_sizes_and_metrics_into_the_metadata(tmp_path: Path) -> None:
    message = executor_input(str(tmp_path / "artifacts"))
    message["outputs"]["outputFile"] = str(tmp_path / "deep" / "executor_output.json")
    kfp_io.write(kfp_io.read(json.dumps(message)), RESULT)
    written = json.loads((tmp_path / "deep" / "executor_output.json").read_text())["artifacts"]
    assert set(written) == {"ranking", "result", "summary"}
    ranking = written["ranking"]["artifacts"][0]
    assert ranking["uri"] == f"{tmp_path}/artifacts/ranking"
    assert ranking["metadata"] == {"kept": 1, "digest": "b" * 64, "bytes": 12345}
    assert written["result"]["artifacts"][0]["metadata"] == {"kept": 1, "recall": 0.25, "sources": 6.0}
    assert (tmp_path / "artifacts" / "summary").read_text() == kfp_io.markdown(RESULT)


def test_write_gives_the_message_that_kfp_reads(tmp_path: Path) -> None:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    message = executor_input(str(tmp_path))
    message["outputs"]["outputFile"] = str(tmp_path / "executor_output.json")
    kfp_io.write(kfp_io.read(json.dumps(message)), RESULT)
    output = pipeline_spec_pb2.ExecutorOutput()
    json_format.Parse((tmp_path / "executor_output.json").read_text(), output)
    assert output.artifacts["result"].artifacts[0].metadata["recall"] == 0.25


def test_write_hands_on_what_a_stage_tells(tmp_path: Path) -> None:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    message = executor_input(str(tmp_path / "artifacts"))
    message["outputs"]["artifacts"] = {"table": {"artifacts": [{"uri": str(tmp_path / "table")}]}}
    message["outputs"]["parameters"] = {"winner": {"outputFile": str(tmp_path / "told" / "winner")}}
    message["outputs"]["outputFile"] = str(tmp_path / "executor_output.json")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "winner.txt").write_text("full/1\n")
    call = kfp_io.read(json.dumps(message), stage("compare"))
    kfp_io.write(call, Result("compare", "c", "d", {}), stage("compare"))
    assert (tmp_path / "told" / "winner").read_text() == "full/1"
    output = pipeline_spec_pb2.ExecutorOutput()
    json_format.Parse((tmp_path / "executor_output.json").read_text(), output)
    assert output.parameter_values["winner"].string_value == "full/1"


def test_pictures_of_a_stage_are_one_page_within_the_size_of_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    message = executor_input(str(tmp_path))
    message["outputs"]["artifacts"]["pictures"] = {"artifacts": [{"uri": str(tmp_path / "pictures")}]}
    message["outputs"]["outputFile"] = str(tmp_path / "executor_output.json")
    (tmp_path / "ranking" / "sheets").mkdir(parents=True)
    for name in ("target.png", "sheets/a.png", "sheets/b.png", "sheets/not.txt"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / "ranking" / name, "png")
    call = kfp_io.read(json.dumps(message), stage("rank"))
    assert "pictures" not in call.outputs
    kfp_io.write(call, RESULT, stage("rank"))
    page = (tmp_path / "pictures").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "<figcaption>sheets/b.png</figcaption>" in page and "http" not in page
    monkeypatch.setattr(kfp_io, "MAX_CARD_BYTES", (tmp_path / "ranking" / "target.png").stat().st_size)
    kfp_io.write(call, RESULT, stage("rank"))
    assert (tmp_path / "pictures").read_text().count("data:image/png") == 1


def test_a_component_without_a_summary_gets_none(tmp_path: Path) -> None:
    message = executor_input(str(tmp_path / "artifacts"))
    del message["outputs"]["artifacts"]["summary"]
    message["outputs"]["outputFile"] = str(tmp_path / "executor_output.json")
    kfp_io.write(kfp_io.read(json.dumps(message)), RESULT)
    assert not (tmp_path / "artifacts").exists()


def test_the_summary_names_warnings_metrics_and_digests() -> None:
    text = kfp_io.markdown(RESULT)
    assert text.startswith("# rank: done\n")
    assert "- warning: no source covers the data" in text
    assert "| recall | 0.25 |" in text
    assert f"| ranking | 12,345 | `{'b' * 64}` |" in text


def test_the_summary_of_an_empty_result_is_its_heading() -> None:
    assert kfp_io.markdown(Result("rank", "c", "d", {})) == "# rank: done\n"


def test_kfp_is_not_imported() -> None:
    loaded = "{m.split('.')[0] for m in sys.modules}"
    code = f"import sys, graftgan.kfp_io; sys.exit(bool({loaded} & {{'kfp', 'torch', 'numpy'}}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
