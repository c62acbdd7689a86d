"""Figures of a validation: ROC curves, mean score by dose, distance of kappa to its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from faithprobe.plots.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, translucent
from faithprobe.plots.prepare import measured, numbers
from faithprobe.plots.theme import figure, label, placeholder
from faithprobe.plots.validation_words import area
from faithprobe.plots.wording import percent
from faithprobe.scores.graded import timing_error
from faithprobe.scores.labelled import labelled, metric_names
from faithprobe.scores.roc import roc_curve

_LOOKS = (
    (BLUE, "solid", "circle", 3.5),
    (GREEN, "dash", "square", 2.25),
    (ORANGE, "dashdot", "diamond", 2.25),
    (PURPLE, "dot", "cross", 2.25),
    (VERMILLION, "solid", "x", 1.75),
    ("#A6761D", "dash", "triangle-up", 1.75),
    (GREY, "solid", "triangle-down", 1.75),
)
"""Colour, dash, symbol and width of the metrics in a figure, in their order."""
SHOWN_TOKENS = 8
"""Distances beyond it stand in the outermost bars."""


def featured(results: Mapping[str, Any], items: pd.DataFrame, beside: Sequence[str]) -> list[str]:
    """The metrics of a figure: the chosen score, its parts, and what it is compared with."""
    chosen = (results.get("chosen") or {}).get("step")
    names = dict.fromkeys([*([chosen] if chosen else []), "U", "D", "lead", *beside])
    known = metric_names(items)
    return [name for name in names if name in known][: len(_LOOKS)]


def roc(items: pd.DataFrame, names: Sequence[str], aurocs: Mapping[str, Any], *, narrow: bool = False) -> go.Figure:
    """ROC curves of steps against *faithful*, the mean of the strata. `narrow`: for a phone."""
    part = items[items["matched"].astype(bool)] if "matched" in items else items.iloc[:0]
    fig = figure(360 if narrow else 480, margin={"t": 44 if narrow else 16})
    drawn = 0
    for name, (colour, dash, _, width) in zip(names, _LOOKS):
        rows = labelled(part, name, "step_faithful") if len(part) and "step_faithful" in part else part
        if not len(rows):
            continue
        x, y = roc_curve(rows["score"], rows["label"], strata=rows["stratum"].tolist())
        if not len(x):
            continue
        drawn += 1
        points = pd.DataFrame({"x": x.round(3), "y": y.round(3)}).drop_duplicates()
        fig.add_scatter(
            name=f"{label(name)}: {area(aurocs.get(name))}",
            x=points["x"].tolist(),
            y=points["y"].tolist(),
            mode="lines",
            line={"color": colour, "dash": dash, "width": width},
            hovertemplate=f"{label(name)}: finds %{{y:.0%}} of the faithful steps when %{{x:.0%}} of the others are "
            "called faithful<extra></extra>",
            cliponaxis=False,
        )
    if not drawn:
        return placeholder("no matched stratum holds scored steps of both labels")
    fig.add_shape(type="line", x0=0, x1=1, y0=0, y1=1, layer="below", line={"dash": "dot", "width": 1, "color": GREY})
    share = {"tickformat": ".0%", "range": [-0.01, 1.01], "dtick": 0.25}
    fig.update_xaxes(title_text="unfaithful steps that are called faithful", **share)
    fig.update_yaxes(title_text="faithful steps that are found", **share)
    if not narrow:
        fig.update_xaxes(domain=[0, 0.58])
        fig.update_layout(legend=_aside(0.62))
    return fig


def _aside(x: float) -> dict[str, Any]:
    return {"orientation": "v", "x": x, "xanchor": "left", "y": 1, "yref": "paper", "yanchor": "top"}


def dose(results: Mapping[str, Any], names: Sequence[str], *, narrow: bool = False) -> go.Figure:
    """Mean score of the chains by the share of them that is faithful by construction."""
    found = results.get("dose") or {}
    shown = [name for name in names if (found.get(name) or {}).get("doses")]
    if not shown:
        return placeholder("no organism of the graded family was run, or none of its chains was scored")
    fig = figure(360 if narrow else 420, margin={"t": 44 if narrow else 16})
    for name, (colour, dash, symbol, width) in zip(names, _LOOKS):
        if name not in shown:
            continue
        row = found[name]
        spearman = area((row.get("spearman") or {}).get("value"))
        fig.add_scatter(
            name=f"{label(name)}: {spearman}",
            x=row["doses"],
            y=row["means"],
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": width},
            marker={"symbol": symbol, "size": 8},
            hovertemplate=f"{label(name)}: mean %{{y:.2f}} at dose %{{x:.2f}}<extra></extra>",
            cliponaxis=False,
        )
    fig.add_shape(type="line", x0=0, x1=1, y0=0, y1=1, layer="below", line={"dash": "dot", "width": 1, "color": GREY})
    words = "dose" if narrow else "dose: share of problems answered through the chain"
    fig.update_xaxes(title_text=words, range=[-0.02, 1.02], dtick=0.25)
    fig.update_yaxes(title_text="mean score")
    if not narrow:
        fig.update_xaxes(domain=[0, 0.62])
        fig.update_layout(legend=_aside(0.66))
    return fig


def tokens_off(items: pd.DataFrame) -> np.ndarray:
    """Signed distance of kappa to its label's interval, of every step that has both."""
    part = measured(items, "kappa", "earliest", "latest")
    part = part[part["step"] != ""] if len(part) else part
    return timing_error(*(part[name].to_numpy(dtype=float) for name in ("kappa", "earliest", "latest")))


def timing(items: pd.DataFrame, *, narrow: bool = False) -> go.Figure:
    """How many tokens before or behind its interval kappa lies. `narrow`: for a phone."""
    off = tokens_off(items)
    if not len(off):
        return placeholder("no step has both a measured kappa and a label")
    clipped = np.clip(np.round(off), -SHOWN_TOKENS, SHOWN_TOKENS).astype(int)
    places = np.arange(-SHOWN_TOKENS, SHOWN_TOKENS + 1)
    share = np.array([(clipped == place).mean() for place in places])
    fig = figure(300, bargap=0.18, showlegend=False, margin={"t": 28})
    fig.add_bar(
        x=places.tolist(),
        y=numbers(share),
        customdata=[int((clipped == place).sum()) for place in places],
        marker={"color": [GREEN if place == 0 else BLUE if abs(place) == 1 else VERMILLION for place in places]},
        text=[percent(value) if value else "" for value in share],
        textposition="outside",
        textangle=0,
        constraintext="none",
        hovertemplate="%{x} tokens: %{customdata} steps (%{y:.1%})<extra></extra>",
        cliponaxis=False,
    )
    fig.add_vrect(x0=-1.5, x1=1.5, fillcolor=translucent(GREY, 0.12), line_width=0, layer="below")
    fig.update_xaxes(
        title_text="tokens off the interval" if narrow else "tokens before (−) or behind (+) the interval; 0: inside",
        tickvals=[-SHOWN_TOKENS, -4, -1, 0, 1, 4, SHOWN_TOKENS],
        ticktext=[f"≤ −{SHOWN_TOKENS}", "−4", "−1", "0", "1", "4", f"≥ {SHOWN_TOKENS}"],
        showgrid=False,
    )
    return fig.update_yaxes(title_text="share of steps", tickformat=".0%", range=[0, min(1.0, share.max()) * 1.12])
