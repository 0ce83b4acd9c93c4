"""Runs our expectations in Great Expectations 1.x and builds its Data Docs, offline, without a project."""

from __future__ import annotations

import html
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Read at import: this package never calls home.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations as gx
import pandas as pd

from graftgan.data.validation import Checked, Expectation, outcome

SITE = "graftgan"
# The library re-exports these names in a way that type checkers do not follow.
gxe: Any = gx.expectations
actions: Any = gx.checkpoint


def check(tables: Mapping[str, pd.DataFrame], wanted: Sequence[Expectation], docs: Path) -> list[Checked]:
    """Check all expectations and build the Data Docs in the folder `docs`.

    Args:
        tables: The tables that the expectations name.
        wanted: The expectations.
        docs: Folder of the site; `index.html` is its first page.

    Returns:
        One outcome for each expectation, in their order.
    """
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context: Any = gx.get_context(mode="ephemeral")
    _drop_default_site(context)
    context.variables.progress_bars = {"globally": False}
    context.add_data_docs_site(SITE, _site(docs))
    source = context.data_sources.add_pandas(SITE)
    found: dict[str, Checked] = {}
    for name, table in tables.items():
        suite = gx.ExpectationSuite(name=name)
        for expectation in (e for e in wanted if e.table == name):
            suite.add_expectation(translate(expectation))
        suite = context.suites.add(suite)
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
        definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        found |= _run(context, context.validation_definitions.add(definition), _escaped(table), wanted)
    return [found[e.name] for e in wanted]


def translate(wanted: Expectation) -> Any:
    """Return one of our expectations as the library's own."""
    note = {"name": wanted.name, "notes": {"format": "string", "content": wanted.what}}
    match wanted.kind:
        case "row_count":
            return gxe.ExpectTableRowCountToBeBetween(min_value=wanted.low, max_value=wanted.high, meta=note)
        case "between":
            return gxe.ExpectColumnValuesToBeBetween(
                column=wanted.column,
                min_value=wanted.low,
                max_value=wanted.high,
                mostly=wanted.mostly,
                meta=note,
            )
        case "in_set":
            return gxe.ExpectColumnValuesToBeInSet(
                column=wanted.column, value_set=list(wanted.allowed), mostly=wanted.mostly, meta=note
            )
        case "unique":
            return gxe.ExpectColumnValuesToBeUnique(column=wanted.column, mostly=wanted.mostly, meta=note)
        case "matches":
            return gxe.ExpectColumnValuesToMatchRegex(
                column=wanted.column, regex=wanted.pattern, mostly=wanted.mostly, meta=note
            )


def _escaped(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with names that hold no HTML; the library's pages take values as they are."""
    return table.assign(name=table["name"].map(html.escape)) if "name" in table else table


def _run(
    context: Any, definition: Any, table: pd.DataFrame, wanted: Sequence[Expectation]
) -> dict[str, Checked]:
    index = ["name"] if "name" in table else []
    checkpoint = gx.Checkpoint(
        name=definition.name,
        validation_definitions=[definition],
        actions=[actions.UpdateDataDocsAction(name="docs", site_names=[SITE])],
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": index},
    )
    result = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": table})
    (validated,) = result.run_results.values()
    by_name = {e.name: e for e in wanted}
    found = {}
    for raw in (r.to_json_dict() for r in validated.results):
        name = raw["expectation_config"]["meta"]["name"]
        found[name] = _reduce(by_name[name], raw, table)
    return found


def _reduce(wanted: Expectation, raw: Mapping[str, Any], table: pd.DataFrame) -> Checked:
    result = raw["result"]
    if wanted.kind == "row_count":
        return outcome(wanted, bool(raw["success"]), result["observed_value"], 1, [])
    if wanted.table == "facts":
        return outcome(wanted, bool(raw["success"]), table[wanted.column].iloc[0], len(table), [])
    names = [html.unescape(str(entry["name"])) for entry in result.get("unexpected_index_list") or []]
    return outcome(wanted, bool(raw["success"]), None, len(table), names)


def _site(docs: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())},
    }


def _drop_default_site(context: Any) -> None:
    """Remove the site in the system's temporary folder that every ephemeral context starts with."""
    for name, site in dict(context.variables.data_docs_sites or {}).items():
        shutil.rmtree(site["store_backend"]["base_directory"], ignore_errors=True)
        context.delete_data_docs_site(name)
