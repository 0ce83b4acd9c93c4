from __future__ import annotations

import pytest
import yaml

from graftgan.yamltext import parse_yaml


@pytest.mark.parametrize("word", ["off", "Off", "on", "no", "NO", "yes", "y", "truest"])
def test_words_stay_words(word: str) -> None:
    assert parse_yaml(word) == word
    assert parse_yaml(f"{{mode: {word}}}") == {"mode": word}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("null", None), ("~", None), ("7", 7), ("0.5", 0.5),
        ("[a, 1]", ["a", 1]), ("'true'", "true"), ("", None),
    ],
)  # fmt: skip
def test_other_values_are_those_of_yaml(text: str, value: object) -> None:
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_texts_make_no_objects() -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml("!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize("text", ["2001-13-01", "[" * 5000, "9" * 5000, "{[1]: 2}", "\0", "!!int x"])
def test_what_cannot_be_is_not_yaml(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


def test_the_library_itself_is_left_as_it_was() -> None:
    assert yaml.safe_load("off") is False
