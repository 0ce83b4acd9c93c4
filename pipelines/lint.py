"""Reads compiled pipelines for faults that compiling does not find: `python -m pipelines.lint [FILE ...]`.

Rules, each a name that a finding bears: `schema` (a field that Kubeflow's messages do not have, or of another
type; other rules wait until it is mended), `channel` (a task refers to what is not around it), `digest` (an
image without a digest, with `--release` or where tasks are cached), `environment` (configuration in the
environment, which no cache key holds), `resources` (no limit of CPU or memory), `retries` and `caching` (no
policy), `secret` (a literal that looks like one) and `shell` (a command given to a shell).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftgan.errors import GraftganError
from graftgan.kfp_retry import NOTES
from pipelines.base import NAMES, compiled_path, documents, fail
from pipelines.profiles import CREDENTIALS, DIGEST, FOLDERS, STORE_VARIABLES

ENVIRONMENT = {*FOLDERS, *STORE_VARIABLES, NOTES, "GRAFTGAN_RUNNER", "KFP_RUN_ID"}
SHELLS = {"sh", "bash", "dash", "zsh", "ash"}
PLACEHOLDER = re.compile(r"inputs\.parameters\['([^']+)'\]")
# Short enough to find and long enough not to find words: each is the form that its issuer documents.
SECRETS = (
    re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}\b"),
    re.compile(r"\bglpat-[\w-]{20,}"),
    re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    re.compile(r"\bxox[abprs]-[\w-]{10,}"),
    re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    re.compile(r"://[^/\s:@{}]+:[^/\s@{}]+@"),
    re.compile(
        r"(?i)\b(password|passwd|secret|token|api_?key|access_?key)\b[\"']?\s*[:=]\s*[\"']?[^\s\"'{}]{6,}"
    ),
)


@dataclass(frozen=True)
class Finding:
    """A fault.

    Attributes:
        rule: Name of the rule.
        place: Task, executor or path within the file.
        text: What is wrong.
    """

    rule: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.place}: {self.text}"


def lint(found: Sequence[Mapping[str, Any]], release: bool = False) -> list[Finding]:
    """Return the faults of a compiled pipeline.

    Args:
        found: Its YAML documents: the pipeline, and the platform's part if there is one.
        release: Whether images must be pinned whatever the cache policy.
    """
    if broken := [*schema(found)]:
        return broken
    spec, configs = found[0], platform_configs(found)
    return [
        *channels(spec, configs),
        *tasks(spec),
        *executors(spec, configs, release),
        *(f for document in found for f in secrets(document, "")),
    ]


def platform_configs(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return Kubernetes' part of every executor."""
    platforms = [document.get("platforms", {}).get("kubernetes", {}) for document in found[1:]]
    return {
        name: config
        for platform in platforms
        for name, config in platform.get("deploymentSpec", {}).get("executors", {}).items()
    }


def schema(found: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Find what does not parse into Kubeflow's messages, those of their free structures too."""
    from google.protobuf import json_format
    from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
    from kfp.pipeline_spec import pipeline_spec_pb2 as messages

    def parsed(place: str, value: Any, message: Any) -> Iterator[Finding]:
        try:
            json_format.ParseDict(value, message)
        except json_format.ParseError as error:
            yield Finding("schema", place, str(error))

    wrong = [*parsed("pipeline", found[0], messages.PipelineSpec())]
    for document in found[1:]:
        wrong += parsed("platform", document, messages.PlatformSpec())
    if not wrong:
        wrong += parsed("deploymentSpec", found[0].get("deploymentSpec"), messages.PipelineDeploymentConfig())
        for name, config in platform_configs(found).items():
            wrong += parsed(name, config, KubernetesExecutorConfig())
    if not wrong and "tasks" not in found[0].get("root", {}).get("dag", {}):
        wrong.append(Finding("schema", "root", "has no tasks"))
    yield from wrong


def graphs(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name and the component of every graph: the root and every part of it."""
    yield "root", spec["root"]
    for name, component in spec.get("components", {}).items():
        if "dag" in component:
            yield name, component


def channels(spec: Mapping[str, Any], configs: Mapping[str, Any]) -> Iterator[Finding]:
    """Find references to inputs, tasks and outputs that are not there."""
    for place, graph in graphs(spec):
        siblings = graph["dag"]["tasks"]
        for name, task in siblings.items():
            for kind, key, value in references(task):
                known = declared(graph, kind) if kind != "producerTask" else set(siblings)
                if value not in known:
                    yield Finding(
                        "channel", f"{place}/{name}", f"{key} refers to {value!r}, which {place} lacks"
                    )
    for executor, component in components_of(spec).items():
        texts = json.dumps([spec["deploymentSpec"]["executors"].get(executor), configs.get(executor)])
        used = set(PLACEHOLDER.findall(texts)) | set(platform_inputs(configs.get(executor)))
        for missing in sorted(used - declared(component, "componentInputParameter")):
            yield Finding("channel", executor, f"refers to the parameter {missing!r}, which its task lacks")


def components_of(spec: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the component of every executor."""
    return {c["executorLabel"]: c for c in spec.get("components", {}).values() if "executorLabel" in c}


def references(task: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield kind, place and name of everything that a task refers to in the graph around it."""
    for group, key in (("parameters", "componentInputParameter"), ("artifacts", "componentInputArtifact")):
        for name, entry in task.get("inputs", {}).get(group, {}).items():
            if key in entry:
                yield key, f"{group}.{name}", entry[key]
            for output in ("taskOutputParameter", "taskOutputArtifact", "taskFinalStatus"):
                if output in entry:
                    yield "producerTask", f"{group}.{name}", entry[output]["producerTask"]
    for name in task.get("dependentTasks", []):
        yield "producerTask", "dependentTasks", name
    iterated = task.get("parameterIterator", {}).get("items", {}).get("inputParameter")
    if iterated and iterated not in task.get("inputs", {}).get("parameters", {}):
        yield "componentInputParameter", "parameterIterator", iterated


def declared(component: Mapping[str, Any], kind: str) -> set[str]:
    """Return the names of a component's inputs."""
    group = "artifacts" if kind == "componentInputArtifact" else "parameters"
    return set(component.get("inputDefinitions", {}).get(group, {}))


def platform_inputs(config: Any) -> Iterator[str]:
    """Yield the parameters that a platform's part of an executor refers to."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == "componentInputParameter":
                yield str(value)
            yield from platform_inputs(value)
    elif isinstance(config, list):
        for entry in config:
            yield from platform_inputs(entry)


def tasks(spec: Mapping[str, Any]) -> Iterator[Finding]:
    """Find tasks that run something and have no retries or no cache policy."""
    for place, graph in graphs(spec):
        for name, task in graph["dag"]["tasks"].items():
            component = spec.get("components", {}).get(task["componentRef"]["name"], {})
            if "executorLabel" not in component:
                continue
            if "retryPolicy" not in task:
                yield Finding("retries", f"{place}/{name}", "has no retry policy: give it the profile")
            if "cachingOptions" not in task:
                yield Finding("caching", f"{place}/{name}", "has no cache policy: give it the profile")


def executors(spec: Mapping[str, Any], configs: Mapping[str, Any], release: bool) -> Iterator[Finding]:
    """Find containers without limits or digest, with configuration in the environment, or with a shell."""
    cached = cached_executors(spec)
    for name, executor in spec.get("deploymentSpec", {}).get("executors", {}).items():
        if (container := executor.get("container")) is None:
            continue
        if (release or name in cached) and not DIGEST.search(container["image"]):
            yield Finding(
                "digest", name, f"image {container['image']} is not pinned: use REPOSITORY@sha256:..."
            )
        limits = container.get("resources", {})
        for limit in ("Cpu", "Memory"):
            if not any(limits.get(key) for key in (f"resource{limit}Limit", f"{limit.lower()}Limit")):
                yield Finding("resources", name, f"has no {limit.lower()} limit: give it the profile")
        yield from environment(name, container, configs.get(name, {}))
        for word in [*container.get("command", []), *container.get("args", [])]:
            if Path(str(word)).name in SHELLS:
                yield Finding("shell", name, f"runs {word}: give a list of arguments instead")


def cached_executors(spec: Mapping[str, Any]) -> set[str]:
    """Return the executors of tasks that are cached."""
    return {
        spec["components"][task["componentRef"]["name"]].get("executorLabel", "")
        for _, graph in graphs(spec)
        for task in graph["dag"]["tasks"].values()
        if task.get("cachingOptions", {}).get("enableCache")
    }


def environment(name: str, container: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Finding]:
    """Find configuration in environment variables, those that `env` sets in a command too."""
    command = [str(word) for word in container.get("command", [])]
    words = command[1:] if command and Path(command[0]).name == "env" else []
    given = [entry["name"] for entry in container.get("env", [])]
    for word in words:
        if "=" not in word:
            break
        given.append(word.partition("=")[0])
    for variable in given:
        if variable not in ENVIRONMENT:
            yield Finding("environment", name, f"{variable} is in no cache key: pass it as a parameter")
    for group in ("secretAsEnv", "configMapAsEnv"):
        for source in config.get(group, []):
            for entry in source.get("keyToEnv", []):
                variable = entry.get("envVar", "")
                if group != "secretAsEnv" or variable not in CREDENTIALS:
                    yield Finding(
                        "environment", name, f"{variable} comes from a {group[:-5]} and is no credential"
                    )


def secrets(value: Any, place: str) -> Iterator[Finding]:
    """Find literals that look like secrets, without repeating them."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from secrets(child, f"{place}.{key}".strip("."))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from secrets(child, f"{place}[{number}]")
    elif isinstance(value, str) and any(form.search(value) for form in SECRETS):
        yield Finding("secret", place, "looks like a secret: put it into a Kubernetes secret")


def main(arguments: Sequence[str] | None = None) -> int:
    """Lint the given files, by default those that are checked in; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.lint", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="compiled pipelines; by default those checked in")
    parser.add_argument("--release", action="store_true", help="every image must be pinned by digest")
    options = parser.parse_args(arguments)
    count = 0
    try:
        for path in options.files or [compiled_path(name) for name in NAMES]:
            for finding in lint(documents(path), options.release):
                print(f"{path}: {finding}", file=sys.stderr)
                count += 1
    except GraftganError as error:
        return fail(error)
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
