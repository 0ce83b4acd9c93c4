from __future__ import annotations

from typing import Any

from graftgan.reporting.bank_tables import bank_card, scores_table, storage_table, task_line, verdict
from graftgan.reporting.card import CONNECT

CALM = {"value": 0.125, "low": 0.1, "high": 0.15}


def task(index: int, **values: Any) -> dict[str, Any]:
    data = {"make": "edges", "input": None, "target": "data/a|b.parquet", "kind": "paired", "resolution": 64}
    return {
        "name": f"t{index}", "index": index, "init": "random", "kind": "paired", "data": data,
        "images": {"train": 70}, "added": 1000, "ratio": 0.335, "cumulative": 1000 * index,
        "cumulative_ratio": 1.0 * index, "warnings": [], "licences": [["a", "CC0-1.0"]], **values,
    }  # fmt: skip


TASKS = [task(1), task(2, warnings=["few <images>"], licences=[["a", "CC0-1.0"], ["b", ""]])]
ENTRY = {"images": 20, "scores": {"l1": CALM, "kid": {"value": 0.5, "low": None, "high": None}}}
SCORES = {
    "protocol": {"confidence": 0.9},
    "rows": [{"tasks": {}}, {"tasks": {"t2": ENTRY, "t1": ENTRY}}],
}
PROOF = {"statement": "forgetting is 0."}


def test_scores_are_those_of_the_last_row_in_the_order_of_the_tasks() -> None:
    lines = scores_table(TASKS, SCORES).splitlines()
    assert lines[0] == "| task | score | value | 90 % interval | test images |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| t1", "| t1", "| t2", "| t2"]
    assert lines[2] == "| t1 | l1 | 0.125 | 0.100 to 0.150 | 20 |"
    assert lines[3] == "| t1 | kid | 0.500 |  | 20 |"


def test_storage_is_told_beside_a_generator_a_task() -> None:
    assert storage_table(TASKS).splitlines()[3] == "| t2 | random | 1,000 | 33.5% | 2.000 |"
    text = verdict(TASKS, SCORES, PROOF)
    assert "2.00 times one generator, where a generator a task would be 2 times one" in text
    assert "**forgetting is 0.**" in text and "- warning: t2: few &lt;images&gt;" in text


def test_a_card_tells_tasks_licences_limits_and_use() -> None:
    facts = {"spec": {"kind": "resnet_6", "ngf": 16}, "provenance": {"bank": "abc"}}
    card = bank_card("faces", facts, TASKS, SCORES, PROOF)
    assert card.startswith("# faces: 2 image-to-image tasks\n")
    assert "- a: CC0-1.0\n- b: licence not stated" in card and "- t2: few &lt;images&gt;" in card
    assert f'{CONNECT}\nmodel = mlflow.pyfunc.load_model("models:/faces@champion")' in card
    assert '"task": ["t1"]' in card
    assert card == bank_card("faces", facts, TASKS, SCORES, PROOF)


def test_a_task_says_what_it_translates() -> None:
    assert task_line(TASKS[0]).startswith(
        "- `t1`: edges of data/a\\|b.parquet to data/a\\|b.parquet, paired, 64 px"
    )
    data = {**TASKS[0]["data"], "make": None, "input": "data/c.parquet"}
    assert "data/c.parquet to" in task_line(task(1, data=data))
