from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from graftgan.context import Context
from graftgan.data.dataset import ImageSet
from graftgan.params import load
from graftgan.stages import prepare

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
ALLOWED = {"CC-BY-4.0", "CC0-1.0", "MIT"}
CATALOGUE: list[dict[str, Any]] = yaml.safe_load((DATA / "catalogue.yaml").read_text("utf-8"))["sets"]
BY_NAME = {entry["name"]: entry for entry in CATALOGUE}
EMOJI = ["twemoji", "fluent-emoji"]
KINDS = {
    kind: [e["name"] for e in CATALOGUE if e["kind"] == kind] for kind in ("source", "target", "mixture")
}


@cache
def table(name: str) -> pa.Table:
    return pq.read_table(DATA / BY_NAME[name]["file"])


def column(name: str, which: str) -> list[Any]:
    return table(name).column(which).to_pylist()


@cache
def pixels(name: str) -> np.ndarray:
    images = [Image.open(io.BytesIO(data)) for data in column(name, "image")]
    assert {(i.format, i.mode, i.size) for i in images} == {("WEBP", "RGB", (64, 64))}
    return np.stack([np.asarray(i) for i in images])


@cache
def digests(name: str) -> tuple[str, ...]:
    return tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in pixels(name))


@pytest.fixture(scope="module")
def build() -> Iterator[ModuleType]:
    # Not `import build`: an installed package has that name.
    spec = importlib.util.spec_from_file_location("shipped_data_build", DATA / "build" / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DATA / "build"))
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


def test_catalogue_lists_exactly_the_parquet_files_and_enough_of_each_kind() -> None:
    assert sorted(e["file"] for e in CATALOGUE) == sorted(p.name for p in DATA.glob("*.parquet"))
    assert len(KINDS["source"]) + len(KINDS["target"]) >= 8
    assert set(KINDS["target"]) == {"micah", "adventurer", "notionists", "pixel-art"}
    assert KINDS["mixture"] == ["mixture"]
    assert BY_NAME["mixture"]["members"] == KINDS["source"]


@pytest.mark.parametrize("name", BY_NAME)
def test_bytes_and_digest_match_the_catalogue(name: str) -> None:
    data = (DATA / BY_NAME[name]["file"]).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (BY_NAME[name]["bytes"], BY_NAME[name]["sha256"])


@pytest.mark.parametrize("name", BY_NAME)
def test_columns_and_counts(name: str) -> None:
    assert {f.name: str(f.type) for f in table(name).schema} == {
        "name": "string",
        "group": "string",
        "image": "binary",
    }
    assert table(name).num_rows == BY_NAME[name]["images"]
    assert all(c.null_count == 0 for c in table(name).columns)
    names = column(name, "name")
    assert len(set(names)) == len(names)
    assert all(names) and all(column(name, "group"))


@pytest.mark.parametrize("name", KINDS["target"])
def test_targets_leave_a_thousand_held_out_images(name: str) -> None:
    assert len(set(column(name, "group"))) == table(name).num_rows >= 1000 + 1000


@pytest.mark.parametrize("name", KINDS["target"])
def test_the_split_of_the_shipped_parameters_holds_out_a_thousand_images(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    here = ["runtime.workers=1", f"data.path={DATA / BY_NAME[name]['file']}"]
    outputs = {port: tmp_path / port for port in ("dataset", "data_docs")}
    for folder in outputs.values():
        folder.mkdir()
    prepare.run(
        {}, load(ROOT / "params.yaml", here), outputs, Context(tmp_path / "state", tmp_path / "cache")
    )
    images = ImageSet.open(outputs["dataset"])
    assert images.missing == {}
    assert images.size("train") == 100
    assert images.size("test") >= 1000


@pytest.mark.parametrize("name", BY_NAME)
def test_images_decode_are_distinct_and_not_blank(name: str) -> None:
    stack = pixels(name)
    assert stack.shape == (BY_NAME[name]["images"], 64, 64, 3)
    assert stack.dtype == np.uint8
    assert len(set(digests(name))) == len(stack)
    assert (stack.reshape(len(stack), -1).std(axis=1) > 1).all()
    assert not (stack % 5).any()


@pytest.mark.parametrize("name", BY_NAME)
def test_images_are_stored_losslessly(name: str) -> None:
    # A lossless WebP holds a VP8L chunk; a lossy one holds "VP8 ".
    assert {data[12:16] for data in column(name, "image")} == {b"VP8L"}


def test_no_target_image_or_group_is_in_any_other_set() -> None:
    for target in KINDS["target"]:
        for other in BY_NAME:
            if other != target:
                assert not set(digests(target)) & set(digests(other)), (target, other)
                assert not set(column(target, "group")) & set(column(other, "group")), (target, other)


def test_mixture_is_even_and_its_avatars_are_in_no_source() -> None:
    members = [name.split("/")[0] for name in column("mixture", "name")]
    assert Counter(members) == dict.fromkeys(KINDS["source"], len(members) // len(KINDS["source"]))
    for source in KINDS["source"]:
        if source not in EMOJI:
            assert not set(digests("mixture")) & set(digests(source)), source
            assert not set(column("mixture", "group")) & set(column(source, "group")), source


def test_first_rows_of_the_mixture_show_every_source() -> None:
    assert {name.split("/")[0] for name in column("mixture", "name")[:100]} == set(KINDS["source"])


@pytest.mark.parametrize("name", [n for n in BY_NAME if n not in [*EMOJI, "mixture"]])
def test_avatar_groups_are_seeds(name: str) -> None:
    assert column(name, "group") == column(name, "name")
    assert all(re.fullmatch(rf"{name}-\d+", seed) for seed in column(name, "name"))


@pytest.mark.parametrize("name", EMOJI)
def test_emoji_groups_hold_the_skin_tones_of_one_figure(name: str) -> None:
    groups = column(name, "group")
    assert not [g for g in groups if "skin-tone" in g]
    assert len(set(groups)) > 1000
    for emoji, group in zip(column(name, "name"), groups, strict=True):
        rest = re.sub(r"-(medium-light|medium-dark|medium|light|dark)(-skin-tone)?(?=-|$)", "", emoji)
        assert group in {emoji, rest}
    together = {n for n, g in zip(column(name, "name"), groups, strict=True) if g == "artist"}
    assert len(together) >= 1 and all(n.startswith("artist") for n in together)


def test_emoji_groups_agree_between_the_two_emoji_sets() -> None:
    shared = set(column("twemoji", "group")) & set(column("fluent-emoji", "group"))
    assert len(shared) > 1000


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("artist", "artist"),
        ("artist-dark-skin-tone", "artist"),
        ("woman-medium-light-skin-tone-red-hair", "woman-red-hair"),
        ("kiss-man-man-medium-skin-tone-medium-dark-skin-tone", "kiss-man-man"),
        ("police-car-light", "police-car-light"),
        ("dancer-medium-light", "dancer"),
    ],
)
def test_emoji_base_names(build: ModuleType, name: str, group: str) -> None:
    known = [name, "police-car", *(f"dancer-{tone}" for tone in build.TONES)]
    assert build.emoji_groups(known)[name] == group


def test_hash_order_depends_on_names_and_salt_only(build: ModuleType) -> None:
    names = [f"n{i}" for i in range(30)]
    assert build.hash_order(names, "a") == build.hash_order(names[::-1], "a")
    assert sorted(build.hash_order(names, "a")) == sorted(names)
    assert build.hash_order(names, "a") != build.hash_order(names, "b")


def test_choose_emoji_takes_every_group_before_a_second_tone(build: ModuleType, tmp_path: Path) -> None:
    people = [f"{who}{tone}-skin-tone" for who in ("cook", "diver") for tone in ("-light", "-dark")]
    names = [*people, "cook", "diver", "apple", "boat"]
    metadata = {"categories": {"People": [n for n in names if n != "boat"], "Flags": ["flag-x"]}}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    (tmp_path / "icons.json").write_text(json.dumps({"icons": {key: {} for key in [*names, "flag-x"]}}))
    chosen, groups = build.choose_emoji(tmp_path, 100, "salt")
    assert set(chosen[:3]) == {"cook", "diver", "apple"}
    assert set(chosen[3:]) == set(people)
    assert groups["diver-dark-skin-tone"] == "diver"


def test_encoder_is_exact_and_gives_the_shipped_bytes(build: ModuleType) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(build.encode_webp(noise)))), noise)
    if f"pillow=={PIL.__version__}" not in (ROOT / "constraints.txt").read_text("utf-8").lower():
        pytest.skip("another Pillow may encode the same pixels to other bytes")
    for name in ("micah", "twemoji"):
        assert [build.encode_webp(image) for image in pixels(name)[:40]] == column(name, "image")[:40]


def test_parquet_bytes_do_not_depend_on_the_run(build: ModuleType, tmp_path: Path) -> None:
    part = build.ImageSet(
        column("shapes", "name")[:20], column("shapes", "group")[:20], pixels("shapes")[:20]
    )
    for name in ("a.parquet", "b.parquet"):
        build.write_parquet(tmp_path / name, part, "CC0-1.0: Shapes")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_table(tmp_path / "a.parquet").equals(table("shapes").slice(0, 20))
    assert pq.read_schema(tmp_path / "a.parquet").metadata == {b"licence": b"CC0-1.0: Shapes"}


@pytest.mark.parametrize("name", BY_NAME)
def test_half_size_is_the_exact_average_of_two_by_two(name: str) -> None:
    stack = pixels(name)[::100]
    sums = stack.reshape(-1, 32, 2, 32, 2, 3).astype(int).sum(axis=(2, 4))
    half_up = (sums + 2) // 4
    half_even = (sums / 4).round().astype(int)
    for image, up, even in zip(stack, half_up, half_even, strict=True):
        # `reduce` rounds once, halves up; `resize` rounds after each axis, so it may be one level off.
        assert np.array_equal(np.asarray(Image.fromarray(image).reduce(2)), up)
        box = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX)).astype(int)
        assert np.abs(box - up).max() <= 1
        assert np.abs(box - even).max() <= 1


def test_licences_are_allowed_and_their_texts_are_there() -> None:
    for entry in CATALOGUE:
        used = set(entry["licence"].split(" AND "))
        assert used <= ALLOWED, entry["name"]
        assert all((DATA / "LICENSES" / f"{name}.txt").is_file() for name in used)
    members = {BY_NAME[n]["licence"] for n in BY_NAME["mixture"]["members"]}
    assert set(BY_NAME["mixture"]["licence"].split(" AND ")) == members
    assert "Copyright (c) Microsoft Corporation" in (DATA / "LICENSES" / "MIT.txt").read_text("utf-8")


def test_notice_names_designer_package_and_licence_of_every_set() -> None:
    rows = {
        row.split("`")[1]: row for row in (DATA / "NOTICE.md").read_text("utf-8").splitlines() if "| `" in row
    }
    assert set(rows) == set(BY_NAME) - {"mixture"}
    for name, row in rows.items():
        entry = BY_NAME[name]
        assert all(entry[key] in row for key in ("designer", "source", "licence"))


def test_sizes() -> None:
    hidden = re.compile(r"(^|/)(\.|__pycache__)")
    files = [p for p in DATA.rglob("*") if p.is_file()]
    shipped = [p for p in files if not hidden.search(p.relative_to(DATA).as_posix())]
    assert sum(e["bytes"] for e in CATALOGUE) < sum(p.stat().st_size for p in shipped) < 25e6
    assert (DATA / "preview.png").stat().st_size < 300_000
    with Image.open(DATA / "preview.png") as preview:
        assert preview.height > len(CATALOGUE) * 64


def test_every_npm_dependency_is_pinned_and_has_a_recorded_digest() -> None:
    package = json.loads((DATA / "build" / "package.json").read_text("utf-8"))
    recorded = json.loads((DATA / "build" / "integrity.json").read_text("utf-8"))
    for name, version in {**package["dependencies"], **package["overrides"]}.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
        assert f"{name}@{version}" in recorded
    assert all(re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", value) for value in recorded.values())


def test_no_file_of_the_build_names_a_registry_host() -> None:
    for path in [
        *(p for p in (DATA / "build").iterdir() if p.is_file()),
        DATA / "NOTICE.md",
        DATA / "catalogue.yaml",
    ]:
        assert not re.search(r"npmjs|registry\.|/tarball", path.read_text("utf-8")), path


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_rebuild_gives_the_shipped_bytes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DATA / "build" / "build.py", "--out", tmp_path], check=True)
    for entry in CATALOGUE:
        assert hashlib.sha256((tmp_path / entry["file"]).read_bytes()).hexdigest() == entry["sha256"], entry[
            "name"
        ]
    for name in ("catalogue.yaml", "NOTICE.md"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()
