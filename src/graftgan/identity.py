"""Which pipeline run a stage belongs to, so that separate processes and pods join one parent run."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftgan.config import Params
from graftgan.contract import canonical_json, digest_text
from graftgan.digests import DigestCache
from graftgan.errors import GraftganError
from graftgan.lifelong_config import LifelongParams
from graftgan.params import config_digest
from graftgan.places import cache_home
from graftgan.remote import local

PIPELINE_SECTIONS = ("data", "rank", "finetune", "evaluate", "report", "registry")
LIFELONG_SECTIONS = ("tasks", "bank", "train", "scores", "registry")
ENVIRONMENT = ("GRAFTGAN_RUN_ID", "MLFLOW_RUN_ID", "KFP_RUN_ID", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")


@dataclass(frozen=True)
class RunIdentity:
    """The parent run of all stages of one pipeline run.

    Attributes:
        key: Idempotency key, safe as a file name: whoever has the same key joins the same parent run.
        name: Name of the parent run for people.
        origin: `explicit`, `mlflow`, `kfp`, `dvc` or `content`.
        parent_id: MLflow id of the parent run where the surroundings gave one, else empty.
        kfp_run: Id of the Kubeflow run, else empty.
    """

    key: str
    name: str
    origin: str
    parent_id: str = ""
    kfp_run: str = ""


def pipeline_sections(params: Params | LifelongParams) -> tuple[str, ...]:
    """Return the sections that can change what a pipeline makes."""
    return LIFELONG_SECTIONS if isinstance(params, LifelongParams) else PIPELINE_SECTIONS


def resolve_identity(params: Params | LifelongParams, environ: Mapping[str, str] = os.environ) -> RunIdentity:
    """Return the identity of the pipeline run; the first match wins.

    In order: `GRAFTGAN_RUN_ID` (any text of the user's), `MLFLOW_RUN_ID` (an existing run to nest below),
    `KFP_RUN_ID`, the experiment and baseline that `dvc exp run` puts in the environment, and else the digest
    of all parameters that can change results and of the user's images.

    Args:
        params: All parameters.
        environ: Environment, read once here because MLflow removes its variable.
    """
    explicit, mlflow_run, kfp_run, experiment, baseline = (environ.get(name, "") for name in ENVIRONMENT)
    if explicit:
        return RunIdentity(safe_name(explicit), explicit, "explicit")
    if mlflow_run:
        return RunIdentity(safe_name(mlflow_run), mlflow_run, "mlflow", parent_id=mlflow_run, kfp_run=kfp_run)
    if kfp_run:
        return RunIdentity(safe_name(kfp_run), f"kfp {kfp_run[:8]}", "kfp", kfp_run=kfp_run)
    if experiment:
        return RunIdentity(safe_name(f"{experiment}-{baseline[:12]}"), experiment, "dvc")
    known = [config_digest(params, pipeline_sections(params)), _images_digest(params)]
    key = digest_text(canonical_json(known))[:16]
    title = (
        f"{len(params.tasks)} tasks" if isinstance(params, LifelongParams) else Path(params.data.path).stem
    )
    return RunIdentity(key, f"{title} {key[:6]}", "content")


def safe_name(text: str) -> str:
    """Return `text` as a file name; a digest tells apart what would fall together."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", text).strip(".-")[:80]
    return plain if plain == text else f"{plain}-{digest_text(text)[:8]}"


def _images_digest(params: Params | LifelongParams) -> str:
    if isinstance(params, LifelongParams):
        given = [path for task in params.tasks.values() for path in (task.data.input, task.data.target)]
        places = [place for place in given if place is not None]
    else:
        places = [params.data.path]
    cache = DigestCache(cache_home())
    try:
        digests = [cache.digest(local(place, cache_home())) for place in places]
        return digests[0] if len(digests) == 1 else digest_text(canonical_json(digests))
    except (GraftganError, OSError):
        # A pod of a later stage cannot reach the images; there the surroundings give the identity.
        return ""


def git_revision(environ: Mapping[str, str] = os.environ) -> str:
    """Return the git commit of the working folder, with `-dirty` if files were changed, or empty text.

    An image without a repository is told by `GRAFTGAN_GIT_REVISION`.
    """
    if given := environ.get("GRAFTGAN_GIT_REVISION"):
        return given
    try:
        head = _git("rev-parse", "HEAD")
        return f"{head}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()
