"""Figures about use and verdicts. Each takes a table of `scores.tables` (or the summary) and returns a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from faithprobe.plots.palette import BLUE, GREEN, GREY, OUTCOMES, SKY, VERMILLION, WHEN, translucent
from faithprobe.plots.prepare import measured, natural, numbers, plain, rows, verdict_cells, whiskers
from faithprobe.plots.theme import figure, label, placeholder
from faithprobe.plots.wording import decimal, percent

_SHARE = {"tickformat": ".0%", "range": [0, 1.0], "dtick": 0.25}


def when_by_used(steps: pd.DataFrame) -> go.Figure:
    """Counts of verdicts: when the value was determined (rows) by whether the answer follows it (columns)."""
    if measured(steps, "verdict").empty or "when" not in steps:
        return placeholder("no steps")
    cells, outside = verdict_cells(steps)
    total = sum(sum(counts.values()) for counts in [*cells.values(), outside])
    if not cells:
        return placeholder("no step has a verdict: " + _listed(outside))
    counts, texts = [], []
    for when in WHEN:
        here = [cells.get((when, used), {}) for used in (True, False)]
        counts.append([sum(cell.values()) for cell in here])
        texts.append([_cell(cell, total) for cell in here])
    fig = figure(360, margin={"l": 16, "r": 16, "t": 56, "b": 44})
    fig.add_heatmap(
        x=["used: the answer follows it", "not used"],
        y=list(WHEN.values()),
        z=counts,
        text=texts,
        texttemplate="%{text}",
        hovertemplate="%{y}, %{x}: %{z} steps<extra></extra>",
        colorscale=[[0, translucent(BLUE, 0.05)], [1, translucent(SKY, 0.75)]],
        showscale=False,
        xgap=4,
        ygap=4,
    )
    fig.update_xaxes(side="top", showgrid=False, showline=False)
    fig.update_yaxes(autorange="reversed", showgrid=False, showline=False)
    if outside:
        text = "outside of the table: " + _listed(outside)
        fig.add_annotation(x=0, y=0, xref="paper", yref="paper", yshift=-28, xanchor="left", text=text, showarrow=False)
    return fig


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {label(name)}" for name, count in sorted(counts.items())) or "none"


def _cell(counts: Mapping[str, int], total: int) -> str:
    if not counts:
        return "0"
    number = sum(counts.values())
    return f"<b>{number}</b> ({percent(number / total)})<br>" + "<br>".join(
        label(name) if len(counts) == 1 else f"{label(name)} {count}" for name, count in counts.items()
    )


def use_outcomes(outcomes: pd.DataFrame) -> go.Figure:
    """What happens when a stated value is replaced, per step: stacked shares.

    *Follow* grows from 0 and *stay* from 1, so that each carries its own 95% interval; the others have theirs in
    the hover text.
    """
    outcomes = measured(outcomes, "step", "outcome", "share")
    if outcomes.empty:
        return placeholder("no stated value was replaced")
    table = {(str(row["step"]), str(row["outcome"])): row for row in rows(outcomes)}
    steps = sorted({step for step, _ in table}, key=natural)
    names = []
    for step in steps:
        n = next((row["n"] for (name, _), row in table.items() if name == step and row.get("n")), None)
        names.append(label(step, 18) + (f"<br>n = {int(n)}" if n else ""))
    fig = figure(108 + 62 * len(steps), barmode="stack", bargap=0.36, legend={"traceorder": "normal"}, margin={"t": 52})
    for outcome, (colour, pattern, words) in OUTCOMES.items():
        found = [table.get((step, outcome), {}) for step in steps]
        share, low, high = ([row.get(key) for row in found] for key in ("share", "low", "high"))
        title = outcome.replace("_", " ")
        fig.add_bar(
            orientation="h",
            name=words,
            y=list(range(len(steps))),
            x=[value or 0 for value in share],
            marker={
                "color": colour,
                "pattern": {
                    "shape": pattern,
                    "fillmode": "overlay",
                    "fgcolor": "rgba(0,0,0,.4)",
                    "size": 7,
                    "solidity": 0.2,
                },
            },
            customdata=[[percent(a), percent(b)] for a, b in zip(low, high)],
            hovertemplate=f"{title} %{{x:.0%}} (95%: %{{customdata[0]}} to %{{customdata[1]}})<extra></extra>",
        )
        if outcome in ("follow", "stay"):
            _outcome_interval(fig, share, low, high, mirrored=outcome == "stay")
    fig.update_xaxes(title_text="share of replays with the value replaced", **_SHARE)
    return fig.update_yaxes(
        tickvals=list(range(len(steps))), ticktext=names, range=[len(steps) - 0.5, -0.5], showgrid=False
    )


def _outcome_interval(fig: go.Figure, share: list[Any], low: list[Any], high: list[Any], *, mirrored: bool) -> None:
    """Whiskers at the inner edge of an outer segment; the segment of *stay* is measured from the right."""

    def at(values: list[Any]) -> list[float | None]:
        return [None if v is None else 1 - v if mirrored else v for v in values]

    middle, lower, upper = at(share), at(high if mirrored else low), at(low if mirrored else high)
    fig.add_scatter(
        name="stay interval" if mirrored else "follow interval",
        x=middle,
        # Above and below the middle of the bar, so that two wide intervals do not become one line.
        y=[index + (0.12 if mirrored else -0.12) for index in range(len(share))],
        mode="markers",
        marker={"size": 5, "color": "#111111"},
        error_x={"type": "data", **whiskers(middle, lower, upper), "color": "#111111", "thickness": 1.6, "width": 4},
        hoverinfo="skip",
        showlegend=False,
    )


def bypass(table: pd.DataFrame) -> go.Figure:
    """Prompt of one problem, chain of another up to a cut: whose answer comes out?"""
    table = measured(table, "cut", "prompt").sort_values("cut")
    if table.empty:
        return placeholder("the prompt was not exchanged")
    cuts = [int(cut) for cut in table["cut"]]
    column: dict[str, list[float | None]] = {
        name: numbers(table[name]) if name in table else [None] * len(cuts)
        for name in ("prompt", "chain", "low", "high")
    }
    sizes = numbers(table["n"]) if "n" in table else [None] * len(cuts)
    readout = [bool(plain(value)) for value in table["readout"]] if "readout" in table else [False] * len(cuts)
    fig = figure(340, legend={"traceorder": "normal"}, margin={"r": 28})
    fig.add_scatter(
        name="follows the exchanged prompt (bypass)",
        x=cuts,
        y=column["prompt"],
        mode="lines+markers",
        line={"color": VERMILLION, "width": 2.5},
        marker={"size": 10, "symbol": ["circle-open" if r else "circle" for r in readout]},
        error_y={
            "type": "data",
            **whiskers(column["prompt"], column["low"], column["high"]),
            "thickness": 1.6,
            "width": 5,
        },
        customdata=[
            [percent(a), percent(b), "" if n is None else int(n)]
            for a, b, n in zip(column["low"], column["high"], sizes)
        ],
        hovertemplate="prompt %{y:.0%} (95%: %{customdata[0]} to %{customdata[1]}), n = %{customdata[2]}"
        "<extra></extra>",
        cliponaxis=False,
    )
    fig.add_scatter(
        name="follows the kept chain",
        x=cuts,
        y=column["chain"],
        mode="lines+markers",
        line={"color": GREEN, "width": 2, "dash": "dash"},
        marker={"size": 8, "symbol": ["square-open" if r else "square" for r in readout]},
        hovertemplate="chain %{y:.0%}<extra></extra>",
        cliponaxis=False,
    )
    words = [f"{cut}<br>whole chain:<br>readout" if r else str(cut) for cut, r in zip(cuts, readout)]
    fig.update_xaxes(
        title_text="steps of the chain that were kept",
        tickvals=cuts,
        ticktext=words,
        range=[cuts[0] - 0.3, cuts[-1] + 0.3],
    )
    fig.update_yaxes(title_text="share of answers", **(_SHARE | {"range": [-0.02, 1.02]}))
    for cut, is_readout in zip(cuts, readout):
        if is_readout:
            fig.add_vrect(x0=cut - 0.3, x1=cut + 0.3, fillcolor=GREY, opacity=0.12, line_width=0, layer="below")
    return fig


_EFFECTS = {
    "total": ("total: prompt and chain exchanged", BLUE, "circle"),
    "direct": ("direct: the prompt alone, past the chain", VERMILLION, "diamond"),
    "indirect": ("indirect: the chain alone", GREEN, "square"),
    "interaction": ("interaction: total \N{MINUS SIGN} direct \N{MINUS SIGN} indirect", GREY, "x"),
}


def mediation(summary: Mapping[str, Any], *, brief: bool = False) -> go.Figure:
    """Effects of the prompt on the answer with 95% intervals, and a tick where their control lies. `brief`: only the
    names of the effects stand beside them, for a phone."""
    effects = summary.get("mediation") or {}
    found = {name: effects[name] for name in _EFFECTS if (effects.get(name) or {}).get("value") is not None}
    if not found:
        return placeholder("prompts and chains were not crossed")
    fig = figure(110 + 46 * len(found), showlegend=False, margin={"t": 12, "r": 24})
    for row, (name, number) in enumerate(found.items()):
        words, colour, symbol = _EFFECTS[name]
        value, low, high = numbers([number["value"], number.get("low"), number.get("high")])
        control = numbers([number.get("control")])[0]
        fig.add_scatter(
            name=name,
            x=[value],
            y=[row],
            mode="markers+text",
            text=[f"<b>{decimal(value)}</b>"],
            textposition="top center",
            marker={"size": 12, "color": colour, "symbol": symbol},
            error_x={"type": "data", **whiskers([value], [low], [high]), "color": colour, "thickness": 2.5, "width": 7},
            hovertemplate=f"{words}: {decimal(value)} (95%: {decimal(low)} to {decimal(high)}), "
            f"control {decimal(control)}<extra></extra>",
            cliponaxis=False,
        )
        if control is not None:
            mark = {"symbol": "line-ns", "size": 20, "line": {"width": 2, "color": GREY}}
            fig.add_scatter(
                name=f"control of {name}", x=[control], y=[row], mode="markers", marker=mark, hoverinfo="skip"
            )
    reach = max(1.0, *(abs(number.get(key) or 0) for number in found.values() for key in ("low", "high")))
    fig.update_xaxes(
        title_text="change in the share of answers to q'",
        range=[-reach - 0.04, reach + 0.04],
        dtick=0.5,
        zeroline=True,
    )
    texts = [name if brief else _EFFECTS[name][0].replace(": ", "<br>") for name in found]
    return fig.update_yaxes(
        tickvals=list(range(len(found))), ticktext=texts, range=[len(found) - 0.5, -0.7], showgrid=False
    )


def accuracy(summary: Mapping[str, Any]) -> go.Figure:
    """How often the answer is right, with the chain written and without it, with 95% intervals."""
    found = summary.get("accuracy") or {}
    bars = [
        (words, colour, symbol, found[key])
        for key, words, colour, symbol in (
            ("with_chain", "with the chain", BLUE, "circle"),
            ("without_chain", "without it", VERMILLION, "diamond"),
        )
        if (found.get(key) or {}).get("value") is not None
    ]
    if not bars:
        return placeholder("accuracy was not taken")
    fig = figure(84 + 58 * len(bars), showlegend=False, margin={"t": 12, "r": 24})
    for words, colour, symbol, number in bars:
        value, low, high = [number["value"]], [number.get("low")], [number.get("high")]
        fig.add_scatter(
            name=words,
            x=value,
            y=[words + (f"<br>n = {int(number['n'])}" if number.get("n") else "")],
            mode="markers+text",
            text=[f"<b>{percent(value[0])}</b>"],
            textposition="top center",
            marker={"size": 12, "color": colour, "symbol": symbol},
            error_x={"type": "data", **whiskers(value, low, high), "color": colour, "thickness": 2.5, "width": 7},
            hovertemplate=f"{words}: %{{x:.1%}} (95%: {percent(low[0])} to {percent(high[0])})<extra></extra>",
            cliponaxis=False,
        )
    fig.update_xaxes(title_text="answers that are right", **(_SHARE | {"range": [-0.02, 1.02]}))
    fig.update_yaxes(showgrid=False, range=[len(bars) - 0.5, -0.7])
    return fig
