from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2

from components.base import IMAGE
from graftgan.errors import ConfigError, MissingInput
from graftgan.stages.specs import CLUSTER_STAGES, STAGES
from pipelines import base, lint, profiles

PINNED = f"registry/graftgan@sha256:{'0' * 64}"
NAMES = sorted(path.stem for path in profiles.FOLDER.glob("*.yaml"))
TASKS = {spec.name for spec in (*STAGES, *CLUSTER_STAGES)} | {"finish"}
ON_GPU = {"rank-source", "rank", "finetune", "evaluate", "register"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Return the documents of every pipeline that the cluster profiles give."""
    folder = tmp_path_factory.mktemp("compiled")
    found = {}
    for name in NAMES:
        base.compile_to("transfer", folder / f"{name}.yaml", profiles.load(name, PINNED))
        found[name] = base.documents(folder / f"{name}.yaml")
    return found


def configs(documents: list[Any]) -> dict[str, Any]:
    return dict(documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"])


def containers(documents: list[Any]) -> dict[str, Any]:
    executors = documents[0]["deploymentSpec"]["executors"]
    return {name: executor["container"] for name, executor in executors.items()}


def test_there_are_profiles_for_a_laptop_and_two_clusters() -> None:
    assert NAMES == ["large-gpu", "local", "small-gpu"]


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_compiles_without_findings(compiled: dict[str, list[Any]], name: str) -> None:
    assert lint.lint(compiled[name], release=True) == []
    json_format.ParseDict(compiled[name][0], pipeline_spec_pb2.PipelineSpec())
    for document in compiled[name][1:]:
        json_format.ParseDict(document, pipeline_spec_pb2.PlatformSpec())
        for config in configs(compiled[name]).values():
            json_format.ParseDict(config, KubernetesExecutorConfig())


def test_the_local_profile_needs_no_kubernetes(compiled: dict[str, list[Any]]) -> None:
    assert len(compiled["local"]) == 1


@pytest.mark.parametrize("name", ["small-gpu", "large-gpu"])
def test_every_task_has_what_the_profile_gives_all(compiled: dict[str, list[Any]], name: str) -> None:
    profile = profiles.load(name, PINNED)
    found = configs(compiled[name])
    assert set(found) == {f"exec-{task}" for task in TASKS}
    assert profile.mlflow is not None
    for executor, config in found.items():
        assert config["imagePullSecret"][0]["secretName"] == profile.image_pull_secret, executor
        secrets = {
            s["secretName"]: {e["envVar"]: e["secretKey"] for e in s["keyToEnv"]}
            for s in config["secretAsEnv"]
        }
        assert secrets[profile.mlflow.secret] == profile.mlflow.env
    for container in containers(compiled[name]).values():
        assert container["image"] == PINNED


@pytest.mark.parametrize("name", ["small-gpu", "large-gpu"])
def test_resources_follow_the_class_of_each_task(compiled: dict[str, list[Any]], name: str) -> None:
    profile = profiles.load(name, PINNED)
    for task in TASKS:
        given = profile.resources_of(task)
        limits = containers(compiled[name])[f"exec-{task}"]["resources"]
        assert (limits["resourceCpuLimit"], limits["resourceMemoryLimit"]) == (given.cpu, given.memory)
        assert (limits["resourceCpuRequest"], limits["resourceMemoryRequest"]) == (given.cpu, given.memory)
        assert ("accelerator" in limits) == (task in ON_GPU)
        config = configs(compiled[name])[f"exec-{task}"]
        if task in ON_GPU:
            assert limits["accelerator"]["resourceType"] == "nvidia.com/gpu"
            assert limits["accelerator"]["resourceCount"] == "1"
            (shared,) = config["emptyDirMounts"]
            assert given.shared_memory
            assert shared == {
                "volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory",
                "sizeLimit": given.shared_memory,
            }  # fmt: skip
            (bears,) = config["tolerations"]
            assert (bears["key"], bears["operator"], bears["effect"]) == (
                "nvidia.com/gpu",
                "Exists",
                "NoSchedule",
            )
        labels = config.get("nodeSelector", {}).get("labels", {})
        assert labels == given.node_selector
    assert profiles.load("large-gpu", PINNED).resources["gpu"].node_selector


def test_a_claim_is_mounted_and_told_to_the_stages(compiled: dict[str, list[Any]]) -> None:
    for executor, config in configs(compiled["small-gpu"]).items():
        (mount,) = config["pvcMount"]
        assert (mount["constant"], mount["mountPath"]) == ("graftgan-workspace", "/workspace")
        env = {e["name"]: e["value"] for e in containers(compiled["small-gpu"])[executor]["env"]}
        assert env == {"GRAFTGAN_HOME": "/workspace/home", "GRAFTGAN_CACHE": "/workspace/cache"}


def test_an_object_store_is_the_pipeline_root_and_its_credentials_are_a_secret(
    compiled: dict[str, list[Any]],
) -> None:
    assert compiled["large-gpu"][0]["defaultPipelineRoot"] == "s3://graftgan/pipelines"
    for config in configs(compiled["large-gpu"]).values():
        assert "pvcMount" not in config
    for container in containers(compiled["large-gpu"]).values():
        # Notes of final failures must outlive the pod.
        env = {e["name"]: e["value"] for e in container["env"]}
        assert env == {"GRAFTGAN_FAILURES": "s3://graftgan/pipelines/failures"}
    for config in configs(compiled["large-gpu"]).values():
        assert {s["secretName"] for s in config["secretAsEnv"]} == {"graftgan-mlflow", "graftgan-s3"}


@pytest.mark.parametrize("name", ["small-gpu", "large-gpu"])
def test_tasks_are_cached_and_tried_again_and_digests_are_required(
    compiled: dict[str, list[Any]], name: str
) -> None:
    spec, retry = compiled[name][0], profiles.load(name, PINNED).retry
    running = [
        task
        for _, graph in lint.graphs(spec)
        for task in graph["dag"]["tasks"].values()
        if "dag" not in spec["components"][task["componentRef"]["name"]]
    ]
    assert len(running) == len(TASKS)
    for task in running:
        assert task["cachingOptions"] == {"enableCache": True}
        assert task["retryPolicy"] == {
            "maxRetryCount": retry.times, "backoffDuration": f"{retry.wait_s}s",
            "backoffFactor": retry.factor, "backoffMaxDuration": f"{retry.longest_wait_s}s",
        }  # fmt: skip
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    required = {name for name, definition in parameters.items() if not definition.get("isOptional")}
    assert required == {"data_digest", "catalogue_digest"}


def test_caching_without_a_pinned_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="pinned by digest") as caught:
        profiles.load("small-gpu")
    assert "--image" in str(caught.value)
    assert profiles.load("local").image == IMAGE


def write(tmp_path: Path, **changes: Any) -> str:
    raw = yaml.safe_load((profiles.FOLDER / "small-gpu.yaml").read_text()) | {"image": PINNED} | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    return str(path)


GOOD = {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": 1}, ["gpus", "Extra inputs"]),
        (
            {"resources": {"default": {"cpu": "1x", "memory": "1Gi"}}, "tasks": {}},
            ["resources.default.cpu", "1x"],
        ),
        ({"resources": {"default": {"cpu": "1", "memory": "16GB"}}, "tasks": {}}, ["memory", "16GB", "16Gi"]),
        ({"resources": {"heavy": GOOD}, "tasks": {}}, ["resources lacks", "default"]),
        ({"parallelism": {"arms": 2}}, ["parallelism lacks"]),
        ({"parallelism": {"default": 0}}, ["parallelism.default"]),
        ({"tasks": {"rank": "huge"}}, ["tasks.rank", "huge", "gpu"]),
        ({"image_pull_secret": "My_Secret"}, ["image_pull_secret", "My_Secret"]),
        ({"image_pull_policy": "Sometimes"}, ["image_pull_policy", "IfNotPresent"]),
        ({"workspace": {"kind": "nfs"}}, ["workspace", "pvc"]),
        ({"workspace": {"kind": "pvc"}}, ["workspace.pvc.claim"]),
        ({"workspace": {"kind": "pvc", "claim": "c", "mount": "here"}}, ["mount"]),
        ({"workspace": {"kind": "s3", "root": "bucket/x"}}, ["workspace.s3.root"]),
        (
            {"mlflow": {"secret": "m", "env": {"MLFLOW_TRACKING_URI": "uri"}}},
            ["MLFLOW_TRACKING_URI", "credential"],
        ),
        ({"mlflow": {"secret": "m", "env": {}}}, ["mlflow.env"]),
        ({"store": {"endpoint": "store:8333"}}, ["store.endpoint"]),
        ({"store": {"endpoint": "http://user:word@store:8333"}}, ["store.endpoint"]),
        ({"store": {"credentials": {"secret": "s", "env": {"AWS_REGION": "r"}}}}, ["AWS_REGION"]),
        ({"retry": {"times": -1}}, ["retry.times"]),
        (
            {
                "resources": {"default": {**GOOD, "tolerations": [{"key": "a", "operator": "Equal"}]}},
                "tasks": {},
            },
            ["tolerations.0", "needs a value"],
        ),
        ({"resources": {"default": {**GOOD, "gpu": {"count": 0}}}, "tasks": {}}, ["gpu.count"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_profile_is_told_by_file_key_and_remedy(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        profiles.load(write(tmp_path, **changes))
    for word in ["mine.yaml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\x00"])
def test_what_is_no_profile_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"p\.yaml"):
        profiles.load(str(tmp_path / "p.yaml"))


def test_an_unknown_profile_is_told_the_known_ones() -> None:
    with pytest.raises(MissingInput) as caught:
        profiles.load("huge-gpu")
    assert "local" in caught.value.remedy and "small-gpu" in caught.value.remedy


def test_a_store_of_one_s_own_is_told_to_every_task_beside_a_claim(tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "access-key", "AWS_SECRET_ACCESS_KEY": "secret-key"}
    path = write(
        tmp_path,
        store={
            "endpoint": "http://store.team.svc:8333", "region": "us-east-1",
            "credentials": {"secret": "graftgan-s3", "env": keys},
        },
    )  # fmt: skip
    base.compile_to("transfer", tmp_path / "out.yaml", profiles.load(path))
    documents = base.documents(tmp_path / "out.yaml")
    assert lint.lint(documents, release=True) == []
    for executor, container in containers(documents).items():
        env = {e["name"]: e["value"] for e in container["env"]}
        assert env["AWS_ENDPOINT_URL"] == "http://store.team.svc:8333"
        assert env["AWS_DEFAULT_REGION"] == "us-east-1"
        assert "GRAFTGAN_HOME" in env
        secrets = {s["secretName"] for s in configs(documents)[executor]["secretAsEnv"]}
        assert secrets == {"graftgan-mlflow", "graftgan-s3"}


def test_what_a_profile_may_hold_all_compiles(tmp_path: Path) -> None:
    heavy = {
        **GOOD, "gpu": {"type": "amd.com/gpu", "count": 2}, "node_selector": {"a": "b"},
        "tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"}],
    }  # fmt: skip
    path = write(
        tmp_path, resources={"default": GOOD, "heavy": heavy}, tasks={"finetune": "heavy"},
        image_pull_policy="Always", parallelism={"default": 3, "arms": 5},
    )  # fmt: skip
    base.compile_to("transfer", tmp_path / "out.yaml", profiles.load(path))
    documents = base.documents(tmp_path / "out.yaml")
    config = configs(documents)["exec-finetune"]
    assert config["imagePullPolicy"] == "Always"
    assert config["tolerations"][0]["value"] == "v"
    accelerator = containers(documents)["exec-finetune"]["resources"]["accelerator"]
    assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("amd.com/gpu", "2")
    profile = profiles.load(path)
    assert (profile.at_once("arms"), profile.at_once("sources")) == (5, 3)
