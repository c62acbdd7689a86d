"""The forest of differences: each with its 95% interval, against zero."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from faithprobe.plots.comparison_words import change
from faithprobe.plots.palette import BLUE, GREY
from faithprobe.plots.prepare import rows, whiskers
from faithprobe.plots.theme import LIGHT, label, placeholder
from faithprobe.plots.wording import decimal

_KINDS = (
    (True, "beyond zero after Holm's correction", BLUE, "circle"),
    (False, "not beyond zero", GREY, "circle-open"),
)
_HOVER = "%{customdata[0]}: A %{customdata[1]}, B %{customdata[2]}<br>%{customdata[3]}<extra></extra>"
_ROW = {False: 27, True: 44}
"""Pixels a row takes, on a desktop and on a phone, where its words stand above it."""
_HEAD, _GAP = 34, 62
"""Pixels above the first panel, and between two."""


def forest(differences: pd.DataFrame, *, narrow: bool = False) -> go.Figure:
    """B - A of every measure, in the order of the table; measures of another unit have a panel with an axis of its own.

    Filled: beyond zero after the correction for the number of rows. A row without a difference is not drawn.
    """
    known = [row for row in rows(differences) if not row["missing"]]
    if not known:
        return placeholder("nothing was measured in both audits")
    units = list(dict.fromkeys(row["unit"] for row in known))
    panels = [[row for row in known if row["unit"] == unit] for unit in units]
    # A gap between groups of measures counts as half a row.
    places = [_places(panel) for panel in panels]
    heights = [place[-1] + 1.0 for place in places]
    plots, gaps = _ROW[narrow] * sum(heights), _GAP * (len(panels) - 1)
    fig = make_subplots(rows=len(panels), cols=1, row_heights=heights, vertical_spacing=_GAP / (plots + gaps))
    shown: set[bool] = set()
    for index, (unit, panel, place) in enumerate(zip(units, panels, places), 1):
        where = {"row": index, "col": 1}
        for beyond, words, colour, symbol in _KINDS:
            part = [(row, at) for row, at in zip(panel, place) if bool(row["beyond_zero"]) == beyond]
            if not part:
                continue
            values, low, high = ([row[key] for row, _ in part] for key in ("difference", "low", "high"))
            fig.add_scatter(
                name=words,
                x=values,
                y=[at for _, at in part],
                mode="markers",
                marker={"size": 9, "color": colour, "symbol": symbol, "line": {"width": 2, "color": colour}},
                error_x={"type": "data", **whiskers(values, low, high), "color": colour, "thickness": 2, "width": 5},
                customdata=[
                    [label(row["words"]), decimal(row["a"]), decimal(row["b"]), change(row)] for row, _ in part
                ],
                hovertemplate=_HOVER,
                legendgroup=words,
                showlegend=beyond not in shown,
                cliponaxis=False,
                **where,
            )
            shown.add(beyond)
        _axes(fig, unit, panel, place, where, narrow=narrow)
    fig.update_layout(
        template=LIGHT,
        height=round(plots + gaps + _HEAD + 56),
        margin={"t": _HEAD, "b": 56, "l": 16 if narrow else 56},
    )
    return fig


def _places(panel: list[dict[str, Any]]) -> list[float]:
    at, places = 0.0, []
    for index, row in enumerate(panel):
        if index:
            at += 1.0 if panel[index - 1]["group"] == row["group"] else 1.5
        places.append(at)
    return places


def _axes(
    fig: go.Figure,
    unit: str,
    panel: list[dict[str, Any]],
    place: list[float],
    where: dict[str, int],
    *,
    narrow: bool,
) -> None:
    reach = max(abs(row[key]) for row in panel for key in ("low", "high", "difference") if row[key] is not None)
    size = max(abs(row[side]) for row in panel for side in "ab")
    reach = 1.08 * max(reach, {"share": 0.25, "tokens": 1.0}.get(unit, 0.1 * size or 1.0))
    title = {"share": "B \N{MINUS SIGN} A, shares and scores", "tokens": "B \N{MINUS SIGN} A, tokens"}
    fig.add_vline(x=0, line={"color": GREY, "width": 1.5}, layer="below", **where)
    fig.update_xaxes(
        range=[-reach, reach], title_text=title.get(unit, f"B \N{MINUS SIGN} A, {label(unit, 24)}"), **where
    )
    fig.update_yaxes(
        tickvals=place,
        ticktext=["" if narrow else label(row["words"], 44) for row in panel],
        range=[place[-1] + 0.6, -0.9 if narrow else -0.6],
        showgrid=False,
        **where,
    )
    if narrow:
        for row, at in zip(panel, place):
            fig.add_annotation(
                x=0,
                xref="x domain",
                y=at,
                yshift=15,
                text=label(row["words"], 44),
                showarrow=False,
                xanchor="left",
                font={"size": 12},
                **where,
            )
