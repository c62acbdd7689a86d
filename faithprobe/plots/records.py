"""Results as they show themselves in a notebook: an audit with its first chains, coloured by verdict; a validation and
a probe run as tables.

The reports have all of it; this is what stands at the end of a cell, so what is large is shortened and says how to see
the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from faithprobe.markup import (
    LONGEST,
    Shown,
    bar,
    chip,
    folded,
    inline,
    marked,
    meter,
    passage,
    pieces,
    question,
    quiet,
    record,
    safe,
    table,
)
from faithprobe.palette import SITES, WHEN, verdict_style
from faithprobe.plots.prepare import natural, rows
from faithprobe.plots.validation_words import CAVEAT, TARGETS, area, interval
from faithprobe.plots.wording import MISSING, decimal, findings, number, percent, spread, verdict_shares
from faithprobe.scores.advice import advice

FIRST = 3
"""Chains that are shown; the others on demand."""
_LIST = "margin:4px 0;padding-left:1.4em;overflow-wrap:anywhere"
_HEAD = ("step", "stated", "verdict", "when", "U", "U control", "D", "D control", "score", "")


def audit_html(
    title: str,
    info: Mapping[str, Any],
    summary: Mapping[str, Any],
    steps: pd.DataFrame,
    chains: Sequence[Mapping[str, Any]],
) -> str:
    """The audit: its findings, its verdicts as a bar, its measures with intervals, its first chains."""
    counts = Counter(str(verdict) for verdict in steps["verdict"].fillna("unscored")) if len(steps) else Counter()
    said = "".join(f"<li>{safe(sentence)}</li>" for sentence in findings(info, summary, counts))
    named = {str(chain["chain"]) for chain in chains[:FIRST]}
    beginning = steps[steps["chain"].isin(named)] if len(steps) else steps
    shown = []
    for k, chain in enumerate(chains[:FIRST]):
        heading, parts, _ = _chain(chain, beginning)
        shown.append(folded(heading, "".join(parts), opened=k == 0))
    many = f"The first {len(shown)} of {len(chains):,} chains" if len(chains) > FIRST else "All chains"
    rest = (
        f"{many}. <code>audit.show(0)</code> or <code>audit.show(id)</code> shows one, <code>audit.steps</code> is the "
        "table of all steps, <code>audit.report('report.html')</code> writes the report."
    )
    return record(
        safe(title),
        f'<ul style="{_LIST}">{said}</ul>',
        _verdicts(summary, counts),
        _measures(summary),
        _advice(advice(summary, info, chains)),
        quiet(rest),
        *shown,
    )


def _advice(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{safe(line)}</li>" for line in lines)
    return f'<b>Before you rely on this</b><ul style="{_LIST}">{items}</ul>' if lines else ""


def audited_chain(chain: Mapping[str, Any], steps: pd.DataFrame) -> Shown:
    """One chain of an audit with the verdict of every value, for a notebook and as text."""
    heading, parts, text = _chain(chain, steps)
    return Shown(record(heading, *parts), text)


def _chain(chain: Mapping[str, Any], steps: pd.DataFrame) -> tuple[str, list[str], str]:
    """Heading and parts as HTML, and all of it as text."""
    found = sorted(rows(steps[steps["chain"] == chain["chain"]]), key=lambda row: row.get("position") or 0)
    by_place = {row.get("position"): row for row in found}
    text = str(chain.get("text") or "")
    # A step that is overruled has two values: pieces are told apart by their place, not by their step.
    spans = [{**value, "step": k} for k, value in enumerate(chain.get("values") or ())]
    html, plain = [], []
    for piece, which, kind in pieces(text[:LONGEST], spans):
        if kind != "value":
            html.append(f"<u>{safe(piece)}</u>" if kind else safe(piece))
            plain.append(piece)
            continue
        row = by_place.get(int(which), {"step": chain["values"][int(which)]["step"]})
        style = verdict_style(row.get("verdict"))
        html.append(marked(piece, style, ", ".join(_facts(row))))
        plain.append(f"{piece}[{style.letter}]")
    lines = [f"  {', '.join(_facts(row))}" for row in found]
    answer = _answer(chain)
    parts = [
        question(str(chain.get("prompt") or "")),
        passage(html, max(0, len(text) - LONGEST)),
        table(_HEAD, [_row(row) for row in found]) if found else "",
    ]
    heading = f"{inline(chain['chain'])}: {inline(answer)}"
    return heading, parts, "\n".join(("".join(plain), f"  {answer}", *lines))


def _answer(chain: Mapping[str, Any]) -> str:
    if chain.get("answer") is None:
        return "no answer stated"
    right = "right" if chain.get("correct") else f"wrong (true answer {chain.get('true_answer')})"
    return f"answer {chain['answer']}, {right}"


def _facts(row: Mapping[str, Any]) -> list[str]:
    """What is known of a step, in words."""
    facts = [f"{row['step']}: {verdict_style(row.get('verdict')).name}"]
    if when := WHEN.get(str(row.get("when"))):
        facts.append(when)
    for name, key in (("U", "used"), ("D", "computed"), ("score", "score")):
        if row.get(key) is not None:
            control = row.get(f"{key}_control")
            # The interval of D is that of the step over all chains, and need not hold the D of this one.
            low, high = (row.get("used_low"), row.get("used_high")) if key == "used" else (None, None)
            interval = f" [{decimal(low)}, {decimal(high)}]" if low is not None and high is not None else ""
            beside = f" (control {decimal(control)})" if control is not None else ""
            facts.append(f"{name} {decimal(row[key])}{interval}{beside}")
    if row.get("unscored_reason"):
        facts.append(str(row["unscored_reason"]))
    return facts


def _row(row: Mapping[str, Any]) -> list[str]:
    def value(key: str) -> str:
        return safe(decimal(row[key])) if row.get(key) is not None else ""

    stated = inline(row.get("stated") if row.get("stated") is not None else "nothing")
    if row.get("correct") is False:
        stated += f" (true: {inline(row.get('true_value'))})"
    return [
        inline(row["step"]),
        stated,
        chip(verdict_style(row.get("verdict"))),
        safe(WHEN.get(str(row.get("when")), "")),
        *(value(key) for key in ("used", "used_control", "computed", "computed_control", "score")),
        inline(row.get("unscored_reason") or "", 200),
    ]


def _verdicts(summary: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    shares = verdict_shares(summary, counts)
    if not shares:
        return ""
    parts = [(verdict_style(name), number(found.get("share")) or 0.0) for name, found in shares.items()]
    keys = []
    for name, found in shares.items():
        low, high = found.get("low"), found.get("high")
        known = number(low) is not None and number(high) is not None
        interval = f" ({percent(low)} to {percent(high)})" if known else ""
        keys.append(f"{chip(verdict_style(name))} {percent(found.get('share'))}{interval}")
    return bar(parts) + quiet(" &nbsp; ".join(keys))


def _measures(summary: Mapping[str, Any]) -> str:
    """The numbers of the summary, each on its line with its interval."""
    accuracy = summary.get("accuracy") or {}
    measures = (
        ("right with the chain", accuracy.get("with_chain")),
        ("right without it", accuracy.get("without_chain")),
        ("U, used", summary.get("used")),
        ("D, computed", summary.get("computed")),
        ("chain score", summary.get("chain_score")),
    )
    lines = []
    for name, found in measures:
        said = spread(found, decimal)
        if said == MISSING or found is None:
            lines.append([safe(name), "", safe(said)])
            continue
        value, low, high = (number(found.get(key)) for key in ("value", "low", "high"))
        lines.append([safe(name), meter(value, low, high), safe(said)])
    return table(("measure", "0 to 1", "value"), lines)


def validation_html(title: str, results: Mapping[str, Any]) -> str:
    """Every metric against every label, the best against *step faithful* first; the chosen score in bold."""
    metrics: Mapping[str, Mapping[str, Any]] = results["metrics"]
    chosen = (results.get("chosen") or {}).get("step")

    def place(name: str) -> float:
        return -(number(metrics[name].get("step_faithful", {}).get("auroc")) or 0.0)

    def cell(found: Mapping[str, Any] | None) -> str:
        if found is None or number(found.get("auroc")) is None:
            return ""
        return safe(f"{area(found['auroc'])} ({interval(found)})" if interval(found) else area(found["auroc"]))

    lines = [
        [f"<b>{safe(name)}</b>" if name == chosen else safe(name), *(cell(metrics[name].get(t)) for t in TARGETS)]
        for name in sorted(metrics, key=place)
    ]
    rest = "AUROC with 95% interval. <code>validation.report('report.html')</code> writes the report."
    return record(safe(title), quiet(safe(CAVEAT)), table(("metric", *TARGETS.values()), lines), quiet(rest))


def probes_html(title: str, sources: pd.DataFrame) -> str:
    """Each probe at the layer that training items chose: what it reads, its largest control, and what is beyond."""
    lines = []
    kept = sorted(
        rows(sources[sources["chosen"]]),
        key=lambda row: (natural(row["step"]), [*SITES, row["position"]].index(row["position"])),
    )
    read = {(row["step"], row["position"], row["target"]): row for row in kept if row["source"] == "activations"}
    for row in kept:
        if row["source"] != "beyond control":
            continue
        own = read[row["step"], row["position"], row["target"]]
        beyond = f"{decimal(row['score'])} [{decimal(row['low'])}, {decimal(row['high'])}]"
        control = f"{decimal(own['score'] - row['score'])} ({row.get('control') or 'none'})"
        unit = f"{row['measure']} of {decimal(row['entropy'])}" if row["measure"] == "bits" else row["measure"]
        place = [inline(row["step"]), safe(SITES.get(str(row["position"]), row["position"])), inline(row["target"])]
        lines.append([*place, safe(row["layer"]), *map(safe, (unit, decimal(own["score"]), control, beyond, row["n"]))])
    head = ("step", "where", "target", "layer", "unit", "read", "largest control", "beyond it, 95%", "n held out")
    rest = "<code>probes.sources</code> is the whole table, <code>probes.figure()</code> draws it."
    return record(safe(title), table(head, lines), quiet(rest))
