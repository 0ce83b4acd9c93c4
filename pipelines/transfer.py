"""The transfer pipeline: prepare, rank, finetune, evaluate, compare, report, register.

Sources are ranked, and methods and seeds trained and scored, by as many tasks as the parameters `sources` and
`arms` have entries; by default each has one, and the pipeline does what `graftgan run` does.
`python -m pipelines.transfer compile` writes the compiled YAML; with `--check` it compares instead.
`python -m pipelines.transfer run` executes the compiled YAML here, each task in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp import dsl

from components.base import parameter, pins
from graftgan.config import Params
from graftgan.contract import canonical_json, digest_path
from graftgan.errors import MissingInput
from graftgan.kfp_io import CONFIG, CONFIGURED, KNOBS, PINS, knobs
from graftgan.params import leaves, load
from graftgan.places import cache_home
from graftgan.remote import local
from graftgan.stages.specs import stage
from pipelines import profiles
from pipelines.base import Submission, given_parameters, main_of
from pipelines.profiles import Profile

ARMS = "arms"
ARMS_HELP = (
    "methods and seeds, each METHOD/SEED (full/0) and a task that trains and one that scores; "
    "configured is what the configuration says"
)
WINNER = {"models": "best_models", "scores": "best_scores"}


def build(profile: Profile) -> Any:
    """Return the pipeline for a cluster as the profile describes it."""

    def transfer(*values: Any) -> None:
        graph = Graph(profile, dict(zip(signature(profile).parameters, values, strict=True)))
        graph.draw()

    transfer.__signature__ = signature(profile)  # type: ignore[attr-defined]
    transfer.__doc__ = describe(profile)
    return dsl.pipeline(name="graftgan-transfer", pipeline_root=profile.pipeline_root)(transfer)


def signature(profile: Profile) -> inspect.Signature:
    """Return the pipeline's parameters; where tasks are cached, digests of what is outside must be given."""
    found = [parameter(CONFIG, str, "{}")]
    for name, knob in KNOBS.items():
        if knob.kind == "arm":
            found.append(parameter(ARMS, list[str], [CONFIGURED]))
        else:
            found.append(parameter(name, list[str] if knob.type is list else knob.type, knob.neutral))
    if profile.caching:
        return inspect.Signature([*(parameter(name, str) for name in PINS), *found])
    return inspect.Signature([*found, *(parameter(name, str, "") for name in PINS)])


class Graph:
    """Draws the tasks of one pipeline.

    Args:
        profile: What each task gets.
        given: The pipeline's parameters.
    """

    def __init__(self, profile: Profile, given: Mapping[str, Any]) -> None:
        self.profile, self.given = profile, given
        self.tasks: dict[str, Any] = {}

    def draw(self) -> None:
        """Add every task, with the exit handler around them."""
        finish = importlib.import_module("components.finish").finish
        last = finish(**{name: self.given[name] for name in (CONFIG, "tracking_uri")})
        with dsl.ExitHandler(profiles.apply(last, "finish", self.profile), name="transfer"):
            self.task("prepare")
            with self.loop("sources") as source:
                self.task("rank-source", sources=source)
            self.task("rank", features=dsl.Collected(self.tasks["rank-source"].outputs["features"]))
            with self.loop(ARMS) as arm:
                self.task("finetune", arm=arm)
                self.task("evaluate")
            compare = self.task("compare", arm=CONFIGURED, **self.collected())
            best = {name: compare.outputs[port] for name, port in WINNER.items()}
            self.task("report", arm=compare.outputs["winner"], **best)
            self.task("register", **best)

    def loop(self, name: str) -> Any:
        """Return the fan-out over a list parameter."""
        return dsl.ParallelFor(self.given[name], name=name, parallelism=self.profile.at_once(name))

    def collected(self) -> dict[str, Any]:
        """Return what the tasks of all arms wrote, as compare takes it."""
        origins = {name: origin.split(".") for name, origin in stage("compare").inputs.items()}
        return {n: dsl.Collected(self.tasks[writer].outputs[port]) for n, (writer, port) in origins.items()}

    def task(self, name: str, **other: Any) -> Any:
        """Add the task of a stage; `other` are arguments in the place of those that the stage table tells."""
        spec = stage(name)
        module = name.replace("-", "_")
        component = getattr(importlib.import_module(f"components.{module}"), module)
        artifacts = {n: self.output(origin) for n, origin in spec.inputs.items() if n not in other}
        texts = {n: self.given[n] for n in (CONFIG, *pins(spec), *knobs(spec)) if n not in other}
        task = component(**artifacts, **texts, **other)
        self.tasks[name] = profiles.apply(task, name, self.profile)
        return task

    def output(self, origin: str) -> Any:
        """Return the output `STAGE.PORT` of an earlier task."""
        writer, port = origin.split(".")
        return self.tasks[writer].outputs[port]


def describe(profile: Profile) -> str:
    """Return the pipeline's docstring, from which the Kubeflow UI takes its help texts."""
    lines = ["Adapts a pretrained GAN to an image set: ranks sources, fine-tunes, evaluates, registers.", ""]
    lines += ["Args:", f"    {CONFIG}: whole configuration as JSON, from `graftgan config show --json`"]
    for name, knob in KNOBS.items():
        told = f"{ARMS}: {ARMS_HELP}" if knob.kind == "arm" else f"{name}: overrides {knob.key}: {knob.help}"
        lines.append(f"    {told}")
    empty = "" if profile.caching else "; empty is not checked"
    lines += [f"    {name}: checks {pin.key}: {pin.help}{empty}" for name, pin in PINS.items()]
    return "\n".join(lines)


def submission(options: argparse.Namespace) -> Submission:
    """Return what a run is started with: the configuration, digests, arms, sources and what was set.

    Raises:
        MissingInput: If a digest is neither given nor to be had from a file here.
    """
    params = load(options.params or Path("params.yaml"))
    found: dict[str, Any] = {CONFIG: canonical_json(params.model_dump(mode="json"))}
    given = given_parameters(options.set)
    for name, pin in PINS.items():
        if name in given:
            continue
        path = local(leaves(params, (pin.key,))[pin.key], cache_home())
        if not path.exists():
            raise MissingInput(f"{pin.key}: {path} is not here", f"give its digest with --set {name}=SHA256")
        found[name] = digest_path(path)
    if options.methods or options.seeds:
        methods = (options.methods or CONFIGURED).split(",")
        seeds = (options.seeds or str(params.finetune.seed)).split(",")
        pairs = itertools.product(methods, seeds)
        found[ARMS] = [f"{method.strip()}/{seed.strip()}" for method, seed in pairs]
    if options.each_source:
        found["sources"] = source_names(params)
    return Submission(found | given, params.track)


def source_names(params: Params) -> list[str]:
    """Return the names of the sources that the configuration selects."""
    from graftgan.checkpoints.catalogue import Catalogue

    catalogue = Catalogue(params.rank.catalogue, cache_home())
    return [source.name for source in catalogue.select(params.rank.sources)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, check what is checked in, or run it; returns the exit code."""
    return main_of("transfer", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
