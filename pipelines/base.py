"""What all pipelines share: the list of them, compiling, checking what is checked in, running here.

A pipeline is a module of this package, named in `NAMES`, with two functions: `build(profile)` returns it, and
`submission(options)` what a run is started with, for the options of `pipelines.submit`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from graftgan.config import Track
from graftgan.contract import canonical_json
from graftgan.errors import ConfigError, GraftganError
from graftgan.kfp_io import CONFIG
from graftgan.params import load as load_params
from pipelines import compiling, profiles
from pipelines.profiles import Profile

NAMES = ("transfer", "lifelong")
COMPILED = Path(__file__).parent / "compiled"
LOCAL = "local"


@dataclass(frozen=True)
class Submission:
    """What a run of a pipeline is started with.

    Attributes:
        arguments: The pipeline's parameters.
        track: Where its MLflow runs are.
    """

    arguments: dict[str, Any]
    track: Track


def module_of(name: str) -> Any:
    """Return the module of the pipeline called `name`.

    Raises:
        ConfigError: If there is no such pipeline.
    """
    if name not in NAMES:
        raise ConfigError(f"there is no pipeline {name!r}", f"use one of {', '.join(NAMES)}")
    return importlib.import_module(f"pipelines.{name}")


def build(name: str, profile: Profile) -> Any:
    """Return the pipeline called `name` for a cluster as the profile describes it."""
    return module_of(name).build(profile)


def compiled_path(name: str) -> Path:
    """Return the checked-in file of a pipeline, compiled for the profile `local`."""
    return COMPILED / f"{name}.yaml"


def compile_to(name: str, path: Path, profile: Profile) -> None:
    """Write a compiled pipeline to `path`."""
    compiling.compile_to(build(name, profile), path)


def documents(path: Path) -> list[Any]:
    """Return the YAML documents of a compiled pipeline: its spec and, if it has one, the platform's.

    Raises:
        ConfigError: If the file is no compiled pipeline.
    """
    try:
        found = [*yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is no compiled pipeline: {error}", "make it with pipelines.compile"
        ) from None
    if not found or not isinstance(found[0], dict) or "pipelineInfo" not in found[0]:
        raise ConfigError(f"{path} is no compiled pipeline", "make it with `python -m pipelines.compile`")
    return found


def add_profile_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a profile and an image."""
    parser.add_argument("--profile", default=LOCAL, help="name in profiles/, or the path of a file")
    parser.add_argument("--image", help="image of every task, REPOSITORY@sha256:DIGEST for a cluster")


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of compiling."""
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    parser.add_argument("--output", type=Path, help="file to write; by default the checked-in one")
    add_profile_options(parser)


def compile_or_check(name: str, options: argparse.Namespace) -> int:
    """Write a compiled pipeline, or compare it with a fresh compile; returns the exit code."""
    profile = profiles.load(options.profile, options.image)
    given = options.profile != LOCAL or options.image
    if options.output is None and given:
        raise ConfigError(
            f"{compiled_path(name)} is for the profile {LOCAL} and its image",
            "name another file with --output",
        )
    path = options.output or compiled_path(name)
    remedy = f"python -m pipelines.compile {name}"
    return compiling.compile_or_check(build(name, profile), path, options.check, remedy)


def main_of(name: str, text: str | None, arguments: Sequence[str] | None) -> int:
    """Compile, check or run one pipeline; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m pipelines.{name}", description=text)
    actions = parser.add_subparsers(dest="action", required=True)
    add_compile_options(actions.add_parser("compile", help="write the compiled YAML"))
    run_ = actions.add_parser("run", help="execute the compiled YAML here")
    run_.add_argument("--params", type=Path, default=Path("params.yaml"))
    compiling.add_run_options(run_, compiled_path(name), "out/kfp")
    run_.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="pipeline parameter, as YAML"
    )
    options = parser.parse_args(arguments)
    try:
        if options.action == "compile":
            return compile_or_check(name, options)
        config = canonical_json(load_params(options.params).model_dump(mode="json"))
        given = {CONFIG: config, **given_parameters(options.set)}
        compiling.run(options.pipeline, given, options.root, options.docker)
    except GraftganError as error:
        return fail(error)
    return 0


def given_parameters(texts: Sequence[str]) -> dict[str, Any]:
    """Return `NAME=VALUE` texts as pipeline parameters; a value is YAML.

    Raises:
        ConfigError: If one has no `=` or its value is not YAML.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r} has no '='", "write --set name=value")
        try:
            found[name] = yaml.safe_load(value) if value else ""
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of --set {name} is not YAML: {error}", "quote it") from None
    return found


def fail(error: GraftganError) -> int:
    """Print an expected failure and return its exit code."""
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code
