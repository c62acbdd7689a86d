"""Reads a response: which values it states, what they depend on, where they stand, and what could not be located.

Where statements are equations, the model's own equations define the stated graph: `48 / 2 = 24` states 24, which
depends on 48 and 2, and an operand that equals an earlier result links to it. The reference graph settles a link only
where the equation has the reference's form; otherwise an operand that could come from two places leaves its step
unscored. Where a family has a `statement` pattern, the k-th match is the k-th step of the reference graph.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from faithprobe.tasks.equations import Equation, contradictions, read_equations
from faithprobe.chains.records import Chain, Span, StatedValue
from faithprobe.chains.tokens import decode, offsets, span_of
from faithprobe.tasks import Graph, Problem, Step, Task, Value
from faithprobe.tasks.graph import exact, parse_number, show_value


@dataclass(frozen=True)
class Statement:
    """A stated value before it is mapped to tokens; spans count characters of the response."""

    step: str
    value: Value
    text: str
    chars: Span
    operands: Mapping[str, Span]


@dataclass(frozen=True)
class Reading:
    """What a response states."""

    statements: tuple[Statement, ...]
    graph: Graph
    reference: Mapping[str, str]
    answer: Value | None
    answer_chars: Span | None
    unlocated: Mapping[str, str]


def parse_value(text: str) -> Value:
    """A number, a truth value, or else a name."""
    number = parse_number(text)
    if number is not None:
        return number
    return {"true": True, "false": False}.get(text.strip().lower(), text.strip())


def occurrences(text: str, value: Value) -> list[Span]:
    """Where `text` writes `value` as a word of its own: `12` in `12.` but not in `112`, `12.5` or `v12`."""
    pattern = rf"(?<![\w.]){re.escape(show_value(value))}(?!\w|[.,]\d)"
    return [match.span() for match in re.finditer(pattern, text)]


def read_answer(task: Task, text: str) -> tuple[Value | None, Span | None]:
    """The stated answer: the last match of the family's pattern."""
    found = list(re.finditer(task.answer_pattern, text))
    if not found:
        return None, None
    return parse_value(found[-1]["value"]), found[-1].span("value")


def read_response(task: Task, problem: Problem, text: str) -> Reading:
    """Reads `text` as a response to `problem`; never raises on what a model may write."""
    answer, answer_chars = read_answer(task, text)
    if task.statement is not None:
        reading = _read_pattern(task.statement, problem, text)
    else:
        reading = _read_equations(problem, text, answer, ordered=task.ordered)
    missing = problem.graph.needed - set(reading.reference.values())
    unlocated = {**{name: "never stated" for name in sorted(missing)}, **reading.unlocated}
    return replace(reading, answer=answer, answer_chars=answer_chars, unlocated=unlocated)


def _read_pattern(pattern: str, problem: Problem, text: str) -> Reading:
    steps = problem.graph.steps
    statements, unlocated = [], {}
    for k, match in enumerate(re.finditer(pattern, text)):
        if k >= len(steps):
            unlocated[f"statement {k + 1}"] = f"the problem has {len(steps)} steps"
            break
        value = parse_value(match["value"])
        statements.append(Statement(steps[k].name, value, match["value"], match.span("value"), {}))
    reference = {statement.step: statement.step for statement in statements}
    return Reading(tuple(statements), problem.graph, reference, None, None, unlocated)


def _skeleton(expression: str) -> tuple[str, list[str | Value]]:
    """The form of an expression and its leaves in order: names as they are, constants as values."""
    leaves: list[str | Value] = []

    class Blank(ast.NodeTransformer):
        def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
            if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
                leaves.append(-node.operand.value)  # type: ignore[operator]
                return ast.Name("_")
            return self.generic_visit(node)

        def visit_Name(self, node: ast.Name) -> ast.AST:
            leaves.append(node.id)
            return ast.Name("_")

        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            leaves.append(parse_number(str(node.value)))  # type: ignore[arg-type]
            return ast.Name("_")

    return ast.dump(Blank().visit(ast.parse(expression, mode="eval"))), leaves


class _Linker:
    """Turns equations, in order, into steps of one graph."""

    def __init__(self, problem: Problem, *, ordered: bool) -> None:
        self.problem = problem
        self.ordered = ordered
        self.forms = {step.name: _skeleton(step.expression) for step in problem.graph.steps}
        self.inputs: dict[str, Value] = {}
        self.steps: dict[str, Step] = {}
        self.values: dict[str, Value] = {}
        self.reference: dict[str, str] = {}
        self.unlocated: dict[str, str] = {}
        self.given = set(problem.graph.inputs.values()) | _numbers(problem.question)

    def counterpart(self, equation: Equation) -> str | None:
        """The reference step that this equation states: by its name, by its order, or the next one of the same form
        whose given operands agree."""
        if equation.name in self.forms:
            return equation.name
        if self._repeats(equation):
            return None
        form, _ = _skeleton(equation.expression)
        if self.ordered:
            name = next((name for name in self.forms if name not in self.reference.values()), None)
            return name if name is not None and len(self.forms[name][1]) == len(equation.operands) else None
        for name, (reference_form, leaves) in self.forms.items():
            if name in self.reference.values() or form != reference_form:
                continue
            if all(self._agrees(leaf, o.value) for leaf, o in zip(leaves, equation.operands, strict=True)):
                return name
        return None

    def _agrees(self, leaf: str | Value, value: Value) -> bool:
        if not isinstance(leaf, str):
            return leaf == value
        if leaf in self.problem.graph.inputs:
            return self.problem.graph.inputs[leaf] == value
        return leaf in self.values  # a step: the model may have miscopied its value, the form decides

    def add(self, k: int, equation: Equation) -> Statement:
        counterpart = self.counterpart(equation)
        repeated = self._repeats(equation)
        name = counterpart or repeated or f"s{k}"
        leaves = self.forms[counterpart][1] if counterpart else []
        if len(leaves) != len(equation.operands):
            leaves = [None] * len(equation.operands)  # type: ignore[list-item]
        names, places = {}, {}
        for j, (operand, leaf) in enumerate(zip(equation.operands, leaves, strict=True)):
            link = self._link(name, f"n{k}_{j}", operand.value, leaf)
            names[f"o{j}"] = link
            places[link] = operand.span
        expression = re.sub(r"\bo\d+\b", lambda m: names[m[0]], equation.expression)
        if name not in self.steps:
            self.steps[name] = Step(name, expression)
        if counterpart:
            self.reference[name] = counterpart
        self.values[name] = equation.result.value
        return Statement(name, equation.result.value, equation.result.text, equation.result.span, places)

    def _repeats(self, equation: Equation) -> str | None:
        """An earlier step with the same expression on the same operand values: a restatement or a correction."""
        form, _ = _skeleton(equation.expression)
        operands = [o.value for o in equation.operands]
        for name, step in self.steps.items():
            earlier_form, leaves = _skeleton(step.expression)
            known = [{**self.inputs, **self.values}.get(leaf) for leaf in leaves if isinstance(leaf, str)]
            if earlier_form == form and known == operands:
                return name
        return None

    def _link(self, step: str, fresh: str, value: Value, leaf: str | Value | None) -> str:
        """The name of the operand: a step that stated this value, or a given input."""
        earlier = [name for name, stated in self.values.items() if stated == value and name != step]
        if isinstance(leaf, str) and leaf in earlier:
            return leaf
        if isinstance(leaf, str) and leaf in self.problem.graph.inputs:
            self.inputs[leaf] = value
            return leaf
        if len(earlier) == 1 and (value not in self.given or leaf is not None):
            return earlier[0]
        if earlier and leaf is None:
            sources = [*earlier, "the question"] if value in self.given else earlier
            self.unlocated[step] = f"ambiguous operand {show_value(value)}: {' or '.join(sources)}"
        self.inputs[fresh] = value
        return fresh


def _numbers(text: str) -> set[Value]:
    found = (parse_number(match) for match in re.findall(r"\d[\d,]*\.?\d*|\.\d+", text))
    return {exact(number) for number in found if number is not None}


def _read_equations(problem: Problem, text: str, answer: Value | None, *, ordered: bool) -> Reading:
    equations = read_equations(text)
    linker = _Linker(problem, ordered=ordered)
    statements = [linker.add(k, equation) for k, equation in enumerate(equations, 1) if equation.is_operation]
    if not statements:
        return Reading((), problem.graph, {}, None, None, {})
    names = list(linker.steps)
    stated_last = {statement.step: statement.value for statement in statements}
    final = next((name for name in reversed(names) if answer is not None and stated_last[name] == answer), names[-1])
    graph = Graph(linker.inputs, tuple(linker.steps.values()), final)
    return Reading(tuple(statements), graph, linker.reference, None, None, linker.unlocated)


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
    question = decode(tokenizer, tokens[question_start : len(prompt)])
    text = whole[len(question) :]
    begin = len(text) - len(text.lstrip())  # a response may open with a line break that does not end it
    found = [text.find(stop, begin) for stop in task.stop]
    text = text[: min((at for at in found if at >= 0), default=len(text))]
    reading = read_response(task, problem, text)
    shift = len(question)

    def place(chars: Span) -> Span | str:
        found = span_of((chars[0] + shift, chars[1] + shift), spans, whole)
        return found if isinstance(found, str) else (found[0] + question_start, found[1] + question_start)

    stated: list[StatedValue] = []
    unlocated = dict(reading.unlocated)
    misquoted = {c.stated.value: c.used.text for c in contradictions(read_equations(text))} if not task.statement else {}
    last = {statement.step: statement.value for statement in reading.statements}
    for statement in reading.statements:
        span = place(statement.chars)
        if isinstance(span, str):
            unlocated[statement.step] = span
            continue
        restated = [place(chars) for chars in occurrences(text, statement.value) if chars[0] >= statement.chars[1]]
        operands = {name: place(chars) for name, chars in statement.operands.items()}
        stated.append(
            StatedValue(
                step=statement.step,
                value=statement.value,
                text=statement.text,
                chars=statement.chars,
                span=span,
                mentions=tuple(m for m in restated if not isinstance(m, str)),
                operands={name: place_ for name, place_ in operands.items() if not isinstance(place_, str)},
                overruled=statement.value != last[statement.step],
                misquoted=misquoted.get(statement.value, ""),
            )
        )
    stated = _drop_restatements(stated)
    return Chain(
        problem=problem,
        tokens=tokens,
        n_prompt=len(prompt),
        question_start=question_start,
        text=text,
        offsets=spans,
        question_text=question,
        stated=tuple(stated),
        graph=reading.graph,
        reference=reading.reference,
        answer=reading.answer,
        answer_chars=reading.answer_chars,
        unlocated=unlocated,
        finished=finished,
    )


def _drop_restatements(stated: list[StatedValue]) -> list[StatedValue]:
    """Keeps the first statement of each value of a step: later equal ones are mentions, which are regenerated."""
    kept: list[StatedValue] = []
    for literal in stated:
        if not any(earlier.step == literal.step and earlier.value == literal.value for earlier in kept):
            kept.append(literal)
    return kept
