"""`graftgan lifelong`: learns a list of tasks into one bank, stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graftgan.commands.base import DRY_RUN_HELP, SET_HELP, Commands

if TYPE_CHECKING:
    from graftgan.stages.specs import StageSpec

PATH = click.Path(path_type=Path)
Function = Callable[..., Any]


def options(function: Function) -> Function:
    """Add the options that every stage takes."""
    given = [
        click.option(
            "--params", type=PATH, default="lifelong/params.yaml", show_default=True, help="List of tasks."
        ),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help=SET_HELP),
        click.option(
            "--out", type=PATH, default="out/lifelong", show_default=True, help="Folder of outputs."
        ),
        click.option("--dry-run", is_flag=True, help=DRY_RUN_HELP),
        click.option("--force", is_flag=True, help="Run even if nothing changed."),
        click.option(
            "--resume",
            type=click.Choice(["auto", "never", "must"]),
            default="auto",
            show_default=True,
            help="Whether to go on from saved training state.",
        ),
    ]
    for option in reversed(given):
        function = option(function)
    return function


@click.group("lifelong", cls=Commands)
def lifelong_group() -> None:
    """Learn a list of image-to-image tasks one after another into one bank.

    The stages are create, then learn and evaluate for each task, then verify, report and register.
    `graftgan lifelong run` does all of them with the tasks of lifelong/params.yaml.
    """


@lifelong_group.command("run")
@options
def run_command(**given: Any) -> None:
    """Run all stages in order, skipping those that are up to date."""
    run_stages(None, "", **given)


def add_stage(kind: str, help_text: str, of_task: bool) -> None:
    """Add the sub-command of one kind of stage."""

    @options
    @click.option("--kfp-executor-input", "executor_input", metavar="JSON", help="Run as a Kubeflow task.")
    def command(executor_input: str | None, task: str | None = None, **given: Any) -> None:
        if executor_input is not None:
            run_as_task(kind, executor_input)
        elif of_task and not task:
            raise click.UsageError("name the TASK")
        else:
            run_stages(kind, task or "", **given)

    if of_task:
        command = click.argument("task", required=False)(command)
    lifelong_group.command(kind, help=help_text)(command)


add_stage("create", "Make the bank without tasks.", False)
add_stage("learn", "Learn TASK and add it to the bank of the tasks before it.", True)
add_stage("evaluate", "Score every task of the bank after TASK was added.", True)
add_stage("verify", "Prove that no task has changed, and put the bank in place.", False)
add_stage("report", "Write the one-file HTML report of the bank, and the verdict.", False)
add_stage("register", "Register the bank as a model, and let it challenge the champion.", False)


def specs_of(tasks: Any, kind: str | None, task: str) -> list[StageSpec]:
    """Return the stages that a command runs.

    Raises:
        ConfigError: The list has no such task.
    """
    from graftgan.errors import ConfigError
    from graftgan.stages.lifelong_specs import lifelong_stage, lifelong_stages

    if kind is None:
        return list(lifelong_stages(tuple(tasks)))
    try:
        return [lifelong_stage(tuple(tasks), kind, task)]
    except KeyError:
        raise ConfigError(f"there is no task {task!r}", f"the tasks are {', '.join(tasks)}") from None


def run_stages(
    kind: str | None,
    task: str,
    params: Path,
    assignments: tuple[str, ...],
    out: Path,
    dry_run: bool,
    force: bool,
    resume: str,
) -> None:
    """Run stages one after another, or say what would happen."""
    from graftgan.context import StopSignal
    from graftgan.dryrun import explain
    from graftgan.engine import Job
    from graftgan.lifelong_params import load_lifelong
    from graftgan.runner import finish_tracking, run_stage, summarise
    from graftgan.stages.lifelong_specs import lifelong_paths
    from graftgan.workers import refuse_several

    refuse_several("graftgan lifelong")
    given = load_lifelong(params, assignments)
    jobs = [Job(s, given, *lifelong_paths(s, out)) for s in specs_of(given.tasks, kind, task)]
    if dry_run:
        for line in explain(jobs, force):
            click.echo(line)
        return
    stop = StopSignal()
    stop.install()
    try:
        for job in jobs:
            result, ran = run_stage(job, stop, force, resume)
            summarise(job.spec, result, ran)
    finally:
        finish_tracking()


def run_as_task(kind: str, executor_input: str) -> None:
    """Run a stage as one task of a Kubeflow pipeline."""
    from graftgan import kfp_io
    from graftgan.context import StopSignal
    from graftgan.engine import Job
    from graftgan.kfp_retry import Attempts
    from graftgan.lifelong_params import loads_lifelong
    from graftgan.runner import finish_tracking, run_stage, summarise
    from graftgan.workers import refuse_several

    refuse_several("a Kubeflow task")
    stop = StopSignal()
    stop.install()
    with Attempts.of(f"lifelong-{kind}", executor_input).counted():
        call = kfp_io.read(executor_input, known=kfp_io.LIFELONG_KNOBS)
        params = loads_lifelong(call.config_json, call.assignments)
        (spec,) = specs_of(params.tasks, kind, call.item)
        job = Job(spec, params, call.inputs, call.outputs)
        if call.pins:
            call.check_pins(job.external_digests())
        try:
            result, ran = run_stage(job, stop)
        finally:
            finish_tracking()
        kfp_io.write(call, result, spec)
    summarise(spec, result, ran)
