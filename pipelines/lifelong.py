"""The pipeline of a list of tasks: create, learn and evaluate for each task, verify, report, register.

`python -m pipelines.lifelong dvc` writes `lifelong/dvc.yaml` and `compile` the compiled pipeline, both for
the tasks of `lifelong/params.yaml`; with `--check` they compare instead. `run` executes the compiled pipeline
here, each step in a process of its own, and `config` prints the list as the text that the pipeline takes.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from kfp import dsl

from components.lifelong import COMPONENTS, CONFIG_HELP, texts
from graftgan.errors import ConfigError, GraftganError
from graftgan.kfp_io import CONFIG, ITEM, LIFELONG_KNOBS
from graftgan.lifelong_config import LifelongParams
from graftgan.lifelong_params import dumps_lifelong, load_lifelong
from graftgan.params import leaves
from graftgan.stages.lifelong_specs import lifelong_paths, lifelong_stages
from graftgan.stages.specs import StageSpec
from pipelines import profiles
from pipelines.base import Submission, add_profile_options, fail, given_parameters
from pipelines.compiling import add_run_options, compile_or_check, run
from pipelines.profiles import Profile

ROOT = Path(__file__).parent.parent
COMPILED = Path(__file__).parent / "compiled" / "lifelong.yaml"
PARAMS = Path("lifelong/params.yaml")
OUT = Path("out/lifelong")
HEADER = "# Made by `python -m pipelines.lifelong dvc` from lifelong/params.yaml: change that, not this.\n"


def build(profile: Profile, tasks: Sequence[str] | None = None) -> Any:
    """Return the pipeline that learns the named tasks, by default those of `lifelong/params.yaml`.

    No step is cached: the cache key holds neither the user's images nor the registry; a hit could be stale.
    """
    tasks = tuple(load_lifelong(ROOT / PARAMS).tasks) if tasks is None else tasks
    profile = profile.model_copy(update={"caching": False})

    def lifelong(*values: Any) -> None:
        given = dict(zip((CONFIG, *LIFELONG_KNOBS), values, strict=True))
        steps: dict[str, Any] = {}
        for spec in lifelong_stages(tasks):
            artifacts = {name: _output(steps, origin) for name, origin in spec.inputs.items()}
            told = {name: given[name] for name in texts(spec) if name != ITEM}
            item = {ITEM: spec.item} if spec.item else {}
            step = steps[spec.name] = COMPONENTS[spec.name.split("-")[0]](**artifacts, **told, **item)
            profiles.apply(step, spec.name, profile)

    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str, default=default)
        for name, default in ((CONFIG, "{}"), *((name, "") for name in LIFELONG_KNOBS))
    ]
    lifelong.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    lifelong.__doc__ = describe(tasks)
    return dsl.pipeline(name="graftgan-lifelong", pipeline_root=profile.pipeline_root)(lifelong)


def _output(steps: dict[str, Any], origin: str) -> Any:
    writer, port = origin.split(".")
    return steps[writer].outputs[port]


def describe(tasks: Sequence[str]) -> str:
    """Return the pipeline's docstring, from which the Kubeflow UI takes its help texts."""
    lines = [f"Learns {', '.join(tasks)} into one bank, scores and verifies all of them, registers it.", ""]
    lines += ["Args:", f"    {CONFIG}: {CONFIG_HELP}"]
    lines += [f"    {name}: overrides {knob.key}: {knob.help}" for name, knob in LIFELONG_KNOBS.items()]
    return "\n".join(lines)


def submission(options: argparse.Namespace) -> Submission:
    """Return what a run is started with: the list of tasks and what was set.

    Raises:
        ConfigError: If options were given that another pipeline has.
    """
    if options.methods or options.seeds or options.each_source:
        raise ConfigError(
            "the pipeline lifelong has no arms and no sources", "say them in lifelong/params.yaml"
        )
    params = load_lifelong(options.params or ROOT / PARAMS)
    arguments = {CONFIG: dumps_lifelong(params)} | given_parameters(options.set)
    return Submission(arguments, params.track)


def stage_entry(spec: StageSpec, params: LifelongParams) -> dict[str, Any]:
    """Return the DVC entry of one stage; it works in the folder above `lifelong/`."""
    inputs, outputs = lifelong_paths(spec, OUT)
    kind, _, task = spec.name.partition("-")
    external = {path for path in leaves(params, spec.external).values() if path is not None}
    words = " ".join(filter(None, (spec.group, kind, task)))
    entry = {
        "desc": spec.help,
        # An experiment in a temporary copy must import the copy's code, not that of an editable install.
        "cmd": f"PYTHONPATH=src graftgan {words} --params {PARAMS}",
        "wdir": "..",
        "deps": [*sorted(external), *sorted(path.as_posix() for path in inputs.values()), "src/graftgan"],
        "outs": sorted(path.as_posix() for path in outputs.values()),
    }
    return entry | ({"params": [{PARAMS.as_posix(): list(spec.params)}]} if spec.params else {})


def dvc_text(params: LifelongParams) -> str:
    """Return the text of `lifelong/dvc.yaml`."""
    model = {
        "path": f"../{OUT}/register/package",
        "type": "model",
        "desc": "The bank: filters, tasks and card.",
    }
    document = {
        "stages": {spec.name: stage_entry(spec, params) for spec in lifelong_stages(tuple(params.tasks))},
        "artifacts": {"bank": model},
    }
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=110)


def write_or_check(text: str, path: Path, check: bool) -> int:
    """Write `lifelong/dvc.yaml`, or compare it; returns the exit code."""
    if not check:
        path.write_text(text, encoding="utf-8")
        return 0
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{path} is stale\n  fix: python -m pipelines.lifelong dvc", file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a sub-command says; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _act(options)
    except GraftganError as error:
        return fail(error)


def _act(options: argparse.Namespace) -> int:
    params = load_lifelong(options.params)
    if options.action == "config":
        print(dumps_lifelong(params))
        return 0
    if options.action == "run":
        run(options.pipeline, {CONFIG: dumps_lifelong(params)}, options.root, options.docker)
        return 0
    if options.action == "dvc":
        return write_or_check(dvc_text(params), options.output, options.check)
    remedy = "python -m pipelines.lifelong compile"
    pipeline = build(profiles.load(options.profile, options.image), tuple(params.tasks))
    return compile_or_check(pipeline, options.output, options.check, remedy)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.lifelong", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    dvc = actions.add_parser("dvc", help="write lifelong/dvc.yaml")
    dvc.add_argument("--output", type=Path, default=ROOT / "lifelong" / "dvc.yaml")
    compile_ = actions.add_parser("compile", help="write the compiled YAML")
    add_profile_options(compile_)
    compile_.add_argument("--output", type=Path, default=COMPILED)
    for writing in (dvc, compile_):
        writing.add_argument(
            "--check", action="store_true", help="compare with the file instead of writing it"
        )
    run_ = actions.add_parser("run", help="execute the compiled YAML here")
    add_run_options(run_, COMPILED, "out/kfp-lifelong")
    config = actions.add_parser("config", help="print the list of tasks as JSON")
    for reading in (dvc, compile_, config, run_):
        reading.add_argument("--params", type=Path, default=ROOT / PARAMS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
