"""The command line: one sub-command a stage and a few helpers; parse, call, map errors to exit codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import click

from graftgan import __version__
from graftgan.commands import LATER
from graftgan.commands.base import DRY_RUN_HELP, SET_HELP, Commands
from graftgan.errors import ConfigError, Ending, TryAgain
from graftgan.stages.specs import CLUSTER_STAGES, STAGES, StageSpec

INTERRUPTED = 143
RESUME_HELP = "Whether to go on from saved training state."
PROFILE_HELP = (
    "Folder for a trace and a table of phases; runs even if nothing changed, with the same results."
)
Function = Callable[..., Any]


@dataclass(frozen=True)
class Options:
    """What every stage command takes."""

    params: Path
    assignments: tuple[str, ...]
    out: Path
    dry_run: bool
    force: bool
    resume: str

    def profiled(self, folder: str | None) -> Options:
        """Return options that have the runs profiled into a folder, if there is one."""
        if folder is None:
            return self
        import json

        # As JSON, which YAML contains, a name such as `null` stays text.
        assignment = f"runtime.profile={json.dumps(folder)}"
        return replace(self, assignments=(*self.assignments, assignment), force=True)


def stage_options(function: Function) -> Function:
    """Add the options that every stage takes."""
    path = click.Path(path_type=Path)
    resume = click.Choice(["auto", "never", "must"])
    options = [
        click.option(
            "--params", type=path, default="params.yaml", show_default=True, help="Parameters file."
        ),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help=SET_HELP),
        click.option("--out", type=path, default="out", show_default=True, help="Folder of all outputs."),
        click.option("--dry-run", is_flag=True, help=DRY_RUN_HELP),
        click.option("--force", is_flag=True, help="Run even if nothing changed."),
        click.option("--resume", type=resume, default="auto", show_default=True, help=RESUME_HELP),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.group(
    cls=Commands,
    later=LATER,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__)
@click.option("-v", "--verbose", is_flag=True, help="Show debug messages.")
def cli(verbose: bool) -> None:
    """Adapt pretrained GANs to small image sets, reproducibly.

    A run goes through six stages: prepare, rank, finetune, evaluate, report, register.
    `graftgan run` does all of them with the parameters of params.yaml.
    """
    from graftgan.console import say_plainly

    say_plainly(verbose)


def profile_option(function: Function) -> Function:
    """Add the option that profiles training."""
    return click.option("--profile", metavar="FOLDER", help=PROFILE_HELP)(function)


def no_option(function: Function) -> Function:
    """Add nothing."""
    return function


def add_stage(spec: StageSpec) -> None:
    """Add the sub-command of one stage."""
    more = profile_option if spec.name == "finetune" else no_option

    @cli.command(spec.name, help=spec.help, context_settings={"ignore_unknown_options": False})
    @stage_options
    @more
    @click.option("--kfp-executor-input", "executor_input", metavar="JSON", help="Run as a Kubeflow task.")
    def command(executor_input: str | None, profile: str | None = None, **given: Any) -> None:
        if executor_input is not None:
            run_as_task(spec, executor_input)
        else:
            run_stages([spec], Options(**given).profiled(profile))


for _spec in STAGES:
    add_stage(_spec)


@cli.group("task", cls=Commands)
def task_group() -> None:
    """Tasks that only the pipelines of a cluster have."""


def add_task(spec: StageSpec) -> None:
    """Add the sub-command of a stage that only pipelines of a cluster have."""

    @task_group.command(spec.name, help=spec.help)
    @click.option("--kfp-executor-input", "executor_input", metavar="JSON", required=True, help="Its input.")
    def command(executor_input: str) -> None:
        run_as_task(spec, executor_input)


for _spec in CLUSTER_STAGES:
    add_task(_spec)


@task_group.command("finish")
@click.option("--kfp-executor-input", "executor_input", metavar="JSON", required=True, help="Its input.")
def finish_command(executor_input: str) -> None:
    """Close the MLflow run of a Kubeflow run and report its final state, as the pipeline's exit handler."""
    from graftgan.kfp_finish import finish

    finish(executor_input)


@task_group.command("finish-lifelong")
@click.option("--kfp-executor-input", "executor_input", metavar="JSON", required=True, help="Its input.")
def finish_lifelong_command(executor_input: str) -> None:
    """Do as finish does, for a Kubeflow run that learns a list of tasks."""
    from graftgan.kfp_finish import finish
    from graftgan.lifelong_params import loads_lifelong

    finish(executor_input, loads_lifelong)


@cli.command("run")
@stage_options
def run_command(**given: Any) -> None:
    """Run all stages in order, skipping those that are up to date."""
    run_stages(list(STAGES), Options(**given))


def run_stages(specs: list[StageSpec], options: Options) -> None:
    """Run stages one after another, or say what would happen."""
    from graftgan.context import StopSignal
    from graftgan.engine import Job, default_paths
    from graftgan.params import load
    from graftgan.remote import is_address
    from graftgan.runner import finish_tracking, run_stage, summarise
    from graftgan.workers import joined

    if is_address(options.out):
        raise ConfigError(
            "--out is a folder of this machine", "`graftgan store push out s3://...` afterwards"
        )
    params = load(options.params, options.assignments)
    jobs = [Job(spec, params, *default_paths(spec, options.out)) for spec in specs]
    if options.dry_run:
        from graftgan.dryrun import explain

        for line in explain(jobs, options.force):
            click.echo(line)
        return
    stop = StopSignal()
    stop.install()
    try:
        with joined(params.runtime.device):
            for job in jobs:
                result, ran = run_stage(job, stop, options.force, options.resume)
                summarise(job.spec, result, ran)
    finally:
        finish_tracking()


def run_as_task(spec: StageSpec, executor_input: str) -> None:
    """Run a stage as one task of a Kubeflow pipeline."""
    from graftgan.context import StopSignal
    from graftgan.kfp_task import run_task
    from graftgan.runner import summarise

    stop = StopSignal()
    stop.install()
    result, ran = run_task(spec, executor_input, stop)
    summarise(spec, result, ran)


@cli.command("doctor")
@click.option("--params", type=click.Path(path_type=Path), default=Path("params.yaml"), show_default=True)
def doctor_command(params: Path) -> None:
    """Say what this machine has and lacks, each line with its remedy."""
    from graftgan.doctor import examine

    findings = examine(params)
    for finding in findings:
        click.echo(str(finding))
    if any(finding.status == "missing" for finding in findings):
        raise SystemExit(1)


@cli.command("sample")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--seeds", default="0-63", show_default=True, help="Seeds: 7, 0-63 or 1,5,9-12.")
@click.option("--psi", default=1.0, show_default=True, type=click.FloatRange(0.0, 1.0), help="Truncation.")
@click.option("--class", "label", type=int, help="Class id, for conditional models.")
@click.option(
    "--columns", default=8, show_default=True, type=click.IntRange(1, 64), help="Columns of the grid or .gif."
)
@click.option(
    "--scale-px", default=64, show_default=True, type=int, help="Smallest side of a cell in pixels."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("samples.png"),
    show_default=True,
    help="A .png for a grid, a .gif for an interpolation through all seeds, in up to COLUMNS closed walks "
    "side by side, or a folder for single images; may be at s3://.",
)
@click.option(
    "--frames",
    default=16,
    show_default=True,
    type=click.IntRange(2, 240),
    help="Frames of a .gif from a seed to the next.",
)
def sample_command(**given: Any) -> None:
    """Draw pictures from MODEL: a checkpoint folder, or a registered package."""
    from graftgan.places import cache_home
    from graftgan.remote import local, writing
    from graftgan.sampling import draw

    with writing(given["out"]) as place:
        done = draw(**given | {"model": local(given["model"], cache_home()), "out": place})
    click.echo(done.replace(str(place), str(given["out"])))


@cli.group("weights", cls=Commands)
def weights_group() -> None:
    """Weights of feature extractors."""


@weights_group.command("fetch")
@click.argument("name", type=click.Choice(["inception"]))
def weights_fetch(name: str) -> None:
    """Download weights that may not be shipped, and check their digest."""
    from graftgan.weights import fetch

    click.echo(f"{name}: {fetch(name)}")


@cli.command("sync")
@click.option("--params", type=click.Path(path_type=Path), default=Path("params.yaml"), show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
def sync_command(params: Path, assignments: tuple[str, ...]) -> None:
    """Send journalled runs to the MLflow server."""
    from graftgan.follower import located
    from graftgan.params import load
    from graftgan.sync import sync
    from graftgan.tracker import journal_root

    report = sync(journal_root(), located(load(params, assignments).track))
    click.echo(str(report))
    if not report.complete:
        raise SystemExit(75)


def fail(error: Ending) -> NoReturn:
    """Print an expected failure, or that a signal came, and leave with its code."""
    click.echo(f"error: {error}", err=True)
    raise SystemExit(error.exit_code)


def main() -> None:
    """Run the command line."""
    import sys

    from graftgan.console import tell_unforeseen

    sys.excepthook = tell_unforeseen
    try:
        cli(standalone_mode=False)
    except Ending as error:
        fail(error)
    except click.UsageError as error:
        error.show()
        raise SystemExit(ConfigError.exit_code) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except (click.Abort, KeyboardInterrupt):
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        from graftgan.contract import disk_is_full
        from graftgan.redaction import blotted

        click.echo(blotted(f"error: {error}"), err=True)
        raise SystemExit(TryAgain.exit_code if disk_is_full(error) else 1) from None


if __name__ == "__main__":
    main()
