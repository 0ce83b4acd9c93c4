"""The targets for banks, adapters, records of earlier work, and the bodies of requests to served models."""

from __future__ import annotations

import functools
import itertools
import json
from typing import Any

import numpy as np
import pandas as pd
from fuzz.targets import FOLDER_CUT, harmless, place

from graftgan.bank.manifest import NAME
from graftgan.bank.store import FILTERS, Bank
from graftgan.bank.tasks import load_task
from graftgan.checkpoints.adapters import read_adapter
from graftgan.contract import Result, canonical_json, digest_text, read_json
from graftgan.errors import GraftganError, MissingInput
from graftgan.study.units import made_by
from graftgan.transfer.adapters import parts

SIDE_PX = 32
CLASSES = 3
TASKS = ("day", "night")


def refused(error: GraftganError) -> None:
    """A refusal says by its exit code that the input is at fault, in a line, and what to do."""
    assert error.exit_code in (2, 3, 4, 5) and error.message and error.remedy, repr(error)


def _sealed(text: bytes) -> bytes:
    """Return a manifest as it is written, so that inputs come past its digest; else the bytes themselves."""
    try:
        values = json.loads(text)
        values["sha256"] = digest_text(canonical_json(values))
        return json.dumps(values, sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"
    except (ValueError, TypeError, RecursionError):
        return text


def bank(data: bytes) -> None:
    """A bank is opened and its tasks are loaded, or it is refused.

    A manifest without digest, the files of layers in turn, and the file of every task, with `--` between.
    """
    manifest, *filters = data.split(FOLDER_CUT)
    own = filters.pop() if filters else b""
    folder = place() / "bank-of-others"
    for name in (FILTERS, "tasks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_bytes(_sealed(manifest))
    try:
        with harmless():
            opened = Bank(folder)
    except GraftganError as error:
        refused(error)
        return
    for layer, rows in zip(opened.layers, itertools.cycle(filters or [b""]), strict=False):
        opened.filter_path(layer.name).write_bytes(rows)
    for task in opened.tasks:
        (folder / task.file).write_bytes(own)
        try:
            with harmless():
                for layer in opened.layers:
                    assert len(opened.rows(layer, task.index)) == layer.rows_after(task.index)
                load_task(opened, task.name)
        except GraftganError as error:
            refused(error)


def adapter(data: bytes) -> None:
    """A file of an adapter is read and told of, or refused."""
    path = place() / "adapter.safetensors"
    path.write_bytes(data)
    try:
        with harmless():
            found = read_adapter(path)
            told = [found.values, parts(found), found.after, found.prior and found.prior.note]
    except GraftganError as error:
        refused(error)
    else:
        json.dumps([found.spec, found.settings, found.origin, told])


def record(data: bytes) -> None:
    """What a stage or a unit of a study left is read, or refused as if it were not there."""
    path = place() / "record.json"
    path.write_bytes(data)
    for read in (read_json, Result.read):
        try:
            with harmless():
                found = read(path)
        except MissingInput as error:
            refused(error)
        else:
            if isinstance(found, dict):
                assert isinstance(made_by([found, {}]), str)


@functools.cache
def _served() -> tuple[Any, Any]:
    """Models that are served, with networks that make nothing."""
    import threading
    from types import SimpleNamespace

    from graftgan.data.decoding import DecodeOptions, decode
    from graftgan.serving import GraftganModel
    from graftgan.serving_bank import BankModel

    image = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    spec = SimpleNamespace(resolution=SIDE_PX, channels=3, classes=CLASSES)
    options = DecodeOptions(SIDE_PX, 3, "crop", "lanczos", "#ffffff", 1 << 20, 1 << 20)
    plain, tasks = GraftganModel(), BankModel()
    plain.package = SimpleNamespace(spec=spec, truncation_default=0.7, sample=lambda *_: image[None])
    tasks.package = SimpleNamespace(tasks=TASKS, translate=lambda _, data: decode(data, options).pixels)
    for model in (plain, tasks):
        model._turn = threading.Lock()
    return plain, tasks


def request(data: bytes) -> None:
    """Rows of a request are answered, or refused as a fault of who sent them."""
    from mlflow.exceptions import MlflowException

    try:
        rows = pd.DataFrame(json.loads(data))
    except (ValueError, TypeError, RecursionError, AttributeError, OverflowError):
        # MLflow's server refuses them, before a model is asked.
        return
    for model in _served():
        try:
            with harmless():
                made = model.predict(None, rows)
        except MlflowException as error:
            assert error.error_code == "INVALID_PARAMETER_VALUE", repr(error)
            assert len(str(error)) < 500, repr(error)
        else:
            assert len(made) == len(rows)
