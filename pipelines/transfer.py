"""The transfer pipeline: prepare, rank, finetune, evaluate, report, register.

`python -m pipelines.transfer compile` writes the compiled YAML; with `--check` it compares instead.
`python -m pipelines.transfer run` executes the compiled YAML here, each task in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfp import dsl

from components.base import IMAGE
from graftgan.contract import canonical_json
from graftgan.kfp_io import CONFIG, KNOBS, knobs
from graftgan.params import load
from graftgan.stages.specs import STAGES
from pipelines.compiling import compile_or_check, run

COMPILED = Path(__file__).parent / "compiled" / "transfer.yaml"


def build(image: str = IMAGE) -> Any:
    """Return the pipeline with every task in `image`."""

    def transfer(*values: Any) -> None:
        given = dict(zip((CONFIG, *KNOBS), values, strict=True))
        tasks: dict[str, Any] = {}
        for spec in STAGES:
            component = getattr(importlib.import_module(f"components.{spec.name}"), spec.name)
            artifacts = {name: _output(tasks, origin) for name, origin in spec.inputs.items()}
            texts = {name: given[name] for name in (CONFIG, *knobs(spec))}
            task = tasks[spec.name] = component(**artifacts, **texts)
            task.set_display_name(spec.name).set_container_image(image)
            # Kubeflow's cache key holds neither the user's images nor the registry, so a hit could be stale.
            task.set_caching_options(False)

    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str, default=default)
        for name, default in ((CONFIG, "{}"), *((name, "") for name in KNOBS))
    ]
    transfer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    transfer.__doc__ = describe()
    return dsl.pipeline(name="graftgan-transfer")(transfer)


def _output(tasks: dict[str, Any], origin: str) -> Any:
    writer, port = origin.split(".")
    return tasks[writer].outputs[port]


def describe() -> str:
    """Return the pipeline's docstring, from which the Kubeflow UI takes its help texts."""
    lines = ["Adapts a pretrained GAN to an image set: ranks sources, fine-tunes, evaluates, registers.", ""]
    lines += ["Args:", f"    {CONFIG}: whole configuration as JSON, from `graftgan config show --json`"]
    lines += [f"    {name}: overrides {knob.key}: {knob.help}" for name, knob in KNOBS.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, check what is checked in, or run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.transfer", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    compile_ = actions.add_parser("compile", help="write the compiled YAML")
    compile_.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    compile_.add_argument("--image", default=IMAGE, help="container image of every task")
    compile_.add_argument("--output", type=Path, default=COMPILED)
    run_ = actions.add_parser("run", help="execute the compiled YAML here, without containers")
    run_.add_argument("--params", type=Path, default=Path("params.yaml"))
    run_.add_argument("--root", type=Path, default=Path("out/kfp"), help="folder for the artifacts")
    options = parser.parse_args(arguments)
    if options.action == "run":
        run(COMPILED, canonical_json(load(options.params).model_dump(mode="json")), options.root)
        return 0
    remedy = "python -m pipelines.transfer compile"
    return compile_or_check(build(options.image), options.output, options.check, remedy)


if __name__ == "__main__":
    sys.exit(main())
