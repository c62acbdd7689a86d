"""One HTML file that says what was asked, what was found, and lets every single chain be read."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Protocol
from unicodedata import bidirectional

import pandas as pd

from faithprobe.plots import curves, exchanges, figures, sections
from faithprobe.plots.chain_viewer import STATIC, static_chain, viewer_chains, viewer_island, within_budget
from faithprobe.plots.page import Drawings, for_phone, render_page, resource, write_page
from faithprobe.plots.prepare import lead_medians, plain, rows
from faithprobe.plots.published_table import published_table
from faithprobe.plots.wording import findings, last_stated, left_out, spread
from faithprobe.scores.advice import advice


class ReportView(Protocol):
    """What a report is made from; an `Audit` is one."""

    @property
    def info(self) -> Mapping[str, Any]: ...
    @property
    def summary(self) -> Mapping[str, Any]: ...
    @property
    def steps(self) -> pd.DataFrame: ...
    @property
    def decodability(self) -> pd.DataFrame: ...
    @property
    def lead(self) -> pd.DataFrame: ...
    @property
    def bypass(self) -> pd.DataFrame: ...
    @property
    def outcomes(self) -> pd.DataFrame: ...
    @property
    def chains(self) -> Sequence[Mapping[str, Any]]: ...


@dataclass(frozen=True)
class ReportInput:
    """A report's material as a plain record. Any table may be empty and any number missing: gaps are shown as gaps."""

    info: Mapping[str, Any]
    """model, task, task_options, n_problems, seed, versions, command, seconds, date."""
    summary: Mapping[str, Any]
    """accuracy, verdicts, unscored, chain_score, answer_is_last_stated, findings, published."""
    steps: pd.DataFrame
    """Columns `STEPS` of `scores.tables`; the four below likewise."""
    decodability: pd.DataFrame
    lead: pd.DataFrame
    bypass: pd.DataFrame
    outcomes: pd.DataFrame
    chains: Sequence[Mapping[str, Any]]
    """chain, prompt, text, answer, true_answer, correct, values (step, start, end, mentions), unlocated, finished."""


def write_report(view: ReportView, path: str | os.PathLike[str]) -> Path:
    """Writes the report and returns its path. The file appears whole or not at all."""
    return write_page(render_report(view), path)


def render_report(view: ReportView) -> str:
    """The report as one HTML text."""
    chains = viewer_chains(view.chains, view.steps)
    shown = within_budget(chains)
    counts = Counter(str(row.get("verdict") or "unscored") for row in rows(view.steps))
    unlocated = Counter(reason for chain in chains for reason in chain["unlocated"].values())
    names = [view.info.get("model"), view.info.get("task")]
    said = [_sentence(text, names) for text in findings(view.info, view.summary, counts)]
    return render_page(
        "template.html",
        kind="faithprobe report",
        title=f"{view.info.get('model') or 'model'} on {view.info.get('task') or 'task'}",
        style=resource("report.css"),
        scripts=("viewer.js", "figures.js"),
        drawings=_drawings(view),
        answer=sections.answer(counts),
        findings="".join(f"<li>{sentence}</li>" for sentence in said),
        advice=sections.advice(advice(view.summary, view.info, view.chains)),
        tiles=sections.tiles(view.summary),
        verdict_bar=sections.verdict_bar(view.summary, counts),
        chain_note=_chain_note(len(shown), len(chains)),
        static_chains=_static_note(len(shown)) + "".join(map(static_chain, shown[:STATIC])),
        verdict_table=sections.verdict_table(view.steps),
        last_stated=escape(last_stated(view.summary)),
        left_out=escape(left_out(view.summary)),
        published=published_table(view.summary.get("published") or ()),
        unscored=sections.unscored(view.summary, view.steps, unlocated),
        run_again=sections.run_again(view.info),
        legend=sections.legend(),
        viewer_json=viewer_island(shown),
    )


def _drawings(view: ReportView) -> Drawings:
    """Per figure: for a desktop, for a phone, and its numbers as a table."""
    lead = [
        [s["step"], at, r, p] for s in lead_medians(view.lead) for at, r, p in zip(s["grid"], s["median"], s["placebo"])
    ]
    accuracy = [[key.replace("_", " "), spread(found)] for key, found in (view.summary.get("accuracy") or {}).items()]
    made = {
        "decodability": (curves.decodability(view.decodability), None, _table(view.decodability)),
        "lead": (
            curves.lead_curves(view.lead),
            curves.lead_curves(view.lead, columns=1),
            sections.table(["step", "window ends at", "median R", "median placebo"], lead) if lead else "",
        ),
        "use": (figures.use_outcomes(view.outcomes), None, _table(view.outcomes)),
        "bypass": (exchanges.bypass(view.bypass), None, _table(view.bypass)),
        "mediation": (
            exchanges.mediation(view.summary),
            exchanges.mediation(view.summary, columns=2),
            sections.effects(view.summary),
        ),
        "accuracy": (
            figures.accuracy(view.summary),
            None,
            sections.table(["", "answers that are right"], accuracy) if accuracy else "",
        ),
    }
    return {name: (wide, for_phone(narrow or wide), numbers) for name, (wide, narrow, numbers) in made.items()}


def _table(frame: pd.DataFrame) -> str:
    found = rows(frame)
    return sections.table(list(found[0]), [list(row.values()) for row in found]) if found else ""


def _sentence(text: str, names: Sequence[Any]) -> str:
    """A finding, with every number that brings its interval in bold: it is what the eye looks for.

    Names keep their direction of writing to themselves.
    """
    found = escape(str(plain(text)))
    for name in {escape(str(plain(name))) for name in names if name} if _turns(text) else ():
        found = found.replace(name, f"<bdi>{name}</bdi>")
    return re.sub(r"([\d.]+%?)(?= \(95%)", r"<strong>\1</strong>", found)


def _turns(text: str) -> bool:
    """Whether any of it is written, or turned, from right to left."""
    return any(bidirectional(c) in ("R", "AL", "RLE", "RLO", "RLI", "LRO") for c in text)


def _static_note(shown: int) -> str:
    if shown <= STATIC:
        return ""
    return f"<p>Without scripts only the first {STATIC} of {shown:,} chains can be read here.</p>"


def _chain_note(shown: int, total: int) -> str:
    if shown == total:
        return ""
    return (
        f"<p>The first {shown:,} of {total:,} chains are shown here; all of them are in <code>chains.jsonl</code>.</p>"
    )
