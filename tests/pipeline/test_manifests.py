"""The pods that rendered TrainJobs ask for, against Kubernetes' own schemas and what those do not know."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from graftgan.params import load
from pipelines.trainjob import QUANTITY, Settings, render

ROOT = Path(__file__).parents[2]
JOBS = {
    "one CPU node": Settings(stage="rank"),
    "GPU nodes": Settings(
        nodes=2, processes=4, gpus=4, namespace="team", assignments=("finetune.batch=64",),
        pull_secrets=("registry",), node_selector=("pool=a100",), tolerations=("nvidia.com/gpu", "spot=yes"),
        env=("AWS_ENDPOINT_URL=http://store:8333",),
        secret_env=("AWS_ACCESS_KEY_ID=graftgan-s3/access-key",),
    ),
}  # fmt: skip


def pod_of(settings: Settings) -> dict[str, Any]:
    """Return the pod that Trainer makes of a job: the trainer's part goes into the patched container."""
    spec = yaml.safe_load(render(settings))["spec"]
    (patch,) = spec["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod: dict[str, Any] = copy.deepcopy(job["template"]["spec"]["template"]["spec"])
    trainer = spec["trainer"]
    own = {key: trainer[key] for key in ("image", "command", "args", "env")}
    pod["containers"][0] |= own | {"resources": trainer["resourcesPerNode"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": settings.name}, "spec": pod}


def validate(pod: dict[str, Any]) -> None:
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize("job", JOBS)
def test_the_pod_fits_kubernetes_own_schema(job: str) -> None:
    validate(pod_of(JOBS[job]))


FAULTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a field that is not known": lambda s: s.update(terminationGracePeriod=1),
    "a volume's field that is not known": lambda s: s["volumes"][0]["persistentVolumeClaim"].update(
        claim="x"
    ),
    "a number in the place of a text": lambda s: s["containers"][0]["command"].append(3),
    "a text in the place of a number": lambda s: s["securityContext"].update(runAsUser="root"),
    "a mount without a path": lambda s: s["containers"][0]["volumeMounts"][0].pop("mountPath"),
    "a variable without a name": lambda s: s["containers"][0]["env"][0].pop("name"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_schema_finds_a_planted_fault(fault: str) -> None:
    pod = pod_of(JOBS["GPU nodes"])
    FAULTS[fault](pod["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(pod)


@pytest.mark.parametrize("job", JOBS)
def test_what_the_schema_passes_over_is_right_too(job: str) -> None:
    pod = pod_of(JOBS[job])
    spec, found = pod["spec"], container(pod)
    volumes = [volume["name"] for volume in spec["volumes"]]
    assert {mount["name"] for mount in found["volumeMounts"]} == set(volumes)
    assert len(volumes) == len(set(volumes))
    paths = [mount["mountPath"] for mount in found["volumeMounts"]]
    assert len(paths) == len(set(paths)) and all(path.startswith("/") for path in paths)
    names = [*volumes, found["name"], *(secret["name"] for secret in spec.get("imagePullSecrets", []))]
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in names)
    amounts = [*found["resources"]["limits"].values(), *found["resources"]["requests"].values()]
    amounts += [v["emptyDir"]["sizeLimit"] for v in spec["volumes"] if v.get("emptyDir", {}).get("sizeLimit")]
    assert all(QUANTITY.fullmatch(amount) for amount in amounts)
    assert found["resources"]["limits"] == found["resources"]["requests"]
    operators = {bears["operator"]: bears for bears in spec.get("tolerations", [])}
    assert set(operators) <= {"Exists", "Equal"} and "value" not in operators.get("Exists", {})
    variables = [entry["name"] for entry in found["env"]]
    assert len(variables) == len(set(variables))


def test_the_settings_of_the_cluster_test_are_taken_by_the_project() -> None:
    path = ROOT / "scripts" / "cluster_test.yaml"
    params = load(path)
    assert params.track.mode == "off" and params.finetune.budget.kimg == 0.128
    # The script makes a run fail by changing this line.
    assert len(re.findall(r"min_images: 1$", path.read_text(), re.MULTILINE)) == 1


def test_the_cluster_test_fails_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to(str(shutil.which("dirname")))
    script = ROOT / "scripts" / "cluster_test.sh"
    words = [str(shutil.which("bash")), str(script)]
    done = subprocess.run(words, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == "cluster test failed: docker is missing: install it and try again\n"
