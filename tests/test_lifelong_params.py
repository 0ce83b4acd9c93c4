from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graftgan.errors import ConfigError, MissingInput
from graftgan.lifelong_config import TaskData, Translate
from graftgan.lifelong_params import load_section, resolve_section


def test_a_description_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("target: data/micah.parquet\nmake: edges\nsplit:\n  test: 0.25\n", encoding="utf-8")
    data = load_section(path, TaskData)
    assert data == TaskData.model_validate(
        {"target": "data/micah.parquet", "make": "edges", "split": {"test": 0.25}}
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"target": "a", "make": "edges", "lowers_factor": 2},
            "here: unknown key 'lowers_factor'.*lowres_factor",
        ),
        (
            {"target": "a", "make": "edges", "split": {"test": 2}},
            "here: split.test: Input should be less than 1",
        ),
        ({"make": "edges"}, "here: target: Field required.*Folder, zip or parquet"),
        ({"target": "a"}, "here: .*either input or make"),
        (["a"], "here holds a list"),
        (None, "here holds a NoneType"),
    ],
)
def test_errors_name_the_place_and_the_key(raw: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_section(raw, TaskData, "here")
    import re

    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"gone\.yaml cannot be read"):
        load_section(tmp_path / "gone.yaml", Translate)
    (tmp_path / "bad.yaml").write_text("a: [1", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.yaml is not YAML"):
        load_section(tmp_path / "bad.yaml", Translate)
    (tmp_path / "lr.yaml").write_text("lr: -1", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"lr\.yaml: lr: Input should be greater than 0"):
        load_section(tmp_path / "lr.yaml", Translate)
