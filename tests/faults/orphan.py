"""A parent with two workers that tell their ids and sleep: `python -m faults.orphan FOLDER`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from graftgan.context import Context
from graftgan.parallel import run_all


def work(number: int, ctx: Context) -> int:
    """Write this process's id, and be busy."""
    (ctx.state / f"{number}.part").write_text(str(os.getpid()))
    (ctx.state / f"{number}.part").rename(ctx.state / str(number))
    time.sleep(60)
    return number


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run_all(work, [0, 1], Context(folder, folder), 1, 2)
