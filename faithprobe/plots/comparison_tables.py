"""The parts of a comparison's page that are plain HTML. Every text that enters here is escaped here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from faithprobe.markup import pieces
from faithprobe.plots import sections
from faithprobe.plots.chain_viewer import LONGEST_TEXT, css_class
from faithprobe.plots.comparison_words import signed
from faithprobe.plots.palette import VERDICTS, verdict_style
from faithprobe.plots.prepare import plain, rows
from faithprobe.plots.sections import chip, missing
from faithprobe.plots.wording import decimal, number

_GROUPS = {
    "answers": "Answers",
    "steps": "Steps before the final one",
    "chains": "Chains",
    "verdicts": "Verdicts, all steps",
    "published": "Published metrics and your own",
}
_HEADS = ("A", "B", "B \N{MINUS SIGN} A, 95% interval", "p, corrected", "problems")
_FACTS = (
    *("model", "fingerprint", "n_problems", "seed", "probe_problems", "replacements", "layers", "chat", "temperature"),
    *("date", "command"),
)


def finding(text: str) -> str:
    """A sentence, with every difference that brings its interval in bold: it is what the eye looks for."""
    return re.sub(r"([+−]?[\d.]+)(?= \(95%)", r"<strong>\1</strong>", _text(text))


def difference_table(differences: pd.DataFrame) -> str:
    """Every measure: A, B, difference, corrected p, n; what was measured in one audit only says so."""
    found = rows(differences)
    if not found:
        return missing("nothing was measured")
    head = "".join(f'<th scope="col">{text}</th>' for text in ("measure", *_HEADS))
    body = []
    for group in dict.fromkeys(row["group"] for row in found):
        span = len(_HEADS) + 1
        name = escape(_GROUPS.get(group, group))
        body.append(f'<tr class="group"><th scope="rowgroup" colspan="{span}">{name}</th></tr>')
        body += [_line(row) for row in found if row["group"] == group]
    return f'<table class="changes"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _line(row: Mapping[str, Any]) -> str:
    known = not row["missing"]
    if known:
        star = ' <span class="beyond">beyond zero</span>' if row["beyond_zero"] else ""
        cell = (
            f"<strong>{signed(row['difference'])}</strong> <small>{signed(row['low'])} to {signed(row['high'])}</small>"
            f"{star}{_shift(row)}"
        )
        chance = "&lt;&nbsp;.001" if row["p_holm"] < 0.001 else decimal(row["p_holm"])
    else:
        cell, chance = f'<span class="zero">{escape(row["missing"])}</span>', ""
    many = f"{row['n_a']:,}" if row["n_a"] == row["n_b"] else f"{row['n_a']:,} and {row['n_b']:,}"
    if known and not row["paired"]:
        many += "<small>not paired</small>"
    sides = [decimal(row[key]) if number(row[key]) is not None else "\N{EN DASH}" for key in "ab"]
    cells = "".join(
        f'<td data-head="{head}"><div>{value}</div></td>' for head, value in zip(_HEADS, (*sides, cell, chance, many))
    )
    moved = ' class="moved"' if row["beyond_zero"] else ""
    return f'<tr{moved}><th scope="row">{escape(str(row["words"]))}</th>{cells}</tr>'


def _shift(row: Mapping[str, Any]) -> str:
    """From A (a ring) to B (a dot) on a line from 0 to 1."""
    a, b = number(row["a"]), number(row["b"])
    if row["unit"] != "share" or a is None or b is None or not (0 <= a <= 1 and 0 <= b <= 1):
        return ""
    left, width = 100 * min(a, b), 100 * abs(b - a)
    return (
        f'<span class="meter" aria-hidden="true"><i class="band" style="left:{left:.1f}%;width:{width:.1f}%"></i>'
        f'<i class="ring" style="left:{100 * a:.1f}%"></i><i class="dot" style="left:{100 * b:.1f}%"></i></span>'
    )


def transition_table(transitions: pd.DataFrame) -> str:
    """Verdict in A (rows) by verdict in B (columns), as counts of steps; the diagonal did not change."""
    found = rows(transitions)
    if not found:
        return missing("no step stands in both audits")
    counts = {(row["verdict_a"], row["verdict_b"]): row["steps"] for row in found}
    most = max(counts.values())
    names = [_ordered({key[side] for key in counts}) for side in (0, 1)]
    head = "".join(f'<th scope="col">{chip(name)}</th>' for name in names[1])
    body = []
    for first in names[0]:
        cells = []
        for second in names[1]:
            count = counts.get((first, second), 0)
            kind = "zero" if not count else "stays" if first == second else "turns"
            cells.append(f'<td class="{kind}" style="--far:{100 * count / most:.0f}%">{count:,}</td>')
        total = sum(counts.get((first, second), 0) for second in names[1])
        body.append(f'<tr><th scope="row">{chip(first)}</th>{"".join(cells)}<td class="sum">{total:,}</td></tr>')
    sums = "".join(f'<td class="sum">{sum(counts.get((f, s), 0) for f in names[0]):,}</td>' for s in names[1])
    return (
        f'<div class="scroll"><table class="turns"><thead><tr><th scope="col">A, down; B, across</th>{head}'
        f'<th scope="col">steps of A</th></tr></thead><tbody>{"".join(body)}'
        f'<tr><th scope="row">steps of B</th>{sums}<td></td></tr></tbody></table></div>'
    )


def _ordered(names: set[str]) -> list[str]:
    return [name for name in VERDICTS if name in names] + sorted(map(str, names - {*VERDICTS}))


def chain_pairs(chains: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Both texts of each chain side by side, with the verdict of every value, and the steps whose verdict changed."""
    if not chains:
        return missing("no verdict changed in a step that both audits have")
    return "".join(_pair(chain, names) for chain in chains)


def _pair(chain: Mapping[str, Any], names: Sequence[str]) -> str:
    turned = set(chain["changed"])
    sides = "".join(_side(chain[side], f"{side.upper()}: {name}", turned) for side, name in zip("ab", names))
    heads = ("step", "stated", "verdict", "U", "D", "score")
    steps = [{row["step"]: row for row in chain[side]["steps"] if row["verdict"] != "overruled"} for side in "ab"]
    lines = []
    for step in chain["changed"]:
        for side, own in zip("AB", steps):
            row = own[step]
            numbers = "".join(_number(row[key]) for key in ("used", "computed", "score"))
            stated = "nothing" if row["stated"] is None else plain(str(row["stated"]))
            lines.append(
                f'<tr><td dir="auto">{side}: {escape(str(plain(step)))}</td><td dir="auto">{escape(str(stated))}</td>'
                f"<td>{chip(row['verdict'])}</td>{numbers}</tr>"
            )
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    asked = str(chain["prompt"])
    question = f'<p class="question" dir="auto">{_text(asked)}</p>' if asked.strip() != chain["chain"] else ""
    changed = len(chain["changed"])
    many = f"{changed} changed verdict{'s' if changed > 1 else ''}"
    return (
        f'<article class="pair"><h3 dir="auto">{_text(chain["chain"])}</h3>{question}<div class="sides">{sides}</div>'
        f"<details><summary>{many}, with the numbers</summary>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        "</details></article>"
    )


def _number(value: Any) -> str:
    return f'<td class="number">{decimal(value) if number(value) is not None else "–"}</td>'


def _side(side: Mapping[str, Any], name: str, turned: set[str]) -> str:
    steps = {row["position"]: row for row in side["steps"]}
    # A step that is overruled has two values: they are told apart by their place, not by their step.
    spans = [{**value, "step": str(k)} for k, value in enumerate(side["values"])]
    text = str(plain(side["text"]))
    marked = []
    for piece, which, kind in pieces(text[:LONGEST_TEXT], spans):
        if kind == "value":
            row = steps.get(int(which), {})
            style = verdict_style(row.get("verdict"))
            moved = " turned" if row.get("step") in turned and style.name != "overruled" else ""
            marked.append(
                f'<mark class="value {css_class(style.name)}{moved}" title="{_text(style.name)}">{escape(piece)}'
                f"<sup>{style.letter}</sup></mark>"
            )
        else:
            marked.append(escape(piece))
    cut = len(text) - LONGEST_TEXT
    more = f"<p><small>{cut:,} more characters</small></p>" if cut > 0 else ""
    answer = "no answer stated" if side["answer"] is None else f"answer {plain(str(side['answer']))}"
    right = "right" if side["correct"] else "wrong"
    return (
        f'<div class="side"><h4 dir="auto">{_text(name)}</h4><p class="chain" dir="auto">{"".join(marked)}</p>{more}'
        f'<p class="answer" dir="auto">{escape(answer)}, {right}</p></div>'
    )


def _text(value: Any) -> str:
    return escape(str(plain(str(value))))


def reason_table(unscored: pd.DataFrame) -> str:
    """Why steps have no verdict or score, in A and in B."""
    found = rows(unscored)
    if not found:
        return "<p>Nothing: every step of both audits has a verdict and a score.</p>"
    return sections.table(
        ["reason", "steps of A", "steps of B"], [[row["reason"], row["a"], row["b"]] for row in found]
    )


def plans(info: Mapping[str, Any]) -> str:
    """Both audits' settings side by side."""
    lines = []
    for key in _FACTS:
        sides = [info[side].get(key) for side in "ab"]
        if any(value not in (None, "") for value in sides):
            shown = ["not recorded" if value is None else str(plain(str(value))) for value in sides]
            lines.append([key.replace("_", " ").replace("n problems", "problems"), *shown])
    return sections.table(["", *(f"{side}: {plain(str(n))}" for side, n in zip("AB", info["names"]))], lines)


def notes(info: Mapping[str, Any]) -> str:
    """What differs between the plans; empty where nothing does."""
    said = list(info.get("notes") or ())
    if info.get("same_weights"):
        said.append("both audits are of the same weights: a difference comes from settings, sampling or chance")
    if not said:
        return ""
    listed = "".join(f"<li>{_text(note)}</li>" for note in said)
    return f'<div class="limits" role="note"><strong>Before you compare</strong><ul>{listed}</ul></div>'
