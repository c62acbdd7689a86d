"""One figure that sets what is decodable, beside every control, against what is used."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from faithprobe.plots.palette import BLUE, GREY
from faithprobe.plots.prepare import numbers, whiskers
from faithprobe.plots.probe_words import ACTIVATIONS, LOOKS, NOT_CURVES, OTHER
from faithprobe.plots.theme import LIGHT, label, placeholder
from faithprobe.plots.wording import decimal


def decodable_not_used(rows: pd.DataFrame, *, unit: str = "bits") -> go.Figure:
    """What can be read from activations, beside every control, and what the answer follows: decodable is not used.

    Args:
        rows: one row for each network (or step) and source, with the columns

            * `label` (or `network`): what is compared, in the order in which it is to stand, from the top;
            * `source`: `activations` or a control, as in `scores.probe_tables.SOURCES`;
            * `score`, `low`, `high`: of that source, with its 95% interval, in `unit`;
            * `used`, `used_low`, `used_high`: U of the label, in [0, 1], the same on each of its rows or on one of
              them; missing where it was not measured;
            * `entropy` (may be left out): of the label's target: the most that a source can tell.
        unit: of the scores.

    Raises ValueError naming columns that are missing.
    """
    name = "label" if "label" in rows or "network" not in rows else "network"
    lacking = {name, "source", "score", "low", "high", "used", "used_low", "used_high"} - set(rows)
    if lacking:
        raise ValueError(f"decodable_not_used needs the columns {', '.join(sorted(lacking))}; there are {list(rows)}")
    rows = rows[~rows["source"].isin(NOT_CURVES)].dropna(subset=["score"])
    labels = list(dict.fromkeys(map(str, rows[name])))
    if not labels:
        return placeholder("nothing was probed")
    at = {text: index for index, text in enumerate(labels)}
    present = set(rows["source"])
    shown = [source for source in LOOKS if source in present] + sorted(present - set(LOOKS))
    fig = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        column_widths=[0.6, 0.4],
        horizontal_spacing=0.05,
        column_titles=["<b>decodable</b>", "<b>used</b>"],
    )
    for index, source in enumerate(shown):
        part, look = rows[rows["source"] == source], LOOKS.get(source, OTHER)
        values = {column: numbers(part[column]) for column in ("score", "low", "high")}
        offset = 0.6 * (index / max(1, len(shown) - 1) - 0.5)
        fig.add_scatter(
            name=look.words or label(source),
            x=values["score"],
            y=[at[str(text)] + offset for text in part[name]],
            mode="markers",
            marker={"size": 12 if source == ACTIVATIONS else 8, "color": look.colour, "symbol": look.symbol}
            | ({"line": {"width": 2, "color": look.colour}} if look.symbol == "line-ew" else {}),
            error_x={
                "type": "data",
                **whiskers(values["score"], values["low"], values["high"]),
                "color": look.colour,
                "thickness": 3 if source == ACTIVATIONS else 1.5,
                "width": 4,
            },
            customdata=[f"{decimal(low)} to {decimal(high)}" for low, high in zip(values["low"], values["high"])],
            hovertemplate=f"{label(source)}: %{{x:.2f}} {label(unit)} (95%: %{{customdata}})<extra></extra>",
            row=1,
            col=1,
        )
    _ceilings(fig, rows, name, at)
    _used(fig, rows, name, at)
    for index in range(len(labels)):
        if index % 2:
            fig.add_hrect(
                y0=index - 0.5, y1=index + 0.5, fillcolor=GREY, opacity=0.08, line_width=0, layer="below", col="all"
            )
    fig.update_xaxes(title_text=f"what a probe reads, {label(unit)}", zeroline=True, row=1, col=1)
    fig.update_xaxes(title_text="U: the answer follows", range=[-0.04, 1.04], tickvals=[0, 0.5, 1], row=1, col=2)
    fig.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[label(text, 40) for text in labels],
        range=[len(labels) - 0.5, -0.5],
        showgrid=False,
    )
    fig.update_layout(template=LIGHT, height=150 + 92 * len(labels), margin={"t": 96})
    return fig.update_annotations(font={"size": 12.5})


def _ceilings(fig: go.Figure, rows: pd.DataFrame, name: str, at: Mapping[str, int]) -> None:
    """Per label the entropy of its target, as a dotted line."""
    known = rows.dropna(subset=["entropy"]).drop_duplicates(name) if "entropy" in rows else rows.iloc[:0]
    xs: list[float | None] = []
    ys: list[float | None] = []
    for text, entropy in zip(known[name], known["entropy"] if len(known) else ()):
        xs += [float(entropy), float(entropy), None]
        ys += [at[str(text)] - 0.45, at[str(text)] + 0.45, None]
    if xs:
        line = {"color": GREY, "width": 1.5, "dash": "dot"}
        words = "entropy: all there is to know"
        fig.add_scatter(name=words, x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", row=1, col=1)


def _used(fig: go.Figure, rows: pd.DataFrame, name: str, at: Mapping[str, int]) -> None:
    """Per label U with its interval, or a word where there is none."""
    known = rows.dropna(subset=["used"]).drop_duplicates(name)
    values = {column: numbers(known[column]) for column in ("used", "used_low", "used_high")}
    fig.add_scatter(
        name="U, with 95% interval",
        x=values["used"],
        y=[at[str(text)] for text in known[name]],
        mode="markers+text",
        text=[f"<b>{decimal(value)}</b>" for value in values["used"]],
        textposition="top center",
        marker={"size": 13, "color": BLUE, "symbol": "diamond"},
        error_x={"type": "data", **whiskers(*values.values()), "color": BLUE, "thickness": 3, "width": 6},
        customdata=[f"{decimal(low)} to {decimal(high)}" for low, high in zip(values["used_low"], values["used_high"])],
        hovertemplate="U = %{x:.2f} (95%: %{customdata})<extra></extra>",
        cliponaxis=False,
        row=1,
        col=2,
    )
    for text in at:
        if text not in set(map(str, known[name])):
            fig.add_annotation(x=0.5, y=at[text], text="not measured", showarrow=False, row=1, col=2)
