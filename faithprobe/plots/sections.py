"""The parts of the report that are plain HTML: they need no script. Every text that enters here is escaped here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from faithprobe.plots.chain_viewer import css_class
from faithprobe.plots.palette import VERDICTS, WHEN, verdict_style
from faithprobe.plots.prepare import plain, verdict_cells
from faithprobe.plots.wording import MISSING, decimal, duration, number, percent, verdict_shares

_USED_WORDS = {True: "used: the answer follows it", False: "not used"}
_CELLS = {
    "baseline": "answer to q', given prompt q, chain q",
    "prompt_only": "answer to q', given prompt q', chain q",
    "chain_only": "answer to q', given prompt q, chain q'",
    "both": "answer to q', given prompt q', chain q'",
}
_QUANTITIES = {
    "stated, true, local": "the value as written; the reference value; its expression on the operands as written",
    "U, used": "the value is replaced and the rest regenerated: how often the answer follows, against staying",
    "U read": "how often the next step that depends on the value restates the replacement",
    "D, computed": "information about the local value in the activations beyond the largest control, over its entropy",
    "lead": "how many tokens before the literal the value is determined (an interchange recovers half of it)",
    "competence": "how often the answer follows when prompt and chain both say the replacement: the ceiling of U",
    "control": "the same number where the effect cannot exist; a value is evidence only above it",
    "score": "min(U, D, in chain) of a step, the last being how little of it is decided before the chain; a chain has "
    "the minimum over its needed steps before the final one",
}


def answer(counts: Mapping[str, int]) -> str:
    """The question of the report answered in numbers of steps: faithful, not faithful, and what could not be judged."""
    total = sum(counts.values())
    if not total:
        return ""
    kinds = {name: verdict_style(name) for name in counts}
    faithful = [name for name in ("faithful", "faithful (planned)") if counts.get(name)]
    unknown = [name for name, style in kinds.items() if name == "unscored" or style.name not in VERDICTS]
    apart = [name for name, style in kinds.items() if style.used is None and name not in unknown]
    against = [name for name in VERDICTS if name in counts and name not in (*faithful, *unknown, *apart)]
    found, failed, lost = (sum(counts[name] for name in names) for names in (faithful, against, unknown))
    rest = [f"{counts[name]:,} {name}" for name in apart] + ([f"{lost:,} could not be measured"] if lost else [])
    others = f" Not judged: {', '.join(rest)}." if rest else ""
    if not found + failed:
        return f'<p class="in-short"><strong>None of {total:,} steps could be judged.</strong>{others}</p>'
    named = ", ".join(f"{counts[name]:,} {name}" for name in against)
    no = f"{failed:,} {'is' if failed == 1 else 'are'} not ({named})" if failed else "none was found not to be"
    yes = f"{found:,} of {total:,} steps {'is' if found == 1 else 'are'} faithful"
    return f'<p class="in-short"><strong>{yes},</strong> {no}.{others}</p>'


def csv_rows(heads: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """The attribute with which a table of drawings and chips says what its CSV holds."""
    return f' data-rows="{escape(json.dumps([list(heads), *([plain(v) for v in line] for line in lines)]))}"'


def chip(verdict: object, text: str = "") -> str:
    """A verdict's name with its letter and colour."""
    style = verdict_style(verdict)
    return (
        f'<span class="chip {css_class(verdict)}"><b>{style.letter}</b><span>{escape(text or style.name)}</span></span>'
    )


def meter(measured: Mapping[str, Any] | None, null: Any = None) -> str:
    """A number in [0, 1] on its line: dot, 95% interval, and a tick for what chance would give."""
    value = number((measured or {}).get("value"))
    if measured is None or value is None:
        return ""
    low, high = number(measured.get("low")), number(measured.get("high"))
    parts = []
    if low is not None and high is not None:
        left, width = _clip(low), _clip(high) - _clip(low)
        parts.append(f'<i class="band" style="left:{left:.1f}%;width:{width:.1f}%"></i>')
    if number(null) is not None:
        parts.append(f'<i class="tick" style="left:{_clip(null):.1f}%"></i>')
    parts.append(f'<i class="dot" style="left:{_clip(value):.1f}%"></i>')
    return f'<span class="meter" aria-hidden="true">{"".join(parts)}</span>'


def _clip(share: float) -> float:
    return 100 * min(1.0, max(0.0, share))


def tiles(summary: Mapping[str, Any]) -> str:
    """The four numbers that a reader looks for first."""
    accuracy = summary.get("accuracy") or {}
    verdicts = summary.get("verdicts") or {}
    faithful = [verdicts[name] for name in ("faithful", "faithful (planned)") if verdicts.get(name)]
    whole: dict[str, Any] | None = None
    parts: list[str] = []
    gap = [f"{percent(verdicts['unscored'].get('share'))} unscored"] if verdicts.get("unscored") else []
    if set(verdicts) - {"unscored"}:
        # Bounds of a sum are not the sum of bounds, so two verdicts together are shown without an interval.
        whole = {"value": sum(number(part.get("share")) or 0 for part in faithful)}
        if len(faithful) == 1:
            whole |= {key: faithful[0].get(key) for key in ("low", "high", "n")}
        elif faithful:
            just, planned = (percent(part.get("share")) for part in faithful)
            parts = [f"{just} just in time, {planned} planned"]
    score = summary.get("chain_score")
    null = (score or {}).get("null")
    return "".join(
        (
            _tile("right with the chain", accuracy.get("with_chain"), percent),
            _tile("right without it", accuracy.get("without_chain"), percent),
            _tile("steps that are faithful", whole, percent, parts=[*parts, *gap]),
            _tile("mean chain score, 0 to 1", score, decimal, null),
        )
    )


def _tile(name: str, measured: Mapping[str, Any] | None, show: Any, null: Any = None, parts: Sequence[str] = ()) -> str:
    value = show((measured or {}).get("value"))
    details = list(parts)
    if measured and number(measured.get("low")) is not None and number(measured.get("high")) is not None:
        details.append(f"{show(measured['low'])} to {show(measured['high'])}")
    if number(null) is not None:
        details.append(f"null {show(null)}")
    if measured and number(measured.get("n")) is not None:
        details.append(f"n&nbsp;=&nbsp;{int(measured['n']):,}")
    missing = ' class="none"' if value == MISSING else ""
    return (
        f'<div class="tile"><span>{escape(name)}</span><strong{missing}>{value}</strong>'
        f"{meter(measured, null)}<small>{' · '.join(details)}</small></div>"
    )


def verdict_bar(summary: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """All steps by verdict as one bar, with a key that carries shares and intervals."""
    shares = verdict_shares(summary, counts)
    if not shares:
        return missing("no step has a verdict")
    bar, key = [], []
    for name, measured in shares.items():
        share = number(measured.get("share")) or 0.0
        style = verdict_style(name)
        slim = " slim" if share < 0.06 else ""
        letter = f"<b>{style.letter}</b>" if share >= 0.02 else ""
        bar.append(
            f'<span class="{css_class(name)}{slim}" style="flex-grow:{share:.4f}" '
            f'title="{escape(name)} {percent(share)}">{letter}</span>'
        )
        known = number(measured.get("low")) is not None and number(measured.get("high")) is not None
        interval = f" <small>({percent(measured['low'])} to {percent(measured['high'])})</small>" if known else ""
        key.append(f'<li title="{escape(style.meaning)}">{chip(name)} {percent(share)}{interval}</li>')
    return (
        f'<div class="verdict-bar" role="img" aria-label="shares of the verdicts">{"".join(bar)}</div>'
        f'<ul class="key">{"".join(key)}</ul>'
    )


def verdict_table(steps: pd.DataFrame) -> str:
    """When by used, as counts with their verdicts; what stands outside of the table is named below it."""
    cells, outside = verdict_cells(steps)
    total = sum(sum(counts.values()) for counts in [*cells.values(), outside])
    if not total:
        return missing("no steps")
    body = []
    for when, words in WHEN.items():
        columns = "".join(_verdict_cell(cells.get((when, used), {}), total) for used in (True, False))
        body.append(f'<tr><th scope="row">{words}</th>{columns}</tr>')
    heads = "".join(f'<th scope="col">{words}</th>' for words in _USED_WORDS.values())
    listed = " ".join(f"{chip(name)} {count}" for name, count in sorted(outside.items()))
    below = f'<p class="outside">Outside of the table: {listed}</p>' if outside else ""
    counted = [
        [words, use, name, count]
        for when, words in WHEN.items()
        for used, use in ((True, "used"), (False, "not used"))
        for name, count in cells.get((when, used), {}).items()
    ]
    counted += [["", "", name, count] for name, count in sorted(outside.items())]
    exact = csv_rows(["determined", "used", "verdict", "steps"], counted)
    return (
        f'<table class="verdict-table"{exact}>'
        f'<thead><tr><th scope="col">the value is determined</th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>{below}"
    )


def _verdict_cell(counts: Mapping[str, int], total: int) -> str:
    if not counts:
        return '<td class="zero">0</td>'
    listed = "".join(
        f"<span>{chip(name)}{f' {count}' if len(counts) > 1 else ''}</span>" for name, count in counts.items()
    )
    whole = sum(counts.values())
    return (
        f'<td><span class="count"><strong>{whole}</strong> <small>{percent(whole / total)}</small></span>{listed}</td>'
    )


def missing(reason: str) -> str:
    """A gap where a result would stand."""
    return f'<div class="missing"><strong>{MISSING}</strong><span>{escape(reason)}</span></div>'


def table(heads: Sequence[str], lines: Sequence[Sequence[Any]], name: str = "") -> str:
    """A plain table; numbers are shown with three digits, missing cells as a dash."""

    def cell(value: Any) -> str:
        value = plain(value)
        if value is None:
            return '<td class="zero">–</td>'
        if isinstance(value, float):
            exact = f' data-value="{value:.7g}"' if f"{value:.3g}" != f"{value:.7g}" else ""
            return f'<td class="number"{exact}>{value:.3g}</td>'
        kind = ' class="number"' if isinstance(value, int) and not isinstance(value, bool) else ' dir="auto"'
        return f"<td{kind}>{escape(str(value))}</td>"

    head = "".join(f'<th scope="col">{escape(str(text))}</th>' for text in heads)
    body = "".join(f"<tr>{''.join(cell(value) for value in line)}</tr>" for line in lines)
    caption = f"<caption>{escape(name)}</caption>" if name else ""
    rows = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll" tabindex="0"><table>{caption}{rows}</table></div>'


def unscored(summary: Mapping[str, Any], steps: pd.DataFrame, unlocated: Mapping[str, int]) -> str:
    """Every reason for which a verdict or score is missing, with how often; and values that were not found."""
    reasons = {str(k): int(v) for k, v in (summary.get("unscored") or {}).items()}
    if not reasons and "unscored_reason" in steps:
        reasons = {str(k): int(v) for k, v in steps["unscored_reason"].value_counts().items() if str(k)}
    lines = [[reason, "no verdict or score", count] for reason, count in sorted(reasons.items(), key=lambda r: -r[1])]
    lines += [[reason, "value not located", count] for reason, count in sorted(unlocated.items(), key=lambda r: -r[1])]
    if not lines:
        return "<p>Nothing: every step has a verdict, and every needed step before the final one a score.</p>"
    told = "<p><small># stands for a number that differs from step to step.</small></p>"
    return table(["reason", "what is missing", "steps"], lines) + (
        told if any("#" in str(row[0]) for row in lines) else ""
    )


def effects(summary: Mapping[str, Any]) -> str:
    """The mediation effects and the shares that they are differences of, by cut, as a table."""
    heads = ["steps kept", "", "value", "low", "high", "n", "control", "value - control", "its low", "its high"]
    lines = []
    for row in (summary.get("mediation") or {}).get("by_cut") or ():
        kept = f"{row['cut']} (readout)" if row.get("readout") else str(row["cut"])
        shares = row.get("cells") or {}
        named = {name: row.get(name) for name in ("total", "direct", "indirect", "interaction")}
        named |= {words: shares.get(name) for name, words in _CELLS.items()}
        for name, found in named.items():
            if found:
                net = found.get("net") or {}
                own = [found.get(key) for key in ("value", "low", "high", "n", "control")]
                lines.append([kept, name, *own, *(net.get(key) for key in ("value", "low", "high"))])
    return table(heads, lines) if lines else ""


def advice(lines: Sequence[str]) -> str:
    """What stands in the way of the numbers, and what to change; nothing where nothing does."""
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}.</li>" for line in lines)
    return f'<aside class="advice" aria-label="advice"><strong>Before you rely on this</strong><ul>{items}</ul></aside>'


def run_again(info: Mapping[str, Any]) -> str:
    """Command, seed and versions of an audit."""
    options = ", ".join(f"{key} = {value}" for key, value in (info.get("task_options") or {}).items())
    facts = {
        "model": info.get("model"),
        "task": info.get("task"),
        "task options": options or None,
        "problems": info.get("n_problems"),
        "seed": info.get("seed"),
        "date": info.get("date"),
    }
    return run_of(info, facts)


def run_of(info: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The command, these facts, how long it took, and versions."""
    command = info.get("command")
    shown = f"<pre><code>{escape(str(command))}</code></pre>" if command else missing("the command was not recorded")
    versions = {f"version of {name}": version for name, version in (info.get("versions") or {}).items()}
    return shown + _facts_list({**facts, "took": duration(info.get("seconds")), **versions})


def _facts_list(facts: Mapping[str, Any]) -> str:
    """Names with their values, side by side where there is room."""
    listed = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value if value is not None else 'not recorded'))}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{listed}</dl>'


def legend() -> str:
    """What the verdicts and the numbers mean."""
    verdicts = "".join(
        f"<div><dt>{chip(name)}</dt><dd>{escape(style.meaning)}</dd></div>" for name, style in VERDICTS.items()
    )
    numbers = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in _QUANTITIES.items()
    )
    return f'<dl class="legend">{verdicts}</dl><h3>What the numbers mean</h3><dl class="legend">{numbers}</dl>'
