from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from graftgan.errors import ConfigError
from pipelines.trainjob import Settings, check_schema, main, manifest, render

ROOT = Path(__file__).parents[2]
GPU_JOB = Settings(
    nodes=2, processes=4, gpus=4, namespace="team", assignments=("finetune.batch=64",),
    pull_secrets=("registry",), node_selector=("pool=a100",), tolerations=("nvidia.com/gpu", "spot=yes"),
)  # fmt: skip


def rendered(settings: Settings) -> dict[str, Any]:
    document = yaml.safe_load(render(settings))
    assert isinstance(document, dict)
    return document


def pod(document: dict[str, Any]) -> dict[str, Any]:
    (patch,) = document["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    found: dict[str, Any] = job["template"]["spec"]["template"]["spec"]
    return found


def test_torchrun_starts_the_stage_on_every_node() -> None:
    document = rendered(GPU_JOB)
    trainer = document["spec"]["trainer"]
    assert (document["apiVersion"], document["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert trainer["command"] == ["torchrun", "--shutdown-timeout", "120", "-m", "graftgan", "finetune"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "4"
    assert trainer["args"][-4:] == ["--set", "runtime.device=cuda", "--set", "finetune.batch=64"]
    assert document["metadata"]["namespace"] == "team"


def test_the_command_line_of_the_job_is_one_that_the_project_takes() -> None:
    from click.testing import CliRunner

    from graftgan.cli import cli

    args = rendered(Settings(stage="rank"))["spec"]["trainer"]["args"]
    told = CliRunner().invoke(cli, ["rank", *args, "--help"])
    assert told.exit_code == 0
    assert {word for word in args if word.startswith("--")} <= set(told.output.split())


def test_every_mount_has_its_volume_and_pods_are_placed_as_told() -> None:
    spec = pod(rendered(GPU_JOB))
    (container,) = spec["containers"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert spec["nodeSelector"] == {"pool": "a100"}
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists"},
        {"key": "spot", "operator": "Equal", "value": "yes"},
    ]


def test_pods_may_do_no_more_than_they_must() -> None:
    spec = pod(rendered(GPU_JOB))
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert f"USER {spec['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text()
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    paths = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/workspace", "/tmp", "/dev/shm"} < paths


def test_without_gpus_the_workers_compute_on_cpus() -> None:
    document = rendered(Settings())
    assert "runtime.device=cpu" in document["spec"]["trainer"]["args"]
    assert set(document["spec"]["trainer"]["resourcesPerNode"]["limits"]) == {"cpu", "memory"}
    assert not {"nodeSelector", "tolerations", "imagePullSecrets"} & pod(document).keys()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stage": "prepare"}, "--stage prepare"),
        ({"name": "My_Job"}, "--name 'My_Job'"),
        ({"name": "a" * 64}, "--name"),
        ({"claim": ""}, "--claim"),
        ({"memory": "16 GB"}, "--memory '16 GB'"),
        ({"shared_memory": "1x"}, "--shared-memory '1x'"),
        ({"nodes": 0}, "--nodes"),
        ({"gpus": 3, "processes": 2}, "--gpus is 3, but --processes is 2"),
        ({"node_selector": ("pool",)}, "--node-selector 'pool'"),
        ({"processes": 3, "assignments": ("finetune.batch=16",)}, "finetune.batch is 16"),
        ({"assignments": ("finetune.bach=16",)}, "bach"),
        ({"env": ("LD_PRELOAD=x",)}, "--env LD_PRELOAD"),
        ({"env": ("AWS_ENDPOINT_URL",)}, "--env AWS_ENDPOINT_URL"),
        ({"env": ("MLFLOW_TRACKING_URI=http://me:word@mlflow",)}, "--env MLFLOW_TRACKING_URI"),
        ({"secret_env": ("AWS_SECRET_ACCESS_KEY=word",)}, "--secret-env AWS_SECRET_ACCESS_KEY"),
        ({"secret_env": ("PATH=secret/key",)}, "--secret-env PATH"),
    ],
)
def test_what_would_fail_in_the_cluster_is_refused_here(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render(Settings(**changes))
    assert words in str(caught.value)
    assert "word@" not in str(caught.value) and "=word" not in str(caught.value)


def test_the_stores_are_told_by_address_and_their_credentials_by_secret() -> None:
    settings = Settings(
        env=("AWS_ENDPOINT_URL=http://store:8333",), secret_env=("AWS_ACCESS_KEY_ID=graftgan-s3/access-key",)
    )
    env = {entry.pop("name"): entry for entry in rendered(settings)["spec"]["trainer"]["env"]}
    assert env["AWS_ENDPOINT_URL"] == {"value": "http://store:8333"}
    assert env["AWS_ACCESS_KEY_ID"] == {
        "valueFrom": {"secretKeyRef": {"name": "graftgan-s3", "key": "access-key"}}
    }
    assert env["GRAFTGAN_HOME"]["value"].startswith("/workspace/")


def test_the_batch_matters_to_finetune_alone() -> None:
    assert rendered(Settings(stage="rank", processes=3, assignments=("finetune.batch=16",)))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda d: d["spec"]["trainer"].update(numNodes="1"), "numNodes"),
        (lambda d: d["spec"]["trainer"].update(numNode=1), "spec.trainer.numNode"),
        (lambda d: d["spec"]["runtimeRef"].pop("name"), "RuntimeRef"),
        (lambda d: pod(d)["volumes"][0].update(claim="x"), "claim"),
        (lambda d: d["spec"]["trainer"]["command"].append(3), "command"),
    ],
)
def test_the_schema_finds_wrong_types_and_unknown_and_missing_fields(fault: Any, words: str) -> None:
    document = manifest(GPU_JOB)
    check_schema(document)
    fault(document)
    with pytest.raises(ConfigError, match=words):
        check_schema(document)


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "--secret-env SECRET_ENV `VARIABLE=SECRET/KEY`, a credential from a Kubernetes secret." in told
    assert "Time to save the state after SIGTERM (120)." in told


def test_the_command_writes_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--stage", "evaluate", "--nodes", "2", "--set", "evaluate.samples=64"]
    assert main([*words, "--out", str(tmp_path / "job.yaml")]) == 0
    expected = Settings(stage="evaluate", nodes=2, assignments=("evaluate.samples=64",))
    assert (tmp_path / "job.yaml").read_text() == render(expected)
    assert main([*words, "--gpus", "1"]) == 2
    assert "--gpus is 1" in capsys.readouterr().err
