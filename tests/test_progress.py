from __future__ import annotations

import io
import logging
import re

import pytest
from rich.console import Console

from graftgan import progress
from graftgan.progress import PlainProgress, RichProgress, clock, describe


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.4, "59:59"), (3725, "1:02:05")]
)
def test_durations(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_scores_have_four_digits() -> None:
    assert describe({"kid": 0.0123456, "p": 1.0}) == "kid 0.01235  p 1"
    assert describe({}) == ""


def make_plain() -> tuple[PlainProgress, io.StringIO]:
    stream = io.StringIO()
    return PlainProgress(stream), stream


def test_a_line_every_ten_seconds_and_one_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Clock()
    stream = io.StringIO()
    task = progress.PlainTask("finetune", 1000, 0, stream, started=now.now, shown=now.now)
    monkeypatch.setattr(progress, "time", now)
    now.now += 9
    task.advance(90)
    assert stream.getvalue() == ""
    now.now += 1
    task.advance(10, {"kid": 0.25})
    assert stream.getvalue() == "finetune: 100/1000 images (10 %), 10 img/s, ETA 1:30  kid 0.25\n"
    now.now += 9
    task.advance(90, {"p": 0.5})
    assert stream.getvalue().count("\n") == 1
    now.now += 81
    task.advance(810)
    task.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1] == "finetune: 1000/1000 images (100 %), 10 img/s, ETA 0:00  kid 0.25  p 0.5"


def test_what_was_done_earlier_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Clock()
    stream = io.StringIO()
    task = progress.PlainTask("t", 100, 50, stream, started=now.now, shown=now.now)
    monkeypatch.setattr(progress, "time", now)
    now.now += 10
    task.advance(20)
    assert stream.getvalue() == "t: 70/100 images (70 %), 2 img/s, ETA 0:15\n"


def test_a_task_without_progress_has_no_eta() -> None:
    plain, stream = make_plain()
    plain.task("t", 10).close()
    plain.task("empty", 0).close()
    assert stream.getvalue().splitlines() == [
        "t: 0/10 images (0 %), 0 img/s, ETA -",
        "empty: 0/0 images (0 %), 0 img/s, ETA -",
    ]


def test_plain_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    PlainProgress().task("t", 1).close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("t: 0/1 images")


def test_bars_show_speed_eta_and_scores() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with RichProgress(console) as bars:
        task = bars.task("finetune", 1000, 200)
        for _ in range(4):
            task.advance(100, {"kid": 0.0125})
        task.advance(100, {"p": 0.25})
        task.close()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).splitlines()[-1]
    for part in ("finetune", "700/1000", "img/s", "ETA", "kid 0.0125  p 0.25"):
        assert part in text
    assert re.search(r"[1-9]\d* img/s", text)


def test_bars_without_a_terminal_write_no_escapes() -> None:
    console = Console(file=io.StringIO(), width=120)
    with RichProgress(console) as bars:
        bars.task("t", 10).advance(10)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in shown
    assert "10/10" in shown


def test_log_lines_go_above_the_bars_as_they_are() -> None:
    console = Console(file=io.StringIO(), width=120)
    log = logging.getLogger("test_progress")
    log.propagate = False
    with RichProgress(console) as bars:
        log.handlers = [bars.handler()]
        bars.task("[bold]t[/bold]", 10)
        log.warning("[red]x[/red] is no markup")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]x[/red] is no markup" in shown
    assert shown.index("markup") < shown.index("0/10")
