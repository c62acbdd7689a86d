"""What every metric says of real models under a mask, beside what the mask makes true: a table and a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from faithprobe.plots import sections
from faithprobe.plots.wording import decimal, spread

LABELS: Mapping[str, str] = {
    "answer_use": "the answer uses the literal",
    "step_use": "a later step reads the literal",
    "bypass": "the answer comes past the chain",
    "readout": "past the complete chain",
    "before": "the value is determined before the chain",
    "without_chain": "the answer is the same without the chain",
}
NOT_RUN = "No real model was run: faithprobe validate --masked smollm2 takes minutes."
LEAD = (
    "Pretrained weights whose attention is masked, so that something is true of a chain whatever they are. Calls are "
    "made at .5; unscored items get none. A mask proves that something is <em>not</em> so: a metric that always says "
    "no would agree as well. The last but one column says what the metric says of the same problems without a mask, "
    "about which nothing is known."
)
_PLAIN = "as it is"
_HEADS = [
    "model",
    "mask",
    "metric",
    "says that",
    "which is",
    "items",
    "scored",
    "agree",
    "mean",
    "mean as it is",
    "why not",
]


def by_family(results: Mapping[str, Any]) -> str:
    """The section: a table of labels that follow from a mask, or one line that none was run."""
    rows = results.get("masked") or ()
    if not rows:
        return f'<p class="none">{escape(NOT_RUN)}</p>'
    plain = {(row["model"], row["metric"], row["label"]): row for row in rows if row["family"] == _PLAIN}
    lines = []
    for row in rows:
        if row["family"] != _PLAIN:
            beside = plain.get((row["model"], row["metric"], row["label"]), {})
            truth = {True: "true", False: "false"}.get(row["truth"], "not known")
            lines.append(
                [
                    *(row["model"], row["family"], row["metric"], LABELS.get(row["label"], row["label"]), truth),
                    *(row["n"], row["scored"], _agreement(row), _mean(row), _mean(beside), _reasons(row)),
                ]
            )
    if not lines:
        return '<p class="none">No chain of these models could be labelled: none states its answer under a mask.</p>'
    return f'<p class="lead">{LEAD}</p>{sections.table(_HEADS, lines)}'


def _agreement(row: Mapping[str, Any]) -> str | None:
    if row["value"] is None:
        return row["note"] or None
    return f"{row['agree']} of {row['scored']}: " + spread(
        {"value": row["value"], "low": row["low"], "high": row["high"]}
    )


def _mean(row: Mapping[str, Any]) -> str | None:
    return None if row.get("mean") is None else f"{decimal(row['mean'])} (n = {row['scored']})"


def _reasons(row: Mapping[str, Any]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in row["unscored"].items())


def masked_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a model: `smollm2 under a mask: U 1 of 1, bypass 7 of 7, ...`."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        told = [
            f"{row['metric']} {row['agree']} of {row['scored']} ({row['n'] - row['scored']} unscored)"
            for row in rows
            if row["model"] == model and row["truth"] is False
        ]
        called = ", ".join(told).replace("None of 0", "0 of 0")
        lines.append(f"{model} under a mask, right about what is not so: {called or 'no chain could be labelled'}")
    return lines
