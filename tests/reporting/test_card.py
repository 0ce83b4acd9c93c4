from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stages.models import tiny_gan, write_dataset, write_models, write_scores

from graftgan.contract import read_json
from graftgan.reporting.card import model_card


@pytest.fixture
def facts(tmp_path: Path) -> dict[str, dict[str, Any]]:
    from graftgan.gans.base import sample

    digest = write_dataset(tmp_path / "dataset", sample(tiny_gan(1).generator_ema, 4, 0))
    write_models(tmp_path / "models", tiny_gan(1), digest)
    write_scores(tmp_path / "scores", digest)
    return {
        "model": read_json(tmp_path / "models" / "chosen" / "model.json"),
        "dataset": read_json(tmp_path / "dataset" / "dataset.json"),
        "scores": read_json(tmp_path / "scores" / "scores.json"),
    }


def card(facts: dict[str, dict[str, Any]]) -> str:
    return model_card("faces", facts["model"], facts["dataset"], facts["scores"], "ef" * 32)


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n")[1].split("\n## ", maxsplit=1)[0]


def test_card_states_every_fact_a_user_needs(facts: dict[str, dict[str, Any]]) -> None:
    text = card(facts)
    assert text == card(facts)
    assert "adapted from `open-peeps`" in text
    assert "CC BY 4.0 by Micah Lanier" in section(text, "Source and licences")
    assert "Open Peeps: CC0-1.0" in section(text, "Source and licences")
    assert "24 kimg of training; the checkpoint at 18 kimg" in section(text, "Method")
    assert "| kid_efflite0 | 0.0123 | 0.0110 to 0.0136 | 0.0002 |" in section(text, "Scores")
    assert "48 held-out test images" in section(text, "Scores")
    limits = section(text, "Limits")
    assert "seen 100 images" in limits and "0.52" in limits
    assert "training diverged once" in limits and "few test images" in limits
    assert "models:/faces@champion" in section(text, "Use")
    provenance = section(text, "Provenance")
    for value in (facts["dataset"]["digest"], "cd" * 32, "ef" * 32, facts["scores"]["protocol"]):
        assert f"`{value}`" in provenance


def test_card_of_a_model_from_scratch(facts: dict[str, dict[str, Any]]) -> None:
    facts["model"] |= {"source": None, "source_sha256": None, "source_licence": None, "method": "scratch"}
    text = card(facts)
    assert "trained from scratch" in text and "No source checkpoint" in text
    assert "Source sha256: `none`" in text


def test_card_hides_no_gap(facts: dict[str, dict[str, Any]]) -> None:
    facts["dataset"] |= {"missing": {"test": "only 12 images"}, "licence": ""}
    facts["scores"] |= {"reference": "train"}
    facts["scores"]["runs"]["chosen"]["copy"] = {"available": False, "reason": "no held-out images"}
    text = card(facts)
    assert "No test images: only 12 images" in text
    assert "Images: licence not stated" in text
    assert "train images, which the model has seen" in text
    assert "is not known: no held-out images" in text
    facts["scores"]["runs"] = {}
    assert "This model was not scored." in card(facts)


def test_class_column_is_shown_for_a_model_with_classes(facts: dict[str, dict[str, Any]]) -> None:
    assert '"class"' not in card(facts)
    facts["model"]["spec"] |= {"classes": 2}
    assert '"class": [0, 0]' in card(facts)
