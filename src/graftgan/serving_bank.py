"""The registered bank: rows of task and image file in, image files out.

MLflow stores this file as text beside the package (a bank as safetensors, facts as JSON) and runs it to load
the model. Input columns: `task` (text) and `image` (the bytes of a PNG, JPEG, WebP or other image file; over
HTTP base64). Output: a column `image`, a PNG a row at the side that the task was learnt at. A row depends on
itself alone, never on the rest of the request.

Limits: 64 rows a request; an image has at most `BankPackage.max_pixels` pixels, 16 times its task's side in
each direction or 1,024 x 1,024; requests are translated one at a time, and one that waited and worked for
longer than `GRAFTGAN_SERVING_TIMEOUT_S` (50) stops between two images.
"""

from __future__ import annotations

import binascii
import threading
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from graftgan.bank.package import BankPackage, load_bank_package
from graftgan.data.decoding import BadImageError
from graftgan.reporting.sheets import png_bytes
from graftgan.serving_limits import MAX_ROWS, in_time, invalid, timeout_s


class BankModel(PythonModel):
    """A bank of tasks behind MLflow's model interface."""

    package: BankPackage

    def load_context(self, context: Any) -> None:
        """Read the bank and the facts of the package.

        Raises:
            ConfigError: If the limit of a request's time cannot be used.
        """
        timeout_s()
        self.package = load_bank_package(Path(context.artifacts["package"]))
        self._turn = threading.Lock()

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one image a row, as PNG bytes in the column `image`.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE, naming row and column; DEADLINE_EXCEEDED, if it takes
                too long.
        """
        for column in ("task", "image"):
            if column not in model_input:
                raise invalid(f"the column {column} is missing")
        if len(model_input) > MAX_ROWS:
            raise invalid(f"{len(model_input)} rows were sent; at most {MAX_ROWS} are taken at once")
        rows = zip(model_input["task"], model_input["image"], strict=True)
        images = []
        with in_time(self._turn) as check:
            for number, row in enumerate(rows):
                check()
                images.append(self._made(number, *row))
        return pd.DataFrame({"image": images})

    def _made(self, number: int, task: Any, image: Any) -> bytes:
        if task not in self.package.tasks:
            known = ", ".join(self.package.tasks)
            raise invalid(f"row {number}: task is {task!r:.40}; the tasks are {known}")
        try:
            return png_bytes(self.package.translate(task, _bytes(image)))
        except (BadImageError, TypeError, ValueError) as error:
            # Nobody who sends a request has a configuration with that key.
            why = str(error).replace("data.max_pixels", "the limit")
            raise invalid(f"row {number}: image cannot be read: {why}") from None


def _bytes(image: Any) -> bytes:
    """Return the bytes of an image that came as such or, over HTTP, as base64."""
    if isinstance(image, str):
        return binascii.a2b_base64(image, strict_mode=True)
    return bytes(memoryview(image))


set_model(BankModel())
