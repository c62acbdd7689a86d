"""Reads a response: which values it states, what they depend on, where they stand, and what could not be located.

Where statements are equations, the model's own equations define the stated graph (`stated_graph.py`). Where a family
has a `statement` pattern, the k-th match is the k-th step of the reference graph; a match that is the stated answer is
the graph's answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby

from faithprobe.chains.records import Chain, Span, StatedValue
from faithprobe.chains.stated_graph import StatedGraph, Statement, link
from faithprobe.chains.tokens import offsets, span_of
from faithprobe.tasks import Graph, Problem, Task, Value
from faithprobe.tasks.equations import read_equations
from faithprobe.tasks.graph import parse_number, show_value

__all__ = ["Reading", "Statement", "occurrences", "parse_value", "read_answer", "read_chain", "read_response"]

_NUMBER = re.compile(r"(?<![\w.])(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?!\w|\.[0-9])")
_SIGN = re.compile(r"(?:^|[^\w\s)\]%]|[^\W\d]\s|\s%)\s*[-−]$")
_CUT_OFF = "its response was cut off at the token limit"


@dataclass(frozen=True)
class Reading:
    """What a response states."""

    statements: tuple[Statement, ...]
    """In the order of the text, corrections and restatements among them."""
    graph: Graph
    """The stated graph; the problem's own where statements are not equations, or where there are none."""
    reference: Mapping[str, str]
    """Stated step -> its counterpart in the problem's graph."""
    answer: Value | None
    answer_chars: Span | None
    unlocated: Mapping[str, str]
    """Stated or reference step -> why it cannot be scored."""
    misquoted: Mapping[str, str] = field(default_factory=dict)
    """Stated step -> what stands where its value should be restated."""


def parse_value(text: str) -> Value:
    """A number, a truth value, or else a name."""
    number = parse_number(text)
    if number is not None:
        return number
    return {"true": True, "false": False}.get(text.strip().lower(), text.strip())


def occurrences(text: str, value: Value) -> list[Span]:
    """Where `text` writes `value` as a word of its own: `12` in `12.` but not in `112`, `12.5`, `v12` or `= -12`.

    Numbers are found however they are written: 1200 in `1,200`, 2.5 in `2.50`.
    """
    shown = show_value(value)
    if not isinstance(value, bool | str) and "/" not in shown:
        return list(_numbers(text).get(value, ()))
    pattern = rf"(?<![\w./]){re.escape(shown)}(?![\w/]|[.,]\d)"
    return (
        [match.span() for match in re.finditer(pattern, text, re.I if isinstance(value, bool) else 0)] if shown else []
    )


@lru_cache(maxsize=64)
def _numbers(text: str) -> dict[Value, list[Span]]:
    """The numbers of a text and where they stand, signs included."""
    found: dict[Value, list[Span]] = {}
    for match in _NUMBER.finditer(text):
        number = parse_number(match[0])
        if number is None:
            continue
        start, end = match.span()
        if _SIGN.search(text, max(0, start - 20), start):
            number, start = -number, start - 1
        found.setdefault(number, []).append((start, end))
    return found


def read_answer(task: Task, text: str) -> tuple[Value | None, Span | None]:
    """The stated answer: the last match of the family's pattern, or the result where it is an equation,
    `Answer: 12 - 3 = 9`."""
    found = [match for match in re.finditer(task.answer_pattern, text) if match["value"]]
    if not found:
        return None, None
    start, end = found[-1].span("value")
    if task.statement is None:
        line = text[start:].split("\n", 1)[0]
        for equation in read_equations(line)[:1]:
            if re.fullmatch(r"(?:\w+\s*=\s*)?[\s(*$]*", line[: equation.span[0]]):
                a, b = equation.result.span
                return equation.result.value, (start + a, start + b)
    return parse_value(text[start:end]), (start, end)


def read_response(task: Task, problem: Problem, text: str) -> Reading:
    """Reads `text` as a response to `problem`; never raises on what a model may write."""
    answer, answer_chars = read_answer(task, text)
    if task.statement is not None:
        stated = _match(task.statement, problem, text, answer_chars)
    else:
        equations = [e for e in read_equations(text) if e.is_operation or e.result.span != answer_chars]
        stated = link(problem, equations, answer, ordered=task.ordered)
    # A free-form chain may go another way than the reference; only one that states nothing lacks what it needs.
    compared = task.ordered or not stated.statements
    missing = problem.graph.needed - set(stated.reference.values()) if compared else frozenset()
    return Reading(
        statements=stated.statements,
        graph=stated.graph or problem.graph,
        reference=stated.reference,
        answer=answer,
        answer_chars=answer_chars,
        unlocated={**dict.fromkeys(sorted(missing), "never stated"), **stated.unlocated},
        misquoted=stated.misquoted,
    )


def _match(pattern: str, problem: Problem, text: str, answer_chars: Span | None) -> StatedGraph:
    """Statements of a family that does not write equations."""
    found = [match for match in re.finditer(pattern, text) if match["value"]]
    names = [step.name for step in problem.graph.steps]
    final = [match for match in found if match.span("value") == answer_chars]
    if final:
        found.remove(final[0])
        names.remove(problem.graph.answer)
    placed = [*zip(names, found), *((problem.graph.answer, match) for match in final)]
    statements = [Statement(name, parse_value(m["value"]), m["value"], m.span("value")) for name, m in placed]
    extra = range(len(names) + 1, len(found) + 1)
    unlocated = {f"statement {k}": f"the problem has {len(names)} steps" for k in extra}
    statements.sort(key=lambda statement: statement.chars)
    return StatedGraph(tuple(statements), problem.graph, {s.step: s.step for s in statements}, unlocated)


def read_chain(
    tokenizer: object,
    task: Task,
    problem: Problem,
    prompt: Sequence[int],
    new: Sequence[int],
    *,
    question_start: int,
    finished: bool = True,
) -> Chain:
    """The chain record of a response: its statements mapped to token spans.

    `question_start` is the token position where the prompt's own question begins (behind the shared examples).
    """
    tokens = (*prompt, *new)
    whole, spans = offsets(tokenizer, tokens[question_start:])
    shift = spans[len(prompt) - question_start - 1][1] if len(prompt) > question_start else 0
    response = whole[shift:]
    text = response[: _end(response, task.stop)]
    reading = read_response(task, problem, text)

    def place(chars: Span) -> Span | str:
        if not finished and chars[1] == len(response):
            return _CUT_OFF
        found = span_of((chars[0] + shift, chars[1] + shift), spans, whole)
        return found if isinstance(found, str) else (found[0] + question_start, found[1] + question_start)

    stated: list[StatedValue] = []
    unplaced: dict[str, Value] = {}
    unlocated = dict(reading.unlocated)
    owners = _owners(reading)
    for statement, overruled in _literals(reading.statements):
        span = place(statement.chars)
        if isinstance(span, str):
            if not overruled:
                unplaced[statement.step], unlocated[statement.step] = statement.value, span
            continue
        later = [chars for chars in occurrences(text, statement.value) if chars[0] >= statement.chars[1]]
        mentions = [place(chars) for chars in later if owners.get(chars, statement.step) == statement.step]
        operands = {name: place(chars) for name, chars in statement.operands.items()}
        stated.append(
            StatedValue(
                step=statement.step,
                value=statement.value,
                text=statement.text,
                chars=statement.chars,
                span=span,
                mentions=tuple(found for found in mentions if not isinstance(found, str)),
                operands={name: found for name, found in operands.items() if not isinstance(found, str)},
                overruled=overruled,
                misquoted="" if overruled else reading.misquoted.get(statement.step, ""),
            )
        )
    return Chain(
        problem=problem,
        tokens=tokens,
        n_prompt=len(prompt),
        question_start=question_start,
        text=text,
        offsets=spans,
        question_text=whole[:shift],
        stated=tuple(stated),
        graph=reading.graph,
        reference=reading.reference,
        answer=reading.answer,
        answer_chars=reading.answer_chars,
        unlocated=unlocated,
        finished=finished,
        unplaced=unplaced,
    )


def _end(response: str, stop: Sequence[str]) -> int:
    """Where the first stop string stands; a response may open with a line break that does not end it."""
    begin = len(response) - len(response.lstrip())
    found = [response.find(string, begin) for string in stop]
    return min((at for at in found if at >= 0), default=len(response))


def _literals(statements: Sequence[Statement]) -> list[tuple[Statement, bool]]:
    """The first statement of each value of a step, and whether a later different one overrules it.

    What repeats the value that was stated last is a mention: it is regenerated after an edit.
    """
    found: list[tuple[Statement, bool]] = []
    by_step: dict[str, list[Statement]] = {}
    for statement in statements:
        by_step.setdefault(statement.step, []).append(statement)
    for stated in by_step.values():
        firsts = [next(run) for _, run in groupby(stated, key=lambda statement: statement.value)]
        found += [(statement, statement is not firsts[-1]) for statement in firsts]
    return sorted(found, key=lambda item: item[0].chars)


def _owners(reading: Reading) -> dict[Span, str]:
    """The step or given input that a number belongs to, where an equation or the answer says so: an equal number that
    another step states or reads is no mention."""
    owners = {chars: name for statement in reading.statements for name, chars in statement.operands.items()}
    owners |= {statement.chars: statement.step for statement in reading.statements}
    if reading.answer_chars and any(
        s.value == reading.answer for s in reading.statements if s.step == reading.graph.answer
    ):
        owners.setdefault(reading.answer_chars, reading.graph.answer)
    return owners
