"""The pipeline of a list of tasks: create, learn and evaluate for each task, verify, report, register.

`python -m pipelines.lifelong dvc` writes `lifelong/dvc.yaml` and `compile` the compiled pipeline, both for
the tasks of `lifelong/params.yaml`; with `--check` they compare instead. `run` executes the compiled pipeline
here, each step in a process of its own. `config` and `digests` print the texts that the pipeline takes: the
list, and the sha256 of its image sets.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from kfp import dsl

from components.base import parameter
from components.lifelong import COMPONENTS, CONFIG_HELP, FINISH, texts
from graftgan.contract import canonical_json, digest_path
from graftgan.errors import ConfigError, GraftganError, MissingInput
from graftgan.kfp_io import CONFIG, DIGESTS, DIGESTS_HELP, ITEM, LIFELONG_KNOBS
from graftgan.lifelong_config import LifelongParams
from graftgan.lifelong_params import dumps_lifelong, load_lifelong
from graftgan.params import leaves
from graftgan.places import cache_home
from graftgan.remote import local
from graftgan.stages.lifelong_specs import GROUP, lifelong_paths, lifelong_stages
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
    """Return the pipeline that learns the named tasks, by default those of `lifelong/params.yaml`."""
    tasks = tuple(load_lifelong(ROOT / PARAMS).tasks) if tasks is None else tasks
    parameters = signature(profile)

    def lifelong(*values: Any) -> None:
        given = dict(zip(parameters.parameters, values, strict=True))
        last = FINISH(**{name: given[name] for name in (CONFIG, "tracking_uri")})
        with dsl.ExitHandler(profiles.apply(last, "finish", profile), name=GROUP):
            _draw(lifelong_stages(tasks), given, profile)

    lifelong.__signature__ = parameters  # type: ignore[attr-defined]
    lifelong.__doc__ = describe(tasks, profile)
    return dsl.pipeline(name="graftgan-lifelong", pipeline_root=profile.pipeline_root)(lifelong)


def signature(profile: Profile) -> inspect.Signature:
    """Return the pipeline's parameters; where tasks are cached, digests of the image sets must be given."""
    found = [parameter(CONFIG, str, "{}"), *(parameter(name, str, "") for name in LIFELONG_KNOBS)]
    if profile.caching:
        return inspect.Signature([parameter(DIGESTS, str), *found])
    return inspect.Signature([*found, parameter(DIGESTS, str, "")])


def _draw(specs: Sequence[StageSpec], given: Mapping[str, Any], profile: Profile) -> None:
    """Add the task of every stage."""
    steps: dict[str, Any] = {}
    for spec in specs:
        kind = spec.name.split("-")[0]
        artifacts = {name: _output(steps, origin) for name, origin in spec.inputs.items()}
        told = {name: given[name] for name in texts(spec) if name != ITEM}
        item = {ITEM: spec.item} if spec.item else {}
        steps[spec.name] = COMPONENTS[kind](**artifacts, **told, **item)
        profiles.apply(steps[spec.name], spec.name, profile, f"{GROUP}-{kind}")


def _output(steps: dict[str, Any], origin: str) -> Any:
    writer, port = origin.split(".")
    return steps[writer].outputs[port]


def describe(tasks: Sequence[str], profile: Profile) -> str:
    """Return the pipeline's docstring, from which the Kubeflow UI takes its help texts."""
    lines = [f"Learns {', '.join(tasks)} into one bank, scores and verifies all of them, registers it.", ""]
    lines += ["Args:", f"    {CONFIG}: {CONFIG_HELP}"]
    lines += [f"    {name}: overrides {knob.key}: {knob.help}" for name, knob in LIFELONG_KNOBS.items()]
    lines += [f"    {DIGESTS}: {DIGESTS_HELP}{'' if profile.caching else '; empty is not checked'}"]
    return "\n".join(lines)


def submission(options: argparse.Namespace) -> Submission:
    """Return what a run is started with: the list of tasks, digests of their images and what was set.

    Raises:
        ConfigError: If options were given that another pipeline has.
        MissingInput: If digests are neither given nor to be had from files here.
    """
    if options.methods or options.seeds or options.each_source:
        raise ConfigError(
            "the pipeline lifelong has no arms and no sources", "say them in lifelong/params.yaml"
        )
    params = load_lifelong(options.params or ROOT / PARAMS)
    given = given_parameters(options.set)
    if DIGESTS not in given:
        given[DIGESTS] = data_digests(params)
    given[DIGESTS] = canonical_json(given[DIGESTS]) if given[DIGESTS] else ""
    return Submission({CONFIG: dumps_lifelong(params)} | given, params.track)


def data_digests(params: LifelongParams) -> dict[str, str]:
    """Return the sha256 of every image set, by the configuration key that names it.

    Raises:
        MissingInput: If one is not here.
    """
    keys = dict.fromkeys(key for spec in lifelong_stages(tuple(params.tasks)) for key in spec.external)
    named = {key: place for key, place in leaves(params, tuple(keys)).items() if place is not None}
    found: dict[str, str] = {}
    for place in dict.fromkeys(named.values()):
        path = local(place, cache_home())
        if not path.exists():
            raise MissingInput(
                f"{path} is not here", f"give the digests with --set {DIGESTS}='{{KEY: SHA256, ...}}'"
            )
        found[place] = digest_path(path)
    return {key: found[place] for key, place in named.items()}


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
        return act(options, load_lifelong(options.params))
    except GraftganError as error:
        return fail(error)


def act(options: argparse.Namespace, params: LifelongParams) -> int:
    """Do what a sub-command says with a list of tasks; returns the exit code."""
    if options.action == "config":
        print(dumps_lifelong(params))
        return 0
    if options.action == "digests":
        print(canonical_json(data_digests(params)))
        return 0
    if options.action == "run":
        run(options.pipeline, {CONFIG: dumps_lifelong(params)}, options.root, options.docker)
        return 0
    if options.action == "dvc":
        return write_or_check(dvc_text(params), options.output, options.check)
    pipeline = build(profiles.load(options.profile, options.image), tuple(params.tasks))
    return compile_or_check(pipeline, options.output, options.check, "python -m pipelines.lifelong compile")


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
    digests = actions.add_parser("digests", help="print the sha256 of every image set as JSON")
    for reading in (dvc, compile_, config, digests, run_):
        reading.add_argument("--params", type=Path, default=ROOT / PARAMS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
