from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines import base, diff, profiles

PINNED = f"r/g@sha256:{'0' * 64}"


def compiled(folder: Path, name: str, **changes: object) -> Path:
    raw = yaml.safe_load((profiles.FOLDER / "small-gpu.yaml").read_text()) | {"image": PINNED} | changes
    profile, path = folder / f"{name}-profile.yaml", folder / f"{name}.yaml"
    profile.write_text(yaml.safe_dump(raw))
    base.compile_to("transfer", path, profiles.load(str(profile)))
    return path


def test_equal_pipelines_have_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = compiled(tmp_path, "old"), compiled(tmp_path, "new")
    assert diff.main([str(old), str(new)]) == 0
    assert capsys.readouterr().out == "no difference\n"


def test_what_changed_is_told_by_task_and_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = compiled(tmp_path, "old")
    new = compiled(tmp_path, "new", parallelism={"default": 7, "sources": 4}, image_pull_secret="other")
    assert diff.main([str(old), str(new)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("~ task transfer/arms") + 1] == "    ~ iteratorPolicy.parallelismLimit: 2 -> 7"
    assert "~ task transfer/sources" not in lines
    assert "~ task transfer/arms/finetune" in lines and "~ task finish" in lines
    changed = [line for line in lines if "imagePullSecret" in line]
    assert changed == [line for line in changed if "graftgan-registry" in line or "other" in line] and changed
    assert not [line for line in lines if "resources" in line]


def test_tasks_that_changed_alike_share_a_heading(tmp_path: Path) -> None:
    old = diff.facts(base.documents(compiled(tmp_path, "old")))
    image = f"r/g@sha256:{'1' * 64}"
    new = diff.facts(base.documents(compiled(tmp_path, "new", image=image)))
    lines = diff.compare(old, new)
    assert lines[-1] == f"    ~ container.image: {PINNED} -> {image}"
    assert len(lines) == 10 and all(line.startswith("~ task ") for line in lines[:-1])


def test_limits_are_told_once(tmp_path: Path) -> None:
    resources = {"default": {"cpu": "3", "memory": "8Gi"}, "gpu": {"cpu": "3", "memory": "8Gi"}}
    old, new = compiled(tmp_path, "old"), compiled(tmp_path, "new", resources=resources)
    lines = diff.compare(*(diff.facts(base.documents(path)) for path in (old, new)))
    assert "    ~ container.resources.resourceCpuLimit: '4' -> '3'" in lines
    assert not [line for line in lines if "resources.cpuLimit" in line]


def test_new_and_lost_tasks_and_parameters_are_one_line(tmp_path: Path) -> None:
    old = diff.facts(base.documents(compiled(tmp_path, "old")))
    new = {name: found for name, found in old.items() if name not in ("task finish", "parameter arms")}
    assert diff.compare(old, new) == ["- parameter arms", "- task finish"]
    assert diff.compare(new, old) == ["+ parameter arms", "+ task finish"]


def test_a_changed_default_and_an_object_store_are_told(tmp_path: Path) -> None:
    old = base.documents(compiled(tmp_path, "old"))
    root = {"kind": "s3", "root": "s3://bucket/x"}
    new = base.documents(compiled(tmp_path, "new", workspace=root))
    new[0]["root"]["inputDefinitions"]["parameters"]["device"]["defaultValue"] = "cuda"
    lines = diff.compare(diff.facts(old), diff.facts(new))
    assert lines[:2] == ["~ pipeline", "    + root: s3://bucket/x"]
    assert "    ~ defaultValue: '' -> cuda" in lines
    assert "    - kubernetes.pvcMount./workspace.constant: graftgan-workspace" in lines


def test_what_is_no_pipeline_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "no compiled pipeline" in capsys.readouterr().err
