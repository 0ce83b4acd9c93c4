from __future__ import annotations

import socket
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from graftgan import doctor
from graftgan.checkpoints.store import save_gan
from graftgan.doctor import Finding, examine
from graftgan.errors import GraftganError, Interrupted
from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.params import resolve

SIZES = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 4}


@pytest.fixture
def project(tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which nothing is missing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo" / "tiny").mkdir(parents=True)
    save_gan(build(StyleGAN2Spec(resolution=32, **SIZES), seed=1), tmp_path / "zoo" / "tiny")
    entry = {"name": "tiny", "path": "tiny", "sha256": "0" * 64, "resolution": 32}
    (tmp_path / "zoo" / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    write_params(data={"path": str(image_folder)}, runtime={"device": "cpu"})
    return tmp_path


def write_params(**sections: dict[str, Any]) -> None:
    path = Path("params.yaml")
    old = yaml.safe_load(path.read_text()) if path.exists() else {}
    path.write_text(yaml.safe_dump(old | sections))


def found(subject: str) -> Finding:
    return next(f for f in examine(Path("params.yaml")) if f.subject == subject)


def test_a_whole_machine_lacks_nothing(project: Path) -> None:
    findings = examine(Path("params.yaml"))
    assert [f for f in findings if f.status == "missing"] == []
    subjects = [f.subject for f in findings]
    for subject in ("parameters", "python", "torch", "device", "bfloat16", "memory", "disk out", "disk cache",
                    "features", "report", "validate", "track", "dvc", "kfp", "efflite0", "inception",
                    "images", "catalogue", "tracking", "git", "dvc repository"):  # fmt: skip
        assert subject in subjects
    assert [p.name for p in project.iterdir() if p.name not in ("zoo", "params.yaml")] == []


@pytest.mark.parametrize("computes", [True, False])
def test_each_finding_is_one_aligned_line_with_its_remedy(
    project: Path, monkeypatch: pytest.MonkeyPatch, computes: bool
) -> None:
    (project / "zoo" / "catalogue.yaml").unlink()
    monkeypatch.setattr("graftgan.device.computes_bf16", lambda device: computes)
    lines = [str(f) for f in examine(Path("params.yaml"))]
    assert all("\n" not in line for line in lines)
    assert {line[8] + line[25] for line in lines} == {"  "}
    for line in lines:
        assert line.startswith("ok ") != ("; fix: " in line), line
    (bfloat16,) = [line for line in lines if " bfloat16 " in line]
    assert bfloat16.startswith("ok " if computes else "note ")
    assert str(Finding("note", "git", "none", "init")) == "note     git              none; fix: init"
    assert str(Finding("ok", "git", "here")) == "ok       git              here"


def test_lost_or_wrong_parameters_are_a_finding_and_the_rest_is_examined(project: Path) -> None:
    Path("params.yaml").unlink()
    lost = examine(Path("params.yaml"))
    assert (lost[0].subject, lost[0].status) == ("parameters", "missing")
    assert "--params" in lost[0].remedy
    assert len(lost) > 15
    Path("params.yaml").write_text("data: {chanels: 3}")
    assert "data.channels" in found("parameters").remedy
    Path("params.yaml").write_text("")
    assert (found("images").status, found("images").remedy[:17]) == ("missing", "correct data.path")


def test_a_device_that_is_not_there_is_missing(project: Path) -> None:
    write_params(runtime={"device": "cuda:99"})
    assert found("torch").status == "ok"
    lines = [f for f in examine(Path("params.yaml")) if f.status == "missing"]
    assert [f.text for f in lines] == ["runtime.device: cuda:99 is not on this machine"]


def test_too_many_processes_are_noted(project: Path) -> None:
    write_params(runtime={"device": "cpu", "workers": 500, "threads": 3})
    assert found("python").status == "note"
    assert "500 workers of 3 threads" in found("python").text


@pytest.mark.parametrize(("free", "status"), [(None, "note"), (1 << 30, "note"), (8 << 30, "ok")])
def test_little_memory_is_noted(monkeypatch: pytest.MonkeyPatch, free: int | None, status: str) -> None:
    monkeypatch.setattr(doctor, "free_memory_bytes", lambda: free)
    (finding,) = doctor.memory(resolve({}, "test"))
    assert finding.status == status


def test_disks_are_measured_where_the_folder_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 1)
    monkeypatch.setattr(doctor, "LEAST_DISK_BYTES", 0)
    assert doctor.disk_finding("disk", tmp_path / "a" / "b").status == "ok"
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 1 << 60)
    assert doctor.disk_finding("disk", tmp_path).status == "note"
    monkeypatch.setattr(doctor, "LEAST_DISK_BYTES", 1 << 60)
    assert doctor.disk_finding("disk", tmp_path).status == "missing"
    assert not (tmp_path / "a").exists()


def test_a_lost_extra_says_what_goes_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "kfp", (("kfp", "no_such_module"), "no pipelines"))
    finding = next(f for f in doctor.extras(resolve({}, "test")) if f.subject == "kfp")
    assert finding == Finding(
        "note", "kfp", "no_such_module not installed: no pipelines", 'pip install "graftgan[kfp]"'
    )


def test_weights_are_missing_only_if_they_are_used(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    for name in ("GRAFTGAN_INCEPTION_WEIGHTS", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert found("efflite0").status == "ok"
    assert found("inception").status == "note"
    write_params(evaluate={"extractor": "inception"})
    assert found("inception").status == "missing"
    assert found("inception").remedy == "graftgan weights fetch inception"
    monkeypatch.setattr("graftgan.metrics.features.weights._EFFLITE0_PACKAGE", "no_such_package")
    assert found("efflite0").status == "missing"
    assert "graftgan[features]" in found("efflite0").remedy


def test_sources_are_examined_at_first_sight(project: Path) -> None:
    weights = project / "zoo" / "tiny" / "gan.safetensors"
    assert found("catalogue").text.endswith("1 sources here")
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "is not whole" in found("catalogue").text
    assert found("catalogue").status == "missing"
    (project / "zoo" / "tiny" / "spec.json").unlink()
    assert "spec.json does not exist" in found("catalogue").text
    (project / "zoo" / "catalogue.yaml").write_text("[]")
    assert found("catalogue").status == "missing"
    (project / "zoo" / "catalogue.yaml").write_text("- name: x")
    assert "entry 1" in found("catalogue").text
    (project / "zoo" / "catalogue.yaml").unlink()
    assert "does not exist" in found("catalogue").text


@pytest.mark.parametrize("place", ["url: https://host.invalid/gan.safetensors", "path: s3://team/zoo/far"])
@pytest.mark.parametrize("kind", ["graftgan", "public"])
def test_sources_to_be_fetched_are_noted(project: Path, place: str, kind: str) -> None:
    entry = yaml.safe_load(place) | {"name": "far", "sha256": "1" * 64, "resolution": 32, "format": kind}
    (project / "zoo" / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    noted = [f for f in examine(Path("params.yaml")) if f.subject == "catalogue"]
    assert [f.status for f in noted] == ["ok", "note"]
    assert "far" in noted[1].text


def test_a_file_of_another_project_is_a_source(project: Path, own_places: Path) -> None:
    entry = {"name": "other", "path": "other.pkl", "sha256": "1" * 64, "resolution": 32, "format": "public"}
    catalogue = project / "zoo" / "catalogue.yaml"
    catalogue.write_text(yaml.safe_dump([entry]))
    assert found("catalogue").status == "missing"
    assert "other.pkl does not exist" in found("catalogue").text
    (project / "zoo" / "other.pkl").write_bytes(b"looked into by `graftgan source verify`")
    assert found("catalogue").text.endswith("1 sources here")
    (own_places / "cache" / "sources").mkdir(parents=True)
    (own_places / "cache" / "sources" / f"{'1' * 64}.public").write_bytes(b"")
    catalogue.write_text(yaml.safe_dump([entry | {"path": None, "url": "https://host.invalid/other.pkl"}]))
    assert [f.status for f in examine(Path("params.yaml")) if f.subject == "catalogue"] == ["ok"]


def test_what_lies_in_a_store_is_not_fetched(project: Path) -> None:
    write_params(data={"path": "s3://team/images.zip"}, rank={"catalogue": "s3://team/zoo/catalogue.yaml"})
    for subject in ("images", "catalogue"):
        assert found(subject).status == "note"
        assert "s3://team/" in found(subject).text and "was not looked at" in found(subject).text


def test_every_extra_is_examined() -> None:
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    named = set(extras["project"]["optional-dependencies"]) - {"all", "dev"}
    assert set(doctor.EXTRAS) == named


def test_a_server_that_is_away_costs_at_most_its_time_limit(project: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    track = {"uri": uri, "timeout_s": 1.0}
    started = time.monotonic()
    (finding,) = doctor.tracking(resolve({"track": track}, "test"))
    assert time.monotonic() - started < 3
    assert finding.status == "note"
    assert "graftgan sync" in finding.remedy
    with socket.create_server(("127.0.0.1", 0)) as server:
        track["uri"] = f"http://127.0.0.1:{server.getsockname()[1]}"
        (finding,) = doctor.tracking(resolve({"track": track}, "test"))
    assert finding.status == "note", "a listener alone is no server"
    assert finding.text.startswith(f"{track['uri']} does not answer as MLflow does")


def test_credentials_in_the_address_are_refused_untold(project: Path) -> None:
    write_params(track={"uri": "http://user:s3cr3t@127.0.0.1:1"})
    finding = found("parameters")
    assert finding.status == "missing" and "MLFLOW_TRACKING_PASSWORD" in finding.remedy
    assert "s3cr3t" not in str(finding)


def test_the_default_address_gives_way_to_the_environment(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:s3cr3t@127.0.0.1:1")
    finding = found("tracking")
    assert "http://127.0.0.1:1 does not answer" in finding.text and "s3cr3t" not in str(finding)


def test_other_stores(project: Path) -> None:
    assert found("tracking").status == "ok"
    Path("store").write_text("no folder")
    write_params(track={"artifacts": "store/artifacts"})
    assert (found("tracking").status, found("tracking").remedy[:9]) == ("note", "remove it")
    assert "store is no folder" in found("tracking").text
    write_params(track={"mode": "off"})
    assert found("tracking").status == "note"
    write_params(track={"uri": "file:///tmp/mlruns"})
    assert found("tracking").status == "missing"
    assert "sqlite" in found("tracking").remedy


def test_repositories(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent))
    assert [f.status for f in doctor.repositories(resolve({}, "test"))] == ["note", "note"]
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "state"], check=True)
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("")
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    assert [f.status for f in doctor.repositories(resolve({}, "test"))] == ["ok", "ok"]


def test_a_check_that_fails_is_a_finding(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(params: object) -> Any:
        raise ZeroDivisionError("by\nhand")

    def refused(params: object) -> Any:
        raise GraftganError("no", "do this")

    monkeypatch.setattr(doctor, "CHECKS", {"first": broken, "second": refused})
    assert [str(f)[:9] + f.text for f in examine(Path("params.yaml"))[1:]] == [
        "missing  cannot be examined: ZeroDivisionError: by hand",
        "missing  no",
    ]


def test_a_command_that_hangs_or_is_absent_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "COMMAND_TIMEOUT_S", 0.2)
    assert doctor.answer("sleep", "5") == ""
    assert doctor.answer("no-such-command") == ""
    assert doctor.answer("false") == ""
    assert doctor.answer("echo", "a") == "a"


def test_a_signal_is_no_finding(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(params: Any) -> Any:
        raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr(doctor, "CHECKS", {"disk": stopped})
    with pytest.raises(Interrupted):
        examine(Path("params.yaml"))
