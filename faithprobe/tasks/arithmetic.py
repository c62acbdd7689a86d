"""Chains of + - x: `Start with 7. Add 5: 7 + 5 = 12. Subtract 3: 12 - 3 = 9. Answer: 9`.

Operands are restated with spaces: without the restatement, or without the spaces, small models fail.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import ClassVar

from faithprobe.errors import TaskError
from faithprobe.tasks.graph import Graph, Step
from faithprobe.tasks.task import Problem, Task, draw

_VERBS = {"+": "Add {}", "-": "Subtract {}", "*": "Multiply by {}"}


class Arithmetic(Task):
    """Running values under + - x with small operands, exact or modulo `modulus`."""

    name: ClassVar[str] = "arithmetic"
    summary: ClassVar[str] = "chains of + - x, exact or modulo p, 1 to 12 steps"

    def __init__(
        self,
        *,
        steps: int = 2,
        modulus: int | None = None,
        operations: str = "+-",
        low: int = 1,
        high: int = 9,
        largest: int = 99,
        shots: int = 6,
        few_shot_seed: int = 1,
    ) -> None:
        """`steps` 1 to 12; `operations` a subset of `+-*`; the start and every operand in `[low, high]`; every
        running value in `[0, largest]`, so that all are written alike. Examples have as many steps as the problem."""
        if not 1 <= steps <= 12:
            raise TaskError(f"arithmetic has 1 to 12 steps, not {steps}")
        if not operations or set(operations) - set(_VERBS):
            raise TaskError(f"operations must be drawn from '+-*', not {operations!r}")
        if not 0 <= low < high:
            raise TaskError(f"operands need 0 <= low < high, not [{low}, {high}]")
        if modulus is not None and modulus < 2:
            raise TaskError(f"modulus must be at least 2, not {modulus}")
        if largest < low:
            raise TaskError(f"no running value is within [0, {largest}] when the start is at least {low}")
        if shots < 0:
            raise TaskError(f"shots must be 0 or more, not {shots}")
        self.steps, self.modulus, self.operations = steps, modulus, operations
        self.low, self.high, self.largest = low, high, largest
        self.shots, self.few_shot_seed = shots, few_shot_seed
        self.max_new_tokens = 16 + 22 * steps

    def problems(self, n: int, *, seed: int = 0) -> list[Problem]:
        rng = random.Random(f"arithmetic {seed}")
        return draw(n, rng, self._random, task=self, avoid={shot.question for shot in self._shots})

    def examples(self, problem: Problem) -> Sequence[Problem]:
        return [shot for shot in self._shots if shot.question != problem.question][: self.shots]

    @cached_property
    def _shots(self) -> list[Problem]:
        """One more than is shown, so that a problem that is itself among them still gets all its examples."""
        if not self.shots:
            return []
        return draw(self.shots + 1, random.Random(f"arithmetic shots {self.few_shot_seed}"), self._random, task=self)

    def _random(self, rng: random.Random) -> Problem | None:
        start = rng.randint(self.low, self.high)
        return self._make(
            start, [(rng.choice(self.operations), rng.randint(self.low, self.high)) for _ in range(self.steps)]
        )

    def _make(self, start: int, moves: list[tuple[str, int]]) -> Problem | None:
        """The problem, or None where a running value leaves `[0, largest]` or does not change."""
        inputs = {"x0": start, **{f"a{k}": operand for k, (_, operand) in enumerate(moves, 1)}}
        suffix = f" % {self.modulus}" if self.modulus else ""
        steps, previous = [], "x0"
        for k, (sign, _) in enumerate(moves, 1):
            body = f"{previous} {sign} a{k}"
            steps.append(Step(f"v{k}", f"({body}){suffix}" if suffix else body))
            previous = f"v{k}"
        graph = Graph(inputs, tuple(steps), previous)
        values = [start, *(int(graph.values[step.name]) for step in steps)]
        if min(values) < 0 or max(values) > self.largest or any(a == b for a, b in zip(values, values[1:])):
            return None
        clauses = []
        for k, (sign, operand) in enumerate(moves, 1):
            written = f"{values[k - 1]} {sign} {operand}"
            written = f"({written}){suffix}" if suffix else written
            clauses.append(f"{_VERBS[sign].format(operand)}: {written} = {values[k]}.")
        modular = f" Count modulo {self.modulus}." if self.modulus else ""
        question = " ".join([f"Start with {start}.", *(f"{_VERBS[s].format(a)}." for s, a in moves)]) + modular
        return Problem(
            id=f"{start} " + " ".join(f"{sign}{operand}" for sign, operand in moves),
            question=question,
            graph=graph,
            chain=" ".join([f"Start with {start}.", *clauses]),
            answer_line=f"Answer: {values[-1]}",
        )

    def partners(self, problem: Problem, step: str, *, rng: random.Random) -> Iterator[Problem]:
        """Redraws the start and the operands up to `step`; signs and later operands stay."""
        value = problem.graph.values[step]
        return (other for other in self._redrawn(problem, step, rng) if other.graph.values[step] != value)

    def same_value(self, problem: Problem, step: str, *, rng: random.Random) -> Iterator[Problem]:
        value = problem.graph.values[step]
        return (other for other in self._redrawn(problem, step, rng) if other.graph.values[step] == value)

    def _redrawn(self, problem: Problem, step: str, rng: random.Random, *, tries: int = 2000) -> Iterator[Problem]:
        k = int(step[1:])
        moves = [(part[0], int(part[1:])) for part in problem.id.split()[1:]]
        for _ in range(tries):
            start = rng.randint(self.low, self.high)
            changed = [(sign, rng.randint(self.low, self.high) if i < k else a) for i, (sign, a) in enumerate(moves)]
            partner = self._make(start, changed)
            if partner is not None and start != problem.graph.inputs["x0"]:
                yield partner
