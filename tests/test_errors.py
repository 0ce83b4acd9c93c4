from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from graftgan import errors
from graftgan.params import keys
from graftgan.stages.specs import STAGES

SOURCE = Path(errors.__file__).parent
# Other words with a dot before a section's name, as in a path or a module, are no keys.
KEY = re.compile(
    r"(?<![\w./-])(?:data|rank|finetune|evaluate|report|registry|track|runtime)(?:\.[a-z][a-z0-9_]*)+"
)
FILES = {"data.pkl", "report.js", "report.css", "report.html.j2"}

CODES = {
    "GraftganError": 1,
    "ConfigError": 2,
    "ProtocolMismatch": 2,
    "DataError": 3,
    "MissingInput": 4,
    "CheckpointError": 5,
    "TryAgain": 75,
    "Interrupted": 143,
}


def test_each_failure_has_the_exit_code_of_the_contract() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, BaseException)]
    assert {kind.__name__: kind.exit_code for kind in kinds if kind is not errors.Ending} == CODES
    assert all(issubclass(kind, errors.Ending) for kind in kinds)
    failures = {kind.__name__ for kind in kinds if issubclass(kind, Exception)}
    assert failures == {kind.__name__ for kind in kinds if issubclass(kind, errors.GraftganError)}
    assert failures == CODES.keys() - {"Interrupted"}


def test_the_remedy_stands_on_its_own_line() -> None:
    assert str(errors.DataError("a.png is cut off", "remove it")) == "a.png is cut off\n  fix: remove it"
    assert str(errors.DataError("a.png is cut off")) == "a.png is cut off"


@pytest.mark.parametrize("name", CODES)
def test_errors_cross_processes_whole(name: str) -> None:
    error = getattr(errors, name)("what", "how")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.remedy) == (type(error), "what", "how")
    assert copy.exit_code == CODES[name]


def said(file: Path) -> Iterator[str]:
    """Yield the texts of a module that are no docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


def test_every_key_that_a_message_names_is_in_the_schema() -> None:
    known = {key for key, _ in keys()} | FILES
    known |= {f"{stage.name}.{port.name}" for stage in STAGES for port in stage.outputs}
    known |= {f"{stage.name}.result" for stage in STAGES}
    named = [
        (str(file.relative_to(SOURCE)), key)
        for file in sorted(SOURCE.rglob("*.py"))
        for text in said(file)
        for key in KEY.findall(text)
    ]
    assert len({key for _, key in named}) > 60
    assert [(file, key) for file, key in named if key not in known] == []
