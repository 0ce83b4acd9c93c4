"""Every rule finds a fault that was planted into a pipeline without any."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from components.base import container as container_component
from components.base import parameter
from pipelines import base, lint, profiles

PINNED = f"registry/graftgan@sha256:{'0' * 64}"
Plant = Callable[[list[Any]], None]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    path = tmp_path_factory.mktemp("lint") / "transfer.yaml"
    base.compile_to("transfer", path, profiles.load("small-gpu", PINNED))
    return base.documents(path)


def container(documents: list[Any]) -> dict[str, Any]:
    return documents[0]["deploymentSpec"]["executors"]["exec-rank"]["container"]  # type: ignore[no-any-return]


def body(documents: list[Any]) -> dict[str, Any]:
    return documents[0]["components"]["comp-exit-handler-1"]  # type: ignore[no-any-return]


def rank(documents: list[Any]) -> dict[str, Any]:
    return body(documents)["dag"]["tasks"]["rank"]  # type: ignore[no-any-return]


def loop(documents: list[Any]) -> dict[str, Any]:
    tasks = body(documents)["dag"]["tasks"].values()
    return next(t for t in tasks if t["taskInfo"]["name"] == "arms")


def platform(documents: list[Any]) -> dict[str, Any]:
    return documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-rank"]  # type: ignore[no-any-return]


def undeclare(documents: list[Any]) -> None:
    del body(documents)["inputDefinitions"]["parameters"]["pipelinechannel--choose"]


def forget_producer(documents: list[Any]) -> None:
    rank(documents)["inputs"]["artifacts"]["dataset"]["taskOutputArtifact"]["producerTask"] = "gone"


def forget_dependency(documents: list[Any]) -> None:
    rank(documents)["dependentTasks"].append("gone")


def forget_items(documents: list[Any]) -> None:
    loop(documents)["parameterIterator"]["items"]["inputParameter"] = "pipelinechannel--gone"


def set_in(place: Callable[[list[Any]], dict[str, Any]], key: str, value: Any) -> Plant:
    def plant(documents: list[Any]) -> None:
        place(documents)[key] = value

    return plant


def drop(place: Callable[[list[Any]], dict[str, Any]], *keys: str) -> Plant:
    def plant(documents: list[Any]) -> None:
        for key in keys:
            place(documents).pop(key)

    return plant


def resources(documents: list[Any]) -> dict[str, Any]:
    return container(documents)["resources"]  # type: ignore[no-any-return]


PLANTED: dict[str, tuple[str, str, Plant]] = {
    "a channel that the body does not declare": ("channel", "pipelinechannel--choose", undeclare),
    "a producer that is not there": ("channel", "gone", forget_producer),
    "a dependency that is not there": ("channel", "gone", forget_dependency),
    "items of a loop that are not there": ("channel", "pipelinechannel--gone", forget_items),
    "a limit from an undeclared parameter": (
        "channel",
        "pipelinechannel--cpu",
        lambda d: resources(d).update(resourceCpuLimit="{{$.inputs.parameters['pipelinechannel--cpu']}}"),
    ),
    "a claim from an undeclared parameter": (
        "channel",
        "pipelinechannel--claim",
        lambda d: platform(d)["pvcMount"][0].update(
            pvcNameParameter={"componentInputParameter": "pipelinechannel--claim"}
        ),
    ),
    "an image without a digest": ("digest", "r/g:1", set_in(container, "image", "r/g:1")),
    "an environment variable": (
        "environment",
        "KIMG",
        lambda d: container(d)["env"].append({"name": "KIMG", "value": "3"}),
    ),
    "an environment variable in the command": (
        "environment",
        "KIMG",
        lambda d: container(d)["command"].insert(1, "KIMG=3"),
    ),
    "a configuration map": (
        "environment",
        "KIMG",
        set_in(platform, "configMapAsEnv", [{"keyToEnv": [{"envVar": "KIMG", "configMapKey": "k"}]}]),
    ),
    "a secret that is no credential": (
        "environment",
        "KIMG",
        lambda d: platform(d)["secretAsEnv"].append({"keyToEnv": [{"envVar": "KIMG", "secretKey": "k"}]}),
    ),
    "no CPU limit": ("resources", "cpu", drop(resources, "cpuLimit", "resourceCpuLimit")),
    "no memory limit": ("resources", "memory", drop(resources, "memoryLimit", "resourceMemoryLimit")),
    "no retries": ("retries", "rank", drop(rank, "retryPolicy")),
    "no cache policy": ("caching", "rank", drop(rank, "cachingOptions")),
    "a shell": ("shell", "/bin/sh", set_in(container, "command", ["/bin/sh", "-c", "graftgan rank"])),
    "a shell behind env": ("shell", "bash", lambda d: container(d)["command"].append("bash")),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(fault: str, clean: list[Any]) -> None:
    rule, words, plant = PLANTED[fault]
    documents = copy.deepcopy(clean)
    assert lint.lint(documents) == []
    plant(documents)
    findings = lint.lint(documents)
    assert {finding.rule for finding in findings} == {rule}
    assert words in str(findings[0])
    assert all("rank" in f.place or "arms" in f.place or "exit-handler" in f.place or "for-loop" in f.place
               for f in findings)  # fmt: skip


def misspell(place: Callable[[list[Any]], dict[str, Any]], key: str) -> Plant:
    def plant(documents: list[Any]) -> None:
        place(documents)[f"{key}s"] = place(documents).pop(key)

    return plant


SCHEMA: dict[str, tuple[str, str, Plant]] = {
    "a field of a task": ("pipeline", "retryPolicys", misspell(rank, "retryPolicy")),
    "a field of a component": ("pipeline", "outputDefinitionss", misspell(
        lambda d: d[0]["components"]["comp-rank"], "outputDefinitions")),
    "a field of a container": ("deploymentSpec", "images", misspell(container, "image")),
    "a type": ("deploymentSpec", "command", set_in(container, "command", "graftgan")),
    "a field of a pod": ("exec-rank", "pvcMounts", misspell(platform, "pvcMount")),
    "a type in a pod": ("exec-rank", "pvcMount", set_in(platform, "pvcMount", 3)),
    "a platform's field": ("platform", "deploymentSpecs", misspell(
        lambda d: d[1]["platforms"]["kubernetes"], "deploymentSpec")),
    "a pipeline without tasks": ("root", "no tasks", lambda d: d[0].pop("root")),
}  # fmt: skip


@pytest.mark.parametrize("fault", SCHEMA)
def test_what_is_not_in_kubeflows_messages_is_found_before_all_else(fault: str, clean: list[Any]) -> None:
    place, words, plant = SCHEMA[fault]
    documents = copy.deepcopy(clean)
    plant(documents)
    (finding,) = lint.lint(documents)
    assert (finding.rule, finding.place) == ("schema", place)
    assert words in finding.text


SECRETS = {
    "a cloud key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "a forge's token": "ghp_" + "a1B2" * 9,
    "another forge's token": "glpat-" + "x" * 20,
    "a hub's token": "hf_" + "Z" * 34,
    "a chat's token": "xoxb-" + "1234567890-abc",
    "a signed token": "eyJ" + "hbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4",
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a password in an address": "postgresql://me:" + "hunter2@db/mlflow",
    "a password in text": '{"password": "' + 'hunter2!"}',
    "a key in text": "api_key=" + "0123456789",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_planted_secret_is_found_and_not_repeated(kind: str, clean: list[Any]) -> None:
    documents = copy.deepcopy(clean)
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    parameters["config_json"]["defaultValue"] = f"x {SECRETS[kind]} y"
    (finding,) = lint.lint(documents)
    assert finding.rule == "secret" and finding.place.endswith("config_json.defaultValue")
    assert SECRETS[kind] not in str(finding)


def test_an_argument_that_looks_like_a_secret_is_found_in_lists_too(clean: list[Any]) -> None:
    documents = copy.deepcopy(clean)
    container(documents)["args"].append("--token=" + "abcdefgh")
    (finding,) = lint.lint(documents)
    assert finding.place == "deploymentSpec.executors.exec-rank.container.args[2]"


def test_limits_by_parameter_inside_a_loop_are_found_as_kfp_compiles_them(tmp_path: Path) -> None:
    """kfp 2.17 leaves accelerator and memory channels undeclared in the body of a loop."""

    work = container_component("work", "Work.", inspect.Signature([parameter("item", str)]), ("work",))

    def pipeline(items: Any, memory: Any) -> None:
        with dsl.ParallelFor(items) as item:
            work(item=item).set_memory_limit(memory)

    pipeline.__annotations__ = {"items": list[str], "memory": str}
    compiler.Compiler().compile(dsl.pipeline(name="p")(pipeline), str(tmp_path / "p.yaml"))
    findings = lint.lint(base.documents(tmp_path / "p.yaml"))
    assert any(f.rule == "channel" and "memory" in f.text for f in findings)


def test_what_is_checked_in_is_clean_but_for_the_digest_of_its_image(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert lint.main([]) == 0
    assert lint.main(["--release"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert all(": digest: exec-" in line for line in lines)
    assert len([line for line in lines if line.startswith(str(base.compiled_path("transfer")))]) == 9


def test_findings_name_the_file(clean: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = copy.deepcopy(clean)
    rank(documents).pop("retryPolicy")
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    assert lint.main([str(path)]) == 1
    assert f"{path}: retries: comp-exit-handler-1/rank: has no retry policy" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "a: 1", "[", "- 1"])
def test_what_is_no_pipeline_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    assert lint.main([str(path)]) == 2
    assert lint.main([str(tmp_path / "absent.yaml")]) == 2
