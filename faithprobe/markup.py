"""HTML with which records show themselves in a notebook: marked text, tables and small bars.

A saved notebook may be opened by somebody who does not trust it. There scripts never run, GitHub also drops every
style, and Jupyter typesets what stands between dollars. So there is no script and no style sheet here: looks are inline
and translucent, which fits light and dark pages alike; what a colour says, a letter says too; text of a model is
escaped, keeps its direction to itself, and is never read as mathematics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from faithprobe.palette import BLUE, GREY, VerdictStyle, translucent

LONGEST = 4_000
"""Characters of one text that are shown; the rest is counted."""
SOFT = "opacity:.72"
_LEFT = "text-align:left;vertical-align:top;padding:2px 14px 2px 0;border:0;max-width:26em;overflow-wrap:anywhere"

Piece = tuple[str, str, str]
"""Text; the step that it states or mentions, or empty; `value`, `mention` or empty."""


@dataclass(frozen=True)
class Shown:
    """Something to look at: rich in a notebook, plain text elsewhere."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def pieces(text: str, values: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """`text` cut at the spans of its values and mentions; where spans overlap, a value hides a mention.

    Joining the pieces gives `text` again, whatever the spans are: those outside of the text are clipped.
    """
    owner: dict[int, tuple[str, str]] = {}
    for kind in ("mention", "value"):
        for value in values:
            spans = value.get("mentions") or [] if kind == "mention" else [(value.get("start"), value.get("end"))]
            for start, end in spans:
                if start is not None and end is not None:
                    at = range(max(0, int(start)), min(len(text), int(end)))
                    owner.update(dict.fromkeys(at, (str(value["step"]), kind)))
    cuts = [i for i in range(1, len(text)) if owner.get(i) != owner.get(i - 1)]
    edges = [0, *cuts, len(text)]
    return [(text[a:b], *owner.get(a, ("", ""))) for a, b in zip(edges, edges[1:]) if a < b]


def safe(text: object) -> str:
    """Text that can stand anywhere in HTML. Lone surrogates, which no file can hold, become `?`."""
    return escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def inline(text: object, longest: int = 80) -> str:
    """A short text within a line or a cell, whose direction does not reach beyond it."""
    whole = str(text)
    cut = whole if len(whole) <= longest else whole[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return f"<bdi>{safe(cut)}</bdi>"


def number(value: float | None) -> str:
    """`.824` as `.82`, `1` as `1`; a dash where there is none."""
    if value is None or value != value:
        return "\N{EN DASH}"
    two = f"{value:.2f}".replace("-0.00", "0.00")
    return two.replace("0.", ".", 1) if 0 < abs(value) < 1 and two != "1.00" else f"{value:.3g}"


def marked(text: str, style: VerdictStyle, tooltip: str) -> str:
    """A stated value in the colour of its verdict, with its letter; the tooltip says the numbers."""
    look = (
        f"font-weight:inherit;background:{translucent(style.colour, 0.25)};border-radius:4px;padding:1px 3px;"
        f"text-decoration:underline {style.underline} {style.colour} 2px;text-underline-offset:4px"
    )
    return (
        f'<b title="{safe(tooltip)}" style="{look}">{safe(text)}</b>'
        f'<sup style="{SOFT};font-weight:600;user-select:none">{safe(style.letter)}</sup>'
    )


def passage(cut: Iterable[str], left_out: int = 0) -> str:
    """A model's text, its pieces already marked: lines as they are, long ones broken, long texts in a box of their
    own."""
    more = f'<span style="{SOFT}"> ({left_out:,} more characters)</span>' if left_out else ""
    look = (
        "white-space:pre-wrap;overflow-wrap:anywhere;max-height:22em;overflow:auto;font-size:1.08em;line-height:1.9;"
        "margin:4px 0;unicode-bidi:isolate"
    )
    return f'<div dir="auto" style="{look}">{"".join(cut)}{more}</div>'


def question(text: str) -> str:
    """What was asked, above what was answered: small, and in a box of its own where it is long."""
    look = (
        f"{SOFT};font-size:.92em;white-space:pre-wrap;overflow-wrap:anywhere;max-height:9em;overflow:auto;"
        "margin:2px 0;unicode-bidi:isolate"
    )
    return f'<div dir="auto" style="{look}">{safe(text[:LONGEST])}</div>'


def quiet(html: str) -> str:
    """A line beside the matter."""
    return f'<div style="{SOFT};font-size:.92em;overflow-wrap:anywhere;margin:2px 0">{html}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; the head is text. It scrolls by itself where it is too wide."""
    top = "".join(f'<th style="{_LEFT};{SOFT};font-weight:600;white-space:nowrap">{safe(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f'<td style="{_LEFT}">{cell}</td>' for cell in row) + "</tr>" for row in rows)
    return (
        '<div style="overflow-x:auto;max-width:100%"><table style="border-collapse:collapse;margin:4px 0;border:0">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def chip(style: VerdictStyle, text: str = "") -> str:
    """A verdict's name with its letter and colour; what it means is its tooltip."""
    look = f"background:{translucent(style.colour, 0.3)};border-radius:4px;padding:0 5px;font-weight:600"
    name = safe(text or style.name)
    return (
        f'<span title="{safe(style.meaning)}" style="white-space:nowrap"><b style="{look}">{safe(style.letter)}</b> '
        f"{name}</span>"
    )


def meter(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A number in [0, 1] on a line: a dot and its 95% interval. The number itself stands beside it in words."""
    if value is None:
        return ""
    at, begin, end = (100 * min(1.0, max(0.0, v if v is not None else value)) for v in (value, low, high))
    base = "position:absolute;display:block"
    return (
        '<span style="position:relative;display:inline-block;width:120px;height:12px;vertical-align:middle">'
        f'<span style="{base};left:0;right:0;top:5px;height:2px;background:{translucent(GREY, 0.4)}"></span>'
        f'<span style="{base};left:{begin:.1f}%;width:{end - begin:.1f}%;top:3px;height:6px;border-radius:3px;'
        f'background:{translucent(BLUE, 0.4)}"></span>'
        f'<span style="{base};left:calc({at:.1f}% - 5px);top:1px;width:10px;height:10px;border-radius:50%;'
        f'background:{BLUE}"></span></span>'
    )


def bar(parts: Sequence[tuple[VerdictStyle, float]]) -> str:
    """Shares as one bar, each with its letter where it has room."""
    spans = "".join(
        f'<span title="{safe(style.name)}" style="flex:{share:.4f} 1 0;min-width:2px;overflow:hidden;text-align:center;'
        f'background:{translucent(style.colour, 0.55)}">{safe(style.letter) if share >= 0.04 else ""}</span>'
        for style, share in parts
        if share > 0
    )
    look = "display:flex;gap:2px;max-width:44rem;border-radius:5px;overflow:hidden;font-weight:600;margin:6px 0"
    return f'<div style="{look}">{spans}</div>'


def folded(summary: str, html: str, *, opened: bool = False) -> str:
    """What a reader may open; `summary` is HTML."""
    state = " open" if opened else ""
    return f'<details{state} style="margin:4px 0"><summary style="cursor:pointer">{summary}</summary>{html}</details>'


def record(title: str, *parts: str) -> str:
    """A whole record. Jupyter typesets no mathematics in it."""
    heading = f'<div style="font-weight:650;overflow-wrap:anywhere">{title}</div>'
    return (
        '<div class="faithprobe-record tex2jax_ignore mathjax_ignore" '
        f'style="max-width:60rem;line-height:1.5;font-variant-numeric:tabular-nums">{heading}{"".join(parts)}</div>'
    )
