"""The compiled pipelines in containers of the built image; `make image-test` builds it and calls these.

`GRAFTGAN_IMAGE` names the image by its digest in a registry, `GRAFTGAN_SBOM` the list of what is in it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl
from stages.lifelong_project import TASKS, write_project

from graftgan.contract import digest_path
from graftgan.stages.specs import STAGES
from pipelines import compiling
from pipelines.profiles import DIGEST

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
RUNS = ("run", "--root", "artifacts", "--docker", "--pipeline", "compiled.yaml")
BOUNDS = """
import os, pathlib, sys
assert os.getuid() != 0 and os.getgid() == 0, (os.getuid(), os.getgid())
for folder in ("/app", "/opt/venv", "/"):
    try:
        pathlib.Path(folder, "x").write_text("x")
    except OSError:
        continue
    sys.exit(f"{folder} can be written")
assert os.listdir("/sys/class/net") == ["lo"], os.listdir("/sys/class/net")
status = pathlib.Path("/proc/self/status").read_text().split()
assert int(status[status.index("CapEff:") + 1], 16) == 0
assert status[status.index("NoNewPrivs:") + 1] == "1"
"""


def variable(name: str) -> str:
    """Return what `make image-test` sets; without it these tests fail, for nobody calls them unasked."""
    value = os.environ.get(name, "")
    assert value, f"{name} is not set: use `make image-test`, which builds the image"
    return value


@pytest.fixture(scope="module")
def image() -> str:
    found = variable("GRAFTGAN_IMAGE")
    assert DIGEST.search(found), f"{found} is not pinned by digest"
    return found


@pytest.fixture(scope="module")
def project(make_project: Callable[[], Any], image: str) -> Any:
    """A project whose images and catalogue lie where containers see them, under the same name as here."""
    project = make_project()
    artifacts = project.root / "artifacts"
    artifacts.mkdir()
    for name in ("images.zip", "zoo"):
        shutil.move(project.root / name, artifacts / name)
    project.set("data.path", str(artifacts / "images.zip"))
    project.set("rank.catalogue", str(artifacts / "zoo" / "catalogue.yaml"))
    words = ("compile", "--image", image, "--output", "compiled.yaml")
    project.run("python", "-m", "pipelines.transfer", *words)
    return project


def task_of(run: Path, name: str) -> Path:
    """Return the folder of a task, wherever its fan-out put it."""
    (folder,) = (path.parent for path in run.glob(f"**/{name}/executor_output.json"))
    return folder


def run_of(root: Path) -> Path:
    (run,) = (path for path in (root / "artifacts").iterdir() if path.name.startswith("graftgan-"))
    return run


@pytest.fixture(scope="module")
def by_cli(project: Any) -> dict[str, bytes]:
    project.run("graftgan", "run", "--params", "params.yaml")
    return dict(project.results())


@pytest.fixture(scope="module")
def by_image(project: Any) -> Path:
    project.run("python", "-m", "pipelines.transfer", *RUNS)
    return run_of(project.root)


@pytest.mark.parametrize("name", [spec.name for spec in STAGES])
def test_the_image_gives_the_result_of_the_command_line(
    by_cli: dict[str, bytes], by_image: Path, name: str
) -> None:
    assert (task_of(by_image, name) / "result").read_bytes() == by_cli[name]


def test_the_image_gives_the_models_of_the_command_line(
    project: Any, by_cli: dict[str, bytes], by_image: Path
) -> None:
    for stage, port in (("finetune", "models"), ("register", "package")):
        folder = task_of(by_image, stage) / port
        assert digest_path(folder) == digest_path(project.root / "out" / stage / port)
        assert list(folder.rglob("*.safetensors"))
    assert set(by_cli) == {spec.name for spec in STAGES}


def test_the_exit_handler_in_the_image_reports_the_final_state(by_image: Path) -> None:
    assert (task_of(by_image, "finish") / "summary").read_text() == "# Run succeeded\n\nTracking is off.\n"


def test_a_list_of_tasks_in_the_image_gives_what_the_command_line_gives(
    image: str, tmp_path: Path, project_at: Callable[[Path], Any]
) -> None:
    project, artifacts = project_at(tmp_path), tmp_path / "artifacts"
    artifacts.mkdir()
    write_project(artifacts)
    (tmp_path / "lifelong").mkdir()
    text = (artifacts / "lifelong" / "params.yaml").read_text()
    for name in ("pictures", "others", "colours.pt"):
        text = re.sub(rf"([ :]){name}\b", rf"\g<1>{artifacts / name}", text)
    (tmp_path / "lifelong" / "params.yaml").write_text(text)
    place = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    project.run("graftgan", "lifelong", "run", **place)
    module, params = ("python", "-m", "pipelines.lifelong"), ("--params", "lifelong/params.yaml")
    project.run(*module, "compile", *params, "--image", image, "--output", "compiled.yaml", **place)
    project.run(*module, *RUNS, *params, **place)
    run, out = run_of(project.root), project.root / "out"
    found = {json.loads(path.read_text())["stage"]: path.read_bytes() for path in run.glob("*/result")}
    expected = {
        path.parent.name: path.read_bytes()
        for path in out.rglob("result.json")
        if path.with_name("run.json").exists()
    }
    assert found == expected and len(found) == 1 + 2 * len(TASKS) + 3
    verified = next(p.parent for p in run.glob("*/result") if json.loads(p.read_text())["stage"] == "verify")
    assert digest_path(verified / "bank") == digest_path(out / "lifelong" / "bank")


def test_a_stage_that_fails_in_its_container_fails_the_run(
    project: Any, tmp_path: Path, project_at: Callable[[Path], Any]
) -> None:
    root, artifacts = project.root, tmp_path / "artifacts"
    shutil.copytree(root / "artifacts" / "zoo", artifacts / "zoo")
    shutil.copytree(root / "src", tmp_path / "src")
    shutil.copy(root / "artifacts" / "images.zip", artifacts)
    for name in ("params.yaml", "compiled.yaml"):
        shutil.copy(root / name, tmp_path)
    broken = project_at(tmp_path)
    broken.set("data.path", str(artifacts / "images.zip"))
    broken.set("data.expectations.min_images", 10_000)
    ran = broken.run("python", "-m", "pipelines.transfer", *RUNS, check=False)
    assert ran.returncode != 0 and "min_images" in ran.stdout + ran.stderr
    run = run_of(broken.root)
    assert not list(run.glob("**/prepare/result")) and not list(run.glob("**/rank"))
    (told,) = run.glob("**/finish/summary")
    assert told.read_text().startswith("# Run failed")


def one_container(image: str, code: str, folder: Path) -> None:
    """Run some Python in a container of the image, as the pipelines run their tasks."""

    # kfp reads annotations, which are texts in this module, and takes none for right.
    @dsl.container_component
    def probe():  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(image=image, command=["python", "-c", code])

    @dsl.pipeline(name="probe")
    def pipeline():  # type: ignore[no-untyped-def]
        probe()

    compiler.Compiler().compile(pipeline, str(folder / "probe.yaml"))
    compiling.run(folder / "probe.yaml", {}, folder / "artifacts", docker=True)


def test_tasks_have_no_root_no_writable_files_no_network_and_no_capabilities(
    image: str, tmp_path: Path
) -> None:
    one_container(image, BOUNDS, tmp_path)


@pytest.mark.parametrize("attempt", range(5))
def test_a_container_that_exits_with_3_at_once_fails_the_run(
    image: str, tmp_path: Path, attempt: int
) -> None:
    with pytest.raises(RuntimeError, match="FAILURE"):
        one_container(image, "raise SystemExit(3)", tmp_path)


def normal(name: str) -> str:
    """Return the name of a distribution as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_list_of_contents_names_every_package_of_the_image(image: str) -> None:
    listed = json.loads(Path(variable("GRAFTGAN_SBOM")).read_text())
    assert listed["bomFormat"] == "CycloneDX"
    found = {
        (normal(entry["name"]), entry["version"])
        for entry in listed["components"]
        if entry.get("purl", "").startswith("pkg:pypi/")
    }
    code = (
        "from importlib.metadata import distributions as d; import json;"
        "print(json.dumps([[x.name, x.version] for x in d()]))"
    )
    words = ["docker", "run", "--rm", "--network=none", image, "python", "-c", code]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    there = {(normal(name), version) for name, version in json.loads(told)}
    assert there <= found
    assert {name for name, _ in there} >= {"graftgan", "torch", "s3fs", "lightning-fabric", "mlflow"}
    assert not {"kfp", "dvc", "pytest"} & {name for name, _ in there}
    assert any(entry.get("purl", "").startswith("pkg:deb/") for entry in listed["components"])
