"""Interactive training curves by Bokeh, as data for the page with identifiers that never change.

Bokeh numbers its objects by a counter of the process; they are renumbered here in the order in which they
appear, so that equal curves give equal bytes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graftgan.reporting.curves import PANELS, Panel, Series, series
from graftgan.reporting.facts import RunFacts

HEIGHT_PX = 250
MARGIN_PX = 14
MOST_DOTS = 40
INK = "#7c8694"
GRID = "#808a9733"


@dataclass(frozen=True)
class Charts:
    """All that the page needs to draw the curves.

    Attributes:
        library: Source of the core of BokehJS.
        data: Documents and where their parts go, for `Bokeh.embed.embed_items`.
        version: Version of Bokeh.
    """

    library: str
    data: dict[str, Any]
    version: str


def available() -> bool:
    """Tell whether Bokeh is installed."""
    return importlib.util.find_spec("bokeh") is not None


def charts(runs: Sequence[RunFacts]) -> Charts:
    """Return the curves of all runs as one Bokeh document.

    Every glyph of a run bears the tag `run:NAME`, by which the page shows and hides it.
    """
    import bokeh
    from bokeh.document import Document
    from bokeh.resources import Resources

    document, keys, shared = Document(), [], None
    document.title = "curves"
    for panel in PANELS:
        if lines := series(panel, runs):
            figure = _figure(panel, shared)
            shared = figure.x_range
            for line in lines:
                _draw(figure, line)
            document.add_root(figure)
            keys.append(panel.key)
    raw = _renumber(document.to_json(deferred=False), {})
    roots = {root["id"]: f"curve-{key}" for root, key in zip(raw["roots"], keys, strict=True)}
    item = {"docid": "curves", "roots": roots, "root_ids": list(roots)}
    library = Resources(mode="inline", components=["bokeh"], minified=True).js_raw[0]
    return Charts(library, {"documents": {"curves": raw}, "items": [item]}, bokeh.__version__)


def _figure(panel: Panel, x_range: Any) -> Any:
    from bokeh.plotting import figure

    shared = {} if x_range is None else {"x_range": x_range}
    plot = figure(
        height=HEIGHT_PX,
        sizing_mode="stretch_width",
        y_axis_type="log" if panel.log else "linear",
        tools="xbox_zoom,reset",
        active_drag=None,
        toolbar_location="above",
        output_backend="canvas",
        **shared,
    )
    plot.toolbar.logo = None
    plot.background_fill_color = plot.border_fill_color = plot.outline_line_color = None
    plot.min_border_right = MARGIN_PX
    plot.axis.axis_line_color = plot.axis.major_tick_line_color = plot.axis.major_label_text_color = INK
    plot.axis.minor_tick_line_color = None
    plot.grid.grid_line_color = GRID
    return plot


def _draw(plot: Any, line: Series) -> None:
    from bokeh.models import ColumnDataSource, HoverTool

    what = f"{line.label}, {line.name}" if line.name else line.label
    columns = {"x": line.x, "y": line.y, "low": line.low or line.y, "high": line.high or line.y}
    source = ColumnDataSource({name: list(values) for name, values in columns.items()})
    drawn = []
    if line.low:
        drawn.append(plot.varea("x", "low", "high", source=source, fill_color=line.colour, fill_alpha=0.16))
    dash = "dashed" if line.dashed else "solid"
    style = {"source": source, "color": line.colour, "name": what}
    drawn.append(plot.line("x", "y", line_width=2, line_dash=dash, **style))
    if len(line.x) <= MOST_DOTS:
        drawn.append(plot.scatter("x", "y", size=5, **style))
    hovered = drawn[-1]
    if line.best:
        x, y = line.best
        drawn.append(plot.scatter([x], [y], size=14, fill_color=None, line_color=line.colour, line_width=2.5))
    for renderer in drawn:
        renderer.tags = [f"run:{line.run}"]
    tips = [("run", "$name"), ("images", "@x{0.00} k"), ("value", "@y{0.0000}")]
    if line.low:
        tips.append(("interval", "@low{0.0000} to @high{0.0000}"))
    plot.add_tools(HoverTool(renderers=[hovered], tooltips=tips, visible=False))


def _renumber(value: Any, names: dict[str, str]) -> Any:
    """Return a document with the identifiers of its objects numbered in the order of appearance."""
    if isinstance(value, list):
        return [_renumber(part, names) for part in value]
    if not isinstance(value, dict):
        return value
    fresh = dict(value)
    if isinstance(identifier := value.get("id"), str):
        fresh["id"] = names.setdefault(identifier, f"c{len(names) + 1}")
    return {key: part if key == "id" else _renumber(part, names) for key, part in fresh.items()}
