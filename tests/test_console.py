from __future__ import annotations

import logging

import pytest

from graftgan.console import say_plainly


@pytest.mark.parametrize("verbose", [False, True])
def test_messages_go_plain_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verbose: bool
) -> None:
    logger = logging.getLogger("graftgan")
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    say_plainly(verbose)
    say_plainly(verbose)
    for level, text in ((logging.DEBUG, "seen"), (logging.INFO, "done"), (logging.ERROR, "lost")):
        logger.log(level, "%s at last", text)
    told = capsys.readouterr()
    assert told.err == "seen at last\n" * verbose + "done at last\nerror: lost at last\n"
    assert told.out == ""
