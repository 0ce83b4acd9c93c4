"""The model registry in MLflow: one version a package digest, aliases `champion` and `challenger`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graftgan.context import Registered
from graftgan.errors import TryAgain
from graftgan.journal import ALIAS_TAG, CHALLENGER, CHAMPION, KEY_TAG, REASON_TAG, SUPERSEDED_TAG, redacted
from graftgan.tracking import PACKAGE, Connection, RefusedError, talking

MAX_DESCRIPTION = 5000


class MlflowRegistry:
    """The registry behind an open connection.

    Args:
        connection: The connection.
        run: Gives the id of the run that versions come from; called when one is published.
    """

    def __init__(self, connection: Connection, run: Callable[[], str]) -> None:
        self._connection = connection
        self._client = connection.client
        self._run = run

    def available(self) -> bool:
        """Tell whether the registry answers now."""
        try:
            with talking():
                self._client.search_registered_models(max_results=1)
            return True
        except (TryAgain, RefusedError):
            return False

    def find(self, name: str, key: str) -> Registered | None:
        """Return the version made from the package with this digest.

        Raises:
            TryAgain: If the registry does not answer.
        """
        with talking():
            found = self._client.search_model_versions(f"name = '{name}' and tags.`{KEY_TAG}` = '{key}'")
        return _registered(min(found, key=lambda version: int(version.version))) if found else None

    def champion(self, name: str) -> Registered | None:
        """Return the version that bears the alias `champion`.

        Raises:
            TryAgain: If the registry does not answer.
        """
        return self._aliased(name, CHAMPION)

    def _aliased(self, name: str, alias: str) -> Registered | None:
        try:
            with talking():
                return _registered(self._client.get_model_version_by_alias(name, alias))
        except RefusedError:
            return None

    def download(self, version: Registered, folder: Path) -> Path:
        """Fetch the package of a version below `folder` and return its path.

        Raises:
            TryAgain: If it cannot be fetched.
        """
        try:
            model = self._connection.download(f"models:/{version.name}/{version.version}", folder)
        except RefusedError as error:
            raise TryAgain(
                f"version {version.version} of {version.name} cannot be fetched: {error}"
            ) from error
        return model / "artifacts" / PACKAGE

    def publish(self, name: str, package: Path, key: str, tags: Mapping[str, str]) -> Registered:
        """Make a version from a package folder, or return the one that was made from it.

        Raises:
            TryAgain: If the registry does not answer or refuses.
        """
        if known := self.find(name, key):
            return known
        kept = {k: redacted(k, v) for k, v in tags.items()} | {KEY_TAG: key}
        try:
            return self._publish(name, package, kept)
        except RefusedError as error:
            raise TryAgain(f"the registry refuses a version of {name}: {error}") from error

    def _publish(self, name: str, package: Path, tags: Mapping[str, str]) -> Registered:
        run = self._run()
        try:
            with talking():
                self._client.create_registered_model(name)
        except RefusedError:
            # It exists; if it cannot be used, the next call says so.
            pass
        with tempfile.TemporaryDirectory() as scratch:
            model = self._connection.log_model(run, name, package, Path(scratch), tags)
        card = (package / "card.md").read_text(encoding="utf-8")[:MAX_DESCRIPTION]
        with talking():
            version = self._client.create_model_version(
                name,
                f"models:/{model}",
                run,
                dict(tags),
                description=card,
                await_creation_for=0,
                model_id=model,
            )
        return _registered(version)

    def promote(self, version: Registered, alias: str, reason: str) -> None:
        """Move an alias to a version and note the reason on it, and on a superseded champion its successor.

        Raises:
            TryAgain: If the registry does not answer or refuses.
        """
        try:
            before = self._aliased(version.name, alias)
            with talking():
                self._client.set_registered_model_alias(version.name, alias, version.version)
                self._tag(version, ALIAS_TAG, alias)
                self._tag(version, REASON_TAG, reason)
            if alias == CHAMPION:
                self._succeed(before, version)
        except RefusedError as error:
            raise TryAgain(f"the registry refuses the alias {alias}: {error}") from error

    def _succeed(self, before: Registered | None, version: Registered) -> None:
        challenger = self._aliased(version.name, CHALLENGER)
        with talking():
            if before and before.version != version.version:
                self._tag(before, SUPERSEDED_TAG, version.version)
            if challenger and challenger.version == version.version:
                self._client.delete_registered_model_alias(version.name, CHALLENGER)

    def _tag(self, version: Registered, key: str, value: str) -> None:
        self._client.set_model_version_tag(version.name, version.version, key, value)


def _registered(version: Any) -> Registered:
    tags = {str(k): str(v) for k, v in version.tags.items()}
    return Registered(str(version.name), str(version.version), tags.get(KEY_TAG, ""), tags)
