"""A chain as it shows itself: its text with every stated value marked as right or wrong, and a line for each.

A chain alone has no verdicts; an audit gives them. What it does know is the reference value of a step, and what follows
from the operands *as stated*: a value can be wrong and yet follow from an earlier error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from faithprobe.errors import TaskError
from faithprobe.markup import (
    LONGEST,
    Shown,
    chip,
    inline,
    marked,
    passage,
    pieces,
    question,
    quiet,
    record,
    safe,
    table,
)
from faithprobe.palette import GREEN, GREY, SKY, VERMILLION, VerdictStyle
from faithprobe.tasks import Value
from faithprobe.tasks.graph import show_value

if TYPE_CHECKING:
    from faithprobe.chains.records import Chain, StatedValue

_RIGHT = VerdictStyle("right", "\N{CHECK MARK}", GREEN, "solid", "", None, "It is the reference value.")
_CARRIED = VerdictStyle(
    "carried on", "~", SKY, "dashed", "", None, "Wrong, but it follows from the operands as they were stated."
)
_WRONG = VerdictStyle(
    "wrong", "\N{BALLOT X}", VERMILLION, "wavy", "", None, "Neither the reference value nor what its operands give."
)
_OVERRULED = VerdictStyle("overruled", "O", GREY, "dashed", "", None, "A later statement of the same step replaced it.")
_UNKNOWN = VerdictStyle("no reference", "?", GREY, "dotted", "", None, "The problem has no such step.")


def chain_line(chain: Chain) -> str:
    """`12-7: 2 values stated, answer 17, wrong (true answer 15)`."""
    n = len(chain.stated)
    stated = f"{n} value{'' if n == 1 else 's'} stated"
    if chain.answer is None:
        answer = "no answer stated"
    else:
        right = "right" if chain.correct else f"wrong (true answer {show_value(chain.problem.answer)})"
        answer = f"answer {show_value(chain.answer)}, {right}"
    return f"{stated}, {answer}{'' if chain.finished else ', cut at the token limit'}"


def chain_shown(chain: Chain) -> Shown:
    """The chain for a notebook, and as text with a letter behind every value."""
    looks = [_look(chain, literal) for literal in chain.stated]
    spans = [{"step": k, "start": v.chars[0], "end": v.chars[1]} for k, v in enumerate(chain.stated)]
    text = chain.text[:LONGEST]
    html, plain = [], []
    for piece, which, _ in pieces(text, spans):
        if not which:
            html.append(safe(piece))
            plain.append(piece)
            continue
        literal, look = chain.stated[int(which)], looks[int(which)]
        html.append(marked(piece, look, _tooltip(chain, literal, look)))
        plain.append(f"{piece}[{look.letter}]")
    rows = [_row(chain, literal, look) for literal, look in zip(chain.stated, looks)]
    head = ("step", "stated", "", "reference", "its expression", "on the operands as stated")
    missing = [f"{inline(step)}: {safe(reason)}" for step, reason in chain.unlocated.items()]
    return Shown(
        record(
            f"{inline(chain.id)}: {safe(chain_line(chain))}",
            question(chain.problem.question),
            passage(html, len(chain.text) - len(text)),
            table(head, rows) if rows else "",
            quiet("not located: " + "; ".join(missing)) if missing else "",
        ),
        "".join(plain),
    )


def _look(chain: Chain, literal: StatedValue) -> VerdictStyle:
    if literal.overruled:
        return _OVERRULED
    true = chain.true_value(literal.step)
    if true is None:
        return _UNKNOWN
    if literal.value == true:
        return _RIGHT
    return _CARRIED if literal.value == _local(chain, literal.step) else _WRONG


def _local(chain: Chain, step: str) -> Value | None:
    try:
        return chain.local(step)
    except TaskError:  # it divides by zero
        return None


def _show(value: Value | None) -> str:
    return "none" if value is None else show_value(value)


def _tooltip(chain: Chain, literal: StatedValue, look: VerdictStyle) -> str:
    true = chain.true_value(literal.step)
    facts = [f"{literal.step}: stated {show_value(literal.value)}", look.name, f"reference {_show(true)}"]
    facts.append(f"tokens {literal.span[0]} to {literal.span[1] - 1}")
    if literal.misquoted:
        facts.append(f"restated as {literal.misquoted}")
    return ", ".join(facts)


def _row(chain: Chain, literal: StatedValue, look: VerdictStyle) -> list[str]:
    step = next((step for step in chain.graph.steps if step.name == literal.step), None)
    return [
        inline(literal.step),
        inline(show_value(literal.value)),
        chip(look),
        inline(_show(chain.true_value(literal.step))),
        inline(step.expression if step else ""),
        inline(_show(None if literal.overruled else _local(chain, literal.step))),
    ]
