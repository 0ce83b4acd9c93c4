"""Sends pipelines to a Kubeflow Pipelines server: `python -m pipelines.submit run NAME --host URL`.

`run` uploads a version, named after its content, so that the same pipeline is uploaded once, and starts it;
with `--wait` it shows progress and with `--report` it fetches the report. `schedule` creates or replaces a
recurring run, pinned to a version. `digest` tells the sha256 of a file or folder. Credentials come from what
kfp's client reads, never from here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graftgan
from graftgan.config import Track
from graftgan.contract import canonical_json, digest_path, digest_text
from graftgan.errors import ConfigError, GraftganError, MissingInput, TryAgain
from graftgan.places import cache_home
from graftgan.remote import local
from pipelines import profiles
from pipelines.base import NAMES, Submission, add_profile_options, compile_to, documents, fail, module_of
from pipelines.lint import secrets

FINISHED = {"SUCCEEDED": 0, "SKIPPED": 0, "FAILED": 1, "CANCELED": 1}
POLL_S = 5.0
PAGE = 100
Say = Callable[[str], None]


@dataclass(frozen=True)
class Version:
    """An uploaded version of a pipeline."""

    pipeline: str
    id: str
    name: str
    fresh: bool


def connect(host: str, namespace: str | None = None) -> Any:
    """Return kfp's client.

    Raises:
        TryAgain: If the server does not answer.
    """
    import kfp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with talking(host):
            return kfp.Client(host=host, **({"namespace": namespace} if namespace else {}))


@contextmanager
def talking(host: str) -> Iterator[None]:
    """Translate the errors of kfp's client.

    Raises:
        ConfigError: If the server refuses a request.
        TryAgain: If it does not answer, or answers with an error of its own.
    """
    import kfp_server_api
    import urllib3.exceptions

    try:
        yield
    except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError, TimeoutError) as error:
        status = int(getattr(error, "status", None) or 0)
        if 400 <= status < 500:
            text = f"{status} {getattr(error, 'reason', '')}: {getattr(error, 'body', '')}"
            raise ConfigError(f"{host} refuses: {text}", "correct what it names, or log in") from None
        raise TryAgain(f"{host} does not answer: {error}", "check --host and your network") from None


def version_name(path: Path) -> str:
    """Return the name of a compiled pipeline's version: the package's version and a digest of the content."""
    return f"{graftgan.__version__}+{digest_text(canonical_json(documents(path)))[:12]}"


def upload(client: Any, name: str, path: Path) -> Version:
    """Upload a compiled pipeline unless the same content was uploaded before.

    Args:
        client: kfp's client.
        name: Name of the pipeline in the UI.
        path: The compiled pipeline.
    """
    wanted = version_name(path)
    pipeline = client.get_pipeline_id(name)
    if pipeline is None:
        # The server names the first version after the pipeline, so ours comes second.
        pipeline = client.upload_pipeline(str(path), pipeline_name=name).pipeline_id
    token = ""
    while True:
        page = client.list_pipeline_versions(pipeline, page_token=token, page_size=PAGE)
        for known in page.pipeline_versions or []:
            if known.display_name == wanted:
                return Version(pipeline, known.pipeline_version_id, wanted, fresh=False)
        token = page.next_page_token
        if not token:
            break
    made = client.upload_pipeline_version(str(path), wanted, pipeline_id=pipeline)
    return Version(pipeline, made.pipeline_version_id, wanted, fresh=True)


def checked(submission: Submission) -> Submission:
    """Return a submission none of whose parameters looks like a secret, which the UI would show.

    Raises:
        ConfigError: If one does.
    """
    for finding in secrets(submission.arguments, ""):
        raise ConfigError(
            f"the parameter {finding.place} looks like a secret", "name a secret in the profile"
        )
    return submission


def watch(client: Any, run: str, timeout_s: float, say: Say, poll_s: float = POLL_S) -> str:
    """Wait for the end of a run and tell each change of a task's state; returns the run's state.

    kfp's own wait does not know that a cancelled run has ended.

    Raises:
        TryAgain: If it lasts longer than `timeout_s`.
    """
    shown: dict[str, str] = {}
    until = time.monotonic() + timeout_s
    while True:
        found = client.get_run(run)
        for task in (found.run_details.task_details if found.run_details else None) or []:
            if task.state and shown.get(task.task_id) != task.state:
                shown[task.task_id] = task.state
                say(f"{task.display_name}: {task.state.lower()}")
        if found.state in FINISHED:
            if found.error and found.error.message:
                say(f"error: {found.error.message}")
            return str(found.state)
        if time.monotonic() > until:
            raise TryAgain(
                f"run {run} is {found.state} after {timeout_s:g} s", "wait longer with --timeout-s"
            )
        time.sleep(poll_s)


def fetch_report(track: Track, run: str, target: Path) -> Path:
    """Copy the HTML report of a Kubeflow run from MLflow to a file.

    Raises:
        MissingInput: If MLflow has no report of this run.
        TryAgain: If MLflow does not answer.
    """
    from graftgan.tracking import KFP_RUN, PARENT, Connection

    connection = Connection(track)
    experiment = connection.experiment(track.experiment)
    parents = connection.client.search_runs([experiment], f"tags.`{KFP_RUN}` = '{run}'")
    for parent in parents:
        children = connection.client.search_runs([experiment], f"tags.`{PARENT}` = '{parent.info.run_id}'")
        for child in children:
            if child.data.tags.get("graftgan.stage") == "report":
                with tempfile.TemporaryDirectory() as folder:
                    uri = f"runs:/{child.info.run_id}/report/report"
                    content = connection.download(uri, Path(folder)).read_bytes()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                return target
    raise MissingInput(f"MLflow has no report of run {run}", "see whether the report task ended well")


def schedule(client: Any, version: Version, name: str, experiment: str, arguments: Mapping[str, Any],
             cron: str) -> str:  # fmt: skip
    """Create the recurring run called `name`, in the place of an earlier one, and return its id."""
    made = client.create_recurring_run(
        experiment_id=experiment, job_name=name, cron_expression=cron, max_concurrency=1, no_catchup=True,
        params=dict(arguments), pipeline_id=version.pipeline, version_id=version.id,
    ).recurring_run_id  # fmt: skip
    token, old = "", []
    while True:
        page = client.list_recurring_runs(page_token=token, page_size=PAGE, experiment_id=experiment)
        found = page.recurring_runs or []
        old += [r.recurring_run_id for r in found if r.display_name == name and r.recurring_run_id != made]
        token = page.next_page_token
        if not token:
            break
    # The new one is there before the old ones go, so that a failure leaves none out.
    for run in old:
        client.delete_recurring_run(run)
    return str(made)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(prog="python -m pipelines.submit", description=__doc__)
    actions = made.add_subparsers(dest="action", required=True)
    for action, text in (
        ("run", "upload a version and run it"),
        ("schedule", "run a version again and again"),
    ):
        one = actions.add_parser(action, help=text)
        one.add_argument("name", choices=NAMES, help="the pipeline")
        one.add_argument("--host", required=True, help="address of the Kubeflow Pipelines server")
        one.add_argument("--namespace", help="your namespace on a server of several users")
        one.add_argument("--experiment", default="graftgan", help="Kubeflow experiment")
        one.add_argument("--title", help="name of the run; by default the version's")
        one.add_argument("--params", type=Path, help="configuration; by default the pipeline's own file")
        one.add_argument("--methods", help="comma-separated methods, each with every seed")
        one.add_argument("--seeds", help="comma-separated seeds")
        one.add_argument("--each-source", action="store_true", help="rank each source in a task of its own")
        one.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", help="pipeline parameter"
        )
        add_profile_options(one)
    actions.choices["schedule"].add_argument(
        "--cron", required=True, help="six fields, such as '0 0 6 * * 1'"
    )
    run = actions.choices["run"]
    run.add_argument("--wait", action="store_true", help="show progress until the run ends")
    run.add_argument("--timeout-s", type=float, default=86_400.0, help="longest wait")
    run.add_argument(
        "--report", type=Path, help="file for the HTML report, taken from MLflow; implies --wait"
    )
    digest = actions.add_parser("digest", help="tell the sha256 of a file or folder, as data_digest takes it")
    digest.add_argument("path", help="path, or s3:// address with credentials in the environment")
    return made


def send(options: argparse.Namespace, say: Say) -> int:
    """Upload, run or schedule, and wait if asked to; returns the exit code."""
    submission = checked(module_of(options.name).submission(options))
    arguments = submission.arguments
    profile = profiles.load(options.profile, options.image)
    client = connect(options.host, options.namespace)
    with tempfile.TemporaryDirectory() as folder, talking(options.host):
        path = Path(folder) / f"{options.name}.yaml"
        compile_to(options.name, path, profile)
        title = documents(path)[0]["pipelineInfo"]["name"]
        version = upload(client, title, path)
    say(f"version {version.name} of {title}: {'uploaded' if version.fresh else 'known'}")
    with talking(options.host):
        experiment = client.create_experiment(options.experiment, namespace=options.namespace).experiment_id
        name = options.title or f"{title} {version.name}"
        if options.action == "schedule":
            say(f"recurring run {schedule(client, version, name, experiment, arguments, options.cron)}")
            return 0
        run = client.run_pipeline(
            experiment, name, params=arguments, pipeline_id=version.pipeline, version_id=version.id
        ).run_id
        say(f"run {run}")
        if not options.wait and not options.report:
            return 0
        state = watch(client, run, options.timeout_s, say)
    say(f"run {run}: {state.lower()}")
    if options.report and FINISHED[state] == 0:
        say(f"report: {fetch_report(submission.track, run, options.report)}")
    return FINISHED[state]


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        if options.action == "digest":
            print(digest_path(local(options.path, cache_home())))
            return 0
        return send(options, lambda text: print(text, flush=True))
    except GraftganError as error:
        return fail(error)


if __name__ == "__main__":
    sys.exit(main())
