"""Talking to MLflow: the connection that `sync` and `registry` share.

Only this module, `serving` and `server` import MLflow. Runs are found again by tag, so that processes and
machines that know the same pipeline run join the same runs, and sending anything twice does no harm. MLflow's
own patience (minutes, with its default retries) is cut to `track.timeout_s` and no retry: whoever calls keeps
a journal and comes again.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import numpy as np
import pandas as pd
from google.protobuf.json_format import ParseError
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from sqlalchemy.exc import SQLAlchemyError

from graftgan.bank.package import is_bank
from graftgan.config import Track
from graftgan.contract import read_json
from graftgan.errors import TryAgain
from graftgan.follower import check_uri, is_remote, reachable
from graftgan.local_store import (
    database_file,
    held,
    knock,
    make_tables,
    set_database_patience,
    unfinished_database,
)
from graftgan.redaction import redacted
from graftgan.registry_answers import MISREAD, untold
from graftgan.reporting.sheets import png_bytes

RUN_KEY = "graftgan.run_key"
ATTEMPT = "graftgan.attempt"
KFP_RUN = "kfp.pipeline_run_id"
PARENT = "mlflow.parentRunId"
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyyaml", "pydantic", "safetensors", "torch")
PACKAGE = "package"
ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
MAX_METRICS = 1000
MAX_ENTRIES = 100
INVALID = "INVALID_PARAMETER_VALUE"
PERMANENT = {
    "BAD_REQUEST",
    INVALID,
    "INVALID_STATE",
    "MALFORMED_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}


class RefusedError(Exception):
    """The server will never take this: sending it again is useless."""


@contextmanager
def talking() -> Iterator[None]:
    """Translate the client's errors.

    Raises:
        RefusedError: If the content is at fault, or what it refers to is not there.
        TryAgain: If the server is: away, busy, failing, or not letting us in.
    """
    try:
        yield
    except MlflowException as error:
        text = redacted("error", str(error.message).splitlines()[0] if error.message else "")[:500]
        if error.error_code in PERMANENT:
            raise RefusedError(text) from error
        raise TryAgain(f"MLflow: {text}", "run `graftgan sync` when the server is back") from error
    # A database that is locked or broken while a store is opened, or an answer of another shape.
    except (OSError, SQLAlchemyError, ParseError) as error:
        text = redacted("error", str(error).split("\n", 1)[0])[:500]
        raise TryAgain(f"MLflow: {text}", "run `graftgan sync` when the server is back") from error


def _set_patience(timeout_s: float) -> None:
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # It tells at length of errors that it raises, too.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    set_database_patience(timeout_s)
    os.environ.update(
        {
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(math.ceil(timeout_s)),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        }
    )


class Connection:
    """An open line to the tracking store and model registry.

    Args:
        track: The tracking configuration.

    Attributes:
        client: MLflow's client; use it within `talking`.

    Raises:
        ConfigError: If `track.uri` is of a kind that cannot be used.
        TryAgain: If the server, a local database or another process that has it locked makes us wait for
            longer than `track.timeout_s`.
    """

    def __init__(self, track: Track) -> None:
        check_uri(track.uri)
        # What is the matter with a database is said when it is opened.
        if not database_file(track.uri) and not reachable(track.uri, track.timeout_s):
            raise TryAgain(
                f"MLflow at {redacted('uri', track.uri)} does not answer", "run `graftgan sync` later"
            )
        _set_patience(track.timeout_s)
        # A model URI such as models:/m-1 is resolved by the global addresses only.
        before = {name: os.environ.get(name) for name in ADDRESSES}
        mlflow.set_tracking_uri(track.uri)
        mlflow.set_registry_uri(track.uri)
        # MLflow hands them on in the environment, where they would pass for the user's own.
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        self.track = track
        if is_remote(track.uri):
            self._connect()
        else:
            self._open_local()

    def _connect(self) -> None:
        with talking():
            self.client = MlflowClient(self.track.uri, self.track.uri)
            self.client.search_experiments(max_results=1)

    def _open_local(self) -> None:
        # Two processes that make the tables of one SQLite file at once leave it broken for good.
        database, timeout_s = database_file(self.track.uri), self.track.timeout_s
        path = database or Path(self.track.artifacts)
        with talking():
            path.parent.mkdir(parents=True, exist_ok=True)
        with held(path.with_name(f"{path.name}.lock"), timeout_s, unfinished_database(path)):
            if database:
                with talking():
                    make_tables(database, lambda uri: MlflowClient(uri).search_experiments(max_results=1))
                knock(database, timeout_s)
            self._connect()

    @contextmanager
    def _finding(self) -> Iterator[None]:
        """Keep processes of this machine from making the same run twice."""
        folder = Path(self.track.artifacts).parent
        with talking():
            folder.mkdir(parents=True, exist_ok=True)
        with held(folder / ".runs.lock", self.track.timeout_s), talking():
            yield

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, made if there is none."""
        with self._finding():
            if known := self.client.get_experiment_by_name(name):
                if known.lifecycle_stage != "active":
                    raise TryAgain(
                        f"MLflow experiment {name!r} is deleted", "restore it, or set track.experiment"
                    )
                return str(known.experiment_id)
            # A server decides itself where artifacts go; a local store would put them in the working folder.
            location = None if is_remote(self.track.uri) else Path(self.track.artifacts).resolve().as_uri()
            return str(self.client.create_experiment(name, artifact_location=location))

    def parent(self, experiment: str, identity: Mapping[str, str], time_ms: int) -> str:
        """Return the id of the parent run of a pipeline run, made if there is none."""
        if identity["parent_id"]:
            return identity["parent_id"]
        tags = {RUN_KEY: identity["key"]}
        if identity["kfp_run"]:
            tags[KFP_RUN] = identity["kfp_run"]
        with self._finding():
            by_plugin = self._search(experiment, KFP_RUN, identity["kfp_run"]) if identity["kfp_run"] else ""
            return by_plugin or self._get_or_create(experiment, RUN_KEY, tags, identity["name"], time_ms)

    def child(self, experiment: str, parent: str, attempt: str, name: str, time_ms: int) -> str:
        """Return the id of the run of one stage, made if there is none."""
        with self._finding():
            return self._get_or_create(experiment, ATTEMPT, {ATTEMPT: attempt, PARENT: parent}, name, time_ms)

    def _search(self, experiment: str, tag: str, value: str) -> str:
        safe = value.replace("'", "")
        runs = self.client.search_runs([experiment], f"tags.`{tag}` = '{safe}'", max_results=10)
        ordered = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
        first = next((run for run in ordered if PARENT not in run.data.tags or tag == ATTEMPT), None)
        return str(first.info.run_id) if first else ""

    def _get_or_create(self, experiment: str, tag: str, tags: dict[str, str], name: str, time_ms: int) -> str:
        if known := self._search(experiment, tag, tags[tag]):
            return known
        mine = str(self.client.create_run(experiment, time_ms, tags, name).info.run_id)
        # Another machine may have been as quick; all then agree on the same one.
        kept = self._search(experiment, tag, tags[tag]) or mine
        if kept != mine:
            self.client.delete_run(mine)
        return kept

    def set_status(self, run: str, status: str, time_ms: int | None = None) -> None:
        """Set a run's status; `RUNNING` opens it again."""
        with talking():
            if status == "RUNNING":
                self.client.update_run(run, status)
            else:
                self.client.set_terminated(run, status, time_ms)

    def log_metrics(self, run: str, points: Sequence[tuple[str, float, int, int]]) -> None:
        """Log points of name, value, milliseconds since 1970 and step."""
        with talking():
            for start in range(0, len(points), MAX_METRICS):
                self.client.log_batch(run, metrics=[Metric(*p) for p in points[start : start + MAX_METRICS]])

    def log_params(self, run: str, params: Mapping[str, str]) -> None:
        """Log parameters; a value that differs from a logged one is refused."""
        entries = [Param(key, value) for key, value in sorted(params.items())]
        with talking():
            for start in range(0, len(entries), MAX_ENTRIES):
                self.client.log_batch(run, params=entries[start : start + MAX_ENTRIES])

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        entries = [RunTag(key, value) for key, value in sorted(tags.items())]
        with talking():
            for start in range(0, len(entries), MAX_ENTRIES):
                self.client.log_batch(run, tags=entries[start : start + MAX_ENTRIES])

    def log_dataset(self, run: str, name: str, digest: str, source: str, context: str) -> None:
        """Log an input image set under our own digest."""
        tags = [InputTag("mlflow.data.context", context)]
        with talking():
            self.client.log_inputs(run, [DatasetInput(Dataset(name, digest, "local", source), tags)])

    def log_artifact(self, run: str, path: Path, folder: str) -> None:
        """Upload a file, or a folder under its own name."""
        with talking():
            if path.is_dir():
                self.client.log_artifacts(run, str(path), f"{folder}/{path.name}" if folder else path.name)
            else:
                self.client.log_artifact(run, str(path), folder or None)

    def log_model(self, run: str, name: str, package: Path, scratch: Path, tags: Mapping[str, str]) -> str:
        """Upload a package as an MLflow model and return its id.

        Args:
            run: Run it comes from.
            name: Name of the model.
            package: Package folder.
            scratch: An empty folder to build the model in.
            tags: Tags of the model.
        """
        with talking():
            experiment = self.client.get_run(run).info.experiment_id
            model = self.client.create_logged_model(experiment, name, run, dict(tags), model_type="generator")
            save_pyfunc(package, scratch / "model", model.model_id, run)
            self.client.log_model_artifacts(model.model_id, str(scratch / "model"))
            self.client.finalize_logged_model(model.model_id, "READY")
            self.client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
            if scores := _model_scores(package, str(model.model_id)):
                self.client.log_batch(run, metrics=scores)
            return str(model.model_id)

    def download(self, uri: str, folder: Path) -> Path:
        """Fetch a model's files below `folder` and return their path.

        Raises:
            CheckpointError: If what the server tells of the files leads out of `folder`, or nowhere.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with talking():
            try:
                return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
            except (MlflowException, *MISREAD) as error:
                if isinstance(error, OSError) or getattr(error, "error_code", INVALID) != INVALID:
                    raise
                raise untold(uri, error) from error


def _model_scores(package: Path, model_id: str) -> list[Metric]:
    """Return the package's scores as metrics of the model on its image set, by which MLflow ranks models."""
    facts = read_json(package / "model.json")
    now_ms, digest = time.time_ns() // 1_000_000, facts["provenance"]["dataset"][:36]
    found = {name: score["value"] for name, score in facts["scores"].items() if score["value"] is not None}
    return [
        Metric(name, float(value), now_ms, 0, model_id=model_id, dataset_name="test", dataset_digest=digest)
        for name, value in sorted(found.items())
    ]


@dataclass(frozen=True)
class Form:
    """How a package is served.

    Attributes:
        code: File of the package that MLflow runs to load it.
        signature: What it takes and gives.
        example: Rows that it takes.
        requirements: Distributions that serving needs.
    """

    code: str
    signature: ModelSignature
    example: pd.DataFrame
    requirements: tuple[str, ...]


def generator_form(facts: Mapping[str, Any]) -> Form:
    """Return how a generator is served, for the content of its `model.json`."""
    example = pd.DataFrame({"seed": [0], "truncation_psi": [float(facts["truncation_default"])]})
    if facts["spec"]["classes"]:
        example = example.assign(**{"class": [0]})
    return Form("serving.py", model_signature(facts["spec"]), example, REQUIREMENTS)


def bank_form(facts: Mapping[str, Any]) -> Form:
    """Return how a task bank is served: `task` and `image` in, `image` out; the example is a grey image."""
    signature = ModelSignature(
        Schema([ColSpec("string", "task"), ColSpec("binary", "image")]), Schema([ColSpec("binary", "image")])
    )
    name, about = next(iter(facts["tasks"].items()))
    grey = np.full((about["size_px"], about["size_px"], 3), 128, np.uint8)
    example = pd.DataFrame({"task": [name], "image": [png_bytes(grey)]})
    return Form("serving_bank.py", signature, example, (*REQUIREMENTS, "filelock", "pillow"))


def save_pyfunc(package: Path, folder: Path, model_id: str | None = None, run: str | None = None) -> None:
    """Write a package as an MLflow model made from code: sources as text, weights as safetensors, no pickle.

    Args:
        package: Package folder of a register stage.
        folder: Folder to make.
        model_id: MLflow's id of the model.
        run: Run it comes from.
    """
    facts = read_json(package / "model.json")
    form = bank_form(facts) if is_bank(facts) else generator_form(facts)
    source = Path(__file__).parent
    model = Model(model_uuid=model_id or uuid.uuid4().hex, model_id=model_id, run_id=run)
    with tempfile.TemporaryDirectory() as scratch:
        # MLflow stores an artifact under the name of its folder, and the caller's may have any.
        copied = shutil.copytree(package, Path(scratch) / PACKAGE)
        mlflow.pyfunc.save_model(
            folder,
            mlflow_model=model,
            python_model=str(source / form.code),
            artifacts={PACKAGE: str(copied)},
            code_paths=[str(source)],
            signature=form.signature,
            input_example=form.example,
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in form.requirements],
        )
    # Folders of this machine are nobody's business; loading heeds the last parts alone.
    flavour = model.flavors["python_function"]
    flavour["model_code_path"] = form.code
    flavour["artifacts"][PACKAGE]["uri"] = PACKAGE
    model.save(folder / "MLmodel")
    for leftover in [*folder.rglob("__pycache__")]:
        shutil.rmtree(leftover)


def model_signature(spec: Mapping[str, Any]) -> ModelSignature:
    """Return what the registered model takes and gives, for a network spec as JSON holds it."""
    columns: list[ColSpec | TensorSpec] = [
        ColSpec("long", "seed"),
        ColSpec("double", "truncation_psi", required=False),
    ]
    if spec["classes"]:
        columns.append(ColSpec("long", "class", required=False))
    side, channels = int(spec["resolution"]), int(spec["channels"])
    images = TensorSpec(np.dtype("uint8"), (-1, side, side, channels), "images")
    return ModelSignature(Schema(columns), Schema([images]))
