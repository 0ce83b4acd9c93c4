"""A bank behind `graftgan serve`: pictures, and malformed requests that leave it up."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_serving_bank import flat, packaged

from benchmarks.serving import GUARDED, JSON, Request, Server, records, serving
from graftgan.bank.package import load_bank_package

PICTURE = flat(20, 16)


def row(image: bytes | str = PICTURE, task: Any = "t1") -> dict[str, Any]:
    return {"task": task, "image": base64.b64encode(image).decode() if isinstance(image, bytes) else image}


GOOD = Request("good", records(row(), row(task="t2")), 200)
MALFORMED = (
    Request("no JSON", b'{"dataframe_records": [{"task": '),
    Request("no UTF-8", b'\xff\xfe{"dataframe_records": []}'),
    Request("no known key", b'{"rows": [1]}'),
    Request("a list", b"[1, 2, 3]"),
    Request("no image", records({"task": "t1"})),
    Request("no task", records({"image": row()["image"]})),
    Request("another task", records(row(), row(task="t9"))),
    Request("a task of a number", records(row(task=7))),
    Request("an empty task", records(row(task=None))),
    Request("a nested task", records(row(task=["t1"]))),
    Request("a path for a task", records(row(task="../../etc/passwd"))),
    Request("an image of text", records(row("not base64: ../../etc/passwd"))),
    Request("an image of a number", records({"task": "t1", "image": 7})),
    Request("an empty image", records(row(b""))),
    Request("no picture", records(row(b"no picture at all"))),
    Request("a picture cut short", records(row(PICTURE[:-20]))),
    Request("a pickle", records(row(b"\x80\x04cos\nsystem\n."))),
    Request("64 bombs", records(*[row(flat(10_000, 10_000))] * 64)),
    Request("too many rows", records(*[row()] * 65)),
    Request("another content type", records(row()), 415, "text/plain"),
    Request("another character set", records(row()), 415, f"{JSON}; charset=latin-1"),
    Request("another method", b"", 405, method="GET"),
    Request("another path", records(row()), 404, path="/../../etc/passwd"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return packaged(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(place: Any) -> Iterator[Server]:
    with serving(place, place.parent / "log") as running:
        yield running


def test_requests_get_the_bank_s_own_pixels(server: Server, place: Any) -> None:
    status, body = server.ask(GOOD)
    assert status == 200, body[:500]
    package = load_bank_package(place)
    for task, made in zip(("t1", "t2"), json.loads(body)["predictions"], strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(made["image"]))))
        assert np.array_equal(pixels, package.translate(task, PICTURE))


@pytest.mark.parametrize("request_", (*MALFORMED, *GUARDED), ids=lambda request: request.name)
def test_a_malformed_request_gets_a_4xx_and_the_next_is_served(server: Server, request_: Request) -> None:
    status, body = server.ask(request_)
    assert status == request_.status, body[:500]
    assert 400 <= status < 500 and len(body) < 20_000
    assert b"Traceback" not in body and b"root:" not in body
    assert server.ask(GOOD)[0] == 200
