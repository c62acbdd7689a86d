"""Tables of an audit as figures and the report need them: plain values, counts, curves on a common grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from faithprobe.plots.palette import WHEN, verdict_style


def plain(value: Any) -> Any:
    """A cell as JSON and text can hold it: missing values of every kind become None, numpy scalars Python ones.

    Lone surrogates, which a byte-level tokenizer can produce and UTF-8 cannot write, become `?`.
    """
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def rows(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """The table's rows as dictionaries of plain values; none for a table that is missing or empty."""
    if table is None or table.empty:
        return []
    return [{str(key): plain(value) for key, value in row.items()} for row in table.to_dict("records")]


def measured(table: pd.DataFrame | None, *columns: str) -> pd.DataFrame:
    """The rows that hold a value in every one of `columns`: what a figure can draw. Empty where there are none."""
    if table is None or not set(columns) <= set(table.columns):
        return pd.DataFrame(columns=list(columns))
    return table.dropna(subset=list(columns))


def numbers(column: Iterable[Any]) -> list[float | None]:
    """A column as floats, None where there is no number."""
    cleaned = (plain(value) for value in column)
    return [float(value) if isinstance(value, (int, float)) else None for value in cleaned]


def whiskers(
    values: list[float | None], low: list[float | None], high: list[float | None]
) -> dict[str, list[float | None]]:
    """A 95% interval as plotly's error bars: distances up and down, none where a bound is missing."""

    def distances(bounds: list[float | None], sign: int) -> list[float | None]:
        pairs = zip(values, bounds)
        return [None if v is None or b is None else max(0.0, sign * (b - v)) for v, b in pairs]

    return {"array": distances(high, 1), "arrayminus": distances(low, -1)}


def verdict_cells(steps: pd.DataFrame) -> tuple[dict[tuple[str, bool], dict[str, int]], dict[str, int]]:
    """Counts of verdicts in the cells (when, used) of the verdict table, and of those outside of it.

    Used is read from the verdict, not from U again: the report must not draw a threshold of its own.
    """
    cells: dict[tuple[str, bool], dict[str, int]] = {}
    outside: dict[str, int] = {}
    for row in rows(steps):
        style = verdict_style(row.get("verdict"))
        when = str(row.get("when"))
        inside = style.used is not None and when in WHEN
        counts = cells.setdefault((when, bool(style.used)), {}) if inside else outside
        counts[style.name] = counts.get(style.name, 0) + 1
    return cells, outside


def carried_forward(curves: Mapping[str, Mapping[int, float]], grid: list[int]) -> list[float | None]:
    """Median over chains on a common grid of offsets, each chain at its last measured window up to there.

    Lead is scanned at clause boundaries, which lie elsewhere in every chain. R is about a window that only grows,
    so between two scanned ends the earlier value is the one that was measured.
    """
    medians: list[float | None] = []
    for offset in grid:
        known = sorted(
            curve[max(at for at in curve if at <= offset)]
            for curve in curves.values()
            if any(at <= offset for at in curve)
        )
        middle = len(known) // 2
        if not known:
            medians.append(None)
        else:
            medians.append(known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2)
    return medians


def lead_medians(lead: pd.DataFrame) -> list[dict[str, Any]]:
    """Per step: the chains' curves, the median R and placebo on their joint offsets, where the median reaches .5."""
    found: dict[str, dict[str, dict[str, dict[int, float]]]] = {}
    for row in rows(measured(lead, "chain", "step", "offset", "recovered")):
        step = found.setdefault(str(row["step"]), {"recovered": {}, "placebo": {}})
        for name in ("recovered", "placebo"):
            if row.get(name) is not None:
                step[name].setdefault(str(row["chain"]), {})[int(row["offset"])] = float(row[name])
    summaries = []
    for name, curves in sorted(found.items(), key=lambda item: natural(item[0])):
        grid = sorted({at for curve in curves["recovered"].values() for at in curve})
        median = carried_forward(curves["recovered"], grid)
        placebo = carried_forward(curves["placebo"], grid)
        kappa = next(
            (
                at
                for at, r, p in zip(grid, median, placebo)
                if r is not None and r >= 0.5 and r > (p if p is not None else -1)
            ),
            None,
        )
        summaries.append(
            {
                "step": name,
                "curves": curves["recovered"],
                "grid": grid,
                "median": median,
                "placebo": placebo,
                "kappa": kappa,
                "n": len(curves["recovered"]),
            }
        )
    return summaries


def natural(name: str) -> tuple[str, int, str]:
    """A key that puts v2 before v10."""
    head = name.rstrip("0123456789")
    tail = name[len(head) :]
    return head, int(tail) if tail else -1, name
