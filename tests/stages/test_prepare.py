from __future__ import annotations

import io
import json
import logging
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from graftgan.config import Params
from graftgan.context import Context, NullTracker
from graftgan.contract import Result, digest_file, digest_path
from graftgan.data import packing
from graftgan.data.dataset import ImageSet
from graftgan.engine import Job, default_paths, run_job
from graftgan.errors import DataError, GraftganError, Interrupted, MissingInput, TryAgain
from graftgan.params import load
from graftgan.stages.specs import stage


@dataclass
class Recorder(NullTracker):
    """A tracker that keeps what it is told."""

    metrics: dict[str, float] = field(default_factory=dict)

    def log_metrics(self, values: Mapping[str, float], images_seen: int = 0) -> None:
        self.metrics |= values


@dataclass
class Lab:
    """A place to run the stage in."""

    root: Path
    tracker: Recorder = field(default_factory=Recorder)

    @property
    def outputs(self) -> dict[str, Path]:
        return default_paths(stage("prepare"), self.root / "out")[1]

    def job(self, path: Path, *settings: str) -> Job:
        params: Params = load(None, [f"data.path={json.dumps(str(path))}", "runtime.workers=1", *settings])
        return Job(stage("prepare"), params, {}, self.outputs)

    def run(self, path: Path, *settings: str, force: bool = False) -> tuple[Result, bool]:
        def context(state: Path) -> Context:
            return Context(state, state / "cache", logging.getLogger("test"), tracker=self.tracker)

        return run_job(self.job(path, *settings), context, force)

    def dataset(self) -> ImageSet:
        return ImageSet.open(self.outputs["dataset"])

    def fails(self, kind: type[GraftganError], path: Path, *settings: str) -> str:
        """Run, expect the failure, check that nothing is left behind, and return the message."""
        before = sorted(path.rglob("*")) if path.is_dir() else []
        with pytest.raises(kind) as error:
            self.run(path, *settings)
        assert not any(output.exists() for output in self.outputs.values())
        assert not list((self.root / "out").rglob("*.npy"))
        assert (sorted(path.rglob("*")) if path.is_dir() else []) == before
        assert error.value.remedy
        return str(error.value)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GRAFTGAN_CACHE", str(tmp_path / "cache"))
    return Lab(tmp_path)


def picture(seed: int, side: int = 48) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def make_set(folder: Path, count: int = 60, side: int = 48) -> Path:
    for seed in range(count):
        path = folder / ("cat" if seed % 3 else "dog") / f"{seed:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(seed, side)))
    return folder


FAST = ("data.split.test=0.3", "data.split.validation=0.2")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check with pandas, which saves the seconds of importing the library."""
    monkeypatch.setitem(sys.modules, "great_expectations", None)


def test_a_folder_becomes_a_packed_checked_and_split_set(lab: Lab) -> None:
    source = make_set(lab.root / "set")
    (source / "dog" / "copy.png").write_bytes((source / "cat" / "001.png").read_bytes())
    (source / "dog" / "again.jpg").write_bytes(encode(picture(2), "JPEG", quality=80))
    (source / "LICENSE").write_text("CC0 1.0\n")
    (source / "notes.txt").write_text("none")
    result, ran = lab.run(source, *FAST)
    assert ran
    images = lab.dataset()
    rows = images.manifest.set_index("name")
    assert images.pixels.shape == (62, 32, 32, 3)
    assert rows.loc["dog/copy.png", "split"] == "unused"
    assert rows.loc["dog/copy.png", "duplicate_of"] == rows.loc["cat/001.png", "row"]
    assert rows.loc["dog/again.jpg", "near_group"] == rows.loc["cat/002.png", "near_group"]
    assert rows.loc["dog/again.jpg", "split"] == rows.loc["cat/002.png", "split"]
    assert images.label_names == ["cat", "dog"] and rows.loc["dog/000.png", "label"] == 1
    facts = images.facts
    assert facts["source"] == "set" and facts["licence"] == "CC0 1.0" and facts["ignored"] == 1
    assert facts["duplicates"] == {"exact": 1, "near": 1} and facts["missing"] == {} and facts["bad"] == []
    assert facts["expectations"]["success"] is True and len(facts["expectations"]["results"]) == 13
    assert facts["splits"] == {name: images.size(name) for name in ("train", "validation", "test", "unused")}
    assert (result.metrics["images"], result.metrics["duplicates"], result.metrics["labels"]) == (62, 1, 2)
    assert sum(result.metrics[name] for name in ("train", "validation", "test", "unused")) == 62
    assert (lab.outputs["data_docs"] / "index.html").is_file()
    assert lab.tracker.metrics == result.metrics
    assert str(lab.root) not in (lab.outputs["dataset"] / "dataset.json").read_text()


def test_pixels_are_the_pictures(lab: Lab, no_library: None) -> None:
    source = make_set(lab.root / "set", 12, side=64)
    lab.run(source, "data.resize_filter=box")
    images = lab.dataset()
    for row, name in enumerate(images.manifest["name"]):
        full = np.asarray(Image.open(source / name)).astype(float)
        means = full.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(images.pixels[row] - means).max() <= 0.5


def test_an_unchanged_set_is_not_prepared_again(lab: Lab, no_library: None) -> None:
    source = make_set(lab.root / "set", 12)
    first, _ = lab.run(source)
    assert lab.run(source) == (first, False)
    (source / "cat" / "new.png").write_bytes(encode(picture(99)))
    second, ran = lab.run(source)
    assert ran and second.metrics["images"] == 13
    assert lab.run(source, "data.seed=1")[1]


def test_zip_and_folder_and_any_number_of_workers_give_equal_bytes(
    lab: Lab, no_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "ALONE_S", 0.0)
    monkeypatch.setattr(packing, "REST_FOR_PROCESSES_S", 0.0)
    source = make_set(lab.root / "set")
    digests = []
    for workers in (1, 2):
        lab.run(source, f"runtime.workers={workers}", *FAST, force=True)
        digests.append(digest_path(lab.outputs["dataset"]))
    shutil.make_archive(str(lab.root / "set"), "zip", source)
    pixels = np.array(lab.dataset().pixels)
    lab.run(lab.root / "set.zip", *FAST)
    assert digests[0] == digests[1]
    np.testing.assert_array_equal(lab.dataset().pixels, pixels)
    assert lab.dataset().facts["source"] == "set.zip"


def test_parquet_with_groups_and_licence(lab: Lab, no_library: None) -> None:
    table = pa.table(
        {
            "image": [encode(picture(seed), "WEBP", lossless=True) for seed in range(90)],
            "name": [f"n{seed}" for seed in range(90)],
            "group": [f"g{seed % 30}" for seed in range(90)],
        }
    )
    pq.write_table(table.replace_schema_metadata({"licence": "CC BY 4.0"}), lab.root / "set.parquet")
    lab.run(lab.root / "set.parquet", *FAST)
    images = lab.dataset()
    assert images.facts["licence"] == "CC BY 4.0" and images.facts["labels"] == []
    assert (images.manifest.groupby("group")["split"].nunique() == 1).all()
    assert images.manifest["name"].tolist() == [f"n{seed}" for seed in range(90)]


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(lab: Lab, no_library: None, channels: int) -> None:
    lab.run(make_set(lab.root / "set", 12), f"data.channels={channels}")
    assert lab.dataset().pixels.shape == (12, 32, 32, channels)


def test_few_images_have_no_held_out_splits_and_say_so(lab: Lab, no_library: None) -> None:
    result, _ = lab.run(make_set(lab.root / "set", 25))
    images = lab.dataset()
    assert images.missing.keys() == {"validation", "test"} and images.size("train") == 25
    assert sum("there is no" in warning for warning in result.warnings) == 2


def test_the_number_of_training_images_can_be_limited(lab: Lab, no_library: None) -> None:
    source = make_set(lab.root / "set", 80)
    lab.run(source, *FAST, "data.train_images=10")
    small = lab.dataset()
    assert small.size("train") == 10 and small.size("unused") > 10
    lab.run(source, *FAST)
    assert lab.dataset().names("test") == small.names("test")


def test_enlarging_is_told(lab: Lab, no_library: None) -> None:
    result, _ = lab.run(make_set(lab.root / "set", 12, side=20))
    assert "12 images are smaller than 32 pixels and were enlarged" in result.warnings
    assert lab.dataset().facts["warnings"] == list(result.warnings)


def test_awkward_names_reach_the_manifest(lab: Lab, no_library: None) -> None:
    source = make_set(lab.root / "set", 12)
    names = ["a b.png", "quote'\".png", "new\nline.png", "größe 🐈.png"]
    for seed, name in enumerate(names):
        (source / name).write_bytes(encode(picture(100 + seed)))
    lab.run(source)
    assert set(names) <= set(lab.dataset().manifest["name"])


# Bad input: the class of the error, the culprit, the remedy, and nothing left behind.


def test_missing_path(lab: Lab) -> None:
    assert "nowhere" in lab.fails(MissingInput, lab.root / "nowhere")


def test_empty_folder(lab: Lab) -> None:
    (lab.root / "empty").mkdir()
    assert "empty holds no image" in lab.fails(DataError, lab.root / "empty")


def test_three_images(lab: Lab) -> None:
    message = lab.fails(DataError, make_set(lab.root / "set", 3))
    assert "min_images" in message and "observed 3" in message
    page = Path(message.split("the checks are in ")[1])
    assert page.is_file() and page.is_relative_to(lab.root / "home" / "state")


def test_truncated_jpeg(lab: Lab, no_library: None) -> None:
    source = make_set(lab.root / "set", 12)
    (source / "cat" / "cut.jpg").write_bytes(encode(picture(50), "JPEG")[:600])
    message = lab.fails(DataError, source)
    assert "1 of 13 images are unusable" in message and "'cat/cut.jpg': truncated" in message
    assert "data.on_bad_image: skip" in message
    result, _ = lab.run(source, "data.on_bad_image=skip")
    (bad,) = lab.dataset().facts["bad"]
    assert bad["name"] == "cat/cut.jpg" and bad["reason"].startswith("truncated")
    assert result.metrics["bad"] == 1 and any("cat/cut.jpg" in warning for warning in result.warnings)


def test_too_many_bad_images_are_not_skipped(lab: Lab, no_library: None) -> None:
    source = make_set(lab.root / "set", 12)
    for number in range(4):
        (source / f"{number}.png").write_bytes(b"junk")
    message = lab.fails(DataError, source, "data.on_bad_image=skip")
    assert "max_bad_share" in message and "'0.png'" in message
    listed = Path(message.split("all images at fault are named in ")[1])
    assert listed.read_text() == "".join(f"max_bad_share: '{number}.png'\n" for number in range(4))


def test_no_usable_image(lab: Lab) -> None:
    (lab.root / "set").mkdir()
    (lab.root / "set" / "a.png").write_bytes(b"junk")
    assert "none of 1 images is usable" in lab.fails(DataError, lab.root / "set", "data.on_bad_image=skip")


def test_image_bomb(lab: Lab) -> None:
    source = make_set(lab.root / "set", 12)
    width = height = 40_000
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"IDAT", zlib.compress(bytes(height * (width // 8 + 1)), 9)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    (source / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    message = lab.fails(DataError, source)
    assert "'bomb.png': more pixels than data.max_pixels" in message


def test_zip_bomb(lab: Lab) -> None:
    path = lab.root / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.png", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert "decompression bomb" in lab.fails(DataError, path)


def test_path_traversal(lab: Lab) -> None:
    path = lab.root / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil.png", encode(picture(0)))
    assert "'../../evil.png' reaches outside" in lab.fails(DataError, path)
    assert not list(lab.root.rglob("evil.png"))


def test_links_that_leave_the_folder(lab: Lab) -> None:
    source = make_set(lab.root / "set", 12)
    (lab.root / "secret.png").write_bytes(encode(picture(77)))
    (source / "link.png").symlink_to(lab.root / "secret.png")
    assert "'link.png': symbolic link that leaves the folder" in lab.fails(DataError, source)


def test_wrong_resolution(lab: Lab, no_library: None) -> None:
    source = make_set(lab.root / "set", 12)
    (source / "tiny.png").write_bytes(encode(picture(50, side=8)))
    message = lab.fails(DataError, source)
    assert "min_side_px" in message and "'tiny.png'" in message


def test_all_identical_images(lab: Lab, no_library: None) -> None:
    source = lab.root / "set"
    source.mkdir()
    for number in range(20):
        (source / f"{number:02}.png").write_bytes(encode(picture(0)))
    message = lab.fails(DataError, source)
    assert "max_duplicate_share" in message and "19 of 20" in message and "'01.png'" in message


def test_blank_images(lab: Lab, no_library: None) -> None:
    source = make_set(lab.root / "set", 12)
    (source / "white.png").write_bytes(encode(Image.new("RGB", (40, 40), "white")))
    message = lab.fails(DataError, source)
    assert "max_blank_share" in message and "'white.png'" in message


def test_rare_label(lab: Lab, no_library: None) -> None:
    source = make_set(lab.root / "set", 30)
    (source / "emu").mkdir()
    (source / "emu" / "one.png").write_bytes(encode(picture(70)))
    message = lab.fails(DataError, source, "data.expectations.max_label_imbalance=5")
    assert "max_label_imbalance" in message and "'emu/one.png'" in message


def test_not_an_image_set(lab: Lab) -> None:
    path = lab.root / "notes.txt"
    path.write_text("notes")
    assert "neither a zip nor a parquet file" in lab.fails(DataError, path)


def test_full_disk_can_be_tried_again(lab: Lab, no_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_set(lab.root / "set", 12)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("graftgan.data.slots.PixelSlots.write", full)
    lab.fails(TryAgain, source)
    monkeypatch.undo()


def test_stopping_leaves_nothing_and_an_earlier_set_whole(
    lab: Lab, no_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_set(lab.root / "set", 12)
    lab.run(source)
    before = digest_path(lab.outputs["dataset"])

    def stop(*_: object, **__: object) -> None:
        raise Interrupted("stopped")

    monkeypatch.setattr("graftgan.stages.prepare.find_duplicates", stop)
    with pytest.raises(Interrupted):
        lab.run(source, force=True)
    assert digest_path(lab.outputs["dataset"]) == before
    assert not [path for path in (lab.root / "out" / "prepare").iterdir() if path.name.startswith(".")]


def test_a_process_of_its_own_changes_nothing_and_the_pixels_are_read_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_set(lab.root / "set", 40)
    small, _ = lab.run(source, "data.resolution=64", *FAST)
    monkeypatch.setattr("graftgan.stages.prepare.APART_IMAGES", 1)
    monkeypatch.setattr("graftgan.digests.REMEMBER_FROM_BYTES", 1)
    read: list[str] = []
    real = digest_file
    monkeypatch.setattr("graftgan.digests.digest_file", lambda path: read.append(path.name) or real(path))
    large, ran = lab.run(source, "data.resolution=64", "runtime.workers=2", *FAST, force=True)
    assert ran and large.outputs == small.outputs and large.metrics == small.metrics
    assert "images.npy" not in read and {"manifest.parquet", "dataset.json"} <= set(read)
    assert large.outputs["dataset"].digest == digest_path(lab.outputs["dataset"])
