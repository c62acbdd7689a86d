"""GSM8K word problems (Cobbe et al. 2021, arXiv 2110.14168): steps and values from the calculator annotations.

Each `<<48/2=24>>` is a step. Numbers are exact. Where an operand comes from is not written in the data; the rules:

* no earlier step has its value: a given input;
* one earlier step has it: that step, unless the question states the same number and the step was already used;
* several have it: the only one of them not used yet; several equal operands of one step take as many candidates in
  order; otherwise it is ambiguous, stays a given input, and is listed in `task.ambiguous`.

The answer is the last step whose value is the `#### ` answer. The reference chain rewrites each annotation as a
sentence, `48 / 2 = 24 clips in May.`, so that every value stands behind its equation.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from os import PathLike
from typing import Any, ClassVar

from faithprobe.errors import TaskError
from faithprobe.tasks.equations import Equation, read_equations
from faithprobe.tasks.graph import Graph, Step, Value, parse_number, show_value
from faithprobe.tasks.rows import BadRowError, RowReport, json_lines, read_text, text_field
from faithprobe.tasks.task import Problem, Task, interventions_first, sample

_ANNOTATION = re.compile(
    r"<<(?P<inside>[^<>\n]*)>>\s*\$?[\d,.]*(?<![.,])(?P<words>(?: [A-Za-z][A-Za-z'-]*){0,8})(?P<end>.?)"
)
_NUMBER = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w]|[.,]\d)")
_COMMON = frozenset({24, 30, 31, 36, 48, 50, 52, 60, 100, 365, 1000, 3600, 5280})
"""Numbers above 12 that a solution may bring along: hours, days, minutes, percent, ..."""
_EXAMPLES = (
    (
        "A bakery fills 6 trays with 12 rolls each and sells 50 of the rolls. How many rolls are left?",
        "<<6*12=72>>72 rolls in all.\n<<72-50=22>>22 rolls left.\n#### 22",
    ),
    (
        "Omar buys 3 notebooks for $4 each and a pen for $2. He pays with $20. How much change does he get?",
        "<<3*4=12>>12 dollars for notebooks.\n<<12+2=14>>14 dollars in all.\n<<20-14=6>>6 dollars of change.\n#### 6",
    ),
    (
        "A train carries 240 people. At the first stop a third of them get off and 35 get on. How many are on it now?",
        "<<240/3=80>>80 people get off.\n<<240-80=160>>160 people stay.\n<<160+35=195>>195 people now.\n#### 195",
    ),
    (
        "Lea reads 18 pages on Monday and twice as many on Tuesday. How many pages does she read on both days?",
        "<<18*2=36>>36 pages on Tuesday.\n<<18+36=54>>54 pages on both days.\n#### 54",
    ),
)


@dataclass(frozen=True)
class _Row:
    line: int
    question: str
    equations: tuple[Equation, ...]
    words: tuple[str, ...]
    """Behind each result: ` clips in May`; empty where no clean end of a sentence follows."""
    answer: Value


class GSM8K(Task):
    """The public jsonl of GSM8K, or a file of the same format."""

    name: ClassVar[str] = "gsm8k"
    summary: ClassVar[str] = "word problems with calculator annotations; path= names the jsonl"
    answer_pattern = r"(?i)(?:\banswer(?: is)?:?|####)[* ]*\$?(?P<value>-?(?:\d[\d,]*)?\.?\d+)"
    stop = ("\n\n", "\nQ:")
    max_new_tokens = 256
    ordered = False

    def __init__(self, *, path: str | PathLike[str] = "", shots: int = 4, skip_bad: bool = False) -> None:
        """`path` to the jsonl (keys `question`, `answer`); `shots` 0 to 4 plain examples. A row that cannot be used
        raises; with `skip_bad` it is left out and listed in `task.skipped` as (line, reason)."""
        if not path:
            raise TaskError("gsm8k needs path=, a jsonl with 'question' and 'answer' (`<<48/2=24>>`, `#### 72`)")
        if not 0 <= shots <= len(_EXAMPLES):
            raise TaskError(f"gsm8k has 0 to {len(_EXAMPLES)} examples, not {shots}")
        self.path, self.shots, self.skip_bad = str(path), shots, skip_bad
        self.ambiguous: list[tuple[int, str, Value]] = []
        """(line, step, operand value) of the problems drawn so far whose operand has several possible sources."""
        self._rows: list[_Row] = []
        report = RowReport(path, skip_bad=skip_bad)
        for line, row in json_lines(read_text(path, family="gsm8k")):
            try:
                self._rows.append(_read(line, row))
            except BadRowError as error:
                report.bad(line, error)
        report.check_any(len(self._rows))
        self.skipped = report.skipped
        """Rows that were left out: line and reason."""

    def problems(self, n: int, *, seed: int = 0) -> list[Problem]:
        found = []
        for row in sample(self._rows, n, random.Random(f"gsm8k {seed}"), source=self.path):
            graph, ambiguous = _graph(row)
            self.ambiguous += [item for item in ambiguous if item not in self.ambiguous]
            found.append(_problem(f"line {row.line}", row.question, graph, row.words))
        return found

    def examples(self, problem: Problem) -> Sequence[Problem]:
        return [shot for shot in self._shots if shot.question != problem.question][: self.shots]

    @cached_property
    def _shots(self) -> list[Problem]:
        rows = (_read(k, {"question": q, "answer": a}) for k, (q, a) in enumerate(_EXAMPLES, 1))
        return [_problem(f"example {row.line}", row.question, _graph(row)[0], row.words) for row in rows]

    def partners(self, problem: Problem, step: str, *, rng: random.Random) -> Iterator[Problem]:
        """Changes one number that the question states once and the computation reads once, to another one of the same
        length; all values stay positive, and integral where they were. Problems whose solution uses a number of
        unknown origin (worked out without an annotation) have none: it could depend on the one that changes."""
        return interventions_first(problem, _changed(problem, step, rng), step)


def _read(line: int, row: dict[str, Any] | BadRowError) -> _Row:
    if isinstance(row, BadRowError):
        raise row
    question, written = text_field(row, "question"), text_field(row, "answer")
    steps, mark, final = written.rpartition("####")
    answer = parse_number(final.strip())
    if not mark or answer is None:
        raise BadRowError("its answer does not end in '#### ' and a number")
    found = list(_ANNOTATION.finditer(steps))
    if len(found) < steps.count("<<") or not found:
        raise BadRowError(
            "an annotation is not closed" if "<<" in steps else "no <<...>> annotation, so no step is known"
        )
    equations, words = [], []
    for match in found:
        inside = match["inside"]
        left, _, right = inside.partition("=")
        if parse_number(left) is not None and parse_number(left) == parse_number(right):
            continue  # <<12=12>> computes nothing
        read = read_equations(match[0][: match[0].index(">>")])
        if len(read) != 1 or not read[0].is_operation or read[0].span[1] < 2 + len(inside.rstrip()):
            raise BadRowError(f"the annotation <<{inside}>> does not parse")
        if read[0].first.value != read[0].result.value:
            raise BadRowError(f"the annotation <<{inside}>> is not exact, it gives {read[0].first.value}")
        equations.append(read[0])
        words.append(match["words"] if match["end"] in (".", "") else "")
    if answer not in [equation.result.value for equation in equations]:
        raise BadRowError(f"no step gives its answer {final.strip()}")
    return _Row(line, " ".join(question.split()), tuple(equations), tuple(words), answer)


def _graph(row: _Row) -> tuple[Graph, list[tuple[int, str, Value]]]:
    """The graph of a row, and the operands whose source is ambiguous."""
    given = {parse_number(match[0]) for match in _NUMBER.finditer(row.question)}
    inputs: dict[str, Value] = {}
    steps: list[Step] = []
    values: dict[str, Value] = {}
    used: set[str] = set()
    ambiguous: list[tuple[int, str, Value]] = []
    for k, equation in enumerate(row.equations, 1):
        names: dict[str, str] = {}
        operands = [operand.value for operand in equation.operands]
        for j, value in enumerate(operands):
            sources = [name for name, stated in values.items() if stated == value]
            fresh = [name for name in sources if name not in used]
            link = None
            if len(sources) == 1:
                link = sources[0] if fresh or value not in given else None
            elif len(sources) > 1 and operands.count(value) == len(sources):
                link = sources[operands[:j].count(value)]
            elif len(fresh) == 1:
                link = fresh[0]
            elif sources:
                ambiguous.append((row.line, f"v{k}", value))
            if link is None:
                link = f"a{len(inputs) + 1}"
                inputs[link] = value
            names[f"o{j}"] = link
        used.update(names.values())
        steps.append(Step(f"v{k}", _renamed(equation.expression, names)))
        values[f"v{k}"] = equation.result.value
    answer = [name for name, value in values.items() if value == row.answer][-1]
    return Graph(inputs, tuple(steps), answer), ambiguous


def _renamed(expression: str, names: dict[str, str]) -> str:
    return re.sub(r"[a-z]\d+", lambda match: names[match[0]], expression)


def _problem(identity: str, question: str, graph: Graph, words: Sequence[str]) -> Problem:
    values = graph.values
    shown = {name: show_value(value) for name, value in values.items()}
    bare = [f"{_renamed(step.expression, shown)} = {shown[step.name]}" for step in graph.steps]
    sentences = []
    for step, equation, unit in zip(graph.steps, bare, words):
        read = read_equations(f"{equation}{unit}.")
        readable = len(read) == 1 and read[0].result.value == values[step.name]
        sentences.append(f"{equation}{unit}." if readable else f"{equation}.")
    answer = f"Answer: {show_value(values[graph.answer])}"
    return Problem(id=identity, question=question, graph=graph, chain=" ".join(sentences), answer_line=answer)


def _sensible(values: dict[str, Value], original: dict[str, Value]) -> bool:
    """Positive where the original was, and integral where it was."""
    return all(
        (value > 0 or original[name] <= 0) and (isinstance(value, int) or not isinstance(original[name], int))  # type: ignore[operator]
        for name, value in values.items()
    )


def _changed(problem: Problem, step: str, rng: random.Random) -> Iterator[Problem]:
    graph = problem.graph
    stated = [(match, parse_number(match[0])) for match in _NUMBER.finditer(problem.question)]
    if not all(_explained(value, {number for _, number in stated}) for value in graph.inputs.values()):
        return
    candidates: list[tuple[str, re.Match[str], int]] = []
    for name in sorted(graph.ancestors(step) & set(graph.inputs)):
        value = graph.inputs[name]
        places = [match for match, number in stated if number == value]
        if len(places) == 1 and isinstance(value, int) and list(graph.inputs.values()).count(value) == 1:
            size = len(str(value))
            low, high = max(2, 10 ** (size - 1)), 10**size - 1
            candidates += [(name, places[0], new) for new in _others(low, high, value, rng)]
    rng.shuffle(candidates)
    words = _words(problem)
    for name, place, new in candidates:
        changed = Graph({**graph.inputs, name: new}, graph.steps, graph.answer)
        try:
            values = changed.values
        except TaskError:  # a division by zero
            continue
        if values[step] == graph.values[step] or not _sensible(values, graph.values):
            continue
        written = f"{new:,}" if "," in place[0] else str(new)
        question = problem.question[: place.start()] + written + problem.question[place.end() :]
        yield _problem(f"{problem.id}, {place[0]} -> {written}", question, changed, words)


def _explained(value: Value, stated: set[Any]) -> bool:
    """Whether an input stands in the question (also as a percentage) or is a number that solutions bring along."""
    if isinstance(value, str):
        return False
    share = value * 100 in stated or (value != 0 and isinstance(value, Fraction) and abs(1 / value) <= 12)
    return value in stated or share or value in _COMMON or (isinstance(value, int) and abs(value) <= 12)


def _others(low: int, high: int, value: int, rng: random.Random) -> list[int]:
    """Up to 100 other numbers of the range."""
    if high - low <= 100:
        return [new for new in range(low, high + 1) if new != value]
    return [new for new in dict.fromkeys(rng.randint(low, high) for _ in range(100)) if new != value]


def _words(problem: Problem) -> list[str]:
    """The units behind each equation of the reference chain."""
    tails = re.findall(r"= -?[\d./]*\d((?: [A-Za-z'-]+)*)\.(?= |$)", problem.chain)
    return tails if len(tails) == len(problem.graph.steps) else [""] * len(problem.graph.steps)
