"""The client of object stores behind `graftgan.remote`: fsspec's S3, with patience and checks of its own."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import fsspec
import fsspec.asyn
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from graftgan.contract import disk_is_full
from graftgan.errors import ConfigError, GraftganError, MissingInput, TryAgain
from graftgan.redaction import redacted
from graftgan.remote import Address, Listed

ATTEMPTS = 8
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 10.0
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
PARALLEL = 8
CHUNK_BYTES = 1 << 20
PART_BYTES = 16 << 20
SUM_KEY = "graftgan-sha256"
REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403", "401"}
ABSENT = {"NoSuchBucket", "NoSuchKey", "404"}
KEYS = "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for a store of your own, AWS_ENDPOINT_URL"
T = TypeVar("T")
_MD5 = re.compile(r"[0-9a-f]{32}")
_log = logging.getLogger("graftgan")


class DamagedError(Exception):
    """What arrived is not what the store has."""


PASSING = (ClientError, BotoCoreError, aiohttp.ClientError, TimeoutError, OSError, DamagedError)


class Client:
    """An open line to the object store that the environment names; use it in a `with` block."""

    def __init__(self) -> None:
        timeouts = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
        # Retries are ours alone: three layers of them would multiply to minutes.
        self._files = fsspec.filesystem(
            "s3",
            skip_instance_cache=True,
            use_listings_cache=False,
            config_kwargs=timeouts | {"retries": {"total_max_attempts": 1}},
        )
        self._files.retries = 1

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        client = getattr(self._files, "_s3", None)
        if client is not None:
            fsspec.asyn.sync(self._files.loop, client.close)

    def listed(self, place: Address) -> list[Listed]:
        """Return the object at an address, or those below it sorted by name; none if there is nothing.

        Raises:
            ConfigError, TryAgain: As `graftgan.remote.local`.
        """
        found: list[Listed] = fsspec.asyn.sync(self._files.loop, self._listed, place)
        return found

    def fetch(
        self, place: Address, listed: list[Listed], paths: Mapping[str, Path], sums: Mapping[str, str]
    ) -> None:
        """Write objects to paths, each checked.

        Args:
            place: What the names lie below.
            listed: The objects.
            paths: Where each goes, by name.
            sums: The sha256 of those whose is known, by name.

        Raises:
            ConfigError, MissingInput, TryAgain: As `graftgan.remote.local`.
        """

        def one(entry: Listed) -> Callable[[], Awaitable[None]]:
            where = place / entry.name if entry.name else place
            return lambda: self._get(where, entry, paths[entry.name], sums.get(entry.name))

        self._all([(place / e.name if e.name else place, one(e)) for e in listed])

    def put(self, place: Address, files: Mapping[str, Path], sums: Mapping[str, str]) -> None:
        """Put files at an address, each under its name and with its sha256, and check that they are there.

        Raises:
            ConfigError, MissingInput, TryAgain: As `graftgan.remote.push`.
        """

        def one(name: str, file: Path) -> Callable[[], Awaitable[None]]:
            return lambda: self._put(place / name if name else place, file, sums[name])

        self._all([(place / n if n else place, one(n, file)) for n, file in files.items()])

    def _all(self, tasks: list[tuple[Address, Callable[[], Awaitable[None]]]]) -> None:
        async def run() -> None:
            gate = asyncio.Semaphore(PARALLEL)

            async def guarded(place: Address, task: Callable[[], Awaitable[None]]) -> None:
                async with gate:
                    await patiently(place, task)

            async with asyncio.TaskGroup() as group:
                for place, task in tasks:
                    group.create_task(guarded(place, task))

        try:
            fsspec.asyn.sync(self._files.loop, run)
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _listed(self, place: Address) -> list[Listed]:
        async def work() -> list[Listed]:
            if place.key and (head := await self._head(place)) is not None:
                return [Listed("", int(head["ContentLength"]), _etag(head))]
            return await self._below(place)

        return await patiently(place, work)

    async def _head(self, place: Address) -> Any:
        try:
            return await self._call("head_object", Bucket=place.bucket, Key=place.key)
        except ClientError as error:
            if _code(error) in ABSENT:
                return None
            raise

    async def _below(self, place: Address) -> list[Listed]:
        prefix = f"{place.key}/" if place.key else ""
        found: list[Listed] = []
        token: dict[str, str] = {}
        while True:
            page = await self._call("list_objects_v2", Bucket=place.bucket, Prefix=prefix, **token)
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(prefix)
                # Some tools mark a folder with an empty object.
                if name and not name.endswith("/"):
                    found.append(Listed(name, int(entry["Size"]), _etag(entry)))
            if not page.get("IsTruncated"):
                return sorted(found, key=lambda entry: entry.name)
            token = {"ContinuationToken": page["NextContinuationToken"]}

    async def _get(self, place: Address, entry: Listed, target: Path, sha256: str | None) -> None:
        answer = await self._call("get_object", Bucket=place.bucket, Key=place.key)
        if _etag(answer) != entry.etag:
            raise TryAgain(f"{place} changed while it was fetched", "run again when nobody writes there")
        sha, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        async with answer["Body"] as body:
            with target.open("wb") as file:
                while chunk := await body.read(CHUNK_BYTES):
                    sha.update(chunk)
                    md5.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
        kept = answer.get("Metadata", {}).get(SUM_KEY)
        _check(place, (size, md5.hexdigest()), (entry.size, _content_md5(answer)))
        for wanted in (sha256, kept):
            if wanted and sha.hexdigest() != wanted:
                raise DamagedError(f"{place} has sha256 {sha.hexdigest()}, not {wanted}")

    async def _put(self, place: Address, file: Path, sha256: str) -> None:
        remote = f"{place.bucket}/{place.key}"
        with file.open("rb") as opened:
            md5 = await asyncio.to_thread(lambda: hashlib.file_digest(opened, "md5").hexdigest())
        await self._files._put_file(str(file), remote, chunksize=PART_BYTES, Metadata={SUM_KEY: sha256})
        head = await self._call("head_object", Bucket=place.bucket, Key=place.key)
        _check(place, (int(head["ContentLength"]), _content_md5(head) or md5), (file.stat().st_size, md5))
        if head.get("Metadata", {}).get(SUM_KEY) != sha256:
            raise DamagedError(f"{place} was stored without its checksum")

    async def _call(self, method: str, **arguments: Any) -> Any:
        session = await self._files.set_session()
        return await getattr(session, method)(**arguments)


async def patiently(place: Address, work: Callable[[], Awaitable[T]]) -> T:
    """Do something with a store until it works, with growing pauses, and translate what never will.

    Raises:
        ConfigError: If the store refuses these credentials, or there are none.
        MissingInput: If there is no such bucket or object.
        TryAgain: If it still fails after the last attempt.
    """
    pause_s = FIRST_PAUSE_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await work()
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ConfigError(f"{place}: there are no credentials for the store", KEYS) from error
        except PASSING as error:
            _refuse_for_good(place, error)
            text = redacted("error", str(error))[:300]
            if attempt == ATTEMPTS:
                message = f"{place} failed {ATTEMPTS} times: {text}"
                raise TryAgain(message, "see whether the store is up, and run again") from error
            _log.debug("%s: attempt %d of %d: %s", place, attempt, ATTEMPTS, text)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)
    raise AssertionError("unreachable")


def _refuse_for_good(place: Address, error: Exception) -> None:
    # Files of this machine are named in their errors; fsspec makes the network's into the same classes.
    if isinstance(error, OSError) and (error.filename is not None or disk_is_full(error)):
        raise error
    if isinstance(error, FileNotFoundError) or _code(error) in ABSENT:
        raise MissingInput(f"{place} does not exist", "correct the address") from error
    if isinstance(error, PermissionError) or _code(error) in REFUSED:
        raise ConfigError(f"{place}: the store refuses these credentials", KEYS) from error


def _code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _content_md5(answer: Mapping[str, Any]) -> str:
    """Return the MD5 that an ETag is, or nothing: of parts, and of keys of its own, a store makes another."""
    sealed = "aws:kms" in str(answer.get("ServerSideEncryption", "")) or "SSECustomerAlgorithm" in answer
    etag = _etag(answer)
    return etag if _MD5.fullmatch(etag) and not sealed else ""


def _check(place: Address, found: tuple[int, str], wanted: tuple[int, str]) -> None:
    if found[0] != wanted[0]:
        raise DamagedError(f"{place} has {found[0]} bytes, not {wanted[0]}")
    if wanted[1] and found[1] != wanted[1]:
        raise DamagedError(f"{place} has MD5 {found[1]}, not {wanted[1]}")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    errors = [e for e in group.exceptions if not isinstance(e, asyncio.CancelledError)]
    ours = [e for e in errors if isinstance(e, GraftganError)]
    return (ours or errors or [group])[0]
