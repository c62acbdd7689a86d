"""do(step = value) in the text of a chain: one stated value is replaced, and what follows from it is written anew.

The values behind the literal are those of the closed form (`Graph.recompute`; Pearl, *Causality*, 2009, section 3.4):
what depends on the step follows its expression, the rest stays as it was stated. Each is written in its own place, as a
result, where it is restated as an operand, and in the answer; every other word stays. A text in which the owner of a
number cannot be told has no counterfactual: what would follow from it is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from faithprobe.chains.read import Reading, occurrences
from faithprobe.chains.records import Chain, Span
from faithprobe.chains.subject import Subject
from faithprobe.chains.tokens import encode_in_context, offsets
from faithprobe.errors import TaskError
from faithprobe.interventions.swap import Replacement
from faithprobe.tasks import Value
from faithprobe.tasks.graph import show_value
from faithprobe.tasks.ontology import plural


@dataclass(frozen=True)
class Row:
    """A text for the model, and the tokens of it that it is asked for."""

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    """Positions of the tokens to be predicted, each from what stands in front of it."""
    literal: Span
    """Where the stated value is that the row is about: [start, end)."""
    hidden: Span = (0, 0)
    """Tokens that no other token of the row sees: [start, end). All keep their positions."""


def recomputed(subject: Subject, chain: Chain, replacement: Replacement) -> Row | None:
    """The chain with a replaced literal and everything behind it recomputed; its targets are the tokens that write a
    value behind the literal. None where there is no such text."""
    found = _do(subject, chain, replacement)
    return None if found is None else _row(subject, chain, replacement, *found)


def answered(subject: Subject, chain: Chain, replacement: Replacement, *, flipped: bool = False) -> Row | None:
    """As `recomputed`, but only the answer is asked for; `flipped`: it is the answer that the chain had before."""
    found = _do(subject, chain, replacement)
    if found is None or chain.answer_chars is None or chain.answer_chars not in found[1]:
        return None
    tail, spans = found
    start, stop = spans[chain.answer_chars]
    if flipped:
        before = chain.text[slice(*chain.answer_chars)]
        tail, stop = tail[:start] + before + tail[stop:], start + len(before)
    return _row(subject, chain, replacement, tail, {chain.answer_chars: (start, stop)})


def _row(subject: Subject, chain: Chain, replacement: Replacement, tail: str, spans: Mapping[Span, Span]) -> Row | None:
    ids = encode_in_context(subject.model.tokenizer, replacement.tokens, tail)
    if ids is None:
        return None
    tokens = (*replacement.tokens, *ids)
    targets = _tokens_of(subject.model.tokenizer, tokens, len(replacement.tokens), tail, spans.values())
    return Row(tokens, targets, chain.literals[replacement.step].span) if targets else None


def value_targets(subject: Subject, chain: Chain, step: str) -> tuple[int, ...]:
    """Positions of the chain's own tokens that write a value behind the literal of a step; () where that cannot be
    told."""
    literal = chain.literals[step]
    places = _places(subject.reading(chain.problem, chain.text), literal.chars[1])
    if not places:
        return ()
    tail = chain.text[literal.chars[1] :]
    spans = [(a - literal.chars[1], b - literal.chars[1]) for a, b in places]
    return _tokens_of(subject.model.tokenizer, chain.tokens, literal.span[1], tail, spans)


def answer_targets(subject: Subject, chain: Chain) -> tuple[int, ...]:
    """Positions of the tokens that write the chain's answer; () where it states none."""
    if chain.answer_chars is None:
        return ()
    a, b = chain.answer_chars
    return _tokens_of(subject.model.tokenizer, chain.tokens, chain.n_prompt, chain.text, [(a, b)])


def _do(subject: Subject, chain: Chain, replacement: Replacement) -> tuple[str, dict[Span, Span]] | None:
    """The text behind the literal under do(step = value), and where in it the values stand, by where they stood in the
    response. None where a value that changes also stands in a place of which nobody knows whose it is, where one is not
    written as it is shown, and where one becomes a fraction that no short decimal writes: the reader takes 15/7 for a
    division."""
    end = chain.literals[replacement.step].chars[1]
    places = _places(subject.reading(chain.problem, chain.text), end)
    values = _values(chain, replacement)
    if places is None or values is None:
        return None
    before = {**chain.graph.values, **chain.values}
    changed = {name for name in values if values[name] != before.get(name)}
    if any("/" in show_value(values[name]) for name in changed):
        return None
    for name in changed & set(before):
        if any(at[0] >= end and at not in places for at in _written(chain.text, before[name])):
            return None
    pieces: list[str] = []
    spans: dict[Span, Span] = {}
    done, length = end, 0
    for (start, stop), name in places.items():
        new = chain.text[start:stop]
        if name in changed:
            if new != show_value(before[name]):
                return None
            new = show_value(values[name])
        pieces += [chain.text[done:start], new]
        length += start - done + len(new)
        spans[start, stop] = (length - len(new), length)
        done = stop
    return "".join([*pieces, chain.text[done:]]), spans


def _written(text: str, value: Value) -> list[Span]:
    """Where a text has a value; a name also at the beginning of a sentence and in the plural, as rules have it."""
    if not isinstance(value, str):
        return occurrences(text, value)
    words = [form for form in (value, plural(value)) if form]
    return [at for word in words for form in {word, word[0].upper() + word[1:]} for at in occurrences(text, form)]


def _values(chain: Chain, replacement: Replacement) -> Mapping[str, Value] | None:
    """Of all names under do(step = value)."""
    kept = {n: v for n, v in chain.values.items() if n not in chain.graph.descendants(replacement.step)}
    try:
        return chain.graph.recompute({**kept, replacement.step: replacement.value})
    except TaskError:  # a division by zero
        return None


def _places(reading: Reading, end: int) -> dict[Span, str] | None:
    """Characters behind `end` that write a value, and whose it is; None where one belongs to two names."""
    found: dict[Span, str] = {}
    for statement in reading.statements:
        for name, chars in ((statement.step, statement.chars), *statement.operands.items()):
            if chars[0] >= end and found.setdefault(chars, name) != name:
                return None
    if reading.answer_chars is not None and reading.answer_chars[0] >= end:
        found.setdefault(reading.answer_chars, reading.graph.answer)
    return dict(sorted(found.items()))


def _tokens_of(
    tokenizer: object, tokens: tuple[int, ...], first: int, text: str, spans: Iterable[Span]
) -> tuple[int, ...]:
    """Positions, from `first` on, of the tokens that write any of the characters `spans` of `text`, which begins
    there."""
    wanted = list(spans)
    behind = tokens[max(0, first - 8) :]
    whole, places = offsets(tokenizer, behind)
    shift = whole.rfind(text)
    if shift < 0:
        return ()
    start = len(tokens) - len(behind)
    return tuple(
        start + i
        for i, (a, b) in enumerate(places)
        if start + i >= first and any(a < stop + shift and b > begin + shift for begin, stop in wanted)
    )
