"""Renders a stage as a Kubeflow Trainer `TrainJob`: several workers on several nodes under torchrun.

`python -m pipelines.trainjob` prints the manifest for `kubectl apply -f -`; `--out FILE` writes it. Nothing
is sent anywhere. The manifest is checked against the models of `kubeflow-trainer-api` and for what these do
not know, before it is shown.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import graftgan
from graftgan.errors import ConfigError, GraftganError
from graftgan.params import load
from graftgan.workers import TOGETHER
from pipelines.profiles import CREDENTIALS, STORE_VARIABLES, USER, WRITABLE

API = "trainer.kubeflow.org"
STEP = "node"
"""Name of the replicated job and of its container in the runtimes for PyTorch."""
WORKSPACE = "/workspace"
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
JOB = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""Form of a TrainJob's name, which the CRD asks for by a rule that its published models do not have."""
SUBDOMAIN = re.compile(rf"{LABEL.pattern}(\.{LABEL.pattern})*")
SECRET = re.compile(rf"\w+={SUBDOMAIN.pattern}/[-._a-zA-Z0-9]+")
PLACES = (*STORE_VARIABLES, "MLFLOW_TRACKING_URI")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")


@dataclass(frozen=True)
class Settings:
    """What differs from job to job.

    Attributes:
        stage: One of the stages that workers do together.
        name: Name of the job.
        namespace: Its namespace; empty leaves it to kubectl.
        image: The project's image.
        runtime: Name of the ClusterTrainingRuntime.
        nodes: Machines.
        processes: Workers on each.
        gpus: GPUs on each, 0 for none; as many as workers otherwise.
        gpu: Resource name of a GPU.
        cpu: CPUs on each.
        memory: Memory on each.
        claim: PersistentVolumeClaim, ReadWriteMany with several nodes, with params.yaml, data and outputs.
        shared_memory: Size of /dev/shm, which NCCL talks through.
        grace_s: Time to save the state after SIGTERM.
        params: The params.yaml that lies in the claim, as it is here; read to check the batch.
        assignments: `KEY=VALUE` for `--set`.
        pull_secrets: Names of secrets for the registry.
        node_selector: `KEY=VALUE` that nodes must have.
        tolerations: `KEY` or `KEY=VALUE` of taints to bear.
        env: `VARIABLE=VALUE` that tells where a store or MLflow is.
        secret_env: `VARIABLE=SECRET/KEY`, a credential from a Kubernetes secret.
    """

    stage: str = "finetune"
    name: str = "graftgan-finetune"
    namespace: str = ""
    image: str = f"graftgan:{graftgan.__version__}"
    runtime: str = "torch-distributed"
    nodes: int = 1
    processes: int = 2
    gpus: int = 0
    gpu: str = "nvidia.com/gpu"
    cpu: str = "4"
    memory: str = "16Gi"
    claim: str = "graftgan-workspace"
    shared_memory: str = "2Gi"
    grace_s: int = 120
    params: str = "params.yaml"
    assignments: tuple[str, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    node_selector: tuple[str, ...] = ()
    tolerations: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    secret_env: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        """`runtime.device` of the workers."""
        return "cuda" if self.gpus else "cpu"


def manifest(settings: Settings) -> dict[str, Any]:
    """Return the TrainJob.

    Trainer gives each node's torchrun its place through variables that begin with PET_.
    """
    metadata = {"name": settings.name, "labels": {"app.kubernetes.io/name": "graftgan"}}
    if settings.namespace:
        metadata["namespace"] = settings.namespace
    resources = {"cpu": settings.cpu, "memory": settings.memory}
    if settings.gpus:
        resources[settings.gpu] = str(settings.gpus)
    return {
        "apiVersion": f"{API}/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {"apiGroup": API, "kind": "ClusterTrainingRuntime", "name": settings.runtime},
            "trainer": {
                "image": settings.image,
                "command": command(settings),
                "args": arguments(settings),
                "env": _environment(settings),
                "numNodes": settings.nodes,
                "numProcPerNode": settings.processes,
                "resourcesPerNode": {"limits": resources, "requests": dict(resources)},
            },
            "runtimePatches": [{"manager": "graftgan/trainjob", "trainingRuntimeSpec": _patch(settings)}],
        },
    }


def _environment(settings: Settings) -> list[dict[str, Any]]:
    variables = {
        "OMP_NUM_THREADS": "1",
        "GRAFTGAN_HOME": f"{WORKSPACE}/.graftgan",
        "GRAFTGAN_CACHE": f"{WORKSPACE}/.graftgan/cache",
        **dict(text.split("=", 1) for text in settings.env),
    }
    found: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in variables.items()]
    for text in settings.secret_env:
        variable, secret, key = re.split("[=/]", text)
        found.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return found


def command(settings: Settings) -> list[str]:
    """Return the command of a pod; Trainer tells torchrun all else."""
    return ["torchrun", "--shutdown-timeout", str(settings.grace_s), "-m", "graftgan", settings.stage]


def arguments(settings: Settings) -> list[str]:
    """Return the stage's arguments; a list, so that no shell reads them."""
    own = (f"runtime.device={settings.device}", *settings.assignments)
    given = [word for assignment in own for word in ("--set", assignment)]
    return ["--params", f"{WORKSPACE}/params.yaml", "--out", f"{WORKSPACE}/out", *given]


def _patch(settings: Settings) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "terminationGracePeriodSeconds": settings.grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "fsGroup": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": settings.claim}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
            *({"name": name, "emptyDir": {}} for name in WRITABLE),
        ],
        "containers": [
            {
                "name": STEP,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "workspace", "mountPath": WORKSPACE},
                    {"name": "shm", "mountPath": "/dev/shm"},
                    *({"name": name, "mountPath": path} for name, path in WRITABLE.items()),
                ],
            }
        ],
    }
    if settings.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    if settings.node_selector:
        pod["nodeSelector"] = dict(text.split("=", 1) for text in settings.node_selector)
    if settings.tolerations:
        pod["tolerations"] = [_toleration(text) for text in settings.tolerations]
    job = {"name": STEP, "template": {"spec": {"template": {"spec": pod}}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}


def _toleration(text: str) -> dict[str, str]:
    key, _, value = text.partition("=")
    return {"key": key, "operator": "Equal", "value": value} if value else {"key": key, "operator": "Exists"}


def check_settings(settings: Settings) -> None:
    """Refuse what the API server would, and what finetune would once the pods are up.

    Raises:
        ConfigError: Naming the option, or the keys.
    """
    if settings.stage not in TOGETHER:
        raise ConfigError(f"--stage {settings.stage} is done by one process", f"use {', '.join(TOGETHER)}")
    forms = {"name": JOB, "claim": SUBDOMAIN, "runtime": SUBDOMAIN, "namespace": LABEL}
    for option, form in forms.items():
        text = getattr(settings, option)
        if not form.fullmatch(text) and (text or option != "namespace"):
            remedy = "use small letters, digits and hyphens, for --name a letter first"
            raise ConfigError(f"--{option} {text!r} is no DNS name", remedy)
    for option in ("cpu", "memory", "shared_memory"):
        text = getattr(settings, option)
        if not QUANTITY.fullmatch(text):
            raise ConfigError(f"--{option.replace('_', '-')} {text!r} is no quantity", "write 4 or 16Gi")
    if min(settings.nodes, settings.processes) < 1:
        raise ConfigError("--nodes and --processes are at least 1", "give whole numbers from 1")
    if settings.gpus not in (0, settings.processes):
        raise ConfigError(
            f"--gpus is {settings.gpus}, but --processes is {settings.processes}: each has a GPU of its own",
            "give the same number, or --gpus 0",
        )
    for text in settings.node_selector:
        if "=" not in text:
            raise ConfigError(f"--node-selector {text!r} has no value", "write KEY=VALUE")
    for text in settings.env:
        if text.partition("=")[0] not in PLACES or not re.fullmatch(r"\w+=[^@\s]+", text):
            raise ConfigError(
                f"--env {text.split('=')[0]} is not PLACE=ADDRESS without a password",
                f"PLACE is one of {', '.join(PLACES)}; give credentials with --secret-env",
            )
    for text in settings.secret_env:
        if not SECRET.fullmatch(text) or text.partition("=")[0] not in CREDENTIALS:
            raise ConfigError(
                f"--secret-env {text.split('=')[0]} is not CREDENTIAL=SECRET/KEY",
                f"CREDENTIAL is one of {', '.join(sorted(CREDENTIALS))}",
            )
    workers = settings.nodes * settings.processes
    batch = load(Path(settings.params), settings.assignments).finetune.batch
    if settings.stage == "finetune" and batch % workers:
        raise ConfigError(
            f"finetune.batch is {batch}, which --nodes times --processes of {workers} does not divide",
            f"--set finetune.batch to a multiple of {workers}, or another number of workers",
        )


def check_schema(document: dict[str, Any]) -> None:
    """Hold a manifest against the models that Kubeflow Trainer publishes.

    The models pass over unknown fields and leave them out when written again, which is how those are found.

    Raises:
        ConfigError: A type is wrong, something required is missing, or a field is unknown.
    """
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
    from pydantic import ValidationError

    try:
        known = TrainerV1alpha1TrainJob.from_dict(document)
    except ValidationError as error:
        raise ConfigError(f"the TrainJob does not fit its schema: {error}", "correct the manifest") from None
    again = known.to_dict() if known is not None else {}
    if lost := sorted(_paths(document) - _paths(again)):
        raise ConfigError(f"the TrainJob has unknown fields: {', '.join(lost)}", "correct the manifest")


def _paths(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {path}.union(*(_paths(item, f"{path}.{key}") for key, item in value.items()))
    if isinstance(value, list):
        return {path}.union(*(_paths(item, f"{path}[{i}]") for i, item in enumerate(value)))
    return {path}


def render(settings: Settings) -> str:
    """Return the checked manifest as YAML.

    Raises:
        ConfigError: As `check_settings` and `check_schema`.
    """
    check_settings(settings)
    document = manifest(settings)
    check_schema(document)
    return yaml.safe_dump(document, sort_keys=False)


def parsed(words: Sequence[str]) -> tuple[Settings, Path | None]:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.trainjob", description=__doc__)
    defaults, told = Settings(), str(Settings.__doc__)
    helps = dict(re.findall(r"^ +(\w+): (.+)$", told, re.MULTILINE))
    for name, default in vars(defaults).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(default, tuple):
            option = "--set" if name == "assignments" else option.removesuffix("s")
            parser.add_argument(option, dest=name, action="append", default=[], help=helps[name])
        else:
            text = f"{helps[name].removesuffix('.')} (%(default)s)."
            parser.add_argument(option, type=type(default), default=default, help=text)
    parser.add_argument("--out", type=Path, help="file to write")
    given = vars(parser.parse_args(words))
    out = given.pop("out")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return Settings(**values), out


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line."""
    settings, out = parsed(sys.argv[1:] if words is None else words)
    try:
        text = render(settings)
    except GraftganError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
