"""The registered bank: rows of task and image file in, image files out.

MLflow stores this file as text beside the package (a bank as safetensors, facts as JSON) and runs it to load
the model. Input columns: `task` (text) and `image` (the bytes of a PNG, JPEG, WebP or other image file; over
HTTP base64). Output: a column `image`, a PNG a row at the side that the task was learnt at. A row depends on
itself alone, never on the rest of the request.
"""

from __future__ import annotations

import binascii
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from graftgan.bank.package import BankPackage, load_bank_package
from graftgan.data.decoding import BadImageError
from graftgan.reporting.sheets import png_bytes

MAX_ROWS = 64


def invalid(message: str) -> Exception:
    """Return the error that a server answers with INVALID_PARAMETER_VALUE."""
    error: Exception = MlflowException.invalid_parameter_value(message)
    return error


class BankModel(PythonModel):
    """A bank of tasks behind MLflow's model interface."""

    package: BankPackage

    def load_context(self, context: Any) -> None:
        """Read the bank and the facts of the package."""
        self.package = load_bank_package(Path(context.artifacts["package"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one image a row, as PNG bytes in the column `image`.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE, naming row and column.
        """
        for column in ("task", "image"):
            if column not in model_input:
                raise invalid(f"the column {column} is missing")
        if len(model_input) > MAX_ROWS:
            raise invalid(f"{len(model_input)} rows were sent; at most {MAX_ROWS} are taken at once")
        rows = zip(model_input["task"], model_input["image"], strict=True)
        return pd.DataFrame({"image": [self._made(number, *row) for number, row in enumerate(rows)]})

    def _made(self, number: int, task: Any, image: Any) -> bytes:
        if task not in self.package.tasks:
            known = ", ".join(self.package.tasks)
            raise invalid(f"row {number}: task is {task!r}; the tasks are {known}")
        try:
            return png_bytes(self.package.translate(task, _bytes(image)))
        except (BadImageError, TypeError, binascii.Error) as error:
            raise invalid(f"row {number}: image cannot be read: {error}") from None


def _bytes(image: Any) -> bytes:
    """Return the bytes of an image that came as such or, over HTTP, as base64."""
    if isinstance(image, str):
        return binascii.a2b_base64(image, strict_mode=True)
    return bytes(memoryview(image))


set_model(BankModel())
