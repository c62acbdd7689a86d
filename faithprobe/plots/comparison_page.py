"""The page of `faithprobe compare`: one HTML file that says what changed from one audit to another.

First the differences with their intervals, then how verdicts moved, then the chains that changed most, side by side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from faithprobe.plots import comparison_tables as tables
from faithprobe.plots import comparison_words as words
from faithprobe.plots import sections
from faithprobe.plots.comparison_figure import forest
from faithprobe.plots.page import for_phone, render_page, resource, write_page
from faithprobe.plots.prepare import plain, rows


@dataclass(frozen=True)
class ComparisonInput:
    """The page's material as a plain record; a `Comparison` has it."""

    info: Mapping[str, Any]
    """names, a, b, paired, problems, same_text, unmatched_steps, notes, same_weights, versions, command."""
    differences: pd.DataFrame
    """group, measure, words, unit, a, b, difference, low, high, p_holm, beyond_zero, n_a, n_b, paired, missing."""
    transitions: pd.DataFrame
    """verdict_a, verdict_b, steps."""
    steps: pd.DataFrame
    unscored: pd.DataFrame
    """reason, a, b."""
    chains: Sequence[Mapping[str, Any]]
    """chain, prompt, changed; `a` and `b`, each with text, values, answer, correct, steps."""


def write_comparison(view: ComparisonInput, path: str | os.PathLike[str]) -> Path:
    """Writes the page and returns its path. The file appears whole or not at all."""
    return write_page(render_comparison(view), path)


def render_comparison(view: ComparisonInput) -> str:
    """The page as one HTML text."""
    info = view.info
    said = [
        words.asked(info),
        words.text_sentence(info),
        words.found(view.differences),
        words.accuracy(view.differences),
        words.verdicts(view.transitions, info),
    ]
    paired = bool(info["paired"])
    return render_page(
        "comparison.html",
        kind="faithprobe comparison",
        title=" against ".join(map(words.isolated, reversed(info["names"]))),
        style=resource("report.css") + resource("comparison.css"),
        scripts=("figures.js",),
        drawings={"changes": (forest(view.differences), _phone(view), _numbers(view.differences))},
        findings="".join(f"<li>{tables.finding(sentence)}</li>" for sentence in said if sentence),
        notes=tables.notes(info),
        difference_table=tables.difference_table(view.differences),
        transition_table=tables.transition_table(view.transitions)
        if paired
        else sections.missing("the audits asked different problems: no step of A is a step of B"),
        unmatched=escape(words.unmatched(info)),
        chain_pairs=tables.chain_pairs(view.chains, info["names"])
        if paired
        else sections.missing("the audits asked different problems: no chain of A answers a problem of B"),
        reason_table=tables.reason_table(view.unscored),
        method=escape(words.METHOD_PAIRED if paired else words.METHOD_INDEPENDENT),
        method_rows=escape(words.METHOD_ROWS),
        without_chain=escape(words.WITHOUT_CHAIN if paired else ""),
        plans=tables.plans(info),
        run_again=sections.run_of(info, {"problems of both": plain(info["problems"]["both"])}),
    )


def _phone(view: ComparisonInput) -> Any:
    return for_phone(forest(view.differences, narrow=True))


def _numbers(differences: pd.DataFrame) -> str:
    heads = ["measure", "A", "B", "difference", "low", "high", "p", "p corrected", "beyond zero", "n of A", "n of B"]
    keys = ["words", "a", "b", "difference", "low", "high", "p", "p_holm", "beyond_zero", "n_a", "n_b"]
    return sections.table(heads, [[row[key] for key in keys] for row in rows(differences) if not row["missing"]])
