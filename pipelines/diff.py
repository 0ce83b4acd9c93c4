"""Tells how two compiled pipelines differ: `python -m pipelines.diff OLD NEW`.

Tasks are named by their path through the graphs; a line says what of a task, parameter or setting was added
(+), removed (-) or changed (~). Tasks that changed alike share a heading. Exit code 1 means a difference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from graftgan.errors import GraftganError
from graftgan.params import flatten
from pipelines.base import documents, fail

Facts = dict[str, str]
NAMED_BY = ("name", "envVar", "secretName", "key", "volumeName", "mountPath")
# kfp writes these a second time, as numbers, beside `resourceCpuLimit` and the like.
TWICE = tuple(f"resources.{kind}{end}" for kind in ("cpu", "memory") for end in ("Limit", "Request"))


def facts(found: Sequence[Mapping[str, Any]]) -> dict[str, Facts]:
    """Return what a compiled pipeline says, by `pipeline`, `parameter NAME` and `task PATH`.

    Args:
        found: Its YAML documents.
    """
    spec = found[0]
    general = {
        "sdkVersion": spec.get("sdkVersion"),
        "root": spec.get("defaultPipelineRoot"),
        **spec["pipelineInfo"],
    }
    told = {"pipeline": texts({key: value for key, value in general.items() if value is not None})}
    for name, definition in spec["root"].get("inputDefinitions", {}).get("parameters", {}).items():
        told[f"parameter {name}"] = texts(definition)
    configs: dict[str, Any] = {}
    for document in found[1:]:
        for platform in document.get("platforms", {}).values():
            configs |= platform.get("deploymentSpec", {}).get("executors", {})
    walk(spec, spec["root"], "", configs, told)
    return told


def walk(
    spec: Mapping[str, Any], graph: Mapping[str, Any], prefix: str, configs: Mapping[str, Any],
    told: dict[str, Facts],
) -> None:  # fmt: skip
    """Collect what every task of a graph, and of the graphs within, has."""
    for name, task in graph["dag"]["tasks"].items():
        path = f"{prefix}{task.get('taskInfo', {}).get('name', name)}"
        component = spec["components"][task["componentRef"]["name"]]
        own = {key: value for key, value in task.items() if key not in ("componentRef", "taskInfo")}
        if "dag" in component:
            walk(spec, component, f"{path}/", configs, told)
        else:
            label = component["executorLabel"]
            own |= spec["deploymentSpec"]["executors"].get(label, {})
            own |= {"kubernetes": configs[label]} if label in configs else {}
            own |= {
                key: component[key] for key in ("inputDefinitions", "outputDefinitions") if key in component
            }
        told[f"task {path}"] = texts(own)


def texts(value: Mapping[str, Any]) -> Facts:
    """Return leaves as text, by dotted key."""
    return {
        key: yaml.safe_dump(leaf, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
        for key, leaf in flatten(keyed(value)).items()
        if not key.endswith(TWICE)
    }


def keyed(value: Any) -> Any:
    """Return lists of mappings as mappings, by what names their entries, so that one entry can differ."""
    if isinstance(value, Mapping):
        return {key: keyed(child) for key, child in value.items()}
    if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
        return {str(next((e[k] for k in NAMED_BY if k in e), n)): keyed(e) for n, e in enumerate(value)}
    return value


def compare(old: Mapping[str, Facts], new: Mapping[str, Facts]) -> list[str]:
    """Return the differences as lines; what is new or gone as a whole is one line."""
    lines = [f"- {name}" for name in old if name not in new]
    lines += [f"+ {name}" for name in new if name not in old]
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, now in new.items():
        before = old.get(name, now)
        changes = [f"    - {key}: {before[key]}" for key in before if key not in now]
        changes += [f"    + {key}: {now[key]}" for key in now if key not in before]
        both = [key for key in now if key in before and before[key] != now[key]]
        changes += [f"    ~ {key}: {before[key]} -> {now[key]}" for key in both]
        if changes:
            alike.setdefault(tuple(changes), []).append(name)
    for shared, names in alike.items():
        lines += [*(f"~ {name}" for name in names), *shared]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the differences; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.diff", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    try:
        lines = compare(facts(documents(options.old)), facts(documents(options.new)))
    except GraftganError as error:
        return fail(error)
    print("\n".join(lines) if lines else "no difference")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
