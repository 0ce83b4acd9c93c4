"""Profiles: what a cluster gives each task, from one `profiles/NAME.yaml`, for any pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from kfp import kubernetes
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.base import IMAGE
from graftgan.errors import ConfigError, MissingInput
from graftgan.kfp_retry import NOTES
from graftgan.remote import is_address
from graftgan.yamltext import parse_yaml

FOLDER = Path(__file__).parent.parent / "profiles"
DEFAULT = "default"
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
SHARED_MEMORY_VOLUME = "shared-memory"
# Where things are tells nothing about results, so these are not part of the cache key.
FOLDERS = {"GRAFTGAN_HOME": "home", "GRAFTGAN_CACHE": "cache"}
USER = 10001
"""The image's user."""
WRITABLE = {"tmp": "/tmp", "home": "/home/graftgan"}
"""Folders for what ends with the container where the root file system is read-only."""
STORE_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")


def quantity(pattern: str, example: str) -> AfterValidator:
    """Return a check of a Kubernetes quantity."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not a quantity such as {example}")
        return text

    return AfterValidator(check)


def _dns_name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a Kubernetes name: lower-case letters, digits, '-' and '.'")
    return text


Cpu = Annotated[str, quantity(r"[1-9][0-9]*m?|[0-9]+\.[0-9]+", "4 or 500m")]
Memory = Annotated[str, quantity(r"[1-9][0-9]*(Mi|Gi|Ti|M|G|T)", "16Gi")]
DnsName = Annotated[str, AfterValidator(_dns_name)]


class Part(BaseModel):
    """A part of a profile; a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Gpu(Part):
    """GPUs of a task."""

    type: str = Field("nvidia.com/gpu", description="Resource name of the device plug-in.")
    count: int = Field(1, ge=1, le=16, description="How many.")


class Toleration(Part):
    """A taint that a task's pod bears."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"

    @model_validator(mode="after")
    def _value(self) -> Toleration:
        if (self.operator == "Equal") != bool(self.value):
            raise ValueError("operator Equal needs a value, operator Exists takes none")
        return self


class Resources(Part):
    """What the pods of a class of tasks get; limits are also requests."""

    cpu: Cpu
    memory: Memory
    gpu: Gpu | None = None
    shared_memory: Memory | None = Field(None, description="Size of /dev/shm, counted into memory.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the nodes.")
    tolerations: tuple[Toleration, ...] = ()


class SecretEnv(Part):
    """Environment variables from a Kubernetes secret."""

    secret: DnsName
    env: dict[str, str] = Field(description="Maps an environment variable to the secret's key.", min_length=1)

    @model_validator(mode="after")
    def _credentials(self) -> SecretEnv:
        for name in self.env:
            if name not in CREDENTIALS:
                raise ValueError(f"{name} is no credential; use one of {', '.join(sorted(CREDENTIALS))}")
        return self


CREDENTIALS = {
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
}


class PvcWorkspace(Part):
    """A claim that keeps training state, caches and notes of failures between pods."""

    kind: Literal["pvc"] = "pvc"
    claim: DnsName
    mount: str = Field("/workspace", pattern=r"^/[\w./-]+$", description="Where it is mounted.")


class S3Workspace(Part):
    """A prefix of an object store for all artifacts; training state ends with its pod."""

    kind: Literal["s3"] = "s3"
    root: str = Field(pattern=r"^(s3|minio|gs)://[^/]+(/.*)?$", description="Pipeline root.")


class Store(Part):
    """The object store that s3:// addresses in parameters lie in."""

    endpoint: str | None = Field(
        None, pattern=r"^https?://[^/@\s]+$", description="Address of an S3 server of your own."
    )
    region: str | None = Field(None, pattern=r"^[\w-]+$", description="Its region.")
    credentials: SecretEnv | None = None

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that tell where it is."""
        found = dict(zip(STORE_VARIABLES, (self.endpoint, self.region), strict=True))
        return {name: value for name, value in found.items() if value}


class Retry(Part):
    """Attempts after the first, with back-off; what failed for good is not done again."""

    times: int = Field(2, ge=0, le=10)
    wait_s: int = Field(60, ge=0)
    factor: float = Field(2.0, ge=1)
    longest_wait_s: int = Field(300, ge=0, le=600)


class Profile(Part):
    """Everything that differs between clusters."""

    image: str = Field(IMAGE, min_length=1, description="Image of every task.")
    image_pull_secret: DnsName | None = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    caching: bool = Field(True, description="Reuse equal tasks' outputs; needs an image pinned by digest.")
    retry: Retry = Retry()
    parallelism: dict[str, Annotated[int, Field(ge=1, le=1000)]] = Field(
        {DEFAULT: 2}, description="Tasks of a fan-out at once, by the fan-out's name."
    )
    resources: dict[str, Resources] = Field(description="Classes of resources; one is called default.")
    tasks: dict[str, str] = Field(default_factory=dict, description="Maps a task to its class of resources.")
    workspace: Annotated[PvcWorkspace | S3Workspace, Field(discriminator="kind")] | None = None
    store: Store = Store()
    mlflow: SecretEnv | None = None

    @model_validator(mode="after")
    def _whole(self) -> Profile:
        for field in ("resources", "parallelism"):
            if DEFAULT not in getattr(self, field):
                raise ValueError(f"{field} lacks the entry {DEFAULT!r}")
        for task, name in self.tasks.items():
            if name not in self.resources:
                raise ValueError(
                    f"tasks.{task}: no resources {name!r}; there are {', '.join(self.resources)}"
                )
        if self.caching and not DIGEST.search(self.image):
            raise ValueError(
                f"caching needs an image pinned by digest, for the cache key holds its name; {self.image} "
                "is not: give --image REPOSITORY@sha256:..., or set caching: false"
            )
        return self

    def at_once(self, fan_out: str) -> int:
        """Return how many tasks of a fan-out may run at once."""
        return self.parallelism.get(fan_out, self.parallelism[DEFAULT])

    def resources_of(self, task: str, kind: str = "") -> Resources:
        """Return what a task gets: by its name, else by its kind, which several tasks of a pipeline share."""
        return self.resources[self.tasks.get(task, self.tasks.get(kind, DEFAULT))]

    @property
    def pipeline_root(self) -> str | None:
        """Where a cluster puts artifacts, or None for its own choice."""
        return self.workspace.root if isinstance(self.workspace, S3Workspace) else None


def load(name: str, image: str | None = None) -> Profile:
    """Read a profile.

    Args:
        name: Name of a file in `profiles/`, or the path of one.
        image: Image that takes the place of the profile's.

    Raises:
        MissingInput: If there is no such profile.
        ConfigError: If it is not YAML or does not fit the schema, naming every wrong key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError:
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise MissingInput(
            f"there is no profile {path}", f"use one of {known}, or the path of a file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}", "correct the file") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} is not a mapping", "start it with `resources:`")
    try:
        return Profile.model_validate(raw | ({"image": image} if image else {}))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'profile'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(
            f"{path}: {'; '.join(wrong)}", "docs/kubeflow.md tells what a profile takes"
        ) from None


def apply(task: Any, name: str, profile: Profile, kind: str = "") -> Any:
    """Give a task its image, resources, retries, cache policy, volumes and secrets.

    All are constants: limits that come from pipeline parameters do not compile rightly inside a fan-out.

    Args:
        task: The task, of kfp.
        name: Its name, by which the profile finds its class.
        profile: The profile.
        kind: What the profile may call it by otherwise.
    """
    given, retry = profile.resources_of(name, kind), profile.retry
    task.set_display_name(name).set_container_image(profile.image).set_caching_options(profile.caching)
    task.set_cpu_request(given.cpu).set_cpu_limit(given.cpu)
    task.set_memory_request(given.memory).set_memory_limit(given.memory)
    task.set_retry(retry.times, f"{retry.wait_s}s", retry.factor, f"{retry.longest_wait_s}s")
    if given.gpu:
        task.set_accelerator_type(given.gpu.type).set_accelerator_limit(given.gpu.count)
    _place(task, given)
    _keep(task, profile)
    return task


def _place(task: Any, given: Resources) -> None:
    if given.shared_memory:
        kubernetes.empty_dir_mount(
            task, SHARED_MEMORY_VOLUME, "/dev/shm", medium="Memory", size_limit=given.shared_memory
        )
    for label, value in given.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for bears in given.tolerations:
        kubernetes.add_toleration(task, bears.key, bears.operator, bears.value or None, bears.effect)


def _keep(task: Any, profile: Profile) -> None:
    secrets = [profile.mlflow, profile.store.credentials]
    for variable, value in profile.store.variables.items():
        task.set_env_variable(variable, value)
    if isinstance(profile.workspace, PvcWorkspace):
        mount = profile.workspace.mount
        kubernetes.mount_pvc(task, profile.workspace.claim, mount)
        for variable, folder in FOLDERS.items():
            task.set_env_variable(variable, f"{mount}/{folder}")
    elif profile.pipeline_root and is_address(profile.pipeline_root):
        task.set_env_variable(NOTES, f"{profile.pipeline_root.rstrip('/')}/failures")
    for secret in secrets:
        if secret:
            keys = {key: name for name, key in secret.env.items()}
            kubernetes.use_secret_as_env(task, secret.secret, keys)
    if profile.image_pull_secret:
        kubernetes.set_image_pull_secrets(task, [profile.image_pull_secret])
    if profile.image_pull_policy:
        kubernetes.set_image_pull_policy(task, profile.image_pull_policy)
