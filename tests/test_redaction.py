"""Secrets in addresses: blotted out of texts, and out of whatever shows or keeps a failure."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from graftgan.console import Safe
from graftgan.errors import DataError, TryAgain
from graftgan.kfp_retry import Attempts
from graftgan.redaction import blotted, has_secret_query, redacted

SECRET = "https://me:pl4nted@host/x.safetensors?X-Signature=pl4nted"


@pytest.mark.parametrize(
    ("key", "value", "safe"),
    [
        ("track.uri", "https://me:pa@ss@host/x", "https://host/x"),
        ("track.uri", "https://me:pa/ss@host/x", "https://host/x"),
        ("data.path", "s3:/me:pa/ss@team/x", "s3:/team/x"),
        ("note", "mail me@host about s3://team/x", "mail me@host about s3://team/x"),
        ("track.uri", "postgresql://me:pass@host:5432/db", "postgresql://host:5432/db"),
        ("track.uri", "sqlite:///.graftgan/mlflow.db", "sqlite:///.graftgan/mlflow.db"),
        ("source", "get https://host/x?signature=abc&y=1 now", "get https://host/x?*** now"),
        ("source", "why does s3://team/x? fail", "why does s3://team/x? fail"),
        ("error", "models:/faces@champion is damaged", "models:/faces@champion is damaged"),
        ("error", "exceeded with url: /x/y?sig=abc&y=1 (Caused by", "exceeded with url: /x/y?*** (Caused by"),
        ("error", "GET /x?y=1&X-Amz-Signature=abc&z=2 failed", "GET /x?y=1&X-Amz-Signature=***&z=2 failed"),
        ("error", "https://host/x#access_token=abc is gone", "https://host/x#access_token=*** is gone"),
        ("error", '{"uri": "https:\\/\\/me:abc@host\\/x"}', '{"uri": "https:\\/\\/host\\/x"}'),
        ("error", "{'Authorization': 'Basic abc=', 'n': 1}", "{'Authorization': 'Basic ***', 'n': 1}"),
        ("error", "authorization: Bearer abc.def", "authorization: Bearer ***"),
        ("error", "no authorization for a;sigma=3", "no authorization for a;sigma=3"),
        ("error", "two: http://a:b@h/x and http://c:d@h/y", "two: http://h/x and http://h/y"),
        ("api_key", "abc", "***"),
        ("finetune.lr_generator", "0.0015", "0.0015"),
    ],
)
def test_secrets_are_blotted_out(key: str, value: str, safe: str) -> None:
    assert redacted(key, value) == safe


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("https://host/x?sig=a", True),
        ("https://host/x?v=1&X-Amz-Signature=a", True),
        ("postgresql://host/db?user=me&password=a", True),
        ("https://host/x?access_token=a", True),
        ("https://host/x?next=http://other/?token=a", True),
        ("sqlite:///x.db?cache=shared", False),
        ("sqlite:///x.db?cache=key==", False),
        ("https://host/token/x", False),
        ("is a token = a key?", False),
    ],
)
def test_queries_that_hold_secrets_are_told_from_others(address: str, secret: bool) -> None:
    assert has_secret_query(address) is secret


def test_failures_hold_no_secrets_in_either_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path))
    error = TryAgain(f"{SECRET} does not answer", f"open {SECRET}")
    assert error.message == "https://host/x.safetensors?*** does not answer"
    assert "pl4nted" not in f"{error} {error!r} {error.args}" and "open https://host/" in error.remedy
    attempts = Attempts.of("rank", "{}", {"KFP_RUN_ID": "run-1"})
    attempts.failed(DataError(f"{SECRET} is damaged", f"replace {SECRET}"))
    assert isinstance(attempts.note, Path)
    assert "https://host/x.safetensors?***" in attempts.note.read_text()
    assert "pl4nted" not in attempts.note.read_text()


def test_messages_and_the_errors_that_they_tell_of_hold_no_secrets() -> None:
    try:
        raise OSError(f"cannot open {SECRET}")
    except OSError:
        record = logging.LogRecord("graftgan", logging.INFO, "", 1, "fetching %s", (SECRET,), sys.exc_info())
    text = Safe().format(record)
    assert text.startswith("fetching https://host/x.safetensors?***\nTraceback")
    assert "pl4nted" not in text and text.count("https://host/") == 2


@pytest.mark.parametrize("error", ["OSError", "RuntimeError"])
def test_what_nobody_foresaw_is_told_without_secrets(error: str) -> None:
    code = (
        "from graftgan import cli\n"
        f"def broken(**_): raise {error}('lost {SECRET}')\n"
        "cli.cli = broken\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "lost https://host/x.safetensors?***" in done.stderr, done.stderr
    assert "pl4nted" not in done.stderr + done.stdout


def test_an_escaped_address_is_blotted_out_as_well() -> None:
    assert "pl4nted" not in blotted(json.dumps({"uri": SECRET})) and blotted(repr([SECRET])).endswith(
        "?***']"
    )


HOSTILE = (
    "://", ":/", ":\\/\\/", "://a?", "://?key", "?sig", "?sig=&", "&", "=", "@://", ":/a:", "authorization",
    "authorization:", "authorization: ", "url: /", "url: /?", "models:/", "x", "?x", "://?&key", "://?=?key",
    "token", "://x?a=b?&",
)  # fmt: skip


def cpu_s(function: Callable[[str], object], text: str) -> float:
    """Least processor time of three calls."""
    times = []
    for _ in range(3):
        begun = time.process_time()
        function(text)
        times.append(time.process_time() - begun)
    return min(times)


@pytest.mark.parametrize("tail", ["", "@", "?", "\n", "'"])
@pytest.mark.parametrize("head", ["", "@", "://", "://?", "authorization:"])
def test_hostile_texts_take_time_in_proportion_to_their_length(head: str, tail: str) -> None:
    short, long = 2_000, 64_000
    for function in (blotted, has_secret_query):
        for part in HOSTILE:
            made = [head + part * (length // len(part)) + tail for length in (short, long)]
            # Some for others on the machine: where time grows with the square, it takes 32 times as long.
            allowed = 8 * (long / short) * cpu_s(function, made[0]) + 0.02
            assert cpu_s(function, made[1]) < allowed, (function.__name__, part)
