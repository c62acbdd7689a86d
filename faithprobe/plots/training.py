"""The figure of a guarded training run: what the loss trains on, what it does not, and how far they come apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from faithprobe.plots.palette import BLUE, GREY, ORANGE, VERMILLION, translucent
from faithprobe.plots.theme import LIGHT, label, placeholder
from faithprobe.plots.wording import decimal, number

_SCORES = (
    ("trained_on_score", "trained on", ORANGE, "solid", "diamond"),
    ("held_out_score", "held out: evidence that the loss does not train on", BLUE, "solid", "circle"),
    ("accuracy", "accuracy", GREY, "dash", "x"),
)
_GAP = ("goodhart_gap", "Goodhart gap: trained on minus held out", VERMILLION, "solid", "square")

Point = tuple[float, float | None, float | None, float | None]
"""Step, value, low, high."""


def goodhart_figure(history: Sequence[Mapping[str, Any]], *, max_gap: float | None = None) -> go.Figure:
    """Scores and accuracy over steps, and the gap below; bands are 95% intervals.

    Args:
        history: a record for each check, such as `Guard.history` or the trainer's log history: `step`, and of
            `trained_on_score`, `held_out_score`, `accuracy`, `goodhart_gap` the value, `_low` and `_high`. A record
            that holds none of the values is passed over; a value that is missing leaves a gap in its line. A record
            with a `stop` (or `goodhart_stop`) that is not empty is marked.
        max_gap: the limit of the stop rule, as a line.
    """
    names = [name for name, *_ in (*_SCORES, _GAP)]
    records = [r for r in history if number(r.get("step")) is not None and any(_has(r, name) for name in names)]
    records.sort(key=lambda record: float(record["step"]))
    if not records:
        return placeholder("no check was made in this run")
    fig = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.64, 0.36], vertical_spacing=0.08)
    for rank, (name, words, colour, dash, symbol) in enumerate(_SCORES):
        _line(fig, _points(records, name), (words, colour, dash, symbol), 1, rank=1000 + rank)
    _line(fig, _points(records, _GAP[0]), _GAP[1:], 2, rank=1010)
    fig.add_hline(y=0, line={"color": GREY, "width": 1}, row=2, col=1)
    if max_gap is not None:
        words = f"limit {decimal(max_gap)}"
        line = {"color": VERMILLION, "width": 1, "dash": "dot"}
        fig.add_hline(y=max_gap, line=line, annotation_text=words, annotation_position="top left", row=2, col=1)
    _stops(fig, history)
    fig.update_yaxes(title_text="score", range=[-0.03, 1.03], tickformat=".1f", dtick=0.2, row=1, col=1)
    fig.update_yaxes(title_text="gap", range=_reach(records, max_gap), row=2, col=1)
    fig.update_xaxes(title_text="step", row=2, col=1)
    first, last = float(records[0]["step"]), float(records[-1]["step"])
    pad = max(0.5, 0.03 * (last - first))
    fig.update_xaxes(range=[first - pad, last + pad], tickformat="d")
    return fig.update_layout(template=LIGHT, height=460, margin={"t": 64})


def _has(record: Mapping[str, Any], name: str) -> bool:
    return number(record.get(name)) is not None


def _points(records: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    def read(record: Mapping[str, Any], suffix: str) -> float | None:
        return number(record.get(name + suffix))

    return [(float(r["step"]), read(r, ""), read(r, "_low"), read(r, "_high")) for r in records]


def _line(fig: go.Figure, points: Sequence[Point], look: tuple[str, str, str, str], row: int, *, rank: int) -> None:
    words, colour, dash, symbol = look
    if all(value is None for _, value, *_ in points):
        return
    for part in _runs(points, lambda point: point[2] is not None and point[3] is not None):
        alone = len(part) == 1  # a band of one step has no width: a line from end to end there
        fig.add_scatter(
            name=f"{words}, 95% interval",
            x=[step for step, *_ in part] + [step for step, *_ in reversed(part)],
            y=[high for *_, high in part] + [low for _, _, low, _ in reversed(part)],
            fill="none" if alone else "toself",
            mode="lines",
            line={"width": 2 if alone else 0, "color": translucent(colour, 0.6)},
            fillcolor=translucent(colour, 0.22),
            hoverinfo="skip",
            legendgroup=words,
            showlegend=False,
            row=row,
            col=1,
        )
    fig.add_scatter(
        name=words,
        x=[step for step, *_ in points],
        y=[value for _, value, *_ in points],
        mode="lines+markers",
        line={"color": colour, "width": 2.5 if dash == "solid" else 2, "dash": dash},
        marker={"size": 7, "symbol": symbol},
        customdata=[[decimal(a), decimal(b)] for _, _, a, b in points],
        hovertemplate=f"step %{{x}}: {words} %{{y:.2f}} (95%: %{{customdata[0]}} to %{{customdata[1]}})<extra></extra>",
        legendgroup=words,
        legendrank=rank,
        connectgaps=False,
        cliponaxis=False,
        row=row,
        col=1,
    )


def _runs(points: Sequence[Point], holds: Callable[[Point], bool]) -> list[list[Point]]:
    """Points in a row for which something holds."""
    found: list[list[Point]] = [[]]
    for point in points:
        if holds(point):
            found[-1].append(point)
        elif found[-1]:
            found.append([])
    return [part for part in found if part]


def _stops(fig: go.Figure, history: Sequence[Mapping[str, Any]]) -> None:
    for step, reason in {
        float(record["step"]): str(reason)
        for record in history
        if number(record.get("step")) is not None and (reason := record.get("stop") or record.get("goodhart_stop"))
    }.items():
        for row in (1, 2):
            fig.add_vline(x=step, line={"color": GREY, "width": 1.5, "dash": "dash"}, row=row, col=1)
        fig.add_annotation(
            x=step,
            y=0,
            xanchor="right",
            yanchor="bottom",
            text="stopped",
            hovertext=label(reason),
            showarrow=False,
            row=1,
            col=1,
        )


def _reach(records: Sequence[Mapping[str, Any]], max_gap: float | None) -> list[float]:
    drawn = [number(record.get(_GAP[0] + suffix)) for record in records for suffix in ("", "_low", "_high")]
    known = [value for value in (*drawn, max_gap, 0.0) if value is not None]
    pad = 0.08 * max(0.25, max(known) - min(known))
    return [min(known) - pad, max(known) + pad]
