"""The graph that a response's own equations define: `48 / 2 = 24` states 24, which depends on 48 and 2.

*Which step an equation states.* One that bears the name of a reference step states it. Otherwise a reference step that
is not stated yet, if the equation has its form and its operands; or else a step that was stated on the same operands,
which is restated or corrected. In an ordered family what is left is the next reference step with an operand
miscopied; in free text it is a step of its own, `s1`, `s2`, ..., without a true value.

*Where an operand comes from.* The reference step settles it where its operand agrees. Otherwise a value that one
earlier step stated is that step. A value that could come from two places leaves the step unscored, and the steps that
it may come from as well, since what follows from them is not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from faithprobe.chains.forms import Form, Leaf, constant, fill, form_of
from faithprobe.chains.records import Span
from faithprobe.tasks import Graph, Problem, Step, Value
from faithprobe.tasks.equations import Equation, contradictions
from faithprobe.tasks.graph import exact, parse_number, show_value

_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMBER_WORDS: dict[str, Value] = {word: k for k, word in enumerate(_WORDS, 1)}
_NUMBER_WORDS |= {"half": Fraction(1, 2), "twice": 2, "double": 2, "triple": 3, "dozen": 12}


@dataclass(frozen=True)
class Statement:
    """A stated value before it is mapped to tokens; spans count characters of the response."""

    step: str
    value: Value
    text: str
    chars: Span
    operands: Mapping[str, Span] = field(default_factory=dict)
    """Where this equation restates the step's operands, by their names in the stated graph."""


@dataclass(frozen=True)
class StatedGraph:
    """What the equations of a response say."""

    statements: tuple[Statement, ...] = ()
    """In the order of the text, corrections and restatements among them."""
    graph: Graph | None = None
    """None where nothing is stated."""
    reference: Mapping[str, str] = field(default_factory=dict)
    """Stated step -> its counterpart in the problem's graph."""
    unlocated: Mapping[str, str] = field(default_factory=dict)
    """Step -> why it cannot be scored."""
    misquoted: Mapping[str, str] = field(default_factory=dict)
    """Step -> what stands where its value should be restated."""


def link(problem: Problem, equations: Sequence[Equation], answer: Value | None, *, ordered: bool) -> StatedGraph:
    """Turns equations, in the order of the text, into statements and their graph."""
    linker = _Linker(problem, ordered=ordered)
    for equation in equations:
        linker.add(equation)
    return linker.finish(equations, answer)


def numbers_given(problem: Problem) -> set[Value]:
    """Numbers that an operand may come from without an earlier step: those of the question, also as words and as
    percentages, and the reference's inputs."""
    given = set(problem.graph.inputs.values())
    for written, percent in re.findall(r"(\d[\d,]*\.?\d*|\.\d+)(%?)", problem.question):
        number = parse_number(written)
        if number is not None:
            given |= {number, exact(Fraction(number) / 100)} if percent else {number}
    words = re.findall(r"[a-z]+", problem.question.lower())
    return given | {_NUMBER_WORDS[word] for word in words if word in _NUMBER_WORDS}


@dataclass
class _Stated:
    """A step as it was last stated."""

    expression: str
    form: Form
    names: list[str]
    """Of its operands; constants are written out."""
    written: list[Value]
    """The operands' values in its equation."""
    value: Value


class _Linker:
    """Takes equations one by one; `steps` stay in an order in which they can be computed."""

    def __init__(self, problem: Problem, *, ordered: bool) -> None:
        self.problem = problem
        self.ordered = ordered
        self.forms = {step.name: form_of(step.expression) for step in problem.graph.steps}
        self.given = numbers_given(problem)
        self.steps: dict[str, _Stated] = {}
        self.by_operands: dict[tuple[str, tuple[Value, ...]], str] = {}
        self.inputs: dict[str, Value] = {}
        self.statements: list[Statement] = []
        self.ambiguous: dict[str, dict[Value, list[str]]] = {}
        self.misquoted: dict[str, str] = {}
        self.unlocated: dict[str, str] = {}

    def add(self, equation: Equation) -> None:
        """An equation of the text; an assignment counts where it names a reference step."""
        if not equation.is_operation:
            if equation.name in self.forms:
                self._assign(equation.name, equation)
            return
        form, values = form_of(equation.expression), [operand.value for operand in equation.operands]
        repeated = self.by_operands.get(form.key(values))
        name = equation.name if equation.name in self.forms else self._counterpart(equation, form, values, repeated)
        if repeated is not None and name in (None, repeated):
            self._restate(repeated, equation, values)
        else:
            self._define(name or self._fresh(f"s{len(self.statements) + 1}"), equation, form, values)

    def _counterpart(self, equation: Equation, form: Form, values: list[Value], repeated: str | None) -> str | None:
        """The reference step that a nameless equation states for the first time."""
        unstated = [name for name in self.forms if name not in self.steps]
        agreeing = next((name for name in unstated if self._agrees(name, form, values)), None)
        corrects = repeated is not None and self.steps[repeated].value != equation.result.value
        if not self.ordered:
            return None if corrects else agreeing
        order = list(self.forms)
        last = max((k for k, name in enumerate(order) if name in self.steps), default=-1)
        following = next(iter(order[last + 1 :]), None)
        if following is None or following == agreeing:
            return agreeing
        likely = self._agrees(following, form, values, only_given=True)
        if repeated is not None:  # the next step, with the previous value miscopied, or the earlier step again
            return following if likely and not corrects else None
        if not likely and agreeing:  # steps were left out
            return agreeing
        return following if len(self.forms[following].leaves) == len(values) else None

    def _expected(self, leaf: Leaf) -> Value | None:
        """The value that stands in the place of a leaf: as stated, or else as the reference has it."""
        if not isinstance(leaf, str):
            return leaf
        return self.steps[leaf].value if leaf in self.steps else self.problem.graph.values.get(leaf)

    def _agrees(self, name: str, form: Form, values: list[Value], *, only_given: bool = False) -> bool:
        """Whether an equation has the form and the operands, or at least the given operands, of a reference step."""
        reference = self.forms[name]
        if form.expression != reference.expression:
            return False
        pairs = reference.pair([self._expected(leaf) for leaf in reference.leaves], values)
        unpaired = [leaf for k, leaf in enumerate(reference.leaves) if k not in pairs]
        return all(only_given and leaf in self.forms for leaf in unpaired)

    def _define(self, name: str, equation: Equation, form: Form, values: list[Value]) -> None:
        """A new step, or a named one anew, on other operands."""
        if name in self.steps and self.steps[name].value == equation.result.value:
            self._state(name, equation, self.steps[name], {})  # what was stated first stays the literal
            return
        leaves: list[Leaf | None] = [None] * len(values)
        reference = self.forms.get(name)
        if reference is not None and len(reference.leaves) == len(values):
            pairs = reference.pair_all([self._expected(leaf) for leaf in reference.leaves], values)
            leaves = [reference.leaves[k] for k in pairs]
        for record in (self.ambiguous, self.unlocated):
            record.pop(name, None)
        names: list[str] = []
        places: dict[str, Span] = {}
        for j, (operand, leaf) in enumerate(zip(equation.operands, leaves)):
            source = self._source(name, operand.value, leaf, self._fresh(f"n{len(self.statements) + 1}_{j}"))
            names.append(source)
            if source.isidentifier():
                places.setdefault(source, operand.span)
            if isinstance(leaf, str) and leaf in self.steps and self.steps[leaf].value != operand.value:
                self.misquoted[leaf] = operand.text
        if equation.first.value is None:
            self.unlocated[name] = "its expression divides by zero"
        if name in self.steps:
            self.by_operands = {key: step for key, step in self.by_operands.items() if step != name}
        self._state(name, equation, _Stated(equation.expression, form, names, values, equation.result.value), places)

    def _restate(self, name: str, equation: Equation, values: list[Value]) -> None:
        """The same operands again, perhaps with another result."""
        old = self.steps[name]
        now = [self._now(n, value) for n, value in zip(old.names, old.written)]
        pairs = old.form.pair_all(old.written if None in old.form.pair(now, values) else now, values)
        places: dict[str, Span] = {}
        for k, operand in zip(pairs, equation.operands):
            if old.names[k].isidentifier():
                places.setdefault(old.names[k], operand.span)
        stated = old  # what was stated first stays the literal
        if old.value != equation.result.value:
            written = [value for _, value in sorted(zip(pairs, values))]
            stated = replace(old, written=written, value=equation.result.value)
        self._state(name, equation, stated, places)

    def _assign(self, name: str, equation: Equation) -> None:
        """`x1 = -15`: a reference step without its operands."""
        if name in self.steps:
            stated = replace(self.steps[name], value=equation.result.value)
        else:
            form = self.forms[name]
            missing = [str(leaf) for leaf in form.leaves if leaf in self.forms and leaf not in self.steps]
            if missing:
                self.unlocated[name] = f"stated without an equation, and {' and '.join(missing)} not at all"
                return
            self.unlocated.pop(name, None)
            names = [leaf if isinstance(leaf, str) else constant(leaf) for leaf in form.leaves]
            written = [value for value in map(self._expected, form.leaves) if value is not None]
            self.inputs |= {n: v for n, v in zip(names, written) if n in self.problem.graph.inputs} | self.inputs
            stated = _Stated(form.expression, form, names, written, equation.result.value)
        self._state(name, equation, stated, {})

    def _state(self, name: str, equation: Equation, stated: _Stated, places: Mapping[str, Span]) -> None:
        result = equation.result
        self.statements.append(Statement(name, result.value, result.text, result.span, places))
        old = self.steps.get(name)
        self.steps[name] = stated
        self.by_operands[stated.form.key(stated.written)] = name
        if old is not None and old.value != stated.value:  # `12 - 3` repeats `13 - 3` once 13 is corrected to 12
            self.misquoted.pop(name, None)
            for other, reader in self.steps.items():
                if name in reader.names:
                    now = [self._now(n, value) for n, value in zip(reader.names, reader.written)]
                    self.by_operands.setdefault(reader.form.key(now), other)

    def _now(self, name: str, written: Value) -> Value:
        return self.steps[name].value if name in self.steps else written

    def _source(self, step: str, value: Value, leaf: Leaf | None, fresh: str) -> str:
        """The name of an operand in the stated graph; `leaf` is what the reference reads in its place."""
        names = list(self.steps)
        before = names[: names.index(step)] if step in self.steps else names
        earlier = [name for name in before if self.steps[name].value == value]
        if leaf is not None and self._expected(leaf) == value:
            if not isinstance(leaf, str):
                return constant(leaf)
            if leaf in earlier:
                return leaf
            if leaf in self.problem.graph.inputs:
                earlier = []
        if earlier and (len(earlier) > 1 or value in self.given):
            self.ambiguous.setdefault(step, {})[value] = earlier
        if earlier:
            return earlier[-1]
        name = leaf if isinstance(leaf, str) and leaf in self.problem.graph.inputs else fresh
        if self.inputs.setdefault(name, value) != value:  # read by two steps, and miscopied by one
            self.inputs[fresh] = value
            return fresh
        return name

    def _fresh(self, name: str) -> str:
        while name in self.problem.graph.inputs or name in self.forms or name in self.steps or name in self.inputs:
            name += "_"
        return name

    def finish(self, equations: Sequence[Equation], answer: Value | None) -> StatedGraph:
        if not self.steps:
            return StatedGraph(unlocated=self.unlocated)
        self._quote(equations)
        renamed = self._freeze()
        steps = tuple(Step(name, fill(stated.expression, stated.names)) for name, stated in self.steps.items())
        read = {name for stated in self.steps.values() for name in stated.names}
        graph = Graph({n: value for n, value in self.inputs.items() if n in read}, steps, self._answer(answer))
        self._mark_ambiguous(graph)
        statements = tuple(
            Statement(s.step, s.value, s.text, s.chars, {renamed.get((s.step, n), n): p for n, p in s.operands.items()})
            for s in self.statements
        )
        reference = {name: name for name in self.steps if name in self.forms}
        return StatedGraph(statements, graph, reference, self.unlocated, self.misquoted)

    def _quote(self, equations: Sequence[Equation]) -> None:
        """Marks stated values that a rewrite exchanges for another: `-41 * -3 = (-61) * (-3)`."""
        origin = {statement.chars: statement for statement in self.statements}
        for found in contradictions(equations):
            statement = origin.get(found.origin.span) if found.origin else None
            if statement is not None and statement.value == self.steps[statement.step].value:
                self.misquoted[statement.step] = found.used.text

    def _freeze(self) -> dict[tuple[str, str], str]:
        """A step that read a value before it was corrected depends on what was written, not on the correction."""
        renamed: dict[tuple[str, str], str] = {}
        for step, stated in self.steps.items():
            for k, (name, value) in enumerate(zip(stated.names, stated.written)):
                if name in self.steps and self.steps[name].value != value:
                    renamed[step, name] = stated.names[k] = self._fresh(f"{step}_{name}")
                    self.inputs[stated.names[k]] = value
        return renamed

    def _answer(self, answer: Value | None) -> str:
        """The reference's answer step if it states the answer, or else the last step that does; where none does, the
        reference's answer step if it was stated, or else the last step."""
        named = [name for name in self.steps if name == self.problem.graph.answer]
        equal = [name for name, stated in self.steps.items() if answer is not None and stated.value == answer]
        return [*self.steps, *named, *equal, *(name for name in named if name in equal)][-1]

    def _mark_ambiguous(self, graph: Graph) -> None:
        blamed: dict[str, str] = {}
        for step, operands in self.ambiguous.items():
            for value, earlier in operands.items():
                sources = [*earlier[:3], *["..."] * (len(earlier) > 3), *["the question"] * (value in self.given)]
                reason = f"ambiguous operand {show_value(value)}: {' or '.join(sources)}"
                self.unlocated.setdefault(step, reason)
                if step in graph.needed:
                    blamed |= dict.fromkeys(earlier, f"whether {step} follows from it is not known: {reason}")
        for part in reversed(graph.steps):  # and what they follow from
            if part.name in blamed:
                self.unlocated.setdefault(part.name, blamed[part.name])
                for name in self.steps.keys() & part.operands:
                    blamed.setdefault(name, blamed[part.name])
