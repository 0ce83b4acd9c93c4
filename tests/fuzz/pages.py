"""The target for pages other than the report: banks, galleries, comparisons, pictures, data checks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from fuzz.targets import MARK, Structure, blocks, place, put, spaced

from graftgan.data.validation import Checked, plain_page
from graftgan.gallery import gallery_page
from graftgan.reporting import bank_page, comparison
from graftgan.reporting.bank_facts import BankFacts, read_facts
from graftgan.reporting.numbers import Interval
from graftgan.reporting.sheets import save_png

WORD = f"x{MARK}"
"""Never empty, for what is empty is left out of pages."""


@functools.cache
def _bank() -> BankFacts:
    from bank.banks import grown

    facts = read_facts(grown(place() / "bank", ["random", "warm:t1"]), None, ())
    first = replace(facts.tasks[0], why=WORD, warnings=(WORD,), licences=((WORD, WORD), ("", WORD)))
    return replace(facts, tasks=(first, facts.tasks[1]), findings=(WORD, "other"), statement=WORD)


def _bank_page(text: str) -> str:
    return bank_page.render(put(_bank(), text), put(WORD, text))


def _bank_page_of_paths(text: str) -> str:
    """Of paths it shows the last part alone, and of scores what the glossary makes of their names."""
    one, facts = _bank().tasks[0], _bank()
    path = f"{WORD}y"
    odd = replace(one, data={"kind": "paired", "target": path, "input": path, "make": path}, why="")
    odd = replace(odd, scores={f"kid_{path}": Interval(0.5)}, standalone={f"kid_{path}": Interval(0.25)})
    return bank_page.render(put(replace(facts, tasks=(odd,)), text))


def _gallery(text: str) -> str:
    spec = {"family": "stylegan2", "resolution": 32}
    score = {"value": 0.5, "low": 0.25, "high": 0.75}
    facts: dict[str, Any] = {
        "family": WORD, "spec": spec, "provenance": {"method": WORD, "source": WORD}, "scores": {WORD: score},
    }  # fmt: skip
    sections = [{"title": WORD, "pictures": [{"seed": 1, "uri": "data:,"}]}]
    return gallery_page(*put([WORD, facts, sections, 32, WORD], text))


@functools.cache
def _sample() -> Any:
    path = place() / "sample.png"
    save_png(np.zeros((4, 4, 3), np.uint8), path)
    return path


def _comparison_facts(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    kid = {"value": 0.5, "low": 0.25, "high": 0.75}
    row = {"arm": WORD, "source": WORD, "kid_validation": kid, "test": {"kid_x": 0.5}}
    mean = {"mean": 0.5, "deviation": 0.1}
    method = {"method": WORD, "seeds": 2, "kid_validation": mean, "test": {"kid_x": mean}}
    rows, methods = put([row, row | {"source": None}], text), put([method], text)
    return list(rows), list(methods)


def _comparison(text: str) -> str:
    rows, methods = _comparison_facts(text)
    return comparison.comparison_html([comparison.ArmFacts(row, _sample()) for row in rows], methods, 24)


def _pictures(text: str) -> str:
    return comparison.pictures_html(put(WORD, text), [(put(WORD, text), _sample())])


def _data_checks(text: str) -> str:
    word = put(WORD, text)
    return plain_page([Checked(word, word, False, word, [word, word]), Checked("a", "b", True, "c")])


WHOLE: tuple[Callable[[str], str], ...] = (_bank_page, _gallery, _comparison, _pictures, _data_checks)
"""Pages that show a text as it is."""
CUT: tuple[Callable[[str], str], ...] = (_bank_page_of_paths,)
"""Pages that show something of it."""


@functools.cache
def _honest(page: Callable[[str], str]) -> Structure:
    return Structure(page(MARK))


def check_pages(text: str) -> None:
    """Each page has the same elements and attributes whatever the text, and shows it as it is."""
    for page in (*WHOLE, *CUT):
        honest, made = _honest(page), Structure(page(text))
        name = page.__name__
        assert [tag for tag, _ in made.elements] == [tag for tag, _ in honest.elements], name
        if page in CUT:
            continue
        for (tag, found), (_, wanted) in zip(made.elements, honest.elements, strict=True):
            assert found == tuple((key, put(value, text)) for key, value in wanted), (name, tag, found)
        assert spaced("".join(made.words)) == spaced("".join(put(honest.words, text))), name


@functools.cache
def _honest_comparison() -> list[tuple[str, str]]:
    return blocks(comparison.comparison_markdown(*_comparison_facts(MARK)))


def pages(data: bytes) -> None:
    """Text from outside stays text on the pages of banks, galleries, comparisons and data checks."""
    text = data.decode("utf-8", "replace")
    check_pages(text)
    assert blocks(comparison.comparison_markdown(*_comparison_facts(text))) == _honest_comparison()
