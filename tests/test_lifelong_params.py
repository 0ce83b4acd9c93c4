from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftgan.errors import ConfigError, MissingInput
from graftgan.lifelong_config import LifelongParams, LifelongTask, TaskData, Translate
from graftgan.lifelong_params import (
    dumps_lifelong,
    load_lifelong,
    load_section,
    loads_lifelong,
    resolve_section,
)
from graftgan.params import config_digest, keys, override
from graftgan.stages.lifelong_specs import lifelong_paths, lifelong_stages


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


def write_list(path: Path, **sections: Any) -> Path:
    grey = {"data": {"target": "pictures", "make": "grey"}}
    edges = {"data": {"target": "pictures", "make": "edges"}, "init": "warm:grey", "train": {"batch": 3}}
    raw = {"tasks": {"grey": grey, "edges": edges}, "train": {"lr": 0.001}, **sections}
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return path


def test_a_list_keeps_its_order_and_each_task_has_its_recipe(tmp_path: Path) -> None:
    params = load_lifelong(write_list(tmp_path / "p.yaml"), ["tasks.grey.init=random", "bank.ngf=8"])
    assert list(params.tasks) == ["grey", "edges"] and params.bank.ngf == 8
    assert params.recipe("grey") == Translate(lr=0.001)
    assert params.recipe("edges") == Translate(lr=0.001, batch=3)
    assert loads_lifelong(dumps_lifelong(params), ["registry.gate=off"]).registry.gate == "off"
    assert list(loads_lifelong(dumps_lifelong(params)).tasks) == ["grey", "edges"]


def test_a_budget_of_one_task_takes_the_place_of_the_common_one(tmp_path: Path) -> None:
    path = write_list(tmp_path / "p.yaml", train={"budget": {"epochs": 3}})
    params = load_lifelong(path, ["tasks.edges.train={budget: {kimg: 1}}"])
    assert params.recipe("grey").budget.epochs == 3.0
    assert (params.recipe("edges").budget.kimg, params.recipe("edges").budget.epochs) == (1.0, None)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("bank.ngf", "has no '='"),
        ("tasks.gone.init=random", "has no such task.*the tasks are grey, edges"),
        ("tasks.grey={}", "tasks.grey.data: Field required.*Its images"),
        ("tasks={}", "at least 1 item"),
        ("tasks=5", "tasks: Input should be a valid dictionary.*The tasks by name"),
        ("tasks.edges.init=hot", "tasks.edges.init: String should match.*warm:TASK"),
        ("tasks.edges.init=warm:edges", "the earlier tasks are: grey"),
        ("tasks.edges.train={lrr: 1}", "lrr"),
        ("tasks.edges.data.mak=grey", "unknown key 'tasks.edges.data.mak'.*tasks.NAME.data.make"),
        ("bank.generator=unet_256", "tasks.grey.data.resolution must be a multiple of 256"),
        ("bank.shares=0.5", "unknown key 'bank.shares'.*bank.share"),
        ("bank.share=1.5", "bank.share"),
        ("registry.gate=maybe", "registry.gate: Input should be 'off'.*off always promotes"),
        ("tasks.grey.init=[1", "is not YAML"),
    ],
)
def test_what_does_not_fit_a_list_is_named(tmp_path: Path, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_lifelong(write_list(tmp_path / "p.yaml"), [assignment])
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


@pytest.mark.parametrize(
    ("tasks", "known"), [(5, "none"), (["grey"], "none"), ({1: {}}, "1"), (None, "none")]
)
def test_a_key_of_a_task_is_refused_where_the_tasks_are_no_mapping_of_names(
    tmp_path: Path, tasks: Any, known: str
) -> None:
    with pytest.raises(ConfigError, match=rf"has no such task\s.*the tasks are {known}"):
        load_lifelong(write_list(tmp_path / "p.yaml", tasks=tasks), ["tasks.grey.init=random"])


def test_names_that_cannot_be_files_are_refused(tmp_path: Path) -> None:
    task = {"data": {"target": "pictures", "make": "grey"}}
    with pytest.raises(ConfigError, match="should match pattern"):
        load_lifelong(write_list(tmp_path / "p.yaml", tasks={"../grey": task}))


def test_texts_that_are_no_list_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds a list, not a mapping"):
        load_lifelong(tmp_path / "list.yaml")
    with pytest.raises(ConfigError, match="is not JSON"):
        loads_lifelong("{")
    with pytest.raises(MissingInput, match=r"gone\.yaml cannot be read"):
        load_lifelong(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("sections", "part"),
    [
        ({"track": {"uri": "https://me:s3cr3t@host"}}, "track.uri is an address with a user or password"),
        ({"track": {"experiment": "\ud800"}}, "track.experiment holds half a character"),
    ],
)
def test_texts_that_may_not_be_written_down_are_refused(sections: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_section(
            {"tasks": {"a": {"data": {"target": "p", "make": "grey"}}}, **sections}, LifelongParams, "x"
        )
    assert part in caught.value.message and "s3cr3t" not in str(caught.value)


def test_a_text_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ConfigError, match="configuration text is not JSON"):
        loads_lifelong('{"a":' * 100_000)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    PLAIN, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3)
)
LIST_KEYS = [key for key, _ in keys(LifelongParams)]
TASK_KEYS = [f"tasks.grey.{key}" for key, _ in keys(LifelongTask)]


def plain_list() -> dict[str, Any]:
    grey, edges = ({"data": {"target": "pictures", "make": make}} for make in ("grey", "edges"))
    return {"tasks": {"grey": grey, "edges": {**edges, "init": "warm:grey"}}}


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from([*LIST_KEYS, *TASK_KEYS]), value=VALUES | PLAIN)
def test_any_value_of_any_key_of_a_list_is_taken_or_refused(key: str, value: object) -> None:
    raw = plain_list()
    override(raw, key, value)
    try:
        params = resolve_section(raw, LifelongParams, "test")
    except ConfigError as error:
        assert "test" in error.message and error.remedy
        return
    assert loads_lifelong(dumps_lifelong(params)) == params
    assert all(params.recipe(name).batch for name in params.tasks)
    stages = lifelong_stages(tuple(params.tasks))
    assert all(len(config_digest(params, spec.params)) == 64 for spec in stages)


@settings(max_examples=200, deadline=None)
@given(name=st.text() | st.text(alphabet="ab-_.:/ \\0A9"), warm=st.text(max_size=5))
def test_a_task_of_any_name_is_a_folder_or_refused(name: str, warm: str) -> None:
    raw = plain_list()
    raw["tasks"] |= {name: {"data": {"target": "pictures", "make": "grey"}, "init": f"warm:{warm}"}}
    try:
        params = resolve_section(raw, LifelongParams, "test")
    except ConfigError as error:
        assert "test" in error.message and error.remedy
        return
    assert warm in list(params.tasks)[: list(params.tasks).index(name)]
    for spec in lifelong_stages(tuple(params.tasks)):
        for path in lifelong_paths(spec, Path("out"))[1].values():
            assert Path("out") in path.parents and ".." not in path.parts


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from([key for key, _ in keys(TaskData)]), value=VALUES | PLAIN)
def test_any_value_of_any_key_of_a_task_is_taken_or_refused(key: str, value: object) -> None:
    raw: dict[str, Any] = {"target": "pictures", "make": "grey"}
    override(raw, key, value)
    try:
        data = resolve_section(raw, TaskData, "test")
    except ConfigError as error:
        assert "test" in error.message and error.remedy
        return
    assert resolve_section(data.model_dump(mode="json"), TaskData, "test") == data


ODD = st.text() | st.text(alphabet="[]{}:,-&*!|>'\"#%@ \n\t\\0123456789.eabdu")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=ODD, raw=st.binary(max_size=20))
def test_any_text_is_a_list_and_a_task_or_refused(tmp_path: Path, text: str, raw: bytes) -> None:
    path = write_list(tmp_path / "list.yaml")
    later = "tasks.grey.init=random"
    for assignment in (text, f"tasks.grey.data.target={text}", f"tasks={text}", f"{text}=1"):
        for assignments in ([assignment], [assignment, later]):
            try:
                load_lifelong(path, assignments)
            except ConfigError as error:
                assert error.message
    for content in (raw, text.encode("utf-8", "surrogatepass")):
        path.write_bytes(content)
        for assignments in ([], [later]):
            with suppress(ConfigError):
                load_lifelong(path, assignments)
        with suppress(ConfigError):
            load_section(path, TaskData)
    with suppress(ConfigError):
        loads_lifelong(text)
