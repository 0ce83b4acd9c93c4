from __future__ import annotations

from pathlib import Path

from graftgan.config import Params
from graftgan.params import resolve
from graftgan.reporting.facts import Facts, read_facts
from graftgan.reporting.provenance import digests, licences, parameters, run_table
from reporting.synthetic import DIGEST, PROTOCOL, SHA, edit


def test_digests(facts: Facts) -> None:
    found = dict(digests(facts, "c" * 64))
    assert (found["Image set"], found["Code revision"]) == (DIGEST, "c" * 64)
    assert found["Protocol of the scores"] == found["Protocol of the ranking"] == PROTOCOL


def test_runs_side_by_side(facts: Facts) -> None:
    found = dict(run_table(facts))
    assert found["Source"] == ["portraits", "flowers", "none"]
    assert found["Source sha256"] == [SHA, SHA, "–"]
    assert found["Images seen"] == ["24 kimg"] * 3
    assert found["Stored"] == ["5.00 MB"] * 3


def test_parameters_are_those_that_shape_the_result() -> None:
    found = dict(parameters(Params()))
    assert {key.split(".")[0] for key in found} == {"data", "rank", "finetune", "evaluate", "report"}
    assert found["finetune.flip"] == "true"
    assert found["data.train_images"] == "null"
    assert found["finetune.controls"] == "[worst, scratch]"


def test_folders_are_not_shown() -> None:
    params = resolve(
        {"data": {"path": "/home/someone/private/cats"}, "track": {"uri": "http://host"}}, "test"
    )
    found = dict(parameters(params))
    assert found["data.path"] == "cats"
    assert found["rank.catalogue"] == "catalogue.yaml"
    assert "someone" not in str(found) and "host" not in str(found)


def test_licences_of_images_and_sources(inputs: dict[str, Path]) -> None:
    edit(inputs["models"] / "worst" / "model.json", source_licence=None)
    edit(inputs["dataset"] / "dataset.json", licence="")
    assert licences(read_facts(inputs)) == [
        ("Images: faces.parquet", "not stated"),
        ("Source: Portraits faces", "CC-BY-4.0"),
        ("Source: Flowers faces", "CC-BY-4.0"),
    ]
