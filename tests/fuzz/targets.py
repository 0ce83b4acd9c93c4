"""What is fuzzed: each target takes any bytes, and raises where a promise is broken."""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graftgan.checkpoints.content import open_content
from graftgan.checkpoints.readers import read
from graftgan.config import Data, Params
from graftgan.data.decoding import BadImageError, DecodeOptions, decode
from graftgan.data.importing import open_source
from graftgan.errors import CheckpointError, DataError
from graftgan.reporting.card import model_card
from graftgan.reporting.facts import Facts, read_facts
from graftgan.reporting.html import data_json, render
from graftgan.reporting.markdown import verdict_markdown

FOLDER_START = b"DIR\n"
FOLDER_CUT = b"\n--\n"
MANY_IMAGES = 8
MARK = "\ue000"
"""Stands for text from outside, in facts that are made once."""
FORBIDDEN = frozenset({
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.remove", "os.rename",
    "subprocess.Popen", "pty.spawn", "shutil.rmtree", "socket.connect", "socket.bind", "socket.getaddrinfo",
})  # fmt: skip


class Watch:
    """Notes what Python's audit events tell of programs, files and connections, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        mode = arguments[1] if event == "open" else ""
        if event in FORBIDDEN or (isinstance(mode, str) and set(mode) & set("wax+")):
            self.events.append(f"{event} {arguments!r}")


@functools.cache
def _watch() -> Watch:
    return Watch()


@contextmanager
def harmless() -> Iterator[None]:
    """Expect that no program is run, no file written or removed, and no connection opened."""
    watch = _watch()
    watch.on, watch.events = True, []
    try:
        yield
    finally:
        watch.on = False
    assert not watch.events, watch.events


@functools.cache
def place() -> Path:
    """Return a folder for this process."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None))


def checkpoint(data: bytes) -> None:
    """A checkpoint is converted, or refused by name with exit code 5; nothing in it is run.

    `DIR`, then settings and tensors between `--`, are the two files of a folder.
    """
    path = place() / "checkpoint"
    if data.startswith(FOLDER_START):
        settings, _, weights = data.removeprefix(FOLDER_START).partition(FOLDER_CUT)
        path = place() / "folder"
        path.mkdir(exist_ok=True)
        (path / "config.json").write_bytes(settings)
        (path / "model.safetensors").write_bytes(weights)
    else:
        path.write_bytes(data)
    try:
        with harmless():
            found = read(open_content(path))
    except CheckpointError as error:
        assert error.exit_code == 5 and error.message and error.remedy
        assert error.message.replace("\n", "").isprintable(), repr(error.message)
    else:
        assert found.tensors and all(isinstance(t, torch.Tensor) for t in found.tensors.values())
        json.dumps(found.spec.to_dict(), allow_nan=False)


@functools.cache
def _options() -> list[DecodeOptions]:
    choices: list[dict[str, Any]] = [
        {"channels": 3}, {"channels": 1, "fit": "pad"}, {"channels": 4, "fit": "stretch"},
        {"channels": 3, "resize_filter": "box"}, {"channels": 4, "fit": "pad", "resize_filter": "bicubic"},
    ]  # fmt: skip
    return [DecodeOptions.of(Data(resolution=32, max_pixels=1 << 20, **choice)) for choice in choices]


def _decode(data: bytes, options: DecodeOptions) -> None:
    try:
        with harmless():
            made = decode(data, options)
    except BadImageError as error:
        reason = str(error)
        assert reason and "\n" not in reason, repr(reason)
    else:
        assert made.pixels.dtype == np.uint8 and made.pixels.shape == (32, 32, options.channels)
        assert made.width > 0 and made.height > 0 and made.width * made.height <= options.max_pixels


def images(data: bytes) -> None:
    """Images become pixels or have a reason; image sets give images with storable names, or a `DataError`.

    The first byte chooses how images are fitted.
    """
    options = _options()[data[0] % len(_options())] if data else _options()[0]
    content = data[1:]
    if not content.startswith((b"PK", b"PAR1")):
        _decode(content, options)
        return
    path = place() / "set"
    path.write_bytes(content)
    try:
        with harmless():
            source = open_source(path, options.max_file_bytes)
            found = [image for image, _ in zip(source.images(), range(MANY_IMAGES), strict=False)]
    except DataError as error:
        assert error.exit_code == 3 and error.message and error.remedy
        return
    for image in found:
        json.dumps([image.name, image.label, image.group, image.bad], ensure_ascii=False).encode()
        assert image.data or image.bad
        _decode(image.data, options)


def put(value: Any, text: str) -> Any:
    """Return facts with `text` for every `MARK` in them."""
    if isinstance(value, str):
        return value.replace(MARK, text)
    if isinstance(value, dict):
        return {put(key, text): put(item, text) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(put(item, text) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: put(getattr(value, f.name), text) for f in fields(value) if f.init})
    return value


class Structure(HTMLParser):
    """Elements and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@functools.cache
def _facts() -> Facts:
    """Facts of one run without pictures and curves, which cost time and hold no text from outside."""
    from reporting.synthetic import build

    inputs = build(place() / "facts", ("chosen",), MARK)
    for picture in (*(place() / "facts").rglob("*.png"), *(place() / "facts").rglob("*.gif")):
        picture.unlink()
    curves = inputs["models"] / "chosen" / "curves.csv"
    curves.write_text(curves.read_text().splitlines()[0] + "\n")
    return read_facts(inputs)


def _params(title: str) -> Params:
    params = Params()
    return params.model_copy(update={"report": params.report.model_copy(update={"title": title})})


@functools.cache
def _honest_page() -> Structure:
    return Structure(render(_facts(), _params(MARK), "c" * 64))


def spaced(text: str) -> str:
    """Return a text with one space where there is any white space."""
    return " ".join(text.split())


def check_page(text: str) -> None:
    """A page has the same elements and attributes whatever the text, and shows it as it is."""
    honest = _honest_page()
    made = Structure(render(put(_facts(), text), _params(text), "c" * 64))
    assert [tag for tag, _ in made.elements] == [tag for tag, _ in honest.elements]
    for (tag, found), (_, wanted) in zip(made.elements, honest.elements, strict=True):
        assert found == tuple((key, put(value, text)) for key, value in wanted), (tag, found, wanted)
    assert spaced("".join(made.words)) == spaced("".join(put(honest.words, text)))


def blocks(source: str) -> list[tuple[str, str]]:
    """Return what Markdown is made of, but for its text: blocks, emphasis, links, HTML, in order."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    found = []
    for token in parser.parse(source):
        inside = [child for child in token.children or [] if child.type not in ("text", "text_special")]
        found += [(part.type, part.tag) for part in (token, *inside)]
    return found


def _card(text: str) -> str:
    facts = _facts()
    model = {**facts.chosen.model, "spec": {"family": "stylegan2", "classes": 0}}
    parts = [put(dict(part), text) for part in (model, facts.dataset, facts.scores)]
    return model_card("name", *parts, "c" * 64)


@functools.cache
def _honest_markdown() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    return blocks(verdict_markdown(_facts(), MARK)), blocks(_card(MARK))


def check_markdown(text: str) -> None:
    """Verdict and model card have the same blocks and spans whatever the text, and no HTML."""
    verdict, card = _honest_markdown()
    assert blocks(verdict_markdown(put(_facts(), text), text)) == verdict
    assert blocks(_card(text)) == card


def report(data: bytes) -> None:
    """Text from outside stays text in the report, its scripts' data, the verdict and the model card."""
    text = data.decode("utf-8", "replace")
    island = data_json({text: [text]})
    assert not set("<>&\u2028\u2029") & set(island) and json.loads(island) == {text: [text]}
    check_page(text)
    if text.split():
        check_markdown(text)


def pages(data: bytes) -> None:
    """As `report`, for the other pages."""
    from fuzz.pages import pages as target

    target(data)


def _other(name: str) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        from fuzz import others

        getattr(others, name)(data)

    return target


TARGETS: dict[str, Callable[[bytes], None]] = {
    "checkpoint": checkpoint, "images": images, "report": report, "pages": pages,
    **{name: _other(name) for name in ("bank", "adapter", "record", "request")},
}  # fmt: skip
