"""The tables of a validation's report. They need no script; every text that enters here is escaped here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from faithprobe.plots import sections
from faithprobe.plots.prepare import plain, rows
from faithprobe.plots.validation_figures import tokens_off
from faithprobe.plots.validation_words import MEANINGS, TARGETS, area, claims, interval, why_undefined
from faithprobe.plots.wording import decimal, number, percent
from faithprobe.scores.labelled import CHAIN_TARGET, THRESHOLD, conditions_by_call, worst_items

_NONE = '<td class="zero">–</td>'


def note(reason: str) -> str:
    """One line where a table would stand."""
    return f'<p class="none">{escape(reason)}</p>'


def frame(heads: Sequence[str], lines: Sequence[str], kind: str) -> str:
    """A table of finished cells in a box that scrolls by itself; `heads` are HTML."""
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def row_head(name: object, mark: str = "") -> str:
    return f'<th scope="row" dir="auto">{escape(str(plain(name)))}{mark}</th>'


def metrics_by_target(results: Mapping[str, Any]) -> str:
    """The table that comes first: every metric against every label, best against *faithful* first."""
    found: Mapping[str, Any] = results.get("metrics") or {}
    if not found:
        return note("No metric scored an item of a matched stratum.")
    chosen = (results.get("chosen") or {}).get("step")
    heads = ["metric", *TARGETS.values(), "called unfaithful <small>(truly)</small>", "unscored", "s / chain"]
    lines = []
    for name in _best_first(results):
        mark = ' <span class="mark">chosen</span>' if name == chosen else ""
        cells = [_auroc_cell(found[name].get(target), claimed=target in claims(name)) for target in TARGETS]
        first = found[name].get("step_faithful") or found[name].get(CHAIN_TARGET) or {}
        took = number((results.get("seconds_per_chain") or {}).get(name))
        lines.append(
            row_head(name, mark)
            + "".join(cells)
            + _bias_cell(first.get("bias"))
            + _number_cell(percent((first.get("unscored") or {}).get("value")))
            + _number_cell("–" if took is None else f"{took:.2g}")
        )
    return frame(heads, lines, "metrics")


def _best_first(results: Mapping[str, Any]) -> list[str]:
    """Metrics by their AUROC against *faithful*: of steps, then of chains; those without one last."""
    found: Mapping[str, Any] = results.get("metrics") or {}

    def quality(name: str) -> tuple[float, float]:
        values = (number((found[name].get(target) or {}).get("auroc")) for target in ("step_faithful", CHAIN_TARGET))
        faithful, chain = (-1.0 if value is None else value for value in values)
        return -faithful, -chain

    return sorted(found, key=quality)


def _auroc_cell(found: Mapping[str, Any] | None, *, claimed: bool) -> str:
    if not found:
        return _NONE
    kind = ' class="claim"' if claimed else ""
    if number(found.get("auroc")) is None:
        why = (found.get("reasons") or {}).get("auroc") or found.get("undefined") or ""
        return f'<td{kind} title="{escape(str(why))}">–</td>'
    below = ", ".join(filter(None, (interval(found), f"n\N{NO-BREAK SPACE}{int(found.get('n') or 0):,}")))
    return f'<td{kind}><strong>{area(found["auroc"])}</strong><small class="below">{below}</small></td>'


def _bias_cell(bias: Mapping[str, Any] | None) -> str:
    if not bias:
        return _NONE
    return f"<td>{percent(bias['called']['value'])} <small>({percent(bias['actual']['value'])})</small></td>"


def _number_cell(text: str) -> str:
    return f"<td>{text}</td>" if text not in ("–", "not measured") else _NONE


def by_stratum(results: Mapping[str, Any]) -> str:
    """AUROC in every stratum, as a heat table for each of three labels, and why some strata are not there."""
    strata: Mapping[str, Any] = results.get("strata") or {}
    made = []
    for target in ("step_faithful", CHAIN_TARGET, "step_used"):
        gaps = why_undefined(strata, target)
        columns = dict.fromkeys(s for found in strata.values() for s in found.get(target) or {} if s not in gaps)
        heads = ["metric", *(escape(name).replace("/", "<br>", 1) for name in columns)]
        lines = []
        for name in dict.fromkeys([*_best_first(results), *strata]):
            found = strata.get(name) or {}
            cells = [heat_cell((found.get(target) or {}).get(column)) for column in columns]
            if any("heat" in cell for cell in cells):
                lines.append(row_head(name) + "".join(cells))
        shown = frame(heads, lines, "heats") if lines else note("No stratum holds scored items of both labels.")
        reasons = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in gaps_by_reason(gaps).items())
        made.append(f'<h3 class="target">{TARGETS[target]}</h3>{shown}')
        made.append(f"<p><small>Without an AUROC: {escape(reasons)}.</small></p>" if reasons else "")
    return "".join(made)


def gaps_by_reason(gaps: Mapping[str, str]) -> dict[str, list[str]]:
    """Strata by why they have no AUROC; how many items there were makes no difference."""
    found: dict[str, list[str]] = {}
    for stratum, reason in gaps.items():
        found.setdefault(re.sub(r"\b\d+ ", "", reason), []).append(stratum)
    return found


def heat_cell(found: Mapping[str, Any] | None, key: str = "auroc", middle: float = 0.5) -> str:
    """A number on its heat: blue above the middle, orange below it, as strong as it is far from it."""
    value = number((found or {}).get(key))
    if found is None or value is None:
        return _NONE
    far = min(1.0, abs(value - middle) / (1 - middle))
    side = "above" if value >= middle else "below"
    told = ", ".join(filter(None, (interval(found), f"n = {int(found.get('n') or 0):,}")))
    return f'<td class="heat {side}" style="--far:{55 * far:.0f}%" title="{told}">{area(value)}</td>'


def confusion(results: Mapping[str, Any], items: pd.DataFrame) -> str:
    """How often the chosen score calls the steps of a condition faithful, by what is true of them."""
    name = (results.get("chosen") or {}).get("step")
    if not name or f"m:{name}" not in items:
        return note("No score was chosen, so there are no calls.")
    pairs: dict[str, dict[bool, Mapping[str, Any]]] = {}
    for row in conditions_by_call(items, name):
        pairs.setdefault(str(row["condition"]), {})[row["label"]] = row
    lines = []
    for condition, truths in pairs.items():
        if any(row["n"] or row["unscored"] for row in truths.values()):
            cells = "".join(_call_cells(truths[truth], truth) for truth in (True, False))
            lines.append(row_head(condition) + cells + f"<td>{sum(row['unscored'] for row in truths.values()):,}</td>")
    if not lines:
        return note("No step is labelled faithful or unfaithful.")
    left = [
        condition for condition, truths in pairs.items() if not any(r["n"] + r["unscored"] for r in truths.values())
    ]
    heads = ["condition", "of faithful steps<br>called faithful", "n", "of unfaithful steps<br>called faithful", "n"]
    below = f"<p><small>Without a label of this kind: {escape(', '.join(left))}.</small></p>" if left else ""
    return frame([*heads, "unscored"], lines, "calls") + below


def _call_cells(row: Mapping[str, Any], truth: bool) -> str:
    share = number(row["called_faithful"])
    if share is None:
        return _NONE + "<td>0</td>"
    wrong = 1 - share if truth else share
    kind = "right" if wrong <= 0.5 else "wrong"
    bar = f'<span class="bar {kind}"><i style="width:{100 * share:.0f}%"></i></span>'
    return f"<td>{bar}{percent(share)}</td><td>{row['n']:,}</td>"


def doses(results: Mapping[str, Any]) -> str:
    """Spearman's correlation of mean score and dose, of every metric."""
    lines = []
    for name, found in (results.get("dose") or {}).items():
        spearman = found.get("spearman") or {}
        lines.append([name, spearman.get("value"), spearman.get("low"), spearman.get("high"), found.get("undefined")])
    lines.sort(key=lambda line: (line[1] is None, -(number(line[1]) or 0)))
    return sections.table(["metric", "Spearman", "low", "high", "why not"], lines) if lines else ""


def timings(results: Mapping[str, Any]) -> str:
    """Shares of kappas inside their interval, by stratum."""
    heads = ["stratum", "inside", "within one token", "early", "late", "n", "not measured"]
    lines = [
        [
            *(
                name,
                percent((found.get("inside") or {}).get("value")),
                percent((found.get("within") or {}).get("value")),
            ),
            *(percent(found.get("early")), percent(found.get("late")), found.get("n"), found.get("unmeasured")),
        ]
        for name, found in (results.get("timing") or {}).items()
        if not found.get("undefined")
    ]
    return sections.table(heads, lines) if lines else ""


def timing_sentence(results: Mapping[str, Any], items: pd.DataFrame) -> str:
    """The two shares that matter."""
    found = (results.get("timing") or {}).get("all") or {}
    if found.get("undefined") or not found or not len(tokens_off(items)):
        return f"Not known: {found.get('undefined') or 'no step has a label of time'}."
    inside, within = (
        f"{percent(part['value'])} ({percent(part['low'])} to {percent(part['high'])})"
        for part in (found["inside"], found["within"])
    )
    return f"Inside the interval: {inside} of {found['n']:,} steps; inside or within one token of it: {within}."


def agreement(results: Mapping[str, Any]) -> str:
    """Gwet's AC1 between the calls of two metrics, as a square."""
    pairs = {(row["first"], row["second"]): row for row in results.get("agreement") or ()}
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    if not pairs:
        return note("No two metrics made calls about the same steps.")
    lines = []
    for first in names:
        found = (pairs.get((first, second)) or pairs.get((second, first)) for second in names)
        cells = (heat_cell(row and dict(row), "value", 0.0) if row else '<td class="zero">·</td>' for row in found)
        lines.append(row_head(first) + "".join(cells))
    return frame(["", *map(escape, names)], lines, "heats")


def halves(results: Mapping[str, Any]) -> str:
    """Every step score on the half that it was chosen on and on the half that reports."""
    chosen = results.get("chosen") or {}
    found: Mapping[str, Any] = chosen.get("halves") or {}
    names = list(dict.fromkeys(name for half in found.values() for name in half))
    if not names:
        return note(f"Nothing was chosen: {chosen.get('why') or 'no score has an AUROC on either half'}.")
    heads = ["score", "faithful, to choose,<br>declined = 1/2"]
    heads += [
        f"{TARGETS[t]},<br>{half}" for half in ("to choose", "to report") for t in ("step_faithful", CHAIN_TARGET)
    ]
    lines = []
    for name in names:
        mark = ' <span class="mark">chosen</span>' if name == chosen.get("step") else ""
        on = (found.get("choose", {}).get(name) or {}).get("step_faithful") or {}
        every = number(on.get("auroc_all"))
        told_every = "" if every is None else f"{every:.3f}, n = {on.get('n_all')}"
        cells = [f"<td>{told_every}</td>"]
        cells += [
            _auroc_cell((found.get(half, {}).get(name) or {}).get(target), claimed=False)
            for half in ("choose", "report")
            for target in ("step_faithful", CHAIN_TARGET)
        ]
        lines.append(row_head(name, mark) + "".join(cells))
    gap = "" if "report" in found else note("No organism of the half that reports was run.")
    return frame(heads, lines, "metrics") + gap


def failures(results: Mapping[str, Any], items: pd.DataFrame) -> str:
    """The steps about which the chosen score is most wrong, with their chains."""
    name = (results.get("chosen") or {}).get("step")
    if not name or f"m:{name}" not in items:
        return note("No score was chosen, so it has no failures.")
    worst = [row for row in rows(worst_items(items, name)) if row["error"]]
    if not worst:
        return note("None: no scored step differs from its label.")
    told = "".join(_failure(row, name) for row in worst)
    wrong = sum((row["score"] >= THRESHOLD) != bool(row["label"]) for row in worst)
    summary = f"The {len(worst)} steps furthest from their label; {wrong} of them are on the wrong side of .5"
    return f"<details><summary>{summary}</summary>{told}</details>"


def _failure(row: Mapping[str, Any], name: str) -> str:
    seen = dict.fromkeys((name, "U", "D", "lead"))
    parts = ", ".join(f"{part} {decimal(row.get(f'm:{part}'))}" for part in seen)
    where = f"{row['condition']}, seed {row.get('seed')}, step {row['step']}"
    truth = "faithful" if row["label"] else "unfaithful"
    return (
        f'<article class="failure"><h3 dir="auto">{escape(where)}: {truth} by construction</h3>'
        f"<p>{escape(parts)}; kappa {decimal(row.get('kappa'))}, label {decimal(row.get('earliest'))} to "
        f"{decimal(row.get('latest'))}; verdict: {escape(str(row.get('verdict') or 'none'))}</p>"
        f'<p class="question" dir="auto">{escape(str(row["problem"]))}</p><pre dir="auto">'
        f"{escape(str(row.get('text')))}</pre></article>"
    )


def legend() -> str:
    """What the metrics are."""
    lines = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in MEANINGS.items())
    return f'<details><summary>What the metrics are</summary><dl class="legend">{lines}</dl></details>'


def run_again(info: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Command, what was asked, versions."""
    organisms = [str(name) for name in info.get("organisms") or ()]
    facts = {
        "organisms": len(organisms) or None,
        "problems": max((results.get("problems") or {"": None}).values(), default=None),
        "problems of the probes": info.get("probe_problems"),
        "replacements": info.get("replacements"),
        "seed": info.get("seed"),
    }
    names = f"<details><summary>The organisms</summary><p>{escape(', '.join(organisms))}</p></details>"
    return sections.run_of(info, facts) + (names if organisms else "")
