"""Promote, roll back, compare and show versions, with a real registry in a local store."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bank.banks import SIZE_PX, grown
from click.testing import CliRunner
from PIL import Image
from stages.models import tiny_gan, write_models

from graftgan.bank.package import write_bank_package
from graftgan.cli import cli
from graftgan.config import Track
from graftgan.context import Registered
from graftgan.contract import digest_path
from graftgan.errors import CheckpointError, ConfigError
from graftgan.gallery import parse_truncations, write_gallery
from graftgan.journal import ALIAS_TAG, CHAMPION, PREDECESSOR_TAG, REASON_TAG, SUPERSEDED_TAG
from graftgan.packages import load_package, write_package
from graftgan.registry import MlflowRegistry
from graftgan.reporting.card import CONNECT
from graftgan.tracking import Connection
from graftgan.versions import compare, fetched, promote, rollback, table
from tracking.support import python_examples, run_as_documented

NAME = "toys"
CARD = "# toys\n\nA **card** with <b>tags</b> & signs.\n"


def package(folder: Path, seed: int, kid: float, dataset: str = "d1", classes: int = 0) -> Path:
    gan = tiny_gan(seed, classes=classes) if classes else tiny_gan(seed)
    models = write_models(folder / f"models{seed}", gan, "d")
    (folder / f"package{seed}").mkdir()
    facts: dict[str, Any] = {
        "family": "stylegan2",
        "truncation_default": 0.7,
        "spec": gan.spec.to_dict(),
        "classes": ["<i>a</i>", "b"][:classes],
        "provenance": {
            "dataset": dataset,
            "protocol": "p",
            "method": "full",
            "source": f"s{seed}",
            "seed": seed,
            "source_sha256": None,
            "code": "c",
        },
        "scores": {"kid_efflite0": {"value": kid, "low": kid - 0.01, "high": kid + 0.01}},
    }
    write_package(models / "chosen", folder / f"package{seed}", facts, CARD)
    return folder / f"package{seed}"


@pytest.fixture
def registry(store: Track) -> Iterator[MlflowRegistry]:
    connection = Connection(store)
    run = connection.client.create_run(connection.experiment("e")).info.run_id
    yield MlflowRegistry(connection, lambda: str(run))


@pytest.fixture
def three(registry: MlflowRegistry, place: Path) -> list[Registered]:
    packages = [package(place, seed, kid) for seed, kid in ((1, 0.3), (2, 0.2), (3, 0.1))]
    found = [registry.publish(NAME, folder, digest_path(folder), {}) for folder in packages]
    assert [version.version for version in found] == ["1", "2", "3"]
    return found


def test_a_bank_of_tasks_is_promoted_once_every_task_loads(registry: MlflowRegistry, place: Path) -> None:
    bank = grown(place / "bank", ["random", "warm:t1"])
    versions = []
    for number in range(2):
        folder = place / f"bank-package{number}"
        folder.mkdir()
        about = {name: {"background": "#000000", "size_px": SIZE_PX} for name in ("t1", "t2")}
        origin = {"provenance": {"dataset": "d", "protocol": "p"}, "scores": {}}
        write_bank_package(bank.folder, folder, {"tasks": about, "number": number, **origin}, CARD)
        if number == 1:
            damaged = sorted((folder / "bank").rglob("*.safetensors"))[-1]
            damaged.write_bytes(damaged.read_bytes()[:-4])
        versions.append(registry.publish("bank", folder, digest_path(folder), {}))
    assert promote(registry, "bank", "1", CHAMPION, "good") == "bank: version 1 is champion"
    with pytest.raises(CheckpointError):
        promote(registry, "bank", "2", CHAMPION, "bad")
    assert registry.aliases("bank") == {CHAMPION: "1"}
    with pytest.raises(ConfigError, match="bank-package0 is a bank of tasks"):
        write_gallery(place / "bank-package0", "bank-package0", [0], [1.0], place / "g.html")


def tags(registry: MlflowRegistry, which: str) -> dict[str, str]:
    return dict(registry.version(NAME, which).tags)


def test_promotions_are_taken_back_one_by_one(registry: MlflowRegistry, three: list[Registered]) -> None:
    assert promote(registry, NAME, "1", CHAMPION, "first") == "toys: version 1 is champion"
    assert "in place of version 1" in promote(registry, NAME, "2", CHAMPION, "second")
    promote(registry, NAME, "3", CHAMPION, "third")
    assert tags(registry, "3")[PREDECESSOR_TAG] == "2" and tags(registry, "2")[SUPERSEDED_TAG] == "3"
    assert rollback(registry, NAME, "blurred") == "toys: version 2 is champion again, version 3 is not"
    assert registry.aliases(NAME) == {CHAMPION: "2"}
    assert "blurred" in tags(registry, "3")[REASON_TAG] and tags(registry, "3")[ALIAS_TAG] == ""
    assert SUPERSEDED_TAG not in tags(registry, "2")
    rollback(registry, NAME, "blurred too")
    assert registry.aliases(NAME) == {CHAMPION: "1"}
    with pytest.raises(ConfigError, match="no version was champion before version 1"):
        rollback(registry, NAME, "more")
    assert registry.aliases(NAME) == {CHAMPION: "1"}


@pytest.mark.parametrize("step", range(6))
def test_a_rollback_cut_short_is_finished_and_goes_no_further(
    registry: MlflowRegistry, three: list[Registered], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    for which in ("1", "2", "3"):
        promote(registry, NAME, which, CHAMPION, "better")
    steps = iter(range(6))

    def failing(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            if next(steps) == step:
                raise KeyboardInterrupt
            return write(*given)

        return call

    with monkeypatch.context() as cut:
        for name in ("set_registered_model_alias", "delete_model_version_tag", "set_model_version_tag"):
            cut.setattr(registry._client, name, failing(getattr(registry._client, name)))
        with pytest.raises(KeyboardInterrupt):
            rollback(registry, NAME, "blurred")
    assert rollback(registry, NAME, "blurred") == "toys: version 2 is champion again, version 3 is not"
    assert registry.aliases(NAME) == {CHAMPION: "2"}
    assert SUPERSEDED_TAG not in tags(registry, "2") and tags(registry, "3")[ALIAS_TAG] == ""


def test_a_champion_of_an_older_program_knows_its_predecessor_by_the_successor(
    registry: MlflowRegistry, three: list[Registered]
) -> None:
    promote(registry, NAME, "1", CHAMPION, "first")
    promote(registry, NAME, "2", CHAMPION, "second")
    registry._client.delete_model_version_tag(NAME, "2", PREDECESSOR_TAG)
    rollback(registry, NAME, "why")
    assert registry.aliases(NAME) == {CHAMPION: "1"}


def test_promoting_what_is_champion_changes_nothing(
    registry: MlflowRegistry, three: list[Registered]
) -> None:
    promote(registry, NAME, "1", CHAMPION, "first")
    assert promote(registry, NAME, CHAMPION, CHAMPION, "again") == "toys: version 1 already is champion"
    assert tags(registry, "1")[REASON_TAG] == "first"


def test_a_damaged_package_is_not_promoted(
    registry: MlflowRegistry, three: list[Registered], store: Track
) -> None:
    weights = list(Path(store.artifacts).rglob("model.safetensors"))
    assert len(weights) == 3
    for path in weights:
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError):
        promote(registry, NAME, "2", CHAMPION, "x")
    assert registry.aliases(NAME) == {}


@pytest.mark.parametrize(
    ("name", "which", "words"),
    [
        (NAME, "9", "no version or alias '9'"),
        (NAME, "best", "no version or alias 'best'"),
        ("nobody", "1", "no registered model 'nobody'"),
        ("x' or name like '%", "1", "no name of a model"),
    ],
)
def test_what_is_not_there_is_named(
    registry: MlflowRegistry, three: list[Registered], name: str, which: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        promote(registry, name, which, CHAMPION, "x")


def test_versions_are_listed_with_their_aliases(registry: MlflowRegistry, three: list[Registered]) -> None:
    promote(registry, NAME, "2", CHAMPION, "it is better")
    promote(registry, NAME, "3", "challenger", "it is new")
    lines = table(registry, NAME)
    assert [line.split()[:2] for line in lines] == [["1", "-"], ["2", "champion"], ["3", "challenger"]]
    assert lines[1].endswith("it is better") and three[1].key[:12] in lines[1]


def test_scores_are_set_side_by_side(registry: MlflowRegistry, three: list[Registered]) -> None:
    promote(registry, NAME, "1", CHAMPION, "x")
    lines = compare(registry, NAME, CHAMPION, "3")
    (row,) = [line for line in lines if line.startswith("kid_efflite0")]
    assert re.findall(r"[\d.]+ \([\d.]+ to [\d.]+\)", row) == [
        "0.300 (0.290 to 0.310)",
        "0.100 (0.090 to 0.110)",
    ]
    assert any(line.startswith("source") and line.endswith("*") for line in lines)
    assert not any("cannot be compared" in line for line in lines)


def test_scores_on_other_images_are_not_to_be_compared(
    registry: MlflowRegistry, three: list[Registered], place: Path
) -> None:
    other = package(place, 4, 0.05, dataset="d2")
    registry.publish(NAME, other, digest_path(other), {})
    assert "The dataset differs: the scores cannot be compared." in compare(registry, NAME, "1", "4")


def test_a_package_is_fetched_by_every_way_of_naming_it(
    registry: MlflowRegistry, three: list[Registered]
) -> None:
    promote(registry, NAME, "2", CHAMPION, "x")
    for model in ("toys", "toys@champion", "toys/2", "models:/toys/2", "models:/toys@champion"):
        with fetched(registry, model) as (folder, title):
            assert digest_path(folder) == three[1].key and title == "toys, version 2"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append({key: value or "" for key, value in attrs})
        for key, value in attrs:
            assert key not in ("href", "onclick", "onload") and "//" not in (value or "").split(",")[0], value


def pixels(uri: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_the_gallery_shows_the_model_s_own_pixels(place: Path) -> None:
    folder = package(place, 1, 0.3)
    write_gallery(folder, "toys <script>alert(1)</script>", [5, 6], [1.0, 0.5], place / "g.html")
    page = Page(text := (place / "g.html").read_text())
    assert (
        len(page.images) == 4 and "script" not in page.tags and "i" not in page.tags and "b" not in page.tags
    )
    assert "&lt;script&gt;" in text and "default-src 'none'" in text
    expected = load_package(folder).sample(1, 6, 0.5)[0]
    assert np.array_equal(pixels(page.images[3]["src"]), expected)
    assert page.images[3]["alt"] == "sample of seed 6, truncation 0.5"


def test_a_gallery_of_classes_has_a_section_for_each(place: Path) -> None:
    folder = package(place, 2, 0.3, classes=2)
    write_gallery(folder, "toys", [0], [1.0], place / "g.html")
    page = Page((place / "g.html").read_text())
    assert [image["alt"].rpartition("class ")[2] for image in page.images] == ["0: <i>a</i>", "1: b"]
    assert "i" not in page.tags
    assert np.array_equal(pixels(page.images[1]["src"]), load_package(folder).sample(1, 0, 1.0, 1)[0])


def test_too_much_for_one_page_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="more than 1024"):
        write_gallery(package(place, 1, 0.3), "x", range(600), [1.0, 0.5], place / "g.html")
    assert not (place / "g.html").exists()


@pytest.mark.parametrize("text", ["", "2", "-0.1", "a", "nan", ",".join(["1"] * 9)])
def test_bad_truncations_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="truncations"):
        parse_truncations(text)


def test_the_commands_reach_the_registry(
    registry: MlflowRegistry, three: list[Registered], store: Track, place: Path
) -> None:
    (place / "params.yaml").write_text(yaml.safe_dump({"track": store.model_dump()}))

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "version 1 is champion" in call("promote", NAME, "1", "--reason", "looks good")
    call("promote", NAME, "2")
    assert "version 1 is champion again" in call("rollback", NAME)
    assert "looks good" not in call("versions", NAME) and "promoted by hand" not in call("versions", NAME)
    assert "kid_efflite0" in call("compare", NAME, "1", "champion")
    assert "gallery.html: 3 seeds at 1 truncations" in call(
        "gallery", "toys@champion", "--seeds", "0-2", "--psi", "1"
    )
    page = Page((place / "gallery.html").read_text())
    assert np.array_equal(
        pixels(page.images[2]["src"]), load_package(place / "package1").sample(1, 2, 1.0)[0]
    )
    call("gallery", str(place / "package1"), "--seeds", "4", "--psi", "1", "--out", "one.html")
    assert len(Page((place / "one.html").read_text()).images) == 1


def test_the_examples_of_the_docs_draw_tables_of_pictures(registry: MlflowRegistry, place: Path) -> None:
    folder = package(place, 2, 0.2)
    version = registry.publish("graftgan-micah", folder, digest_path(folder), {})
    registry.promote(version, CHAMPION, "x")
    root = Path(__file__).parents[2]
    (short,) = python_examples((root / "README.md").read_text())
    one, many = python_examples((root / "docs" / "serving.md").read_text())
    assert run_as_documented(place, short)["images"].shape == (2, 32, 32, 3)
    assert run_as_documented(place, one)["images"].shape == (3, 32, 32, 3)
    run_as_documented(place, many.replace("range(1000)", "range(70)"))
    drawn = sorted((place / "pictures").iterdir())
    assert [path.name for path in (drawn[0], drawn[-1])] == ["000000.png", "000069.png"] and len(drawn) == 70
    expected = load_package(folder).sample(1, 69, 0.7)[0]
    assert np.array_equal(np.asarray(Image.open(drawn[-1])), expected)


def test_no_example_loads_a_model_before_it_says_where_from() -> None:
    root = Path(__file__).parents[2]
    loading = [
        example
        for page in (root / "README.md", *(root / "docs").glob("*.md"))
        for example in python_examples(page.read_text())
        if 'load_model("models:/' in example
    ]
    assert len(loading) >= 4
    for example in loading:
        assert f"{CONNECT}\nmodel = mlflow.pyfunc.load_model" in example
