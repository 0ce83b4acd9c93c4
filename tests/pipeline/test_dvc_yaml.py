from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from graftgan.config import Params
from graftgan.params import flatten
from graftgan.stages.specs import STAGES, StageSpec
from pipelines import dvc

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_what_is_checked_in_is_what_the_table_gives() -> None:
    assert dvc.main(["--check"]) == 0


def test_a_stale_file_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "dvc.yaml"
    stale.write_text(dvc.text().replace("rank.seed", "rank.sees"))
    assert dvc.main(["--check", "--output", str(stale)]) == 1
    assert "python -m pipelines.dvc" in capsys.readouterr().err
    assert dvc.main(["--output", str(stale)]) == 0
    assert dvc.main(["--check", "--output", str(stale)]) == 0


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_params_are_leaves_and_exactly_those_of_the_stage(document: dict[str, Any], spec: StageSpec) -> None:
    listed = document["stages"][spec.name]["params"]
    all_leaves = set(flatten(Params().model_dump()))
    assert set(listed) <= all_leaves
    assert set(listed) == {k for k in all_leaves if any(k == s or k.startswith(f"{s}.") for s in spec.params)}
    assert not any(key.startswith(("runtime.", "track.")) for key in listed)


def test_params_yaml_states_every_leaf_that_dvc_asks_for(document: dict[str, Any]) -> None:
    given = flatten(yaml.safe_load((ROOT / "params.yaml").read_text()))
    asked = {key for entry in document["stages"].values() for key in entry["params"]}
    assert asked <= set(given)


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_every_output_is_cached_so_that_the_run_cache_works(
    document: dict[str, Any], spec: StageSpec
) -> None:
    outs = document["stages"][spec.name]["outs"]
    assert all(isinstance(out, str) for out in outs)
    assert {Path(out).stem for out in outs} == {port.name for port in spec.outputs} | {"result"}


def test_nothing_depends_on_a_volatile_output(document: dict[str, Any]) -> None:
    volatile = {f"out/{s.name}/{p.name}" for s in STAGES for p in s.outputs if p.volatile}
    assert volatile == {"out/prepare/data_docs"}
    assert not volatile & {dep for entry in document["stages"].values() for dep in entry["deps"]}


def test_every_internal_dependency_is_an_output(document: dict[str, Any]) -> None:
    outs = {out for entry in document["stages"].values() for out in entry["outs"]}
    deps = {dep for entry in document["stages"].values() for dep in entry["deps"] if dep.startswith("out/")}
    assert deps <= outs


def test_metrics_and_plots_lie_inside_outputs(document: dict[str, Any]) -> None:
    outs = [Path(out) for entry in document["stages"].values() for out in entry["outs"]]
    shown = [Path(metric) for metric in document["metrics"]]
    for plot in document["plots"]:
        if isinstance(plot, str):
            shown.append(Path(plot))
        else:
            ((_, options),) = plot.items()
            shown += [Path(file) for file in options["y"]]
    assert all(any(path.is_relative_to(out) for out in outs) for path in shown)
    assert Path(document["artifacts"]["generator"]["path"]) in outs
