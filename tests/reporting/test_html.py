from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from graftgan.config import Params
from graftgan.errors import MissingInput
from graftgan.params import resolve
from graftgan.reporting import interactive
from graftgan.reporting.facts import Facts, read_facts
from graftgan.reporting.html import content_policy, data_json, render
from graftgan.reporting.sheets import save_png, sheet
from reporting.synthetic import build, edit

CODE = "c" * 64
EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}</style></title>"
VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Everything a test asks of the page: elements, texts, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.stack: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        inside = self.stack[-1] if self.stack else ""
        if inside == "script":
            self.scripts[-1] += data
        elif inside != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page(facts: Facts, params: Params | None = None) -> Page:
    made = Page(render(facts, params or Params(), CODE))
    assert made.stack == [], "every element is closed"
    return made


def test_the_page_says_what_was_found(facts: Facts) -> None:
    made = page(facts)
    assert made.words.count(facts.scores["verdict"]) == 1
    for wanted in (
        "lower is better", "0.015 to 0.027", "0.0004", "From scratch", "chosen is better",
        "portraits covers 71 % of the images", "Cartoons Faces at 32 px", "0.660 to 0.760",
        "train 28", "Data checks: 1 of 2 passed", "few blank images", "faces.jpg", "truncated",
        "no sign of copying", "d" * 64, CODE, "a" * 64, "CC0-1.0 faces", "CC-BY-4.0", "finetune.r1_gamma",
        "How to read this report", "2 things to know first", "from 0 kimg to 24 kimg",
    ):  # fmt: skip
        assert wanted in made.words, wanted


def test_every_picture_is_inside_and_described(facts: Facts) -> None:
    pictures = [p for p in page(facts).all("img") if p.get("src")]
    # real; samples, interpolation, timeline and pairs of three runs; three splits; four sources; two targets
    assert len(pictures) == 1 + 3 * 4 + 3 + 4 + 2
    for picture in pictures:
        assert re.fullmatch(r"data:image/(png|gif|webp);base64,[A-Za-z0-9+/=]+", picture["src"] or "")
        assert picture["alt"] and int(picture["width"] or 0) > 0 and int(picture["height"] or 0) > 0


def test_nothing_is_loaded_from_anywhere(facts: Facts) -> None:
    made = page(facts)
    for tag, attributes in made.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has a handler {name}"
            if name in {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}:
                assert (value or "").startswith(("data:", "#")), (tag, name, value)
            if name == "style":
                assert "url(" not in (value or "")
    assert "url(" not in re.sub(r"(?s)<script.*?</script>", "", render(facts, Params(), CODE))
    assert not {tag for tag, _ in made.elements} & {"iframe", "object", "embed", "base", "frame"}
    targets = {a["href"] for a in made.all("a")}
    assert targets <= {f"#{a['id']}" for _, a in made.elements if "id" in a}, "links lead somewhere"


def test_only_our_scripts_may_run(facts: Facts) -> None:
    made = page(facts)
    [policy] = [m["content"] for m in made.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    runnable = [s for s, a in zip(made.scripts, made.all("script"), strict=True) if a.get("type") is None]
    hashes = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in runnable}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes and len(hashes) == 2
    assert policy == content_policy(runnable)
    assert "unsafe-eval" not in policy and policy.count("unsafe-inline") == 1


def test_text_from_users_stays_text(tmp_path: Path) -> None:
    made = page(read_facts(build(tmp_path, name=EVIL)), resolve({"report": {"title": EVIL}}, "test"))
    honest = page(read_facts(build(tmp_path / "other")))
    assert [tag for tag, _ in made.elements] == [tag for tag, _ in honest.elements], "not one element more"
    assert made.words.count("<script>alert(1)</script>") > 10
    assert "{{7*7}}" in made.words, "no template in a name is filled in"
    assert all("alert(1)</script" not in s for s in made.scripts)


def test_data_for_scripts_cannot_end_the_script() -> None:
    made = data_json({"a": "</script><!-- & \u2028 é"})
    assert not set("<>&\u2028é") & set(made)
    assert json.loads(made) == {"a": "</script><!-- & \u2028 é"}
    with pytest.raises(ValueError, match="JSON compliant"):
        data_json(float("nan"))


def test_equal_inputs_give_equal_bytes_in_one_process(facts: Facts) -> None:
    assert render(facts, Params(), CODE) == render(facts, Params(), CODE)


def test_equal_inputs_give_equal_bytes_in_two_processes(facts: Facts, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from reporting.synthetic import build\n"
        "from graftgan.reporting.facts import read_facts; from graftgan.reporting.html import render\n"
        "from graftgan.config import Params\n"
        "text = render(read_facts(build(pathlib.Path(sys.argv[1]))), Params(), 'c' * 64)\n"
        "sys.stdout.buffer.write(text.encode())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1234", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", script, str(tmp_path / "other")]
    elsewhere = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    assert (
        hashlib.sha256(elsewhere).digest() == hashlib.sha256(render(facts, Params(), CODE).encode()).digest()
    )


def test_the_demo_is_small(facts: Facts) -> None:
    assert len(render(facts, Params(), CODE)) < 6_000_000


def test_no_folder_of_this_machine_is_in_the_page(facts: Facts, tmp_path: Path) -> None:
    assert str(tmp_path) not in render(facts, Params(), CODE)


def test_without_bokeh_the_curves_are_drawn(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interactive, "available", lambda: False)
    made = page(facts)
    assert len(made.all("svg")) == 6 and len(made.scripts) == 1
    assert {g.get("data-run") for g in made.all("g")} == {"chosen", "worst", "scratch"}
    assert "graftgan[report]" in made.words
    assert len(made.all("polyline")) == 27 and len(made.all("polygon")) == 3


def test_one_run_alone(tmp_path: Path) -> None:
    made = page(read_facts(build(tmp_path, runs=("chosen",))))
    assert "From scratch" not in made.words and "Differences" not in made.words
    heads = made.words[made.words.index("Measure ") :]
    assert heads.startswith("Measure Chosen: Portraits faces Floor")


def test_what_auto_took_is_shown_with_its_reason(tmp_path: Path) -> None:
    inputs = build(tmp_path)
    assert "taken by" not in page(read_facts(inputs)).words
    why = "for 24 training images: with 25 images <it> did best"
    edit(inputs["models"] / "chosen" / "model.json", method="lora", method_asked="auto", method_why=why)
    words = page(read_facts(inputs)).words
    assert "Method lora, taken by auto" in words
    assert f"finetune.method: auto took lora {why}" in words


def test_scratch_as_the_choice(tmp_path: Path) -> None:
    inputs = build(tmp_path, runs=("chosen",))
    edit(inputs["models"] / "chosen" / "model.json", source=None, source_title=None, source_sha256=None)
    edit(
        inputs["ranking"] / "ranking.json",
        choice={"name": "scratch", "why": "nothing comes near"},
        worst=None,
    )
    made = page(read_facts(inputs))
    assert "Chosen: from scratch" in made.words and "Start from scratch" in made.words
    assert "worst, as a control" not in made.words


def test_without_test_images(tmp_path: Path) -> None:
    inputs = build(tmp_path)
    edit(inputs["dataset"] / "dataset.json", missing={"test": "only 12 images"})
    scores = inputs["scores"] / "scores.json"
    runs = read_facts(inputs).scores["runs"]
    for run in runs.values():
        run["copy"] = {"available": False, "reason": "there are no test images"}
    edit(scores, reference="train", runs=runs)
    words = page(read_facts(inputs)).words
    assert "No test images: only 12 images" in words
    assert "not measured" in words and "there are no test images" in words
    assert "Scored on 8 train images" in words
    assert "unseen one" not in words and "not seen in training" not in words


def test_without_the_optional_pictures_and_curves(tmp_path: Path) -> None:
    inputs = build(tmp_path)
    for pattern in ("scores/*/*", "scores/real.png", "ranking/*.png", "ranking/sheets/*", "models/*/*.png"):
        for path in tmp_path.glob(pattern):
            path.unlink()
    for path in inputs["models"].glob("*/curves.csv"):
        path.unlink()
    for path in inputs["models"].glob("*/timeline.json"):
        path.unlink()
    made = page(read_facts(inputs))
    assert "There are no training curves." in made.words and "no samples" in made.words
    assert len([p for p in made.all("img") if p.get("src")]) == 3, "only the sheets of the image set"


def test_when_every_image_is_covered(inputs: dict[str, Path]) -> None:
    save_png(sheet(np.zeros((0, 32, 32, 3), np.uint8), 8), inputs["ranking"] / "uncovered.png")
    assert "near every one of them" in page(read_facts(inputs)).words


def test_a_broken_picture_is_named(inputs: dict[str, Path]) -> None:
    (inputs["scores"] / "real.png").write_bytes(b"no picture")
    with pytest.raises(MissingInput, match=r"real\.png"):
        render(read_facts(inputs), Params(), CODE)


def test_the_sheets_of_the_image_set_have_the_wanted_columns(facts: Facts) -> None:
    narrow = page(facts, resolve({"report": {"grid": 4}}, "test"))
    [train] = [p for p in narrow.all("img") if p.get("alt") == "train images"]
    assert train["width"] == str(4 * 66 + 2) and train["height"] == str(3 * 66 + 2)
