from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from graftgan.data.making import edges, grey
from graftgan.data.pairs import TaskImages, base_name, load_task
from graftgan.errors import DataError, MissingInput
from graftgan.lifelong_config import TaskData

SIDE = 16
SHIPPED = Path(__file__).parents[2] / "data"


def picture(seed: int, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, width, 3), dtype=np.uint8)


def fill(folder: Path, names: list[str], first: int = 0, width: int = SIDE) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(picture(first + number, width)).save(folder / name)
    return folder


def table(path: Path, rows: list[tuple[str, str, int]]) -> Path:
    """A parquet file of name, group and seed of the picture."""
    images = []
    for _, _, seed in rows:
        data = io.BytesIO()
        Image.fromarray(picture(seed)).save(data, "PNG")
        images.append(data.getvalue())
    names, groups = [row[0] for row in rows], [row[1] for row in rows]
    pq.write_table(pa.table({"name": names, "group": groups, "image": images}), path)
    return path


def task(**values: Any) -> TaskImages:
    given = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    return load_task(TaskData.model_validate({"resolution": SIDE, **given}))


def parts(images: TaskImages) -> dict[str, set[str]]:
    return {name: set(part.names) for name, part in images.parts.items()}


def seeds(pixels: np.ndarray, count: int, first: int = 0) -> list[int]:
    """The seeds of pictures, found by their bytes."""
    known = {picture(first + i).tobytes(): i for i in range(count)}
    return [known[image.tobytes()] for image in pixels]


NAMES = [f"{i:03}.png" for i in range(150)]


def test_two_folders_are_paired_by_name_without_suffix(tmp_path: Path) -> None:
    inputs = fill(tmp_path / "in", NAMES)
    targets = fill(tmp_path / "out", [name.replace("png", "bmp") for name in NAMES], 1000)
    images = task(input=inputs, target=targets)
    assert set(images.parts) == {"train", "validation", "test"}
    for part in images.parts.values():
        assert seeds(part.inputs, 150) == seeds(part.targets, 150, 1000) == [int(name) for name in part.names]
        assert part.inputs.shape == (len(part.names), SIDE, SIDE, 3)
    assert sum(len(part.names) for part in images.parts.values()) == 150
    assert not images.warnings


def test_no_picture_is_in_two_splits_and_a_larger_set_moves_none(tmp_path: Path) -> None:
    few = fill(tmp_path / "few", NAMES[:120])
    many = fill(tmp_path / "many", NAMES)
    small, large = parts(task(target=few, make="grey")), parts(task(target=many, make="edges"))
    for split, names in small.items():
        assert names <= large[split]
        assert all(not names & others for other, others in small.items() if other != split)


def test_another_seed_splits_otherwise_and_shares_are_kept(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", NAMES)
    one, other = task(target=folder, make="grey"), task(target=folder, make="grey", seed=1)
    assert parts(one) != parts(other) and one.digest != other.digest
    counts = {name: len(part.names) for name, part in one.parts.items()}
    for name, share in (("test", 0.2), ("validation", 0.1)):
        assert counts[name] == pytest.approx(150 * share, abs=4 * (150 * share * (1 - share)) ** 0.5)


def test_images_of_a_group_and_equal_targets_stay_together(tmp_path: Path) -> None:
    rows = [(f"tone-{g}-{t}", f"tone-{g}", 10 * g + t) for g in range(60) for t in range(3)]
    # The third tone of each group looks like the third tone of another one.
    rows = [(n, g, 5 if n.endswith("-2") and g in ("tone-0", "tone-1") else s) for n, g, s in rows]
    path = table(tmp_path / "tones.parquet", rows)
    inputs = table(tmp_path / "inputs.parquet", [(n, g, 5000 + i) for i, (n, g, _) in enumerate(rows)])
    images = task(input=inputs, target=path)
    where = {name: split for split, part in images.parts.items() for name in part.names}
    for group in range(60):
        assert len({where[f"tone-{group}-{t}"] for t in range(3)}) == 1
    assert where["tone-0-0"] == where["tone-1-0"]


def test_made_inputs_are_made_of_their_targets(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", NAMES[:20])
    for make, function in (("edges", edges), ("grey", grey)):
        part = task(target=folder, make=make).part("train")
        for made, target in zip(part.inputs, part.targets, strict=True):
            assert np.array_equal(made, function(target))


@pytest.mark.parametrize("make", ["left", "right"])
def test_side_by_side_pictures_are_cut(tmp_path: Path, make: str) -> None:
    folder = tmp_path / "both"
    folder.mkdir()
    for number in range(10):
        sides = np.concatenate([np.full((SIDE, SIDE, 3), 2 * number), np.full((SIDE, SIDE, 3), 200)], 1)
        Image.fromarray(sides.astype(np.uint8)).save(folder / f"{number}.png")
    part = task(target=folder, make=make).part("train")
    first, second = (part.inputs, part.targets) if make == "left" else (part.targets, part.inputs)
    # Away from the seam, which the resampling filter blurs.
    assert [int(name) * 2 for name in part.names] == [int(image[8, 2, 0]) for image in first]
    assert (second[:, :, 8:] == 200).all()


def test_unpaired_sets_need_no_names_in_common(tmp_path: Path) -> None:
    first = fill(tmp_path / "a", [f"a{name}" for name in NAMES[:80]])
    second = fill(tmp_path / "b", [f"b{name}" for name in NAMES[:140]], 1000)
    images = task(kind="unpaired", input=first, target=second)
    assert sum(len(part.inputs) for part in images.parts.values()) == 80
    assert sum(len(part.targets) for part in images.parts.values()) == 140
    shown = [seed for part in images.parts.values() for seed in seeds(part.targets, 140, 1000)]
    assert sorted(shown) == list(range(140))


def test_a_set_too_small_to_hold_out_trains_and_says_so(tmp_path: Path) -> None:
    images = task(target=fill(tmp_path / "in", NAMES[:12]), make="grey")
    assert set(images.parts) == {"train"} and len(images.part("train").names) == 12
    with pytest.raises(DataError, match=r"no test images: .* they train instead"):
        images.part("test")
    assert any("no validation split" in text for text in images.warnings)


def test_fewer_training_images_can_be_asked_for(tmp_path: Path) -> None:
    images = task(target=fill(tmp_path / "in", NAMES), make="grey", train_images=9)
    assert len(images.part("train").names) == 9 and len(images.part("test").names) > 9


def test_the_digest_tells_pixels_and_names_apart(tmp_path: Path) -> None:
    one = task(target=fill(tmp_path / "one", NAMES[:12]), make="grey")
    same = task(target=fill(tmp_path / "same", NAMES[:12]), make="grey")
    pixels = task(target=fill(tmp_path / "pixels", NAMES[:12], 1), make="grey")
    names = task(target=fill(tmp_path / "names", NAMES[1:13]), make="grey")
    made = task(target=tmp_path / "one", make="edges")
    assert one.digest == same.digest
    assert len({one.digest, pixels.digest, names.digest, made.digest}) == 4


def test_images_without_partner_are_left_out_and_named(tmp_path: Path) -> None:
    inputs = fill(tmp_path / "in", NAMES[:14])
    targets = fill(tmp_path / "out", NAMES[2:15], 1000)
    images = task(input=inputs, target=targets)
    assert len(images.part("train").names) == 12
    assert any(text.startswith("2 images of input") and "000, 001" in text for text in images.warnings)
    assert any(text.startswith("1 images of target") and "014" in text for text in images.warnings)


# Errors


def test_nothing_in_common_is_an_error_that_shows_names(tmp_path: Path) -> None:
    inputs, targets = fill(tmp_path / "in", ["a.png"]), fill(tmp_path / "out", ["b.png"])
    with pytest.raises(DataError, match="no name in common, such as 'a' and 'b'"):
        task(input=inputs, target=targets)


@pytest.mark.parametrize("key", ["input", "target"])
def test_a_missing_place_names_its_key(tmp_path: Path, key: str) -> None:
    places = {"input": fill(tmp_path / "in", ["a.png"]), "target": fill(tmp_path / "out", ["a.png"])}
    with pytest.raises(MissingInput, match=f"^{key}: .*gone does not exist"):
        task(**{**places, key: tmp_path / "gone"})


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", NAMES[:3])
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(DataError, match=r"target: .*in: bad\.png: "):
        task(target=folder, make="grey")


def test_two_images_of_one_base_name_are_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", ["a.png", "a.bmp"])
    with pytest.raises(DataError, match="two images called a"):
        task(target=folder, make="grey")


@pytest.mark.parametrize(
    ("name", "base"),
    [("cat.png", "cat"), ("a/cat.webp", "a/cat"), ("v1.5", "v1.5"), ("hand-dark-skin-tone", "hand-dark")],
)
def test_base_names(name: str, base: str) -> None:
    assert base_name(name) == base


def test_the_shipped_emoji_are_paired(tmp_path: Path) -> None:
    images = load_task(
        TaskData(
            input=str(SHIPPED / "fluent-emoji.parquet"),
            target=str(SHIPPED / "twemoji.parquet"),
            resolution=16,
        )
    )
    counts = {name: len(part.names) for name, part in images.parts.items()}
    assert sum(counts.values()) == pytest.approx(1628, abs=30) and counts["test"] > 250
    groups = [set(part.groups) for part in images.parts.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
