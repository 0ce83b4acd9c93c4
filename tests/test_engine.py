from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from graftgan import engine, locks
from graftgan.config import Params
from graftgan.context import Context
from graftgan.contract import Outcome, Result, digest_path, write_json
from graftgan.engine import Job, default_paths, run_job, state_key
from graftgan.errors import DataError, GraftganError, MissingInput, TryAgain
from graftgan.params import load
from graftgan.stages.specs import STAGES, Port, StageSpec, stage
from graftgan.training.state import SAVED

TOY = StageSpec(
    name="toy",
    help="Copies.",
    inputs={"dataset": "prepare.dataset"},
    outputs=(
        Port("copy", "artifact", "the copy"),
        Port("page", "html", "a page", folder=False),
        Port("log", "artifact", "differs", volatile=True),
    ),
    params=("data.seed", "evaluate"),
    external=("data.path",),
)


class Toy:
    """A stage that copies its input, counts its runs, and can be told to fail."""

    def __init__(self) -> None:
        self.runs = 0
        self.fail: Callable[[Mapping[str, Path]], None] = lambda outputs: None

    def run(
        self, inputs: Mapping[str, Path], params: Params, outputs: Mapping[str, Path], ctx: Context
    ) -> Outcome:
        self.runs += 1
        (outputs["copy"] / "a").write_bytes((inputs["dataset"] / "a").read_bytes())
        self.fail(outputs)
        outputs["page"].write_text(f"seed {params.data.seed}")
        (outputs["log"] / "n").write_text(str(self.runs))
        return Outcome({"runs": 1.0}, ("careful",))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    module, found = ModuleType("graftgan.stages.toy"), Toy()
    vars(module)["run"] = found.run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return found


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "a").write_text("1")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "i.png").write_text("i")
    params = load(None, [f"data.path={tmp_path / 'images'}"])
    outputs = {name: tmp_path / "out" / name for name in ("copy", "page", "log")}
    return Job(
        TOY, params, {"dataset": tmp_path / "dataset"}, outputs | {"result": tmp_path / "out/result.json"}
    )


def with_params(job: Job, *assignments: str) -> Job:
    return replace(job, params=load(None, [f"data.path={job.params.data.path}", *assignments]))


def context(state: Path) -> Context:
    return Context(state, state / "cache")


def test_a_stage_runs_once_and_its_result_says_what_it_did(job: Job, toy: Toy) -> None:
    result, ran = run_job(job, context)
    assert ran
    assert toy.runs == 1
    assert (job.outputs["copy"] / "a").read_text() == "1"
    assert result == Result.read(job.outputs["result"])
    assert (result.stage, result.metrics, result.warnings) == ("toy", {"runs": 1.0}, ("careful",))
    assert set(result.inputs) == {"dataset", "data.path"}
    assert set(result.outputs) == {"copy", "page"}
    assert result.outputs["copy"].digest == digest_path(job.outputs["copy"])
    assert result.outputs["page"].bytes == len("seed 0")
    assert result.code == engine.code_digest()
    again, ran = run_job(job, lambda state: pytest.fail("a context was made"))
    assert (again, ran, toy.runs) == (result, False, 1)


def test_nothing_volatile_is_in_the_result(job: Job, toy: Toy) -> None:
    run_job(job, context)
    before = job.outputs["result"].read_bytes()
    _, ran = run_job(job, context, force=True)
    assert ran
    assert (job.outputs["log"] / "n").read_text() == "2"
    assert job.outputs["result"].read_bytes() == before
    assert str(job.outputs["result"].parent).encode() not in before
    assert (job.outputs["result"].parent / "run.json").exists()


def touch_output(job: Job) -> Job:
    (job.outputs["copy"] / "a").write_text("changed")
    return job


def remove_output(job: Job) -> Job:
    job.outputs["page"].unlink()
    return job


def remove_volatile(job: Job) -> Job:
    (job.outputs["log"] / "n").unlink()
    job.outputs["log"].rmdir()
    return job


def change_input(job: Job) -> Job:
    (job.inputs["dataset"] / "a").write_text("2")
    return job


def add_image(job: Job) -> Job:
    (Path(job.params.data.path) / "j.png").write_text("j")
    return job


def damage_result(job: Job) -> Job:
    job.outputs["result"].write_text("{")
    return job


@pytest.mark.parametrize(
    "change",
    [
        touch_output,
        remove_output,
        remove_volatile,
        change_input,
        add_image,
        damage_result,
        lambda job: with_params(job, "data.seed=1"),
        lambda job: with_params(job, "evaluate.samples=20"),
    ],
)
def test_what_matters_makes_a_stage_run_again(job: Job, toy: Toy, change: Callable[[Job], Job]) -> None:
    run_job(job, context)
    changed = change(job)
    _, ran = run_job(changed, context)
    assert ran
    assert (job.outputs["copy"] / "a").read_text() == (job.inputs["dataset"] / "a").read_text()
    assert not run_job(changed, context)[1]


def test_changed_code_makes_a_stage_run_again(job: Job, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    run_job(job, context)
    monkeypatch.setattr(engine, "code_digest", lambda: "other")
    assert run_job(job, context)[1]


@pytest.mark.parametrize(
    "assignment", ["data.resolution=64", "runtime.workers=7", "track.mode=off", "rank.seed=3"]
)
def test_what_does_not_matter_does_not(job: Job, toy: Toy, assignment: str) -> None:
    run_job(job, context)
    assert not run_job(with_params(job, assignment), context)[1]


@pytest.mark.parametrize("error", [DataError("bad", "mend"), RuntimeError("x"), KeyboardInterrupt()])
def test_a_crash_leaves_the_old_outputs_but_no_result(job: Job, toy: Toy, error: BaseException) -> None:
    def crash(outputs: Mapping[str, Path]) -> None:
        raise error

    run_job(job, context)
    change_input(job)
    toy.fail = crash
    with pytest.raises(type(error)):
        run_job(job, context)
    assert (job.outputs["copy"] / "a").read_text() == "1"
    assert sorted(p.name for p in job.outputs["result"].parent.iterdir()) == [
        "copy",
        "log",
        "page",
        "run.json",
    ]
    toy.fail = lambda outputs: None
    assert run_job(job, context)[1]
    assert (job.outputs["copy"] / "a").read_text() == "2"


def test_a_first_crash_leaves_nothing(job: Job, toy: Toy) -> None:
    def crash(outputs: Mapping[str, Path]) -> None:
        raise DataError("bad")

    toy.fail = crash
    with pytest.raises(DataError):
        run_job(job, context)
    assert list(job.outputs["result"].parent.iterdir()) == []


def test_an_output_that_was_not_written_is_named(job: Job, toy: Toy) -> None:
    def remove(outputs: Mapping[str, Path]) -> None:
        (outputs["copy"] / "a").unlink()
        outputs["copy"].rmdir()

    toy.fail = remove
    with pytest.raises(GraftganError, match="toy did not write its output copy"):
        run_job(job, context)
    assert not job.outputs["result"].exists()


def test_what_a_killed_run_left_is_removed_by_the_next(job: Job, toy: Toy) -> None:
    left = job.outputs["copy"].parent / ".copy.abcd1234" / "copy"
    left.mkdir(parents=True)
    run_job(job, context)
    assert not left.parent.exists()


def test_a_missing_input_names_the_stage_that_makes_it(job: Job, toy: Toy) -> None:
    (job.inputs["dataset"] / "a").unlink()
    job.inputs["dataset"].rmdir()
    with pytest.raises(MissingInput, match="input dataset of toy") as caught:
        run_job(job, context)
    assert caught.value.exit_code == 4
    assert caught.value.remedy == "run `graftgan prepare`"
    with pytest.raises(MissingInput, match=r"data\.path: /no/where does not exist"):
        run_job(replace(job, inputs={}, params=load(None, ["data.path=/no/where"])), context)
    assert toy.runs == 0


def test_a_state_that_a_kill_left_behind_the_result_goes_with_the_next_start(job: Job, toy: Toy) -> None:
    run_job(job, context)
    state = engine.home() / "state" / engine.state_key(job.plan())
    for noted in (True, False):
        (state / "chosen" / f"{SAVED}{32:012d}").mkdir(parents=True, exist_ok=True)
        if noted:
            write_json(state / "plan.json", {})
        assert not run_job(job, context)[1]
        assert state.exists() is noted, "with a note it is of a run into other outputs"
        (state / "plan.json").unlink(missing_ok=True)
    state.mkdir()
    (state / "decision.json").write_text("{}")
    assert not run_job(job, context)[1]
    assert (state / "decision.json").exists(), "this is for later readers"


def test_the_state_key_changes_with_the_plan_only(job: Job, toy: Toy) -> None:
    states: list[Path] = []

    def noted(state: Path) -> Context:
        states.append(state)
        return context(state)

    run_job(job, noted)
    run_job(job, noted, force=True)
    run_job(with_params(job, "data.seed=1"), noted)
    run_job(change_input(job), noted)
    assert states[0] == states[1] == engine.home() / "state" / states[0].name
    assert states[0].name.startswith("toy-")
    assert len(set(states)) == 3
    plan = job.plan()
    keys = {
        state_key(p)
        for p in (plan, replace(plan, code="x"), replace(plan, config="x"), replace(plan, stage="x"))
    }
    assert len(keys) == 4
    assert state_key(replace(plan, metrics={"a": 1.0})) == state_key(plan)


HOLD = """
import sys
from graftgan.locks import alone
with alone(sys.argv[1], "toy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_never_work_on_the_same_outputs(job: Job, toy: Toy) -> None:
    thing = str(job.outputs["result"].absolute())
    command = [sys.executable, "-c", HOLD, thing]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TryAgain, match="another process runs toy"):
            run_job(job, context)
        assert toy.runs == 0
        other.kill()
    assert run_job(job, context)[1]


RUN = """
import sys
from pathlib import Path
from graftgan.locks import alone_at
with alone_at(Path(sys.argv[1]), "toy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("through", ["the same path", "a link", "another folder"])
def test_a_run_with_another_home_is_seen_through_links_and_relative_paths(
    job: Job, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    held, folder = job.outputs["result"], tmp_path
    held.parent.mkdir()
    (tmp_path / "link").symlink_to(held.parent, target_is_directory=True)
    mine = {"the same path": job, "a link": moved(job, tmp_path / "link"), "another folder": job}[through]
    if through == "another folder":
        folder = tmp_path / "images"
        held = Path("../out/result.json")
    left = job.outputs["copy"].parent / ".copy.abcd1234" / "copy"
    left.mkdir(parents=True)
    env = os.environ | {"GRAFTGAN_HOME": str(tmp_path / "other")}
    command = [sys.executable, "-c", RUN, str(held)]
    with subprocess.Popen(
        command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TryAgain, match="another process runs toy") as caught:
            run_job(mine, context)
        assert ".result.json.lock" in str(caught.value)
        assert toy.runs == 0 and left.exists(), "what the live run is writing stays"
        other.kill()
    # The killed one left its lock, which is void, and the next run takes it away.
    assert (job.outputs["result"].parent / ".result.json.lock").exists()
    assert run_job(mine, context)[1]
    assert not [path for path in job.outputs["result"].parent.iterdir() if path.name.startswith(".")]


def moved(job: Job, to: Path) -> Job:
    return replace(job, outputs={name: to / path.name for name, path in job.outputs.items()})


def test_where_no_lock_can_be_made_beside_outputs_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    logging.getLogger("graftgan").addHandler(caplog.handler)
    with locks.alone_at(tmp_path / "file" / "result.json", "toy"):
        pass
    logging.getLogger("graftgan").removeHandler(caplog.handler)
    assert "toy: no lock can be made beside" in caplog.text
    assert "would not be noticed" in caplog.text


def test_an_output_that_is_a_link_itself_is_locked_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "ab12").write_text("{}")
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "out" / "result.json").symlink_to(tmp_path / "cache" / "ab12")
    assert locks.true_path(tmp_path / "out" / "result.json") == tmp_path.resolve() / "real" / "result.json"


@pytest.mark.parametrize("then", ["another", "gone"])
def test_an_input_that_changes_while_a_stage_runs_is_noticed(
    job: Job, toy: Toy, tmp_path: Path, then: str
) -> None:
    states: list[Path] = []

    def surroundings(state: Path) -> Context:
        (state / "chosen" / "images-000000000008").mkdir(parents=True)
        states.append(state)
        return context(state)

    def change(outputs: Mapping[str, Path]) -> None:
        (job.inputs["dataset"] / "a").unlink()
        if then == "gone":
            job.inputs["dataset"].rmdir()
        else:
            (job.inputs["dataset"] / "a").write_text("2")

    run_job(job, context)
    toy.fail = change
    with pytest.raises(TryAgain, match="an input changed while the stage ran: dataset of toy") as caught:
        run_job(job, surroundings, force=True)
    assert caught.value.exit_code == 75
    assert not job.outputs["result"].exists()
    assert (job.outputs["copy"] / "a").read_text() == "1", "the outputs before it stay"
    assert not states[0].exists(), "what was saved may be of both"
    toy.fail = lambda outputs: None
    job.inputs["dataset"].mkdir(exist_ok=True)
    (job.inputs["dataset"] / "a").write_text("2")
    assert run_job(job, context)[1]
    assert (job.outputs["copy"] / "a").read_text() == "2"


@pytest.mark.parametrize("then", ["more", "another", "gone"])
def test_a_folder_that_changes_while_a_stage_reads_it_is_noticed(
    job: Job, toy: Toy, tmp_path: Path, then: str
) -> None:
    folder = tmp_path / "images"
    change = {
        "more": lambda: (folder / "j.png").write_text("j"),
        "another": lambda: (folder / "i.png").write_text("another"),
        "gone": lambda: shutil.rmtree(folder),
    }
    toy.fail = lambda outputs: change[then]()
    with pytest.raises(TryAgain, match="ran: data\\.path of toy; nothing is recorded"):
        run_job(job, context)
    assert not any(path.exists() for path in job.outputs.values())
    folder.mkdir(exist_ok=True)
    toy.fail = lambda outputs: None
    assert run_job(job, context)[1]


def test_a_home_that_cannot_be_written_does_not_stop_a_stage(
    job: Job, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "file"))
    assert run_job(job, context)[1]


def test_paths_follow_from_stage_and_port(tmp_path: Path) -> None:
    inputs, outputs = default_paths(stage("register"), tmp_path)
    assert inputs["dataset"] == tmp_path / "prepare" / "dataset"
    assert inputs["report"] == tmp_path / "report" / "report.html"
    assert outputs == {
        "package": tmp_path / "register" / "package",
        "result": tmp_path / "register" / "result.json",
    }


def test_every_input_is_an_output_of_an_earlier_stage(tmp_path: Path) -> None:
    written: set[Path] = set()
    for spec in STAGES:
        inputs, outputs = default_paths(spec, tmp_path)
        assert set(inputs.values()) <= written
        assert not written & set(outputs.values())
        written |= {outputs[p.name] for p in spec.outputs if not p.volatile}


def test_caches_and_state_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", "/h")
    monkeypatch.setenv("GRAFTGAN_CACHE", "/c")
    assert (engine.home(), engine.cache_home()) == (Path("/h"), Path("/c"))
    monkeypatch.delenv("GRAFTGAN_HOME")
    monkeypatch.delenv("GRAFTGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert engine.home() == Path(".graftgan")
    assert engine.cache_home() == Path("/x/graftgan")


def test_run_facts_tell_versions_without_importing() -> None:
    facts = engine.run_facts(1.23456)
    assert facts["seconds"] == 1.235
    assert facts["versions"]["graftgan"]
    assert facts["versions"]["torch"]


def test_facts_of_a_stage_go_to_the_volatile_record_alone(job: Job, toy: Toy) -> None:
    plain, _ = run_job(job, context)
    before = job.outputs["result"].read_bytes()
    run = toy.run
    vars(sys.modules["graftgan.stages.toy"])["run"] = lambda *given: replace(run(*given), facts={"isa": "x"})
    toy.runs = 0
    again, ran = run_job(job, context, force=True)
    assert ran and again == plain
    assert job.outputs["result"].read_bytes() == before
    told = json.loads(job.outputs["result"].with_name("run.json").read_text())
    assert told["isa"] == "x" and told["versions"]["torch"]


def test_what_a_kill_left_of_the_volatile_facts_is_removed_too(job: Job, toy: Toy) -> None:
    left = job.outputs["result"].parent / ".run.json.abcd1234" / "run.json"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    run_job(job, context)
    assert not left.parent.exists()


def test_a_network_in_a_file_is_an_input_of_the_stages_that_use_it(
    job: Job, toy: Toy, tmp_path: Path
) -> None:
    network = tmp_path / "net work.onnx"
    network.write_bytes(b"1")
    named = with_params(job, f"evaluate.extractor=onnx:{network}?px=8", f"rank.extractor=onnx:{network}")
    assert named.plan().inputs["evaluate.extractor"] == digest_path(network)
    assert "rank.extractor" not in named.plan().inputs
    run_job(named, context)
    assert not run_job(named, context)[1]
    network.write_bytes(b"2")
    assert run_job(named, context)[1]
    network.unlink()
    with pytest.raises(MissingInput, match=r"evaluate\.extractor: .* does not exist"):
        run_job(named, context)
