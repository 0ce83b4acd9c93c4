"""Reading from and writing to a real S3 server: folders, files, checksums, faults, refusals."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from graftgan import remote, remote_client
from graftgan.contract import digest_path
from graftgan.errors import ConfigError, DataError, MissingInput, TryAgain
from graftgan.remote import (
    SUMS,
    Address,
    address,
    content,
    fetch_file,
    is_address,
    join,
    local,
    parent,
    push,
    writing,
)
from stores.faults import FaultProxy
from stores.services import Seaweed


@pytest.fixture(autouse=True)
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_known", {})
    monkeypatch.setattr(remote_client, "FIRST_PAUSE_S", 0.01)


def forget() -> None:
    remote._known.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    for name in ("a.png", "sub folder/ü 'b'.png", "sub folder/deep/c.png"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(hashlib.sha256(name.encode()).digest() * 5000)
    return made


def test_addresses_are_read_even_where_a_path_folded_their_slashes() -> None:
    for text in ("s3://team/a/b", Path("s3://team/a/b"), "s3://team/a/b/"):
        assert is_address(text) and address(text) == Address("team", "a/b")
    assert str(address("s3://team")) == "s3://team" and address("s3://team").name == "team"
    assert not is_address("data/x.zip") and not is_address("https://host/s3://x") and not is_address("s3/x")
    assert join("s3://team/zoo", "tiny/gan") == "s3://team/zoo/tiny/gan" and join("zoo", "t") == Path("zoo/t")
    assert parent("s3://team/zoo/c.yaml") == "s3://team/zoo" and parent("zoo/c.yaml") == Path("zoo")


@pytest.mark.parametrize("text", ["s3://AKIA:s3cr3t@team/x", "s3://AKIA:s3/cr3t@team/x", "s3://me@team/x"])
def test_credentials_in_an_address_are_refused_without_being_told(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        local(text, tmp_path)
    assert "cr3t" not in str(caught.value) and "AWS_SECRET_ACCESS_KEY" in caught.value.remedy


@pytest.mark.parametrize("text", ["s3://", "s3:///key", "s3://b ad/key", "s3://%00/x"])
def test_an_address_without_a_bucket_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="names no bucket"):
        address(text)


def test_a_path_of_this_machine_is_itself(tmp_path: Path) -> None:
    assert local(tmp_path / "x", tmp_path) == tmp_path / "x"
    with writing(tmp_path / "y") as place:
        assert place == tmp_path / "y"


def test_a_folder_comes_back_with_the_digest_it_had_on_disk(
    bucket: Seaweed, folder: Path, tmp_path: Path
) -> None:
    assert push(folder, "s3://team/sets/images") == 3
    assert "sets/images/" + SUMS in bucket.keys("team")
    found = local("s3://team/sets/images", tmp_path / "cache")
    assert found.name == "images" and digest_path(found) == digest_path(folder)


def test_what_other_tools_put_there_is_read_as_well(bucket: Seaweed, tmp_path: Path) -> None:
    client = bucket.client()
    client.put_object(Bucket="team", Key="raw/", Body=b"")
    client.put_object(Bucket="team", Key="raw/one.bin", Body=b"1" * 1000)
    client.put_object(Bucket="team", Key="raw/sub/two.bin", Body=b"2")
    client.put_object(Bucket="team", Key="rawer/three.bin", Body=b"3")
    found = local("s3://team/raw", tmp_path)
    assert {p.relative_to(found).as_posix() for p in found.rglob("*") if p.is_file()} == {
        "one.bin",
        "sub/two.bin",
    }
    assert local("s3://team/raw/one.bin", tmp_path).read_bytes() == b"1" * 1000


def test_a_snapshot_stays_and_a_change_makes_another(bucket: Seaweed, tmp_path: Path) -> None:
    bucket.client().put_object(Bucket="team", Key="x.bin", Body=b"old")
    first = local("s3://team/x.bin", tmp_path)
    bucket.client().put_object(Bucket="team", Key="x.bin", Body=b"new")
    assert local("s3://team/x.bin", tmp_path) == first, "one process sees one state"
    forget()
    second = local("s3://team/x.bin", tmp_path)
    assert (first.read_bytes(), second.read_bytes()) == (b"old", b"new")
    inode = second.stat().st_ino
    forget()
    assert local("s3://team/x.bin", tmp_path).stat().st_ino == inode, "it is not fetched twice"


def test_large_files_go_in_parts(bucket: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "big.bin"
    file.write_bytes(os.urandom(1 << 20) * 11)
    monkeypatch.setattr(remote_client, "PART_BYTES", 5 << 20)
    push(file, "s3://team/big.bin")
    assert "-" in bucket.client().head_object(Bucket="team", Key="big.bin")["ETag"], "it went in parts"
    fetch_file("s3://team/big.bin", tmp_path / "back.bin")
    assert digest_path(tmp_path / "back.bin") == digest_path(file)


def test_a_fifth_of_failing_requests_costs_patience_only(
    faulty: FaultProxy, folder: Path, tmp_path: Path
) -> None:
    for number in range(40):
        (folder / f"{number}.png").write_bytes(os.urandom(3000))
    faulty.rate, faulty.stall_s = 0.2, 0.2
    push(folder, "s3://team/sets/tired")
    found = local("s3://team/sets/tired", tmp_path / "cache")
    assert digest_path(found) == digest_path(folder)
    assert sum(faulty.failed.values()) > 10 and all(faulty.failed.values()), faulty.failed


def test_a_silent_store_is_given_up(
    faulty: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_client, "ATTEMPTS", 2)
    monkeypatch.setattr(remote_client, "READ_TIMEOUT_S", 0.3)
    faulty.rate, faulty.kinds, faulty.stall_s = 1.0, ("stall",), 2.0
    with pytest.raises(TryAgain, match="failed 2 times"):
        local("s3://team/x", tmp_path)


def test_bits_that_turned_in_the_store_are_noticed(
    bucket: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_client, "ATTEMPTS", 2)
    right = hashlib.sha256(b"right").hexdigest()
    bucket.client().put_object(
        Bucket="team", Key="x.bin", Body=b"wrong", Metadata={remote_client.SUM_KEY: right}
    )
    with pytest.raises(TryAgain, match=f"not {right}"):
        local("s3://team/x.bin", tmp_path)
    assert not list(tmp_path.rglob("x.bin")), "nothing half stays"


def test_a_folder_that_lost_a_file_is_refused(bucket: Seaweed, folder: Path, tmp_path: Path) -> None:
    push(folder, "s3://team/set")
    bucket.client().delete_object(Bucket="team", Key="set/a.png")
    with pytest.raises(DataError, match=r"not whole: 1 of its 3 files are missing, such as 'a.png'"):
        local("s3://team/set", tmp_path)


def test_a_folder_whose_file_was_exchanged_is_refused(
    bucket: Seaweed, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_client, "ATTEMPTS", 1)
    push(folder, "s3://team/set")
    bucket.client().put_object(Bucket="team", Key="set/a.png", Body=b"another")
    with pytest.raises(TryAgain, match="sha256"):
        local("s3://team/set", tmp_path)


def test_what_is_not_in_the_list_is_left_out_and_told(
    bucket: Seaweed, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    push(folder, "s3://team/set")
    bucket.client().put_object(Bucket="team", Key="set/late.png", Body=b"x")
    found = local("s3://team/set", tmp_path)
    assert digest_path(found) == digest_path(folder)
    assert "1 objects are not in its list" in caplog.text


@pytest.mark.parametrize("name", ["../out.png", "a//b.png", "./x.png", "a\\..\\b.png"])
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unsafe name"):
        remote.safe(name, Address("team", "set"))


def test_an_unsafe_key_in_the_store_writes_nothing(
    bucket: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This server tidies such keys up itself; others list them as they are.
    bucket.client().put_object(Bucket="team", Key="bad/a.png", Body=b"x")
    hostile = [remote.Listed("../a.png", 1, "e"), remote.Listed("a.png", 1, "e")]
    monkeypatch.setattr(remote_client.Client, "listed", lambda self, place: hostile)
    with pytest.raises(DataError, match="unsafe name"):
        local("s3://team/bad", tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_wrong_and_missing_credentials_are_told_without_the_secret(
    bucket: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    with pytest.raises(ConfigError, match="refuses these credentials") as caught:
        local("s3://team/x", tmp_path)
    assert "planted-secret" not in str(caught.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="no credentials"):
        local("s3://team/x", tmp_path)


def test_absent_things_are_named(bucket: Seaweed, tmp_path: Path) -> None:
    for text in ("s3://team/no-such-thing", "s3://no-such-bucket/x"):
        with pytest.raises(MissingInput, match=text):
            local(text, tmp_path)
    with pytest.raises(MissingInput, match="does not exist"):
        push(tmp_path / "absent", "s3://team/x")


def test_a_block_that_fails_puts_nothing(bucket: Seaweed) -> None:
    with pytest.raises(RuntimeError), writing("s3://team/half.bin") as place:
        place.write_bytes(b"half")
        raise RuntimeError
    assert bucket.keys("team") == []
    with writing("s3://team/whole.bin") as place:
        assert place.name == "whole.bin"
        place.write_bytes(b"whole")
    assert bucket.keys("team") == ["whole.bin"]


def test_what_is_written_beside_a_file_is_put_there_too(bucket: Seaweed) -> None:
    with writing("s3://team/models/[1].onnx") as place:
        place.write_bytes(b"model")
        place.with_name(f"{place.name}.prior.npz").write_bytes(b"law")
        place.with_name("other").write_bytes(b"not of it")
    assert bucket.keys("team") == ["models/[1].onnx", "models/[1].onnx.prior.npz"]


def test_locks_are_not_put_in_a_store(tmp_path: Path) -> None:
    for name in ("result.json", ".result.json.lock", "bank/.lock", "bank/manifest.json", "a.lock", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert list(content(tmp_path)) == [".hidden", "a.lock", "bank/manifest.json", "result.json"]
    assert content(tmp_path / "result.json") == {"": tmp_path / "result.json"}
    with pytest.raises(MissingInput, match="does not exist"):
        content(tmp_path / "absent")
