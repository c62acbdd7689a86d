"""Long multiplication with partial products: `23 * 45: 23 * 5 = 115. 23 * 40 = 920. 115 + 920 = 1035. Answer: 1035`.

Products are not linear in what is visible, so a probe that finds them found more than a copy of the operands.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from os import PathLike
from typing import ClassVar

from faithprobe.errors import TaskError
from faithprobe.tasks.graph import Graph, Step
from faithprobe.tasks.rows import BadRowError, RowReport, read_text
from faithprobe.tasks.task import Problem, Task, draw, sample


class Multiplication(Task):
    """Partial products from the last digit on, then running sums."""

    name: ClassVar[str] = "multiplication"
    summary: ClassVar[str] = "long multiplication with partial products and running sums"

    def __init__(
        self,
        *,
        digits: int = 2,
        multiplier_digits: int = 2,
        path: str | PathLike[str] | None = None,
        shots: int = 5,
        few_shot_seed: int = 7,
        skip_bad: bool = False,
    ) -> None:
        """`digits` (1 to 6) of the first factor, `multiplier_digits` (2 to 6) of the second, whose digits are drawn
        from 2 to 9: a 0 or 1 makes a partial product trivial. With `path`, factors come from a file of the icot
        format, one problem a line, digits reversed: `5 6 3 2 * 7 4 3 4||... #### 5 5 6 0 8 2 0 1`; examples are as long
        as its longest row."""
        if not 1 <= digits <= 6:
            raise TaskError(f"the first factor has 1 to 6 digits, not {digits}")
        if not 2 <= multiplier_digits <= 6:
            raise TaskError(f"the multiplier has 2 to 6 digits, not {multiplier_digits}")
        if shots < 0:
            raise TaskError(f"shots must be 0 or more, not {shots}")
        self.digits, self.multiplier_digits = digits, multiplier_digits
        self.path, self.skip_bad = None if path is None else str(path), skip_bad
        self.shots, self.few_shot_seed = shots, few_shot_seed
        self.skipped: list[tuple[int | str, str]] = []
        """Rows of the file that were left out: line and reason."""
        self._rows: list[tuple[int, int]] = []
        if path is not None:
            report = RowReport(path, skip_bad=skip_bad)
            for line, text in enumerate(read_text(path, family="multiplication").splitlines(), 1):
                if not text.strip():
                    continue
                try:
                    self._rows.append(_read(text))
                except BadRowError as error:
                    report.bad(line, error)
            report.check_any(len(self._rows))
            self.skipped = report.skipped
        self._digits = max((len(str(x)) for x, _ in self._rows), default=digits)
        self._multiplier_digits = max((len(str(y)) for _, y in self._rows), default=multiplier_digits)
        self.max_new_tokens = 32 + self._multiplier_digits * (30 + 4 * (self._digits + self._multiplier_digits))

    def problems(self, n: int, *, seed: int = 0) -> list[Problem]:
        rng = random.Random(f"multiplication {seed}")
        if self.path is not None:
            return [_problem(x, y) for x, y in sample(self._rows, n, rng, source=self.path)]
        return draw(n, rng, self._random, task=self, avoid={shot.question for shot in self._shots})

    def examples(self, problem: Problem) -> Sequence[Problem]:
        return [shot for shot in self._shots if shot.question != problem.question][: self.shots]

    @cached_property
    def _shots(self) -> list[Problem]:
        """One more than is shown, so that a problem that is itself among them still gets all its examples."""
        if not self.shots:
            return []
        return draw(
            self.shots + 1, random.Random(f"multiplication shots {self.few_shot_seed}"), self._random, task=self
        )

    def _random(self, rng: random.Random) -> Problem:
        x = rng.randint(max(2, 10 ** (self._digits - 1)), 10**self._digits - 1)
        return _problem(x, sum(rng.randint(2, 9) * 10**k for k in range(self._multiplier_digits)))

    def partners(self, problem: Problem, step: str, *, rng: random.Random) -> Iterator[Problem]:
        """Other digits of the multiplier up to the one that `step` reads; then other first factors as well, which
        change later partial products too."""
        x, y = _factors(problem)
        places = len(str(y))
        reached = min(int(step[1:]) + 1, places)
        seen = {(x, y)}
        for attempt in range(400):
            changed = 0
            for place in range(places):
                digit = y // 10**place % 10
                redraw = place == reached - 1 or (place < reached and (step[0] == "s" or attempt >= 100))
                changed += (rng.randint(2, 9) if redraw else digit) * 10**place
            factor = x
            if attempt >= 200:
                factor = rng.randint(max(2, 10 ** (len(str(x)) - 1)), 10 ** len(str(x)) - 1)
            if (factor, changed) in seen:
                continue
            seen.add((factor, changed))
            partner = _problem(factor, changed)
            if partner.graph.values[step] != problem.graph.values[step]:
                yield partner


def _problem(x: int, y: int) -> Problem:
    """Steps `p0`, `p1`, ... are the partial products, `s1`, `s2`, ... the running sums; `b1` is 40 in `23 * 45`."""
    parts = {f"b{k}": int(digit) * 10**k for k, digit in enumerate(reversed(str(y)))}
    steps = [Step(f"p{k}", f"x * b{k}") for k in range(len(parts))]
    steps += [Step(f"s{k}", f"{'p0' if k == 1 else f's{k - 1}'} + p{k}") for k in range(1, len(parts))]
    graph = Graph({"x": x, **parts}, tuple(steps), steps[-1].name)
    values = graph.values
    clauses = []
    for step in steps:
        left, sign, right = step.expression.split()
        clauses.append(f"{values[left]} {sign} {values[right]} = {values[step.name]}.")
    return Problem(
        id=f"{x} * {y}",
        question=f"What is {x} * {y}?",
        graph=graph,
        chain=" ".join([f"{x} * {y}:", *clauses]),
        answer_line=f"Answer: {x * y}",
    )


def _factors(problem: Problem) -> tuple[int, int]:
    x, y = problem.id.split(" * ")
    return int(x), int(y)


def _read(text: str) -> tuple[int, int]:
    """The factors of one line of the icot format, whose digits run from the last to the first."""
    factors, bar, rest = text.partition("||")
    numbers = [part.replace(" ", "")[::-1] for part in (*factors.split("*"), rest.rpartition("####")[2])]
    if not bar or len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise BadRowError("is not like '5 6 * 7 4||... #### 9 4 0 3' (digits reversed)")
    x, y, product = (int(number) for number in numbers)
    if x * y != product:
        raise BadRowError(f"states {x} * {y} = {product}, which is {x * y}")
    if y < 10:
        raise BadRowError(f"has a multiplier of one digit ({y}), which needs no partial products")
    return x, y
