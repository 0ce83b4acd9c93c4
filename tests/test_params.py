from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from graftgan import params as parameters
from graftgan.config import Params
from graftgan.contract import canonical_json
from graftgan.errors import ConfigError, MissingInput
from graftgan.params import config_digest, find, flatten, keys, leaves, load, loads, override, resolve
from graftgan.stages.specs import STAGES

KEYS = [key for key, _ in keys()]
LEAVES = list(flatten(Params().model_dump(mode="json")))
SHIPPED = Path(__file__).parents[1] / "params.yaml"


def refusal(*assignments: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(None, assignments)
    assert caught.value.exit_code == 2
    return caught.value


def test_the_shipped_parameters_fit() -> None:
    given = flatten(yaml.safe_load(SHIPPED.read_text()))
    resolved = flatten(load(SHIPPED).model_dump(mode="json"))
    assert given
    assert {key: resolved[key] for key in given} == given


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("data.resoluton", "data.resolution"),
        ("finetune.budget.kim", "finetune.budget.kimg"),
        ("kimg", "finetune.budget.kimg"),
        ("finetune.extractor", "finetune.validation_extractor"),
        ("evaluate.sample", "evaluate.samples"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(key: str, suggestion: str) -> None:
    raw: dict[str, Any] = {}
    parameters.override(raw, key, 1)
    for call in (lambda: resolve(raw, "params.yaml"), lambda: load(None, [f"{key}=1"]), lambda: find(key)):
        with pytest.raises(ConfigError) as caught:
            call()
        assert repr(key) in caught.value.message
        assert suggestion in caught.value.remedy


def test_a_key_like_no_other_points_to_the_list() -> None:
    assert "config show" in refusal("xyzzy=1").remedy


def test_all_wrong_keys_are_named_at_once() -> None:
    raw = {"data": {"resolution": 33, "chanels": 3}, "finetune": {"batch": "many"}}
    with pytest.raises(ConfigError) as caught:
        resolve(raw, "my.yaml")
    for part in ("my.yaml", "data.resolution", "data.chanels", "finetune.batch", "given 33", "given 'many'"):
        assert part in caught.value.message
    for part in ("data.channels", "config explain data.resolution", "config explain finetune.batch"):
        assert part in caught.value.remedy


@pytest.mark.parametrize(
    "assignment",
    [
        "data.resolution=48", "data.channels=2", "data.path=[a]", "data.path=3",
        "data.background=white",
        "data.split.test=1.0", "data.split.test=-0.1", "data.train_images=0", "data.seed=-1",
        "data.seed=x",
        "data.seed=true", "data.seed=1.5", "data.near_duplicate_bits=17", "data.fit=zoom",
        "data=3", "data=null",
        "rank.samples=9", "rank.sources=micah", "rank.sources=[1]", "finetune.budget.kimg=0",
        "finetune.batch=1",
        "finetune.lr_generator=0", "finetune.lr_generator=.inf", "finetune.lr_generator=.nan",
        "finetune.r1_gamma=-1", "finetune.controls=[best]", "finetune.precision=fp8", "finetune.flip=2",
        "evaluate.truncation_psi=1.1", "evaluate.confidence=1", "evaluate.confidence=0.5", "report.grid=1",
        "registry.name='a b'", "registry.gate.mode=on", "track.timeout_s=0", "track.mode=false",
        "runtime.workers=0", "finetune.budget={}", "data.split={validation: 0.5, test: 0.5}",
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_key(assignment: str) -> None:
    key = assignment.partition("=")[0]
    error = refusal(assignment)
    assert key.rsplit(".", 1)[0] in error.message
    assert "given " in error.message
    assert "config explain" in error.remedy


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("data.train_images=25", 25), ("data.train_images=null", None), ("rank.sources=[a, b]", ["a", "b"]),
        ("finetune.lr_generator=1e-3", 1e-3), ("finetune.budget={minutes: 2}", {"minutes": 2.0}),
        ("track.mode=off", "off"), ("registry.gate.mode=off", "off"), ("finetune.flip=false", False),
        ("finetune.flip=no", False), ("data.path=a=b", "a=b"), ("data.path='7'", "7"), (" data.seed = 3 ", 3),
        ("data.background='#00ff00'", "#00ff00"), ("evaluate.samples=16", 16),
        ("evaluate.truncation_psi=0", 0.0), ("data.near_duplicate_bits=16", 16),
    ],
)  # fmt: skip
def test_assignments_are_yaml(assignment: str, value: Any) -> None:
    key = assignment.partition("=")[0].strip()
    found: Any = load(None, [assignment]).model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    if isinstance(value, dict):
        found = {name: found[name] for name in value}
    assert found == value


def test_later_assignments_win_and_keep_what_they_do_not_name(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("data: {seed: 4, resolution: 64}\n")
    params = load(path, ["data.seed=5", "data.seed=6"])
    assert (params.data.seed, params.data.resolution) == (6, 64)


def test_malformed_assignments_say_so() -> None:
    assert "no '='" in refusal("data.seed").message
    assert "not YAML" in refusal("data.path=[a").message


def test_files_that_are_no_parameters(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"absent\.yaml does not exist"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(MissingInput, match="cannot be read"):
        load(tmp_path)
    path = tmp_path / "p.yaml"
    for content in (b"data: [", b"\xff\xfe", b"- data", b"just text", b"1: 2", b"data: {1: 2}"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"p\.yaml"):
            load(path)
    path.write_text("")
    assert load(path) == Params()


def test_canonical_json_text_is_read_back_equal() -> None:
    params = load(None, ["data.path=größe.zip", "rank.sources=[a]", "finetune.budget.kimg=0.1"])
    text = canonical_json(params.model_dump(mode="json"))
    assert loads(text) == params
    assert loads(text, ["data.seed=9"]).data.seed == 9
    assert loads("") == loads("{}") == Params()
    for wrong in ("{", "[]", "3"):
        with pytest.raises(ConfigError, match="JSON"):
            loads(wrong)


def test_sections_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Params().data.seed = 3  # type: ignore[misc]


def test_leaves_take_sections_and_single_keys_but_no_prefixes_of_words() -> None:
    params = Params()
    assert leaves(params, ["data.seed"]) == {"data.seed": 0}
    assert set(leaves(params, ["data.split", "report"])) == {
        "data.split.validation",
        "data.split.test",
        "report.title",
        "report.grid",
    }
    assert leaves(params, ["data.see"]) == {}
    assert leaves(params, []) == {}
    assert len(leaves(params, list(Params.model_fields))) == len(LEAVES)


def test_flatten_keeps_empty_mappings_and_lists() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [1, {"f": 2}]}) == {
        "a.b.c": 1,
        "a.d": {},
        "e": [1, {"f": 2}],
    }


def changed(key: str, value: Any) -> Any:
    """Return another value that the key takes, so that every key can be tried."""
    options = {
        "data.resolution": 64, "data.channels": 1, "data.fit": "pad", "data.resize_filter": "box",
        "data.background": "#000000", "data.on_bad_image": "skip", "rank.sources": ["a"],
        "finetune.penalties": ["bsd"], "finetune.prior": "gmm", "finetune.mixture.schedule": "cosine",
        "finetune.target_class.rows": "soft", "finetune.target_class.classifier": "x",
        "rank.selector": "recall",
        "finetune.filter_transfer.head": "small", "finetune.class_embedding.use": "repair",
        "finetune.class_embedding.classes": [1], "finetune.class_embedding.objective": "probe",
        "finetune.class_embedding.classifier": "x", "finetune.class_embedding.classifier_classes": [1],
        "finetune.class_embedding.judge_classifier": "x",
        "finetune.class_embedding.diversity": "pixelwise", "finetune.class_embedding.init": ["top"],
        "finetune.cdc.patch_px": [8, 16], "finetune.gan_memory.compress.keep": [0.5] * 5,
        "finetune.gan_memory.compress.earlier": ["x"],
        "finetune.controls": ["scratch"], "finetune.augment": "none", "finetune.precision": "fp32",
        "registry.gate.mode": "off", "track.mode": "off", "runtime.inception_weights": "x",
        "runtime.profile": "x",
    }  # fmt: skip
    if key in options:
        return options[key]
    match value:
        case bool():
            return not value
        case None:
            return 7
        case str():
            return value + "x"
        case int():
            return value + 1
        case _:
            return value * 0.9 if value else 0.5


@pytest.mark.parametrize("key", LEAVES)
def test_a_digest_changes_with_each_of_its_keys_and_no_other(key: str) -> None:
    params = Params()
    value = leaves(params, [key])[key]
    raw = params.model_dump(mode="json")
    parameters.override(raw, key, changed(key, value))
    other = resolve(raw, "test")
    for spec in STAGES:
        own = any(key == p or key.startswith(f"{p}.") for p in spec.params)
        differ = config_digest(params, spec.params) != config_digest(other, spec.params)
        assert differ is own, (key, spec.name)


def test_digests_do_not_depend_on_how_values_were_written() -> None:
    spec = ("data", "finetune")
    ways = [
        loads('{"data":{"seed":0},"finetune":{"lr_generator":0.002}}'),
        load(None, ["finetune.lr_generator=2.0e-3", "data.split={test: 0.2, validation: 0.1}"]),
        resolve({"finetune": {"lr_generator": "0.002", "budget": {"kimg": 24}}}, "x"),
    ]
    assert {config_digest(way, spec) for way in ways} == {config_digest(Params(), spec)}
    text = canonical_json({"b": 1, "a": 0.5})
    assert text == '{"a":0.5,"b":1}'


def test_every_stage_key_exists() -> None:
    for spec in STAGES:
        for key in (*spec.params, *spec.external):
            assert key in KEYS
        assert all(isinstance(leaves(Params(), [key])[key], str) for key in spec.external)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_explained(key: str) -> None:
    lines = parameters.explain(key).splitlines()
    assert lines[0] == key
    assert len(lines[1].strip()) > 5
    assert len(lines) > 2
    if key in LEAVES and leaves(Params(), [key])[key] is not None:
        assert any(line.startswith("  default: ") for line in lines)


def test_an_explanation_names_choices_and_ranges() -> None:
    assert '"crop", "pad", "stretch"' in parameters.explain("data.fit")
    assert "minimum: 0" in parameters.explain("data.seed")
    assert "finetune.budget.kimg: " in parameters.explain("finetune.budget")
    with pytest.raises(ConfigError, match=r"unknown key 'data\.fut'"):
        parameters.explain("data.fut")


def test_the_json_schema_describes_every_key_and_closes_every_section() -> None:
    schema = json.loads(json.dumps(Params.model_json_schema()))
    assert len(schema["$defs"]) == sum(parameters.section_of(i.annotation) is not None for _, i in keys())
    for section in [schema, *schema["$defs"].values()]:
        assert section["additionalProperties"] is False
    for name, section in schema["$defs"].items():
        assert all(p.get("description") for p in section["properties"].values()), name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("track.uri", "http://me:s3cr3t@host:5000"),
        ("track.uri", "https://s3cr3t@host"),
        ("track.uri", "postgresql://me:s3/cr3t@host/db"),
        ("data.path", "s3://AKIA:s3/cr3t@team/x.zip"),
        ("data.path", "s3:/AKIA:s3cr3t@team/x.zip"),
        ("rank.catalogue", "s3://AKIA:s3cr3t@team/c.yaml"),
    ],
)
def test_credentials_in_an_address_are_refused_untold(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is an address with a user or password") as caught:
        load(None, [f"{key}={value}"])
    assert "cr3t" not in str(caught.value) and "AKIA" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("track.uri", "https://host?access_token=s3cr3t"),
        ("track.uri", "postgresql://host/db?user=me&password=s3cr3t"),
        ("data.path", "https://host/x.zip?v=1&X-Amz-Signature=s3cr3t"),
    ],
)
def test_secrets_in_the_query_of_an_address_are_refused_untold(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is an address with a secret in its query") as caught:
        resolve({key.split(".", maxsplit=1)[0]: {key.split(".")[1]: value}}, "test")
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ({"track": "https://me:s3cr3t@host"}, "given 'https://host'"),
        ({"track": {"uri": {"user": "me", "password": "s3cr3t"}}}, "given {'user': 'me', 'password': ***}"),
        ({"track": {"uri": ["https://me:s3cr3t@host"]}}, "given ['https://host']"),
        ({"rank": {"sources": ["https://me:s3cr3t@host"]}}, "rank.sources is an address with a user"),
    ],
)
def test_secrets_in_values_of_a_wrong_kind_are_not_told(raw: dict[str, Any], shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(raw, "test")
    assert shown in caught.value.message and "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["sqlite:///me@work/x.db", "sqlite:////home/me@work/x.db", "http://host:5000", "C:/me@work/x.db"]
)
def test_other_addresses_are_no_credentials(value: str) -> None:
    assert load(None, [f"track.uri={value}"]).track.uri == value


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("2001-13-01", "month must be in 1..12"), ("[" * 5000, "nested too deeply"),
        ("9" * 5000, "4300 digits"), ('"\\ud800"', "data.path holds half a character"),
        ("&a [*a]", "data.path"), ("!!set {a}", "data.path"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(tmp_path: Path, value: str, part: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(part)):
        load(None, [f"data.path={value}"])
    (tmp_path / "params.yaml").write_text(f"data:\n  path: {value}\n")
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "text", ['{"a":' * 5000, f'{{"data": {{"seed": {"9" * 5000}}}}}', '{"data": {"path": "\\ud800"}}']
)
def test_odd_texts_of_pipelines_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="configuration text"):
        loads(text)


def test_bytes_of_file_names_are_kept() -> None:
    name = os.fsdecode(b"caf\xe9")
    assert os.fsencode(resolve({"data": {"path": name}}, "test").data.path) == b"caf\xe9"


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    PLAIN, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from([key for key, _ in keys()]), value=VALUES | PLAIN)
def test_any_value_of_any_key_is_taken_or_refused(key: str, value: object) -> None:
    raw: dict[str, object] = {}
    override(raw, key, value)
    try:
        params = resolve(raw, "test")
    except ConfigError as error:
        assert "test" in error.message and error.remedy
        return
    assert resolve(params.model_dump(), "test") == params
    assert all(len(config_digest(params, spec.params)) == 64 for spec in STAGES)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text(alphabet="[]{}:,-&*!|>'\"#%@ \n\t\\0123456789.eabdu"))
def test_any_text_is_parameters_or_refused(text: str) -> None:
    for assignment in (text, f"data.path={text}", f"data={text}"):
        try:
            load(None, [assignment])
        except ConfigError as error:
            assert error.message
