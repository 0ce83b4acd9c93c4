"""The transfer pipeline: prepare, rank, finetune, evaluate, report, register.

`python -m pipelines.transfer compile` writes the compiled YAML; with `--check` it compares instead.
`python -m pipelines.transfer run` executes the compiled YAML here, each task in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, dsl, local
from kfp.components import load_component_from_file

from components.base import IMAGE
from graftgan.contract import canonical_json
from graftgan.kfp_io import CONFIG, KNOBS, knobs
from graftgan.params import load
from graftgan.stages.specs import STAGES

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


def compile_to(path: Path, image: str = IMAGE) -> None:
    """Write the compiled pipeline to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(build(image), str(path))


def same_as_fresh(path: Path, image: str = IMAGE) -> bool:
    """Return whether `path` holds what a fresh compile gives, compared as parsed YAML."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "transfer.yaml"
        compile_to(fresh, image)
        texts = [p.read_text(encoding="utf-8") if p.exists() else "" for p in (path, fresh)]
    checked_in, compiled = ([*yaml.safe_load_all(text)] for text in texts)
    return checked_in == compiled


def run(compiled: Path, config_json: str, root: Path) -> None:
    """Execute a compiled pipeline with kfp's local runner; artifacts go to `root/RUN/STAGE/PORT`.

    Raises:
        RuntimeError: If a task fails.
    """
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner=runner, pipeline_root=str(root), raise_on_error=True)
    load_component_from_file(str(compiled))(**{CONFIG: config_json})


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
    return compile_or_check(options.output, options.image, options.check)


def compile_or_check(path: Path, image: str, check: bool) -> int:
    """Write `path`, or compare it with a fresh compile; returns the exit code."""
    if not check:
        compile_to(path, image)
        return 0
    if same_as_fresh(path, image):
        return 0
    print(f"{path} is stale\n  fix: python -m pipelines.transfer compile", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
