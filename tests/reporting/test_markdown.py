from __future__ import annotations

import re
from pathlib import Path

from graftgan.reporting.facts import Facts, read_facts
from graftgan.reporting.markdown import escape, verdict_markdown
from reporting.synthetic import build, edit


def test_the_verdict_comes_first(facts: Facts) -> None:
    lines = verdict_markdown(facts, "Cats").splitlines()
    assert lines[0] == "# Cats"
    assert lines[2] == "**The source portraits helped: KID 0.021 against 0.101 from scratch faces.**"


def test_the_table_is_regular_and_leaves_out_the_copy_scores(facts: Facts) -> None:
    table = [line for line in verdict_markdown(facts, "t").splitlines() if line.startswith("|")]
    assert len(table) == 2 + 5
    assert {line.count("|") for line in table} == {6}
    assert "| KID, lower is better | 0.021 (0.015 to 0.027) | 0.061 (0.055 to 0.067) |" in table[2]
    assert table[2].endswith("| 0.0004 |")


def test_what_else_it_says(facts: Facts) -> None:
    text = verdict_markdown(facts, "t")
    assert "- KID: chosen less scratch: −0.080 (−0.090 to −0.070), chosen is better" in text
    assert "Source: portraits covers 71 %" in text
    assert "- Warning: the images are few faces" in text
    assert "digest `dddddddddddd`" in text
    assert verdict_markdown(facts, "t") == text


def test_it_shrinks_with_the_facts(tmp_path: Path) -> None:
    inputs = build(tmp_path, runs=("chosen",))
    edit(inputs["scores"] / "scores.json", runs={}, verdict="Nothing was scored.")
    text = verdict_markdown(read_facts(inputs), "t")
    assert "|" not in text and "\n\n\n" not in text and "The copy test was not made" in text


def test_names_cannot_change_the_form(tmp_path: Path) -> None:
    evil = "a|b\n# head <script>x</script> [l](javascript:1) `c` *d*"
    text = verdict_markdown(read_facts(build(tmp_path, name=evil)), evil)
    assert "<" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [f"# {escape(evil)}"]
    assert not re.search(r"(?<!\\)\[l(?<!\\)\]\(", text)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6}


def test_escape() -> None:
    assert escape("a_b*c") == r"a\_b\*c"
    assert escape("a\n\n b") == "a b"
    assert escape("<&>") == "&lt;&amp;&gt;"
    assert escape(0.5) == "0.5"
