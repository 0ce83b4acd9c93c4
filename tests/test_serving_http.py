"""A model behind `graftgan serve` and `mlflow models serve`: pictures, malformed requests, load."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from stages.models import tiny_gan
from test_serving import save

from benchmarks.serving import (
    GENERATOR,
    GUARDED,
    MALFORMED,
    Request,
    Server,
    course,
    good,
    grew,
    load,
    records,
    serving,
    table,
)
from graftgan.connections import HEADERS_S
from graftgan.gans.base import sample
from graftgan.server import MAX_CONNECTIONS


@pytest.fixture(scope="module", params=["graftgan serve", "mlflow models serve"])
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    model = save(folder, tiny_gan(1))
    with serving(model, folder / "log", guarded=request.param == "graftgan serve") as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a package folder, as the register stage leaves it."""
    folder = tmp_path_factory.mktemp("guarded")
    save(folder, tiny_gan(1))
    with serving(folder / "package", folder / "log") as running:
        yield running


def images(answer: tuple[int, bytes]) -> Any:
    status, body = answer
    assert status == 200, body[:500]
    return np.array(json.loads(body)["predictions"], np.uint8)


def test_requests_get_the_model_s_own_pixels(server: Server) -> None:
    body = records({"seed": 5, "truncation_psi": 1.0}, {"seed": 2**62}, {"seed": 5, "truncation_psi": 0.0})
    ema = tiny_gan(1).generator_ema
    expected = np.concatenate([sample(ema, 1, 5, 1.0), sample(ema, 1, 2**62, 0.7), sample(ema, 1, 5, 0.0)])
    assert np.array_equal(images(server.ask(Request("", body))), expected)


def test_a_seed_gives_the_same_pixels_alone_in_company_and_at_once(server: Server) -> None:
    alone = images(server.ask(Request("", records({"seed": 9}))))[0]
    company = images(server.ask(Request("", records({"seed": 1}, {"seed": 9}, {"seed": 2}))))[1]
    assert np.array_equal(alone, company)
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda _: images(server.ask(Request("", records({"seed": 9}))))[0], range(8)))
    assert all(np.array_equal(alone, each) for each in at_once)


def test_a_table_as_csv_is_taken_too(server: Server) -> None:
    answer = images(server.ask(Request("", b"seed,truncation_psi\n5,1.0\n", content_type="text/csv")))
    assert np.array_equal(answer, sample(tiny_gan(1).generator_ema, 1, 5, 1.0))


@pytest.mark.parametrize("request_", MALFORMED, ids=lambda request: request.name)
def test_a_malformed_request_gets_a_4xx_and_the_next_is_served(server: Server, request_: Request) -> None:
    status, body = server.ask(request_)
    assert status == request_.status, body[:500]
    assert 400 <= status < 500 and len(body) < 20_000
    assert b"Traceback" not in body
    assert server.ask(good(0))[0] == 200


def test_the_answer_names_row_and_column(server: Server) -> None:
    _, body = server.ask(Request("", records({"seed": 1}, {"seed": -1})))
    assert "row 1: seed is -1; it must be a whole number from 0 to" in json.loads(body)["message"]


@pytest.mark.parametrize("request_", GUARDED, ids=lambda request: request.name)
def test_the_guard_answers_what_mlflow_s_reader_fails_at(guarded: Server, request_: Request) -> None:
    status, body = guarded.ask(request_)
    assert status == request_.status, body[:500]
    assert json.loads(body)["error_code"] == "BAD_REQUEST"
    assert guarded.ask(good(0))[0] == 200


def test_silent_connections_keep_a_server_busy_for_seconds_only(guarded: Server) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS - 1):
            stack.enter_context(socket.create_connection(("127.0.0.1", guarded.port)))
        assert guarded.ask(good(0))[0] == 503
        time.sleep(HEADERS_S + 2)
        assert guarded.ask(good(0))[0] == 200


def test_sixty_requests_of_load_are_answered_as_they_deserve(guarded: Server) -> None:
    found = load(guarded, GENERATOR, requests=60, clients=2)
    assert found.wrong == [] and found.statuses[200] == 54 and sum(found.statuses.values()) == 60
    assert found.facts()["latency_ms"]["median"] > 0
    assert sorted(found.memory_mb) == list(range(1, 61)), "the memory is read during the load"
    assert f"{found.facts()['memory_course']['second_half_kb_per_request']:g} kB a request" in table(
        found.facts()
    )


@pytest.mark.parametrize(
    ("kb_per_request", "leaks"), [(0.0, False), (5.0, False), (60.0, True)], ids=["flat", "gaps", "leak"]
)
def test_a_slope_tells_a_leak_from_pools_that_fill(kb_per_request: float, leaks: bool) -> None:
    memory_mb = {n: 400.0 + min(n, 200) * 0.2 + n * kb_per_request / 1000 for n in range(25, 1001, 25)}
    way = course(memory_mb)
    assert way["readings"] == 40 and way["second_half_kb_per_request"] == pytest.approx(kb_per_request)
    assert grew(way) == leaks


@pytest.mark.nightly
def test_a_thousand_requests_leave_the_memory_flat(guarded: Server) -> None:
    found = load(guarded, GENERATOR, requests=1000, clients=2)
    print(json.dumps(found.facts()))
    assert found.wrong == [] and found.statuses[200] == 900
    assert not grew(found.facts()["memory_course"]), found.memory_mb
