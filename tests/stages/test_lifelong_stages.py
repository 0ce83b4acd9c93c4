"""The description of the stages of a list of tasks, and the parts of them that need no training."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bank.banks import SIZE_PX, TINY, grown
from torch import nn

from graftgan.bank.tasks import load_task as stored_generator
from graftgan.config import Runtime
from graftgan.data.pairs import Part, TaskImages
from graftgan.engine import Job
from graftgan.errors import CheckpointError, MissingInput
from graftgan.identity import resolve_identity
from graftgan.lifelong_config import LifelongParams, TaskData, Translate, TranslationScores
from graftgan.lifelong_params import resolve_section
from graftgan.metrics.features import Extractor, make_extractor
from graftgan.metrics.intervals import Estimate
from graftgan.stages.lifelong import Settings
from graftgan.stages.lifelong_evaluate import exact_outputs, score
from graftgan.stages.lifelong_files import curves, hand_on, plain, read_tasks
from graftgan.stages.lifelong_specs import lifelong_paths, lifelong_stage, lifelong_stages
from graftgan.stages.lifelong_verify import prove
from graftgan.training.translators import translate
from stages.lifelong_project import Colours, description

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def params(**sections: Any) -> LifelongParams:
    return resolve_section(description(**sections), LifelongParams, "test")


def test_every_input_is_an_output_of_an_earlier_stage_and_lies_where_it_was_put() -> None:
    out, written = Path("o"), {}
    for spec in lifelong_stages(("a", "b")):
        inputs, outputs = lifelong_paths(spec, out)
        for name, origin in spec.inputs.items():
            assert written[origin] == inputs[name], (spec.name, name)
        assert not set(inputs) & {port.name for port in spec.outputs}, "Kubeflow wants distinct names"
        written |= {f"{spec.name}.{port.name}": outputs[port.name] for port in spec.outputs}
    assert len(set(written.values())) == len(written)
    assert written["verify.bank"] == out / "bank" and written["verify.back"] == out / "bank-back"
    assert written["report.report"] == out / "report" / "report.html"


def test_a_stage_is_found_by_kind_and_task() -> None:
    spec = lifelong_stage(("a", "b"), "evaluate", "b")
    assert (spec.name, spec.item, spec.entry) == ("evaluate-b", "b", "graftgan.stages.lifelong_evaluate")
    assert spec.params == ("tasks.a.data", "tasks.b.data", "scores")
    assert spec.writer("learnt") == "lifelong learn b" and spec.writer("before") == "lifelong evaluate a"
    with pytest.raises(KeyError, match="learn-c"):
        lifelong_stage(("a",), "learn", "c")


def test_only_keys_with_a_path_are_read_from_outside(tmp_path: Path) -> None:
    given = params()
    for name, wanted in (("grey", ["target"]), ("swap", ["input", "target"])):
        spec = lifelong_stage(tuple(given.tasks), "learn", name)
        job = Job(spec, given, *lifelong_paths(spec, tmp_path))
        networks = {key for key in job.external() if key.startswith("scores.")}
        assert sorted(job.external().keys() - networks) == [f"tasks.{name}.data.{key}" for key in wanted]
        assert networks <= {"scores.extractor", "scores.validation_extractor"}


def test_the_run_of_a_list_is_known_by_its_tasks_and_images(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pictures", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(name.encode())
    first = resolve_identity(params(), {})
    assert first.name.startswith("3 tasks ") and first.origin == "content"
    assert resolve_identity(params(runtime={"device": "auto"}), {}) == first
    assert resolve_identity(params(bank={"generator": "resnet_6", "ngf": 4}), {}).key != first.key
    (tmp_path / "others" / "a.png").write_bytes(b"changed")
    assert resolve_identity(params(), {}).key != first.key


def test_what_is_handed_on_can_be_written_and_leaves_the_original(tmp_path: Path) -> None:
    before = tmp_path / "before"
    (before / "bank").mkdir(parents=True)
    (before / "bank" / ".lock").touch()
    (before / "bank" / "manifest.json").write_text("{}")
    (before / "bank" / "manifest.json").chmod(0o444)
    (tmp_path / "after").mkdir()
    hand_on(before, tmp_path / "after")
    copy = tmp_path / "after" / "bank" / "manifest.json"
    assert copy.stat().st_mode & stat.S_IWUSR and not copy.with_name(".lock").exists()
    assert not (before / "bank" / "manifest.json").stat().st_mode & stat.S_IWUSR


def test_curves_have_the_columns_of_all_rows_and_unknown_numbers_are_null() -> None:
    text = curves([{"images_seen": 2.0, "loss": 1.5}, {"images_seen": 4.0, "l1_validation": 0.25}])
    assert text == "images_seen,loss,l1_validation\n2.0,1.5,\n4.0,,0.25\n"
    found = plain({"kid": Estimate(0.5, float("nan"), 0.25, float("inf"))})
    assert found == {"kid": {"value": 0.5, "stderr": None, "low": 0.25, "high": None}}


def test_tasks_are_read_in_the_order_in_which_they_were_learnt(tmp_path: Path) -> None:
    for name, index in (("b", 1), ("a", 10), ("c", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps({"name": name, "index": index}))
    assert [facts["name"] for facts in read_tasks(tmp_path)] == ["b", "c", "a"]
    (tmp_path / "a" / "result.json").write_text("{}")
    with pytest.raises(MissingInput, match="not of a task"):
        read_tasks(tmp_path)


def noise(count: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def test_exact_outputs_do_not_depend_on_their_neighbours_and_are_the_usual_ones(tmp_path: Path) -> None:
    generator = stored_generator(grown(tmp_path / "bank", ["random"], TINY), "t1")
    inputs = noise(5)
    made, digest = exact_outputs(generator, inputs)
    again, same = exact_outputs(generator, inputs)
    assert digest == same and np.array_equal(made, again)
    assert np.array_equal(exact_outputs(generator, inputs[2:3])[0], made[2:3])
    assert np.abs(translate(generator, inputs).astype(int) - made).max() <= 1
    assert exact_outputs(generator, inputs[::-1])[1] != digest


def test_the_digest_is_that_of_the_values_and_not_of_what_is_rounded() -> None:
    class Nearly(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(shift))

        def forward(self, img: torch.Tensor) -> torch.Tensor:
            return img + self.shift

    inputs = noise(2)
    plain_made, digest = exact_outputs(Nearly(0.0), inputs)
    shifted, other = exact_outputs(Nearly(1e-6), inputs)
    values = torch.from_numpy(inputs).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert digest == hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()
    assert np.array_equal(plain_made, shifted) and np.array_equal(plain_made, inputs) and other != digest


@pytest.fixture
def extractor(tmp_path: Path) -> Extractor:
    torch.jit.script(Colours()).save(str(tmp_path / "colours.pt"))
    return make_extractor(f"torchscript:{tmp_path / 'colours.pt'}?px=16", weights=None, device="cpu")


def test_equal_outputs_keep_their_scores_and_others_are_scored(tmp_path: Path, extractor: Extractor) -> None:
    bank = grown(tmp_path / "bank", ["random", "random"], TINY)
    names = tuple(f"{i}" for i in range(12))
    part = Part(noise(12), noise(12)[::-1].copy(), names, names)
    data = TaskData.model_validate({"target": "p", "make": "grey", "resolution": SIZE_PX})
    images = TaskImages(data, {"test": part}, {}, "digest", ())
    settings = Settings(Translate(), TranslationScores(max_images=16), Runtime(device="cpu"))
    first = score(stored_generator(bank, "t1"), images, extractor, settings)
    assert first["images"] == 12 and first["scores"]["l1"]["low"] < first["scores"]["l1"]["value"]
    marked = {**first, "scores": {"l1": {"value": 42.0}}}
    assert score(stored_generator(bank, "t1"), images, extractor, settings, marked) == marked
    other = score(stored_generator(bank, "t2"), images, extractor, settings, marked)
    assert other["outputs_sha256"] != first["outputs_sha256"] and "psnr" in other["scores"]
    elsewhere = {**marked, "environment": {"torch": "0"}}
    assert score(stored_generator(bank, "t1"), images, extractor, settings, elsewhere) == first


def row(after: str, value: float | None = 0.5, digest: str = "d", **environment: str) -> dict[str, Any]:
    entry = {"outputs_sha256": digest, "environment": environment, "scores": {"l1": {"value": value}}}
    return {"after": after, "tasks": {"t1": entry}}


def test_a_proof_compares_digests_of_one_place_only(tmp_path: Path) -> None:
    (task,) = grown(tmp_path / "bank", ["random"], TINY).tasks
    proof = prove(task, [row("t1"), row("t2"), row("t3")])
    assert proof["outputs_sha256"] == {"t1": "d", "t2": "d", "t3": "d"}
    assert (proof["largest_change"], proof["environments"]) == (0.0, 1)
    with pytest.raises(CheckpointError, match="t1 makes other images since t3"):
        prove(task, [row("t1"), row("t2"), row("t3", digest="e")])
    elsewhere = prove(task, [row("t1"), row("t2", 0.25, digest="e", torch="0")])
    assert (elsewhere["largest_change"], elsewhere["environments"]) == (0.25, 2)
    assert prove(task, [row("t1", None)])["largest_change"] == 0.0
    with pytest.raises(MissingInput, match="lack the task t1"):
        prove(task, [{"after": "t1", "tasks": {}}])
