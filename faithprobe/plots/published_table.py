"""The published metrics of an audit as one table: what each claims, what it found, and what it could not measure.

Plain HTML that needs no script; on a phone a row becomes a block with its heads in front of the cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from faithprobe.plots.sections import csv_rows, meter, missing
from faithprobe.plots.wording import MISSING, decimal, number

_HEADS = ("metric", "what a high value says", "mean over chains", "control", "unscored")


def published_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row a metric, as `results.published` makes them; a gap where none was run."""
    if not rows:
        return missing("no published metric was run; faithprobe audit --battery runs them all")
    head = "".join(f'<th scope="col">{text}</th>' for text in _HEADS)
    body = "".join(f"<tr>{_name(row)}{_cells(row)}</tr>" for row in rows)
    names = ("metric", "paper", "arxiv", "claim", "value", "low", "high", "n", "control", "control_is")
    lines = [[*(row[name] for name in names), sum(row["unscored"].values()), row["chains"]] for row in rows]
    exact = csv_rows([*names, "unscored", "chains"], lines)
    return f'<table class="published"{exact}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _name(row: Mapping[str, Any]) -> str:
    return (
        f'<th scope="row">{escape(str(row["metric"]))}<small>{escape(str(row["paper"]))}'
        f"<br>arXiv {escape(str(row['arxiv']))}</small></th>"
    )


def _cells(row: Mapping[str, Any]) -> str:
    cells = (
        f"{escape(str(row['claim']))}<small>{escape(str(row['measure']))}</small>",
        _value(row),
        _control(row),
        _unscored(row),
    )
    return "".join(f'<td data-head="{head}"><div>{cell}</div></td>' for head, cell in zip(_HEADS[1:], cells))


def _value(row: Mapping[str, Any]) -> str:
    if number(row["value"]) is None:
        return f'<span class="zero">{MISSING}</span>{_also(row)}'
    parts = []
    if number(row["low"]) is not None and number(row["high"]) is not None:
        parts.append(f"{decimal(row['low'])} to {decimal(row['high'])}")
    problems = int(row["n"])
    parts.append(f"n&nbsp;=&nbsp;{problems:,}")
    line = meter(row, row["control"]) if row["share"] else ""
    return f"<strong>{decimal(row['value'])}</strong>{line}<small>{' · '.join(parts)}</small>{_also(row)}"


def _also(row: Mapping[str, Any]) -> str:
    if row["also"] is None or number(row["also_value"]) is None:
        return ""
    return f"<small>{escape(str(row['also'][1]))}: {decimal(row['also_value'])}</small>"


def _control(row: Mapping[str, Any]) -> str:
    if not row["control_is"]:
        return '<span class="zero">none</span>'
    value = decimal(row["control"]) if number(row["control"]) is not None else f'<span class="zero">{MISSING}</span>'
    return f"{value}<small>{escape(str(row['control_is']))}</small>"


def _unscored(row: Mapping[str, Any]) -> str:
    counted = sum(row["unscored"].values())
    if not counted:
        return '<span class="zero">0</span>'
    reasons = "".join(f"<small>{count:,}: {escape(str(why))}</small>" for why, count in row["unscored"].items())
    return f"{counted:,} of {row['chains']:,}{reasons}"
