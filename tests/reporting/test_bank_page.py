"""The report of a bank: its sentences against made-up histories, and two learnt tasks in a browser."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from graftgan.bank.accounting import costs
from graftgan.bank.files import sha256
from graftgan.bank.store import Bank
from graftgan.bank.tasks import load_task as stored_generator
from graftgan.bank.tasks import verify
from graftgan.cli import cli
from graftgan.config import Runtime
from graftgan.context import Context
from graftgan.contract import read_json, write_json
from graftgan.data.pairs import TaskImages, load_task
from graftgan.errors import MissingInput
from graftgan.lifelong_config import TaskData, Translate, TranslationScores
from graftgan.metrics.intervals import Estimate
from graftgan.reporting.bank_facts import After, BankFacts, Look, Results, TaskFacts, read_facts
from graftgan.reporting.bank_page import (
    BETTER,
    CHANGED,
    ELSEWHERE,
    SAME,
    UNKNOWN,
    WITHIN,
    WORSE,
    curve_charts,
    described,
    kept,
    outcome,
    render,
    score_rows,
    storage_chart,
    verdict,
)
from graftgan.reporting.numbers import Interval
from graftgan.reporting.sheets import save_png
from graftgan.stages.lifelong import Learnt, Settings, example_sheet, learn_task, score_bank
from graftgan.training.translators import translate
from reporting.browsing import WIDTHS, browser, opens_whole, visit  # noqa: F401
from reporting.test_browser import EVIL
from tests.bank.banks import SIZE_PX, TINY, grown


class Colours(torch.nn.Module):
    """Features are mean colours of quarters."""

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(img, 2).flatten(1)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bank of two tasks that were really learnt, and all that a pipeline leaves."""
    place = tmp_path_factory.mktemp("lifelong")
    pictures = place / "pictures"
    pictures.mkdir()
    (pictures / "LICENCE").write_text("CC0-1.0: squares\n")
    rng = np.random.default_rng(0)
    for number in range(100):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((SIZE_PX, SIZE_PX)).save(pictures / f"{number:03}.png")
    torch.jit.script(Colours()).save(str(place / "colours.pt"))
    extractor = f"torchscript:{place / 'colours.pt'}?px=16"
    recipe = {
        "budget": {"kimg": 0.008}, "batch": 2, "ndf": 4, "precision": "fp32", "evaluate_every_kimg": 0.004,
    }  # fmt: skip
    scores = TranslationScores(extractor=extractor, validation_extractor=extractor)
    settings = Settings(Translate.model_validate(recipe), scores, Runtime(device="cpu"))
    bank, tasks = Bank.create(place / "bank", TINY), {}
    rows: list[dict[str, Any]] = []
    for name, init in (("grey", "random"), ("edges", "auto")):
        data = TaskData.model_validate({"target": str(pictures), "make": name, "resolution": SIZE_PX})
        tasks[name] = load_task(data)
        ctx = Context(place / "state", place / "cache")
        found = learn_task(bank, name, tasks[name], replace(settings, init=init), ctx)
        leave(place / "tasks" / name, bank, found, tasks[name])
        rows.append({"after": name, "tasks": looks(bank, tasks, settings)})
    write_json(place / "tasks" / "edges" / "standalone.json", {"scores": plain(found.scores), "seconds": 2})
    write_json(place / "scores.json", {"protocol": {"confidence": 0.9}, "rows": rows})
    proof = {"statement": "All is as it was.", "banks": {"bank": {"findings": list(map(str, verify(bank)))}}}
    write_json(place / "proof.json", proof)
    return place


def leave(folder: Path, bank: Bank, learnt: Learnt, images: TaskImages) -> None:
    """Write what the stage of a task writes."""
    facts = {
        "name": learnt.task.name, "scores": plain(learnt.scores), "seconds": learnt.history.elapsed_s,
        "images": {name: len(part.inputs) for name, part in images.parts.items()},
        "data": images.data.model_dump(mode="json"), "licences": images.licences,
        "why": learnt.ranking.why if learnt.ranking else "", "warnings": list(learnt.warnings),
    }  # fmt: skip
    write_json(folder / "result.json", facts)
    save_png(example_sheet(stored_generator(bank, learnt.task.name), images), folder / "examples.png")
    columns = list(dict.fromkeys(key for row in learnt.history.rows for key in row))
    lines = [",".join(str(row.get(key, "")) for key in columns) for row in learnt.history.rows]
    (folder / "curves.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")


def plain(scores: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(estimate) for name, estimate in scores.items()}


def looks(bank: Bank, tasks: Mapping[str, TaskImages], settings: Settings) -> dict[str, Any]:
    """Every task of the bank as it is now."""
    scores = score_bank(bank, tasks, settings)
    return {
        task.name: {
            "scores": plain(scores[task.name]),
            "outputs_sha256": digest(stored_generator(bank, task.name), tasks[task.name]),
            "environment": {"cpu": "here"},
        }
        for task in bank.tasks
    }


def digest(generator: torch.nn.Module, images: TaskImages) -> str:
    return sha256(translate(generator, images.part("test").inputs).tobytes())


@pytest.fixture
def facts(learnt: Path) -> BankFacts:
    return read_facts(Bank(learnt / "bank"), Results.below(learnt), ())


def with_history(
    facts: BankFacts,
    values: list[list[float]],
    digests: list[list[str]],
    places: tuple[str, str] = ("a", "a"),
) -> BankFacts:
    """The facts with made-up scores and digests of both tasks after each addition."""
    names = ("grey", "edges")
    history = []
    for name, row, texts, place in zip(names, values, digests, places, strict=True):
        found = zip(names, row, texts, strict=False)
        told = {task: Look({"l1": Interval(value)}, text, place) for task, value, text in found}
        history.append(After(name, told))
    return replace(facts, history=tuple(history))


def test_what_was_learnt_is_read_back(facts: BankFacts, learnt: Path) -> None:
    grey, edges = facts.tasks
    assert [task.name for task in facts.tasks] == ["grey", "edges"] and grey.measure == "l1"
    assert grey.scores["l1"].value == pytest.approx(facts.bank.task("grey").scores["l1"])
    assert grey.scores["l1"].known and not grey.standalone and edges.standalone == edges.scores
    assert edges.standalone_seconds == 2.0 and edges.seconds is not None and edges.seconds > 0
    assert edges.why.startswith(("random: ", "warm:grey: "))
    assert (
        grey.images == {"train": 100 - 39, "validation": 16, "test": 23} or sum(grey.images.values()) == 100
    )
    assert grey.licences == (("pictures", "CC0-1.0: squares"),)
    assert grey.cost == costs(facts.bank)[0]
    assert facts.findings == () and facts.confidence == 0.9 and facts.statement == "All is as it was."
    assert [after.task for after in facts.history] == ["grey", "edges"]
    assert facts.history[0].looks["grey"] == facts.history[1].looks["grey"]


def test_the_verdict_tells_storage_forgetting_and_quality(facts: BankFacts) -> None:
    size = facts.tasks[-1].cost.cumulative_ratio
    assert verdict(facts) == (
        f"2 tasks are stored in the space of {size:.2f} generators instead of 2 ({50 * size:.0f} %). "
        "Nothing was forgotten: after every addition the earlier tasks' outputs were the same to the bit, "
        "in 1 of 1 comparisons. 1 of 1 score no worse than the interval of a model of their own."
    )
    unseen = replace(facts, history=())
    assert "every task makes the images that it made when it was finished" in verdict(unseen)
    assert "One task is stored as a whole" in verdict(replace(facts, tasks=facts.tasks[:1]))
    assert verdict(replace(facts, tasks=())) == "The bank has no task yet."
    broken = replace(facts, findings=("filters/a: layer a, task grey: changed", "b"))
    assert "damaged in 2 places: filters/a: layer a, task grey: changed." in verdict(broken)


def test_a_task_that_forgets_is_found_by_its_digest_and_its_loss(facts: BankFacts) -> None:
    told = with_history(facts, [[0.25], [0.5, 0.125]], [["a" * 64], ["b" * 64, "c" * 64]])
    grey, edges = kept(told)
    assert [cell.state for cell in grey.cells] == [UNKNOWN, CHANGED] and grey.loss == "+0.250"
    assert [cell.value for cell in edges.cells] == ["", "0.125"] and edges.loss == ""
    assert "Outputs have changed of grey." in verdict(told)
    same = with_history(facts, [[0.25], [0.25, 0.125]], [["a" * 64], ["a" * 64, "c" * 64]])
    assert [cell.state for cell in kept(same)[0].cells] == [UNKNOWN, SAME] and kept(same)[0].loss == "0"
    moved = with_history(facts, [[0.25], [0.25, 0.125]], [["a" * 64], ["b" * 64, "c" * 64]], ("a", "b"))
    assert [cell.state for cell in kept(moved)[0].cells] == [UNKNOWN, ELSEWHERE]
    assert "changed" not in verdict(moved)
    page = render(told)
    assert '<span class="pill bad">changed</span>' in page
    assert page.count("b" * 64) == 1 and re.search(rf"<td>edges</td><td class=\"hash\">{'b' * 64}", page)


def test_a_score_is_compared_with_the_interval_of_a_model_of_its_own(facts: BankFacts) -> None:
    def judged(name: str, mine: float) -> str:
        alone = {name: Interval(1.0, 0.9, 1.1)}
        return outcome(replace(facts.tasks[0], scores={name: Interval(mine)}, standalone=alone), name)

    assert [judged("l1", value) for value in (0.8, 0.9, 1.1, 1.2)] == [BETTER, WITHIN, WITHIN, WORSE]
    assert [judged("psnr", value) for value in (0.8, 1.0, 1.2)] == [WORSE, WITHIN, BETTER]
    assert outcome(facts.tasks[0], "l1") == ""
    worse = replace(facts.tasks[0], scores={"l1": Interval(2.0)}, standalone={"l1": Interval(1.0, 0.9, 1.1)})
    assert "0 of 1 score no worse" in verdict(replace(facts, tasks=(worse,)))
    (row,) = score_rows(worse)
    assert (row.value, row.alone, row.alone_interval, row.outcome) == ("2.00", "1.00", "0.90 to 1.10", WORSE)
    assert row.bar is not None and row.alone_bar is not None and row.bar.dot > row.alone_bar.dot


def test_charts_have_the_values_of_the_bank_and_of_the_training(facts: BankFacts) -> None:
    storage = storage_chart(facts.tasks)
    assert storage is not None
    assert list(storage.chart.traces[0].y) == [0.0, *(cost.cumulative_ratio for cost in costs(facts.bank))]
    assert list(storage.chart.traces[1].y) == [0.0, 1.0, 2.0]
    assert storage_chart(facts.tasks[:1]) is None
    charts = {chart.chart.title: chart.chart for chart in curve_charts(facts.tasks)}
    rows = [row for row in facts.tasks[1].curves if row["l1_validation"] is not None]
    assert rows
    trace = charts["L1 on validation images"].traces[1]
    assert trace.label == "edges"
    assert list(zip(trace.x, trace.y, strict=True)) == [
        (float(row["images_seen"] or 0) / 1000, row["l1_validation"]) for row in rows
    ]
    assert "KID on validation images" not in charts


def test_tasks_are_described_without_paths(facts: BankFacts) -> None:
    def of(**data: object) -> str:
        task: TaskFacts = replace(facts.tasks[0], data=data)
        return described(task)

    assert (
        of(kind="paired", target="/x/y/a.parquet", make="edges") == "paired, edges of a.parquet to a.parquet"
    )
    assert of(kind="unpaired", target="C:\\x\\a", input="/b.zip") == "unpaired, b.zip to a"
    assert of() == ""


def test_a_bank_alone_has_a_report_too(tmp_path: Path) -> None:
    bank = grown(tmp_path / "bank", ["random", "warm:t1"])
    bank.note_scores("t2", {"kid_x": 0.125})
    facts = read_facts(bank, None, ())
    assert facts.tasks[1].measure == "kid_x" and facts.tasks[1].scores["kid_x"] == Interval(0.125)
    page = render(facts)
    assert page.count("no pictures") == 2 and "Nobody looked after each addition" in page
    assert "There are no training curves." in page and "The task was not scored." in page
    empty = render(read_facts(Bank.create(tmp_path / "empty", TINY), None, ()))
    assert "The bank has no task yet." in empty


def test_files_of_another_bank_or_damaged_ones_are_refused(learnt: Path, tmp_path: Path) -> None:
    bank = Bank(learnt / "bank")
    with pytest.raises(MissingInput, match="not a folder"):
        Results.below(tmp_path / "gone")
    write_json(tmp_path / "scores.json", {"rows": [{"after": "other", "tasks": {}}]})
    with pytest.raises(MissingInput, match="the task other, which"):
        read_facts(bank, Results.below(tmp_path), ())
    write_json(tmp_path / "scores.json", [])
    with pytest.raises(MissingInput, match="holds a list, not an object"):
        read_facts(bank, Results.below(tmp_path), ())
    write_json(tmp_path / "scores.json", {"rows": [{"after": "grey", "tasks": {"grey": {"scores": 1}}}]})
    with pytest.raises(MissingInput, match="no table of scores"):
        read_facts(bank, Results.below(tmp_path), ())
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(MissingInput, match="not valid JSON"):
        read_facts(bank, Results.below(tmp_path), ())
    (tmp_path / "scores.json").unlink()
    (tmp_path / "tasks" / "grey").mkdir(parents=True)
    (tmp_path / "tasks" / "grey" / "curves.csv").write_text("images_seen,loss_g\n2,x\n")
    with pytest.raises(MissingInput, match="not a number"):
        read_facts(bank, Results.below(tmp_path), ())


def test_the_command_checks_the_bank_and_writes_the_page(learnt: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    words = ["tasks", "report", "--bank", learnt / "bank", "--from", learnt, "--out", out, "--title", "Mine"]
    done = CliRunner().invoke(cli, list(map(str, words)))
    assert done.exception is None and f"{out}: 2 tasks, 0." in done.output
    page = out.read_text(encoding="utf-8")
    assert "<title>Mine</title>" in page and "data:image/png;base64," in page
    assert read_json(learnt / "tasks" / "grey" / "result.json")["licences"] == [
        ["pictures", "CC0-1.0: squares"]
    ]


@pytest.mark.parametrize("width", list(WIDTHS))
def test_it_opens_in_a_browser_without_complaint_and_fits(
    browser: Any,  # noqa: F811
    facts: BankFacts,
    tmp_path: Path,
    width: str,
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(facts), encoding="utf-8")
    opens_whole(browser, path, width, charts=False)
    browser.execute_script("document.querySelector('img.zoom').click()")
    assert browser.execute_script("return document.getElementById('zoom').open") is True


def test_words_of_users_run_nowhere(browser: Any, facts: BankFacts, tmp_path: Path) -> None:  # noqa: F811
    evil = replace(
        facts.tasks[0], why=EVIL, warnings=(EVIL,), licences=((EVIL, EVIL),), data={"target": EVIL},
        curves=({"images_seen": 1, "loss_g": 1}, {"images_seen": 2, "loss_g": 2}),
    )  # fmt: skip
    path = tmp_path / "report.html"
    told = replace(facts, tasks=(evil, facts.tasks[1]), findings=(EVIL,), statement=EVIL)
    path.write_text(render(told, EVIL), encoding="utf-8")
    assert visit(browser, path, "desk", charts=False) == []
    assert browser.execute_script("return window.hacked") is None
    bold = "return [...document.querySelectorAll('b')].filter(b => b.textContent === 'bold').length"
    assert browser.execute_script(bold) == 0
