from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from graftgan.config import Params
from graftgan.contract import Entry, Result, digest_path
from graftgan.dryrun import explain
from graftgan.engine import Job, default_paths, state_key
from graftgan.errors import MissingInput
from graftgan.params import load
from graftgan.stages.specs import STAGES, stage


@pytest.fixture
def params(tmp_path: Path) -> Params:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("a")
    (tmp_path / "catalogue.yaml").write_text("[]")
    paths = [f"data.path={tmp_path / 'images'}", f"rank.catalogue={tmp_path / 'catalogue.yaml'}"]
    return load(None, [*paths, "rank.choose=scratch", "data.expectations.min_images=1", "track.mode=off"])


def job_of(name: str, params: Params, tmp_path: Path) -> Job:
    return Job(stage(name), params, *default_paths(stage(name), tmp_path / "out"))


def finish(job: Job) -> None:
    """Leave behind what a run of the stage would."""
    for port in job.spec.outputs:
        job.outputs[port.name].mkdir(parents=True)
        (job.outputs[port.name] / "x").write_text(port.name)
    kept = [p.name for p in job.spec.outputs if not p.volatile]
    entries = {name: Entry(digest_path(job.outputs[name]), 1) for name in kept}
    replace(job.plan(), outputs=entries).write(job.outputs["result"])


def test_a_first_run_reads_its_inputs_and_the_others_wait(params: Params, tmp_path: Path) -> None:
    jobs = [job_of(spec.name, params, tmp_path) for spec in STAGES]
    lines = list(explain(jobs))
    plan = jobs[0].plan()
    assert lines[0] == f"prepare: would run (state {state_key(plan)})"
    assert lines[1] == f"  reads  data.path: {tmp_path / 'images'} ({plan.inputs['data.path'][:12]})"
    assert f"  writes dataset: {tmp_path / 'out/prepare/dataset'}" in lines
    assert f"  writes result: {tmp_path / 'out/prepare/result.json'}" in lines
    waiting = [line for line in lines if "after" in line]
    assert waiting == [
        "rank: would run after prepare",
        "finetune: would run after prepare, rank",
        "evaluate: would run after finetune, prepare",
        "report: would run after evaluate, finetune, prepare, rank",
        "register: would run after evaluate, finetune, prepare, report",
    ]
    assert not (tmp_path / "out").exists()


def test_a_finished_stage_is_up_to_date_unless_forced(params: Params, tmp_path: Path) -> None:
    job = job_of("prepare", params, tmp_path)
    finish(job)
    before = Result.read(job.outputs["result"])
    assert list(explain([job])) == ["prepare: up to date"]
    assert "would run" in next(explain([job], force=True))
    rank = job_of("rank", params, tmp_path)
    lines = list(explain([job, rank]))
    assert lines[:1] == ["prepare: up to date"]
    assert lines[1].startswith("rank: would run (state rank-")
    assert any(str(tmp_path / "catalogue.yaml") in line for line in lines)
    assert Result.read(job.outputs["result"]) == before


def test_an_input_that_nobody_makes_is_missing(params: Params, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="run `graftgan prepare`"):
        list(explain([job_of("rank", params, tmp_path)]))


def test_what_lies_in_a_store_is_not_fetched(params: Params, tmp_path: Path) -> None:
    zoo = "s3://team/zoo/catalogue.yaml"
    stored = load(None, ["data.path=s3://team/images.zip", f"rank.catalogue={zoo}", "track.mode=off"])
    # No store answers here: whoever asked it would fail.
    lines = list(explain([job_of("prepare", stored, tmp_path), job_of("rank", stored, tmp_path)]))
    assert lines[0] == "prepare: would run, unless s3://team/images.zip did not change"
    assert "  checks s3://team/images.zip is in a store and has still to be fetched" in lines
    assert "rank: would run after prepare" in lines
    with pytest.raises(MissingInput, match="run `graftgan prepare`"):
        list(explain([job_of("rank", stored, tmp_path)]))
    finish(job_of("prepare", params, tmp_path))
    lines = list(explain([job_of("rank", stored, tmp_path)]))
    assert lines[0] == f"rank: would run, unless {zoo} did not change"
