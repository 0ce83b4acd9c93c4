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
from test_serving_bank import packaged

from benchmarks.serving import Request, Server, bank, flat, grew, load, records, serving
from graftgan.bank.package import load_bank_package

BANK = bank(("t1", "t2"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return packaged(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(place: Any) -> Iterator[Server]:
    with serving(place, place.parent / "log") as running:
        yield running


def test_requests_get_the_bank_s_own_pixels(server: Server, place: Any) -> None:
    picture = flat(20, 16)
    sent = base64.b64encode(picture).decode()
    status, body = server.ask(Request("", records(*({"task": task, "image": sent} for task in ("t1", "t2")))))
    assert status == 200, body[:500]
    package = load_bank_package(place)
    for task, made in zip(("t1", "t2"), json.loads(body)["predictions"], strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(made["image"]))))
        assert np.array_equal(pixels, package.translate(task, picture))


@pytest.mark.parametrize("request_", BANK.malformed, ids=lambda request: request.name)
def test_a_malformed_request_gets_a_4xx_and_the_next_is_served(server: Server, request_: Request) -> None:
    status, body = server.ask(request_)
    assert status == request_.status, body[:500]
    assert 400 <= status < 500 and len(body) < 20_000
    assert b"Traceback" not in body and b"root:" not in body
    assert server.ask(BANK.good(0))[0] == 200


def test_sixty_requests_of_load_are_answered_as_they_deserve(server: Server) -> None:
    found = load(server, BANK, requests=60, clients=2)
    assert found.wrong == [] and found.statuses[200] == 54 and sum(found.statuses.values()) == 60
    assert sorted(found.memory_mb) == list(range(1, 61)), "the memory is read during the load"


@pytest.mark.nightly
def test_a_thousand_requests_leave_the_memory_flat(server: Server) -> None:
    found = load(server, BANK, requests=1000, clients=2)
    print(json.dumps(found.facts()))
    assert found.wrong == [] and found.statuses[200] == 900
    assert not grew(found.facts()["memory_course"]), found.memory_mb
