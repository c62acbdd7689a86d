"""Let-bound variables in a graph: `x0 = 14 - 11. x1 = x0 - 18. x2 = x0 + 4. What is x1?`

The chain computes every variable, also those that the answer does not need (x2): needed and unneeded steps stand side
by side in one text, `x0 = 14 - 11 = 3. x1 = 3 - 18 = -15. x2 = 3 + 4 = 7.`
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from os import PathLike
from typing import Any, ClassVar

from faithprobe.errors import TaskError
from faithprobe.tasks.graph import Graph, Step
from faithprobe.tasks.rows import BadRowError, RowReport, json_lines, read_text, text_field
from faithprobe.tasks.task import Problem, Task, draw, interventions_first, sample

Operand = int | str
Line = tuple[Operand, str, Operand]
"""Left operand, operation, right operand; a text is a variable, a number a constant."""

_OPERATIONS = {"+": "+", "-": "-", "*": "*", "/": "//", "%": "%"}
_LINE = re.compile(r"(?m)^\s*(\w+) = (-?\w+) (\+|-|\*|//|%) (-?\w+)\s*$")


class Programs(Task):
    """Straight-line programs, generated or read from a file of the reasoning_core format."""

    name: ClassVar[str] = "programs"
    summary: ClassVar[str] = "let-bound variables in a graph, with steps that the answer does not need"

    def __init__(
        self,
        *,
        path: str | PathLike[str] | None = None,
        variables: int = 4,
        operations: str = "+-",
        low: int = 1,
        high: int = 20,
        smallest: int = -99,
        largest: int = 99,
        unneeded: float = 0.25,
        shots: int = 4,
        few_shot_seed: int = 7,
        skip_bad: bool = False,
    ) -> None:
        """`variables` 2 to 12; `operations` a subset of `+-*/%` (`/` is written `//` and rounds down); constants in
        `[low, high]`, every value in `[smallest, largest]`; `unneeded` the share of variables that the answer does
        not need, 0 to .8. With `path`, a jsonl file (keys `prompt`, `query`, `answer`), programs come from there and
        the options of generation are for the few-shot examples. Examples have as many variables as the problem."""
        if not 2 <= variables <= 12:
            raise TaskError(f"programs have 2 to 12 variables, not {variables}")
        if not operations or set(operations) - set(_OPERATIONS):
            raise TaskError(f"operations must be drawn from '+-*/%', not {operations!r}")
        if not 1 <= low < high:
            raise TaskError(f"constants need 1 <= low < high, not [{low}, {high}]")
        if not smallest < largest:
            raise TaskError(f"values need smallest < largest, not [{smallest}, {largest}]")
        if not 0 <= unneeded <= 0.8:
            raise TaskError(f"unneeded is a share from 0 to 0.8, not {unneeded}")
        if shots < 0:
            raise TaskError(f"shots must be 0 or more, not {shots}")
        self.path, self.skip_bad = None if path is None else str(path), skip_bad
        self.variables, self.operations, self.low, self.high = variables, operations, low, high
        self.smallest, self.largest, self.unneeded = smallest, largest, unneeded
        self.shots, self.few_shot_seed = shots, few_shot_seed
        self.skipped: list[tuple[int | str, str]] = []
        """Rows of the file that were left out: line and reason."""
        self._rows: list[Problem] = []
        if path is not None:
            report = RowReport(path, skip_bad=skip_bad)
            for line, row in json_lines(read_text(path, family="programs")):
                try:
                    self._rows.append(_read(row))
                except BadRowError as error:
                    report.bad(line, error)
            report.check_any(len(self._rows))
            self.skipped = report.skipped
        longest = max((len(row.graph.steps) for row in self._rows), default=variables)
        self.max_new_tokens = 24 + 26 * longest

    def problems(self, n: int, *, seed: int = 0) -> list[Problem]:
        rng = random.Random(f"programs {seed}")
        if self.path is not None:
            return sample(self._rows, n, rng, source=self.path)
        shown = self._shots(self.variables, self.operations)
        return draw(n, rng, self._random, task=self, avoid={shot.question for shot in shown})

    def examples(self, problem: Problem) -> Sequence[Problem]:
        used = {word for step in problem.graph.steps for word in step.expression.split()[1:2]}
        operations = "".join(sign for sign, written in _OPERATIONS.items() if written in used)
        shots = self._shots(len(problem.graph.steps), self.operations if self.path is None else operations)
        return [shot for shot in shots if shot.question != problem.question][: self.shots]

    def _shots(self, variables: int, operations: str) -> list[Problem]:
        """One more than is shown, so that a problem that is itself among them still gets all its examples."""
        key = (self.low, self.high, self.smallest, self.largest, self.unneeded)
        return _shots(self.shots + 1, self.few_shot_seed, max(variables, 2), operations, key) if self.shots else []

    def _random(self, rng: random.Random) -> Problem | None:
        left_out = min(round(self.unneeded * self.variables), self.variables - 2)
        asked_for = set(rng.sample(range(self.variables), self.variables - left_out))
        lines: list[Line] = []
        waiting: list[str] = []  # needed variables that nothing reads yet; the asked one is the last to be computed
        for k in range(self.variables):
            later = sum(j > k for j in asked_for)
            if k in asked_for:
                reads = [m for m in (0, 1, 2) if m <= len(waiting) and 1 <= len(waiting) - m + 1 <= later + 1]
                operands: list[Operand] = list(rng.sample(waiting, rng.choice(reads)))
                waiting = [*(name for name in waiting if name not in operands), f"x{k}"]
            else:
                operands = [f"x{rng.randrange(k)}"] if k and rng.random() < 0.8 else []
            while len(operands) < 2:
                operands.append(rng.randint(self.low, self.high))
            if rng.random() < 0.25:  # mostly the variable comes first, as in `x0 - 18`
                operands.reverse()
            lines.append((operands[0], _OPERATIONS[rng.choice(self.operations)], operands[1]))
        return self._fitting(lines, f"x{max(asked_for)}")

    def _fitting(self, lines: list[Line], asked: str) -> Problem | None:
        """The problem, or None where a value is out of range, copies an operand, equals another one, or is 0 because
        the divisor is larger."""
        try:
            problem = _problem(lines, [f"x{k}" for k in range(len(lines))], asked)
            known = problem.graph.values
        except TaskError:  # a division by zero
            return None
        steps = problem.graph.steps
        values = [int(known[step.name]) for step in steps]
        inside = all(self.smallest <= value <= self.largest for value in values)
        copied = any(known[step.name] in [known[name] for name in step.operands] for step in steps)
        vanished = any(known[step.name] == 0 and "//" in step.expression for step in steps)
        return problem if inside and not copied and not vanished and len(set(values)) == len(values) else None

    def partners(self, problem: Problem, step: str, *, rng: random.Random) -> Iterator[Problem]:
        """Redraws, to the same number of digits, constants of `step` and of the steps that it depends on.

        Partners of generated problems obey the options; those of a file's problems stay in its order of magnitude.
        """
        found = _redrawn(problem, step, rng)
        if self.path is None:
            asked = problem.graph.answer
            found = (partner for partner in found if self._in_range(partner) and self._fitting(_lines(partner), asked))
        return interventions_first(problem, found, step)

    def _in_range(self, problem: Problem) -> bool:
        return all(self.low <= int(constant) <= self.high for constant in problem.graph.inputs.values())


@lru_cache(maxsize=64)
def _shots(n: int, seed: int, variables: int, operations: str, key: tuple[Any, ...]) -> list[Problem]:
    names = ("low", "high", "smallest", "largest", "unneeded")
    options = dict(zip(names, key))
    if "*" in operations:  # products leave a narrow range at once
        options.update(smallest=min(-999, options["smallest"]), largest=max(999, options["largest"]))
    family = Programs(variables=variables, operations=operations, shots=0, **options)
    return draw(n, random.Random(f"programs shots {seed}"), family._random, task=family)


def _problem(lines: Sequence[Line], names: Sequence[str], asked: str) -> Problem:
    """The problem of these lines; constants become the given inputs `a0`, `b0` of step `x0`."""
    inputs: dict[str, int] = {}
    steps = []
    for name, (left, sign, right) in zip(names, lines):
        operands = []
        for side, operand in (("a", left), ("b", right)):
            if isinstance(operand, int):
                inputs[f"{side}_{name}"] = operand
                operand = f"{side}_{name}"
            operands.append(operand)
        steps.append(Step(name, f"{operands[0]} {sign} {operands[1]}"))
    graph = Graph(inputs, tuple(steps), asked)
    values = graph.values
    program = ". ".join(f"{name} = {left} {sign} {right}" for name, (left, sign, right) in zip(names, lines))
    computed = " ".join(
        f"{step.name} = {values[a]} {sign} {values[b]} = {values[step.name]}."
        for step, (a, sign, b) in ((step, step.expression.split()) for step in steps)
    )
    return Problem(
        id=f"{program}; {asked}",
        question=f"{program}. What is {asked}?",
        graph=graph,
        chain=computed,
        answer_line=f"Answer: {values[asked]}",
    )


def _lines(problem: Problem) -> list[Line]:
    inputs: dict[str, Any] = dict(problem.graph.inputs)
    parts = (step.expression.split() for step in problem.graph.steps)
    return [(inputs.get(left, left), sign, inputs.get(right, right)) for left, sign, right in parts]


def _redrawn(problem: Problem, step: str, rng: random.Random) -> Iterator[Problem]:
    lines = _lines(problem)
    names = [s.name for s in problem.graph.steps]
    nearest = {step}
    free = nearest | (problem.graph.ancestors(step) & set(names))
    if not any(isinstance(operand, int) for operand in lines[names.index(step)][::2]):
        nearest = free
    values = problem.graph.values
    bound = 10 * max(10, *(abs(int(values[name])) for name in names))  # no partner in another order of magnitude
    seen = {problem.question}
    for attempt in range(1200):
        redraw = nearest if attempt < 600 and nearest != free else free
        changed = [
            (_alike(left, rng), sign, _alike(right, rng)) if name in redraw else (left, sign, right)
            for name, (left, sign, right) in zip(names, lines)
        ]
        try:
            partner = _problem(changed, names, problem.graph.answer)
        except TaskError:
            continue
        new = partner.graph.values
        if new[step] != values[step] and partner.question not in seen and all(abs(int(new[n])) < bound for n in names):
            seen.add(partner.question)
            yield partner


def _alike(operand: Operand, rng: random.Random) -> Operand:
    """Another constant with the same sign and number of digits; variables stay."""
    if isinstance(operand, str) or operand == 0:
        return operand
    digits = len(str(abs(operand)))
    size = rng.randint(10 ** (digits - 1), 10**digits - 1)
    return size if operand > 0 else -size


def _read(row: dict[str, Any] | BadRowError) -> Problem:
    if isinstance(row, BadRowError):
        raise row
    prompt, asked, answer = text_field(row, "prompt"), text_field(row, "query"), text_field(row, "answer")
    found = _LINE.findall(prompt)
    if not found:
        raise BadRowError("its prompt has no line such as 'x0 = 14 - 11'")
    if sum(" = " in line for line in prompt.splitlines()) != len(found):
        raise BadRowError("its prompt has a line that is not 'name = operand operation operand'")
    names = [name for name, *_ in found]
    lines = [(_operand(left), sign, _operand(right)) for _, left, sign, right in found]
    try:
        problem = _problem(lines, names, asked)
    except TaskError as error:
        raise BadRowError(str(error)) from None
    if str(problem.answer) != answer.strip():
        raise BadRowError(f"its program gives {problem.answer} for {asked}, its answer says {answer}")
    return problem


def _operand(text: str) -> Operand:
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text
