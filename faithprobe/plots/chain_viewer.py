"""The chains as the report's viewer reads them: cut into pieces, each value with its evidence, safe inside HTML.

Offsets in an audit count Python characters; a browser counts UTF-16 units. So the text is cut into pieces here, and
no offset leaves this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import pandas as pd

from faithprobe.markup import pieces
from faithprobe.plots.palette import OUTCOMES, VERDICTS, WHEN, ink_on, verdict_style
from faithprobe.plots.prepare import plain, rows
from faithprobe.plots.wording import decimal
from faithprobe.scores.tables import STEPS

BUDGET = 3_600_000
"""Bytes that chains may take in one report; the rest stays in `chains.jsonl`, and the report says how many."""
STATIC = 50
"""Chains that are also written without a script."""
LONGEST_TEXT = 40_000
"""Characters of one chain that are shown."""

_COLUMNS = [name for name in STEPS if name not in ("chain", "position")]
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def json_island(data: Any) -> str:
    """JSON that can stand inside a `<script>` element: no text in it can end the element or open a comment."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_UNSAFE)


def css_class(verdict: object) -> str:
    """The class that carries a verdict's colour and underline."""
    name = verdict_style(verdict).name
    return "v-" + "".join(c if c.isalnum() else "-" for c in name).strip("-") if name in VERDICTS else "v-unscored"


def verdict_css() -> str:
    """For every verdict and outcome its colour, the ink of its letter, its underline and the pattern of its bar."""
    lines = [
        f".{css_class(s.name)}{{--c:{s.colour};--on:{ink_on(s.colour)};--line:{s.underline};"
        f"--fill:{_fill(s.pattern, s.colour)}}}"
        for s in VERDICTS.values()
    ]
    lines += [
        f".o-{name}{{--c:{colour};--fill:{_fill(pattern, colour)}}}" for name, (colour, pattern, _) in OUTCOMES.items()
    ]
    return "".join(lines)


def _fill(pattern: str, colour: str) -> str:
    """A pattern shape of plotly as layers of a CSS background."""
    ink = "rgba(255,255,255,.35)" if ink_on(colour) == "#fff" else "rgba(0,0,0,.2)"
    if pattern == ".":
        return f"radial-gradient({ink} 1.3px,transparent 1.7px) 0 0/7px 7px"
    degrees = {"": [], "/": [135], "\\": [45], "|": [90], "-": [0], "x": [45, 135], "+": [0, 90]}[pattern]
    strokes = [f"repeating-linear-gradient({a}deg,{ink} 0 1.5px,transparent 1.5px 8px)" for a in degrees]
    return ",".join(strokes) or "none"


def evidence(steps: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """The rows of `steps` by chain, in the order of the chain; numbers with four digits."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows(steps):
        tidy = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
        found.setdefault(str(row.get("chain")), []).append(tidy)
    for chain in found.values():
        chain.sort(key=lambda row: row["position"] if isinstance(row.get("position"), (int, float)) else 0)
    return found


def viewer_chains(chains: Iterable[Mapping[str, Any]], steps: pd.DataFrame) -> list[dict[str, Any]]:
    """Everything that the viewer shows of each chain, as plain values."""
    by_chain = evidence(steps)
    shown = []
    for chain in chains:
        name = plain(str(chain["chain"]))
        text = plain(str(chain.get("text") or ""))
        cut = text[:LONGEST_TEXT]
        located = {str(value["step"]) for value in chain.get("values") or ()}
        known = by_chain.get(str(chain["chain"]), [])
        unlocated = {str(k): plain(str(v)) for k, v in (chain.get("unlocated") or {}).items()}
        named = {str(row.get("step")) for row in known}
        # A value without a row, or a step that was never found, still gets a line that says so.
        reasons = dict.fromkeys(located, "no evidence was taken for this value") | unlocated
        extra = [
            {"step": step, "verdict": "unscored", "unscored_reason": reason}
            for step, reason in reasons.items()
            if step not in named
        ]
        answer, truth = chain.get("answer"), chain.get("true_answer")
        shown.append(
            {
                "id": name,
                "prompt": plain(str(chain.get("prompt") or "")),
                "pieces": pieces(cut, chain.get("values") or ()),
                "cut": len(text) - len(cut),
                "answer": None if answer is None else plain(str(answer)),
                "truth": None if truth is None else plain(str(truth)),
                "correct": plain(chain.get("correct")),
                "finished": bool(chain.get("finished", True)),
                "unlocated": unlocated,
                "steps": [{key: row[key] for key in _COLUMNS if row.get(key) is not None} for row in [*known, *extra]],
            }
        )
    return shown


def within_budget(chains: list[dict[str, Any]], budget: int = BUDGET) -> list[dict[str, Any]]:
    """The first chains whose JSON and static text together stay under `budget` bytes; `STATIC` have a static text."""
    used = 0
    for index, chain in enumerate(chains):
        used += len(json_island(chain).encode())
        used += len(static_chain(chain).encode()) if index < STATIC else 0
        if used > budget:
            return chains[:index]
    return chains


def viewer_island(chains: list[dict[str, Any]]) -> str:
    """The JSON that the viewer's script reads."""
    styles = {
        name: {"letter": style.letter, "class": css_class(name), "used": style.used, "meaning": style.meaning}
        for name, style in VERDICTS.items()
    }
    return json_island({"verdicts": styles, "when": WHEN, "chains": chains})


def static_chain(chain: Mapping[str, Any]) -> str:
    """One chain without any script: the text with its marks, then a line per step."""
    verdicts = {row.get("step"): row.get("verdict") for row in chain["steps"]}
    marked = []
    for text, step, kind in chain["pieces"]:
        if kind == "value":
            style = verdict_style(verdicts.get(step))
            marked.append(f'<mark class="value {css_class(style.name)}">{escape(text)}<sup>{style.letter}</sup></mark>')
        else:
            marked.append(f'<span class="mention">{escape(text)}</span>' if kind else escape(text))
    lines = "".join(_static_step(row) for row in chain["steps"])
    right = {True: "right", False: f"wrong, true answer {escape(str(chain['truth']))}"}.get(
        chain["correct"], "not graded"
    )
    return (
        f'<article class="static"><h3>{escape(chain["id"])}</h3>'
        f'<p class="question" dir="auto">{escape(chain["prompt"])}</p>'
        f'<p class="chain" dir="auto">{"".join(marked)}</p>'
        f"<p>Answer: {escape(str(chain['answer'] if chain['answer'] is not None else 'none stated'))} ({right})</p>"
        f"<ul>{lines}</ul></article>"
    )


def _static_step(row: Mapping[str, Any]) -> str:
    verdict = verdict_style(row.get("verdict"))
    facts = [f"stated {row.get('stated', 'nothing')}", f"true {row.get('true_value', 'unknown')}", verdict.name]
    facts += [
        f"{name} {decimal(row[key])}"
        for name, key in (("U", "used"), ("D", "computed"), ("score", "score"))
        if key in row
    ]
    facts += [str(row[key]) for key in ("when", "unscored_reason") if row.get(key)]
    return f"<li>{escape(str(row['step']))}: {escape(', '.join(facts))}</li>"
