"""The model registry in MLflow: one version a package digest, aliases `champion` and `challenger`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from graftgan.context import Registered
from graftgan.errors import ConfigError, TryAgain
from graftgan.journal import (
    ALIAS_TAG,
    CHALLENGER,
    CHAMPION,
    KEY_TAG,
    PREDECESSOR_TAG,
    REASON_TAG,
    SUPERSEDED_TAG,
)
from graftgan.redaction import redacted
from graftgan.registry_answers import (
    MODELS,
    aliases,
    check_name,
    check_place,
    check_which,
    registered,
    untold,
)
from graftgan.tracking import PACKAGE, Connection, RefusedError, talking

MAX_DESCRIPTION = 5000
MAX_VERSIONS = 10_000


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
        return min((registered(version, name) for version in found), key=_number) if found else None

    def champion(self, name: str) -> Registered | None:
        """Return the version that bears the alias `champion`.

        Raises:
            TryAgain: If the registry does not answer.
        """
        return self._aliased(name, CHAMPION)

    def _aliased(self, name: str, alias: str) -> Registered | None:
        try:
            with talking():
                return registered(self._client.get_model_version_by_alias(name, alias), name)
        except RefusedError:
            return None

    def download(self, version: Registered, folder: Path) -> Path:
        """Fetch the package of a version below `folder` and return its path.

        Raises:
            CheckpointError: As `download_model` does.
            TryAgain: If it cannot be fetched.
        """
        return self.download_model(version, folder) / "artifacts" / PACKAGE

    def download_model(self, version: Registered, folder: Path) -> Path:
        """Fetch the MLflow model of a version below `folder` and return its path.

        Raises:
            CheckpointError: If the server's answers lead out of `folder`, or to files that are not its own.
            TryAgain: If it cannot be fetched.
        """
        what = f"version {version.version} of {version.name}"
        try:
            with talking():
                place = self._place(version)
            check_place(place, self._connection.track)
            found = self._connection.download(place, folder)
        except RefusedError as error:
            raise TryAgain(f"{what} cannot be fetched: {error}") from error
        if not found.resolve().is_relative_to(folder.resolve()):
            raise untold(place, f"they came to lie in {found}")
        return found

    def _place(self, version: Registered) -> str:
        # MLflow follows what it is told, from place to place, and asks again for what was looked at.
        place = str(self._client.get_model_version_download_uri(version.name, version.version) or "")
        model = re.fullmatch(re.escape(MODELS) + r"(m-[0-9a-f]{1,64})", place)
        return str(self._client.get_logged_model(model[1]).artifact_location) if model else place

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
        return registered(version, name)

    def promote(self, version: Registered, alias: str, reason: str) -> None:
        """Move an alias to a version and note the reason on it, and on a superseded champion its successor.

        Every step can be repeated, and `ALIAS_TAG` comes last: a version that bears it is done with, and of
        one that does not, `settled` can finish the promotion, wherever it was interrupted.

        Raises:
            TryAgain: If the registry does not answer or refuses.
        """
        try:
            before = self._before(version) if alias == CHAMPION else None
            with talking():
                self._tag(version, REASON_TAG, reason)
                if before:
                    self._tag(version, PREDECESSOR_TAG, before)
                self._client.set_registered_model_alias(version.name, alias, version.version)
            if alias == CHAMPION:
                self._succeed(before, version)
            with talking():
                self._tag(version, ALIAS_TAG, alias)
        except RefusedError as error:
            raise TryAgain(f"the registry refuses the alias {alias}: {error}") from error

    def settled(self, version: Registered) -> str | None:
        """Return the alias that a version was given before, once a promotion cut short is finished.

        Returns:
            The alias, empty if it was taken away again, or None if it is still to be judged.

        Raises:
            TryAgain: If the registry does not answer or refuses.
        """
        given = version.tags.get(ALIAS_TAG)
        if given == CHAMPION:
            return given
        champion = self.champion(version.name)
        if champion is None or champion.version != version.version:
            return given
        self.promote(version, CHAMPION, version.tags.get(REASON_TAG, "it bore the alias already"))
        return CHAMPION

    def _before(self, version: Registered) -> str | None:
        """Return the champion whose place a version takes, or took when its promotion was cut short."""
        champion = self.champion(version.name)
        if champion is None or champion.version != version.version:
            return champion.version if champion else None
        return version.tags.get(PREDECESSOR_TAG)

    def _succeed(self, before: str | None, version: Registered) -> None:
        challenger = self._aliased(version.name, CHALLENGER)
        with talking():
            if before:
                self._client.set_model_version_tag(version.name, before, SUPERSEDED_TAG, version.version)
            if SUPERSEDED_TAG in version.tags:
                self._client.delete_model_version_tag(version.name, version.version, SUPERSEDED_TAG)
            if challenger and challenger.version == version.version:
                self._client.delete_registered_model_alias(version.name, CHALLENGER)

    def versions(self, name: str) -> list[Registered]:
        """Return all versions of a model, the oldest first.

        Raises:
            ConfigError: If there is no such model.
            CheckpointError: If the registry tells of another.
            TryAgain: If the registry does not answer.
        """
        self.aliases(name)
        with talking():
            found = self._client.search_model_versions(f"name = '{name}'", max_results=MAX_VERSIONS)
        return sorted((registered(version, name) for version in found), key=_number)

    def aliases(self, name: str) -> dict[str, str]:
        """Return the version that each alias of a model points to.

        Raises:
            ConfigError: If there is no such model.
            TryAgain: If the registry does not answer.
        """
        check_name(name)
        try:
            with talking():
                found = self._client.get_registered_model(name).aliases
        except RefusedError:
            raise ConfigError(f"there is no registered model {name!r}", "correct the name") from None
        return aliases(found)

    def version(self, name: str, which: str) -> Registered:
        """Return a version by its number or by an alias.

        Raises:
            ConfigError: If there is none.
            CheckpointError: If the registry tells of another.
            TryAgain: If the registry does not answer.
        """
        check_which(which)
        bearers = self.aliases(name)
        try:
            with talking():
                return registered(self._client.get_model_version(name, bearers.get(which, which)), name)
        except RefusedError:
            known = ", ".join(sorted(bearers)) or "none"
            raise ConfigError(
                f"{name} has no version or alias {which!r}", f"give a number, or one of its aliases: {known}"
            ) from None

    def predecessor(self, version: Registered) -> str | None:
        """Return the version that was champion before this one, or None.

        Raises:
            TryAgain: If the registry does not answer.
        """
        if noted := version.tags.get(PREDECESSOR_TAG):
            return noted
        # Older champions know their successor only.
        before = [v for v in self.versions(version.name) if v.tags.get(SUPERSEDED_TAG) == version.version]
        return before[-1].version if before else None

    def restore(self, version: Registered, now: Registered, reason: str) -> None:
        """Give an earlier champion its alias back and note that on both versions.

        Every step can be repeated, and the last takes the note of its successor from the champion: one that
        bears such a note was given the alias by a call that was cut short.

        Raises:
            TryAgain: If the registry does not answer or refuses.
        """
        try:
            with talking():
                self._tag(now, ALIAS_TAG, "")
                self._tag(now, REASON_TAG, f"rolled back to version {version.version}: {reason}")
                self._tag(version, ALIAS_TAG, CHAMPION)
                self._tag(version, REASON_TAG, f"taken back from version {now.version}: {reason}")
                self._client.set_registered_model_alias(version.name, CHAMPION, version.version)
                self._client.delete_model_version_tag(version.name, version.version, SUPERSEDED_TAG)
        except RefusedError as error:
            raise TryAgain(f"the registry refuses to go back: {error}") from error

    def _tag(self, version: Registered, key: str, value: str) -> None:
        self._client.set_model_version_tag(version.name, version.version, key, value)


def _number(version: Registered) -> int:
    return int(version.version)
