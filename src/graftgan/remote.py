"""Files in object stores by address, `s3://bucket/key`: fetched whole and checked, and put the same way.

What is fetched becomes a snapshot in the cache, named after the address and what the store lists there; it is
never changed, so that one run sees one state of a folder, and it has the digest of the same files on disk.
Every object is checked against its sha256 (kept with it when this module wrote it) or the store's MD5. A
folder that this module wrote ends with a list of its files; without all of them it is refused.

Credentials and the address of the server come from the environment alone, as the AWS tools read it:
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`, `AWS_ENDPOINT_URL` and so on.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from graftgan.contract import canonical_json, digest_file, digest_text, is_lock, shared_path
from graftgan.errors import ConfigError, DataError, MissingInput

if TYPE_CHECKING:
    from graftgan.remote_client import Client

SUMS = ".graftgan-sums.json"
MAX_OBJECTS = 2_000_000
# pathlib folds the two slashes into one.
_ADDRESS = re.compile(r"^s3:/{1,2}(?P<rest>.*)$", re.DOTALL)
_log = logging.getLogger("graftgan")
_known: dict[tuple[str, str], Path] = {}


@dataclass(frozen=True)
class Address:
    """A place in an object store.

    Attributes:
        bucket: Its bucket.
        key: Key of an object, or the common start of a folder's keys, without a slash at the end.
    """

    bucket: str
    key: str

    @property
    def name(self) -> str:
        """Last part of the key, or the bucket."""
        return PurePosixPath(self.key).name or self.bucket

    def __truediv__(self, name: str) -> Address:
        return Address(self.bucket, f"{self.key}/{name}".lstrip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")


@dataclass(frozen=True)
class Listed:
    """What a store lists of one object.

    Attributes:
        name: Path below the address, empty for the object at the address itself.
        size: Length in bytes.
        etag: The store's word for its content.
    """

    name: str
    size: int
    etag: str


def is_address(path: Path | str) -> bool:
    """Tell whether `path` names a place in an object store."""
    return bool(_ADDRESS.match(str(path)))


def address(path: Path | str) -> Address:
    """Read an address.

    Raises:
        ConfigError: If it names no bucket, or holds a user or password; the message leaves them out.
    """
    found = _ADDRESS.match(str(path))
    bucket, _, key = found["rest"].partition("/") if found else ("", "", "")
    remedy = "write s3://bucket/key, and give keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    # A secret may itself hold a slash, so an @ anywhere before an unescaped end is taken for one.
    if "@" in bucket or (":" in bucket and "@" in key):
        raise ConfigError("an s3:// address holds a user or password", remedy)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]+", bucket):
        raise ConfigError(f"{str(path)[:100]!r} names no bucket", remedy)
    return Address(bucket, key.strip("/"))


def join(folder: Path | str, name: str) -> Path | str:
    """Return the place called `name` beside others in `folder`, which is a path or an address."""
    return str(address(folder) / name) if is_address(folder) else Path(folder) / name


def parent(path: Path | str) -> Path | str:
    """Return the folder that a path or an address lies in."""
    if not is_address(path):
        return Path(path).parent
    place = address(path)
    return str(Address(place.bucket, place.key.rpartition("/")[0]))


def local(path: Path | str, cache: Path) -> Path:
    """Return where `path` can be read on this machine: itself, or its snapshot in the cache.

    Within one process an address gives the same snapshot every time.

    Args:
        path: A path, or the address of an object or a folder of objects.
        cache: Folder of caches.

    Raises:
        ConfigError: If the address is wrong, or the store refuses these credentials or has none.
        MissingInput: If there is nothing at the address.
        DataError: If it holds unsafe names, or a folder is not whole.
        TryAgain: If the store does not answer, or sends what does not fit its checksum, time after time.
    """
    if not is_address(path):
        return Path(path)
    place = address(path)
    key = (str(place), os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL", "")))
    if key not in _known or not _known[key].exists():
        _known[key] = _snapshot(place, cache / "remote" / digest_text("\n".join(key))[:16])
    return _known[key]


def fetch_file(path: str, target: Path) -> None:
    """Write one object to `target`.

    Raises:
        ConfigError, MissingInput, TryAgain: As `local`.
    """
    place = address(path)
    with _client() as client:
        listed = client.listed(place)
        if [entry.name for entry in listed] != [""]:
            raise MissingInput(f"{place} is not an object", "correct the address")
        client.fetch(place, listed, {"": target}, {})


def push(path: Path, target: str) -> int:
    """Put a file or a folder at an address and return the number of objects.

    Every object is read back by its checksum. The list of a folder's files goes last, so that a reader never
    takes a part for the whole. Objects that lie there already under other names are left alone.

    Raises:
        ConfigError: If the address is wrong, or the store refuses these credentials or has none.
        MissingInput: If `path` does not exist.
        TryAgain: If the store does not answer, or does not keep what it was sent.
    """
    place, files = address(target), content(path)
    sums = {name: digest_file(file) for name, file in files.items()}
    with _client() as client:
        client.put(place, files, sums)
        if path.is_dir():
            with tempfile.TemporaryDirectory() as scratch:
                listing = Path(scratch) / SUMS
                listing.write_text(json.dumps(sums, sort_keys=True, indent=1), encoding="utf-8")
                client.put(place, {SUMS: listing}, {SUMS: digest_file(listing)})
    return len(files)


def content(path: Path) -> dict[str, Path]:
    """Return the files of what is to be put in a store, by name below it; locks are none of them.

    Raises:
        MissingInput: If `path` does not exist.
    """
    if path.is_file():
        return {"": path}
    if not path.is_dir():
        raise MissingInput(f"{path} does not exist", "correct the path")
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and not is_lock(file))
    return {file.relative_to(path).as_posix(): file for file in files}


@contextmanager
def writing(out: Path | str) -> Iterator[Path]:
    """Give a place to write `out` to; an address is put there when the block ends well.

    So are files beside it whose names begin with its own, such as a prior; it comes last.

    Raises:
        ConfigError, TryAgain: As `push`.
    """
    if not is_address(out):
        yield Path(out)
        return
    place = address(out)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / place.name
        yield made
        for more in sorted(made.parent.glob(f"{glob.escape(made.name)}.*")):
            push(more, f"{place}{more.name.removeprefix(made.name)}")
        push(made, str(place))


def _client() -> Client:
    try:
        from graftgan.remote_client import Client
    except ImportError:
        raise ConfigError(
            "s3:// addresses need the package s3fs", "install it with `pip install graftgan[s3]`"
        ) from None
    return Client()


def _snapshot(place: Address, folder: Path) -> Path:
    with _client() as client:
        listed = client.listed(place)
        if not listed:
            raise MissingInput(f"{place} does not exist", "correct the address, or push the files there")
        if len(listed) > MAX_OBJECTS:
            raise DataError(f"{place} holds {len(listed)} objects, more than {MAX_OBJECTS}", "split it")
        state = digest_text(canonical_json([[e.name, e.size, e.etag] for e in listed]))[:16]
        target = folder / state / place.name
        if not target.exists():
            size_mb = sum(entry.size for entry in listed) / 1e6
            _log.info("fetching %s: %d objects, %.1f MB", place, len(listed), size_mb)
            with shared_path(target, there=target.exists) as temporary:
                _fill(client, place, listed, temporary)
    return target


def _fill(client: Client, place: Address, listed: list[Listed], target: Path) -> None:
    if listed[0].name == "":
        client.fetch(place, listed[:1], {"": target}, {})
        return
    sums = _sums(client, place, listed)
    wanted = [entry for entry in listed if (entry.name in sums if sums else entry.name != SUMS)]
    if extra := len(listed) - len(wanted) - 1 if sums else 0:
        _log.warning("%s: %d objects are not in its list %s and are left out", place, extra, SUMS)
    paths = {entry.name: target / safe(entry.name, place) for entry in wanted}
    for path in paths.values():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise DataError(f"{place}: {path.name!r} is both an object and a folder", "rename it") from None
    client.fetch(place, wanted, paths, sums)


def _sums(client: Client, place: Address, listed: list[Listed]) -> Mapping[str, str]:
    listing = [entry for entry in listed if entry.name == SUMS]
    if not listing:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "sums"
        client.fetch(place, listing, {SUMS: path}, {})
        try:
            sums = {str(k): str(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
        except (ValueError, AttributeError, RecursionError):
            raise DataError(f"{place / SUMS} is no list of files", "push the folder again") from None
    if lost := sorted(set(sums) - {entry.name for entry in listed}):
        raise DataError(
            f"{place} is not whole: {len(lost)} of its {len(sums)} files are missing, such as {lost[0]!r}",
            "push the folder again",
        )
    return sums


def safe(name: str, place: Address) -> str:
    """Return a key's path below its folder if it can be a file there.

    Raises:
        DataError: If it would lie elsewhere, or cannot be a file name.
    """
    parts = name.split("/")
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise DataError(f"{place} holds the unsafe name {name!r:.120}", "rename or remove that object")
    return name
