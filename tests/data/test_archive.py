from __future__ import annotations

import json
import stat
import zipfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from graftgan.data.archive import ZipSource
from graftgan.errors import DataError

from .pictures import encode, noise, smooth, write_zip

PICTURE = encode(smooth(0))


def bads(path: Path, limit: int = 10**8) -> dict[str, str]:
    return {image.name: image.bad for image in ZipSource(path, limit).images()}


def test_stylegan2_ada_dataset(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {f"00000/img{i:08}.png": encode(smooth(i)) for i in range(12)}
    labels = [[name, number] for number, name in enumerate(members)]
    members["dataset.json"] = json.dumps({"labels": labels})
    source = ZipSource(write_zip(tmp_path / "set.zip", members, zipfile.ZIP_STORED), 10**8)
    assert [image.label for image in source.images()] == [str(number) for number in range(12)]
    assert source.total == 12 and source.warnings == []


def test_stylegan2_ada_dataset_without_labels_takes_none_from_its_folders(tmp_path: Path) -> None:
    members = {"00000/a.png": PICTURE, "00001/b.png": PICTURE, "dataset.json": '{"labels": null}'}
    assert [i.label for i in ZipSource(write_zip(tmp_path / "a.zip", members), 10**8).images()] == [
        None,
        None,
    ]


@pytest.mark.parametrize("text", ["{'labels'", "[" * 100_000, f'{{"labels": {"9" * 5000}}}'])
def test_broken_labels_are_refused(tmp_path: Path, text: str) -> None:
    members = {"a.png": PICTURE, "dataset.json": text}
    path = write_zip(tmp_path / "a.zip", members, zipfile.ZIP_STORED)
    with pytest.raises(DataError, match=r"a\.zip: dataset\.json is not JSON"):
        ZipSource(path, 10**8)


def test_other_files_licence_and_order(tmp_path: Path) -> None:
    members = {
        "b.png": PICTURE,
        "a/readme.txt": "x",
        "__MACOSX/._b.png": "x",
        ".DS_Store": "x",
        "LICENSE": "CC BY 4.0",
        "a/x.dat": PICTURE,
        "a/fake.png": "no picture",
    }
    source = ZipSource(write_zip(tmp_path / "a.zip", members), 10**8)
    assert [image.name for image in source.images()] == ["a/fake.png", "a/x.dat", "b.png"]
    assert source.ignored == 3 and source.licence == "CC BY 4.0"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../evil.png", "reaches outside"),
        ("a/../../evil.png", "reaches outside"),
        ("a/..", "reaches outside"),
        ("..\\evil.png", "reaches outside"),
        ("/etc/evil.png", "absolute"),
        ("\\\\server\\evil.png", "absolute"),
        ("C:\\evil.png", "absolute"),
        ("a.png\0.txt", "zero byte"),
    ],
)
def test_names_that_reach_outside_are_refused(tmp_path: Path, name: str, fault: str) -> None:
    path = write_zip(tmp_path / "a.zip", {"good.png": PICTURE})
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("placeholder")
        # ZipInfo would clean the name; attackers do not.
        info.filename = info.orig_filename = name
        archive.writestr(info, PICTURE)
    with pytest.raises(DataError, match=fault) as error:
        ZipSource(path, 10**8)
    assert "evil" in error.value.message or "a" in error.value.message
    assert error.value.exit_code == 3 and error.value.remedy
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(("kind", "fault"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFCHR, "special file")])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int, fault: str) -> None:
    info = zipfile.ZipInfo("link.png")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=fault):
        ZipSource(tmp_path / "a.zip", 10**8)


@pytest.mark.parametrize("other", ["a/x.png", "A/X.PNG", "a/x.Png"])
def test_duplicates_and_case_clashes_are_refused(tmp_path: Path, other: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/x.png", PICTURE)
        with pytest.warns(UserWarning) if other == "a/x.png" else nullcontext():
            archive.writestr(other, PICTURE)
    with pytest.raises(DataError, match="have the same name"):
        ZipSource(tmp_path / "a.zip", 10**8)


def test_unicode_forms_clash(tmp_path: Path) -> None:
    members = {"caf\u00e9.png": PICTURE, "cafe\u0301.png": PICTURE}
    with pytest.raises(DataError, match="have the same name"):
        ZipSource(write_zip(tmp_path / "a.zip", members), 10**8)


def test_one_member_that_is_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.png", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"member 'a\.png' unpacks from .* decompression bomb"):
        ZipSource(path, 10**8)


def test_many_members_that_are_a_bomb_together(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {f"{i}.png": bytes(10 << 20) for i in range(27)}
    with pytest.raises(DataError, match="the archive unpacks from"):
        ZipSource(write_zip(tmp_path / "bomb.zip", members), 10**9)


def test_members_that_share_their_bytes_are_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("0.png", encode(noise(0, 200, 200)))
        (first,) = archive.filelist
        for number in range(1, 50):
            twin = zipfile.ZipInfo(f"{number}.png")
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            twin.compress_size, twin.file_size = first.compress_size, first.file_size
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    with pytest.raises(DataError, match=r"overlap|not a readable zip"):
        ZipSource(path, 10**8)


def test_a_member_that_lies_about_its_size_is_bad(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": PICTURE * 3}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    assert "damaged in the archive" in bads(path)["a.png"]


def test_a_damaged_member_is_bad_and_the_others_are_not(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": PICTURE, "b.png": PICTURE}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[100] ^= 0xFF
    path.write_bytes(data)
    found = bads(path)
    assert "damaged in the archive (Bad CRC-32" in found["a.png"] and found["b.png"] == ""


def test_large_members_are_not_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": PICTURE})
    assert bads(path, 100) == {"a.png": f"{len(PICTURE)} bytes, more than data.max_file_bytes = 100"}


def test_encrypted_members_are_bad(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": PICTURE}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert bads(path) == {"a.png": "encrypted"}


def test_a_cut_off_archive(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": PICTURE})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="not a readable zip"):
        ZipSource(path, 10**8)
