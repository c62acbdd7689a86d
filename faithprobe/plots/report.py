"""One HTML file that says what was asked, what was found, and lets every single chain be read.

It opens without a network and asks for nothing: plotly.js travels inside, compressed, and the content security policy
forbids every request and every script but the two whose hashes it names.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Protocol

import pandas as pd
import plotly.graph_objects as go

from faithprobe.errors import StoreError
from faithprobe.plots import curves, figures, sections
from faithprobe.plots.chain_viewer import (
    css_class,
    json_island,
    static_chain,
    viewer_chains,
    viewer_island,
    within_budget,
)
from faithprobe.plots.palette import IN_THE_DARK, VERDICTS
from faithprobe.plots.prepare import lead_medians, plain, rows
from faithprobe.plots.theme import DARK, LIGHT
from faithprobe.plots.wording import findings, last_stated, spread


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
    """accuracy, verdicts, unscored, chain_score, answer_is_last_stated, findings."""
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
    target = Path(path)
    text = render_report(view)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        raise StoreError(
            f"the report could not be written to {target}: {error.strerror}; choose another path"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return target


def render_report(view: ReportView) -> str:
    """The report as one HTML text."""
    chains = viewer_chains(view.chains, view.steps)
    shown = within_budget(chains)
    counts = Counter(str(row.get("verdict") or "unscored") for row in rows(view.steps))
    unlocated = Counter(reason for chain in chains for reason in chain["unlocated"].values())
    drawings = _drawings(view)
    library = _plotly()
    script = _resource("viewer.js") + _resource("figures.js")
    title = f"{view.info.get('model') or 'model'} on {view.info.get('task') or 'task'}"
    said = [_sentence(text) for text in findings(view.info, view.summary, counts)]
    return Template(_resource("template.html")).substitute(
        policy=_policy(script, library),
        title=escape(str(plain(title))),
        style=_resource("report.css") + _verdict_css(),
        findings="".join(f"<li>{sentence}</li>" for sentence in said),
        tiles=sections.tiles(view.summary),
        verdict_bar=sections.verdict_bar(view.summary, counts),
        chain_note=_chain_note(len(shown), len(chains)),
        static_chains="".join(map(static_chain, shown)),
        verdict_table=sections.verdict_table(view.steps),
        last_stated=escape(last_stated(view.summary)),
        unscored=sections.unscored(view.summary, view.steps, unlocated),
        run_again=sections.run_again(view.info),
        legend=sections.legend(),
        viewer_json=viewer_island(shown),
        figures_json=json_island(_figures_data(drawings)),
        plotly=base64.b64encode(gzip.compress(library.encode(), 9, mtime=0)).decode(),
        script=script,
        **{f"figure_{name}": _figure_html(name, *drawing) for name, drawing in drawings.items()},
    )


def _drawings(view: ReportView) -> dict[str, tuple[go.Figure, go.Figure, str]]:
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
        "bypass": (figures.bypass(view.bypass), None, _table(view.bypass)),
        "accuracy": (
            figures.accuracy(view.summary),
            None,
            sections.table(["", "answers that are right"], accuracy) if accuracy else "",
        ),
    }
    return {name: (wide, _for_phone(narrow or wide), numbers) for name, (wide, narrow, numbers) in made.items()}


def _for_phone(fig: go.Figure) -> go.Figure:
    """The same figure with its legend in one column above the panels, and room for it."""
    narrow = go.Figure(fig)
    keys = sum(trace.showlegend is not False for trace in fig.data) if fig.layout.showlegend is not False else 0
    if keys > 1:
        top = 30 + 21 * keys
        narrow.update_layout(
            height=fig.layout.height + top - (fig.layout.margin.t or 44),
            margin={"t": top},
            legend={"orientation": "v", "tracegroupgap": 0},
        )
    return narrow.update_layout(margin={"l": 44, "r": 20})


def _table(frame: pd.DataFrame) -> str:
    found = rows(frame)
    return sections.table(list(found[0]), [list(row.values()) for row in found]) if found else ""


def _figures_data(drawings: Mapping[str, tuple[go.Figure, go.Figure, str]]) -> dict[str, Any]:
    """What the figures' script reads; the look is sent once, in both themes."""

    def bare(fig: go.Figure) -> dict[str, Any]:
        data = json.loads(fig.to_json())
        data["layout"].pop("template", None)
        return {"data": data["data"], "layout": data["layout"]}

    drawn = {name: {"wide": bare(w), "narrow": bare(n)} for name, (w, n, _) in drawings.items() if not _reason(w)}
    return {"light": LIGHT.to_plotly_json(), "dark": DARK.to_plotly_json(), "recolour": IN_THE_DARK, "figures": drawn}


def _reason(fig: go.Figure) -> str:
    return str((fig.layout.meta or {}).get("missing", ""))


def _figure_html(name: str, wide: go.Figure, narrow: go.Figure, numbers: str) -> str:
    if _reason(wide):
        return sections.missing(_reason(wide))
    details = f"<details><summary>The numbers</summary>{numbers}</details>" if numbers else ""
    return (
        f'<div class="plot" id="plot-{name}" style="min-height:{wide.layout.height}px">'
        '<p class="undrawn">This figure is drawn by a script. Its numbers are in the table below.</p></div>' + details
    )


def _sentence(text: str) -> str:
    """A finding, with every number that brings its interval in bold: it is what the eye looks for."""
    return re.sub(r"([\d.]+%?)(?= \(95%)", r"<strong>\1</strong>", escape(str(plain(text))))


def _chain_note(shown: int, total: int) -> str:
    if shown == total:
        return ""
    return (
        f"<p>The first {shown:,} of {total:,} chains are shown here; all of them are in <code>chains.jsonl</code>.</p>"
    )


def _verdict_css() -> str:
    return "".join(f".{css_class(s.name)}{{--c:{s.colour};--line:{s.underline}}}" for s in VERDICTS.values())


def _policy(*scripts: str) -> str:
    """Nothing may be fetched, and only these scripts may run: text that broke out of its place would stay dead."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _resource(name: str) -> str:
    return files("faithprobe.plots").joinpath(name).read_text(encoding="utf-8")
