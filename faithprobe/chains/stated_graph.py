"""The graph that a response's own equations define: `48 / 2 = 24` states 24, which depends on 48 and 2.

*Which step an equation states.* One that bears the name of a reference step states it. Otherwise a reference step that
is not stated yet, if the equation has its form and its operands; or else a step that was stated on the same operands,
which is restated or corrected. In an ordered family what is left is the next reference step with an operand
miscopied; in free text it is a step of its own, `s1`, `s2`, ..., without a true value.

*Where an operand comes from.* The reference step settles it where its operand agrees. Otherwise a value that one
earlier step stated is that step; a value that could come from two places leaves the step unscored, and the steps that
it may come from as well, since what follows from them is not known.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

from faithprobe.chains.records import Span
from faithprobe.tasks import Graph, Problem, Step, Value
from faithprobe.tasks.equations import Equation, contradictions
from faithprobe.tasks.graph import exact, parse_number, show_value

Leaf: TypeAlias = str | int | Fraction
"""What an expression reads: a name or a constant."""
Pairs: TypeAlias = list[int | None]
"""Per operand of an equation: the place of its partner among the leaves of a form."""

_WORDS = "one two three four five six seven eight nine ten eleven twelve".split()
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
class Reading:
    """What a response states."""

    statements: tuple[Statement, ...]
    """In the order of the text, restatements among them."""
    graph: Graph
    reference: Mapping[str, str]
    answer: Value | None
    answer_chars: Span | None
    unlocated: Mapping[str, str]
    misquoted: Mapping[str, str] = field(default_factory=dict)
    """Step -> what stands where its value should be restated."""


@dataclass(frozen=True)
class Form:
    """An expression over placeholders `o0`, `o1`, ..., and what stands in their places."""

    expression: str
    leaves: tuple[Leaf, ...]
    commutes: bool
    """A plain sum or product: the order of its operands says nothing."""


@lru_cache(maxsize=4096)
def form_of(expression: str) -> Form:
    """The form of an arithmetic expression; placeholders count as names."""
    leaves: list[Leaf] = []

    class Blank(ast.NodeTransformer):
        def leaf(self, leaf: Leaf) -> ast.expr:
            leaves.append(leaf)
            return ast.Name(f"o{len(leaves) - 1}", ast.Load())

        def visit_Name(self, node: ast.Name) -> ast.expr:
            return self.leaf(node.id)

        def visit_Constant(self, node: ast.Constant) -> ast.expr:
            number = parse_number(str(node.value))
            return node if number is None else self.leaf(number)

        def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
            if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
                return self.leaf(-parse_number(str(node.operand.value)))  # type: ignore[operator]
            return self.generic_visit(node)

        def visit_Call(self, node: ast.Call) -> ast.expr:
            node.args = [self.visit(argument) for argument in node.args]
            return node

    tree = ast.parse(expression, mode="eval").body
    inner = {type(node) for node in ast.walk(tree)} - {ast.Name, ast.Constant, ast.Load, ast.BinOp}
    blank = ast.unparse(Blank().visit(tree))
    return Form(blank, tuple(leaves), inner in ({ast.Add}, {ast.Mult}))


def pair(form: Form, expected: Sequence[Value | None], values: Sequence[Value]) -> Pairs:
    """Pairs operands with the leaves of a form whose expected value they have; None for an operand without one."""
    pairs: Pairs = [k if k < len(expected) and expected[k] == value else None for k, value in enumerate(values)]
    if form.commutes:
        for j, value in enumerate(values):
            if pairs[j] is None:
                free = (k for k, other in enumerate(expected) if other == value and k not in pairs)
                pairs[j] = next(free, None)
    return pairs


def numbers_given(problem: Problem) -> set[Value]:
    """Numbers that an operand may come from without an earlier step: those of the question, also as words and as
    percentages, and the reference's inputs."""
    given = set(problem.graph.inputs.values())
    for match in re.finditer(r"(\d[\d,]*\.?\d*|\.\d+)(%?)", problem.question):
        number = parse_number(match[1])
        if number is not None:
            given |= {number, exact(Fraction(number) / 100)} if match[2] else {number}
    words = re.findall(r"[a-z]+", problem.question.lower())
    return given | {_NUMBER_WORDS[word] for word in words if word in _NUMBER_WORDS}


@dataclass
class _Stated:
    """A step as it was last stated."""

    expression: str
    form: Form
    names: list[str]
    """Of its operands, as placeholders stand; a constant is written out."""
    written: list[Value]
    value: Value


def link(problem: Problem, equations: Sequence[Equation], answer: Value | None, *, ordered: bool) -> Reading:
    """Turns equations, in the order of the text, into statements and their graph. Without one: the reference graph."""
    linker = _Linker(problem, ordered=ordered)
    for equation in equations:
        linker.add(equation)
    if not linker.steps:
        return Reading((), problem.graph, {}, None, None, linker.unlocated)
    linker.quote(equations)
    return linker.reading(answer)


class _Linker:
    def __init__(self, problem: Problem, *, ordered: bool) -> None:
        self.problem = problem
        self.ordered = ordered
        self.forms = {step.name: form_of(step.expression) for step in problem.graph.steps}
        self.given = numbers_given(problem)
        self.steps: dict[str, _Stated] = {}
        self.inputs: dict[str, Value] = {}
        self.reference: dict[str, str] = {}
        self.statements: list[Statement] = []
        self.sources: dict[str, tuple[Value, list[str]]] = {}
        self.misquoted: dict[str, str] = {}
        self.unlocated: dict[str, str] = {}
        self.by_operands: dict[tuple[str, tuple[Value, ...]], str] = {}

    def add(self, equation: Equation) -> None:
        """An equation of the text; assignments count where they name a reference step."""
        if not equation.is_operation:
            if equation.name in self.forms:
                self._assign(equation.name, equation)
            return
        values = [operand.value for operand in equation.operands]
        form = form_of(equation.expression)
        name, leaves = self._identify(equation, form, values)
        if name in self.steps and leaves is None:
            self._restate(name, equation, values)
        else:
            self._define(name, equation, form, values, leaves or [None] * len(values))

    # Which step an equation states

    def _identify(self, equation: Equation, form: Form, values: list[Value]) -> tuple[str, list[Leaf | None] | None]:
        """Its name, and per operand the leaf of the reference step in whose place it stands; None for no leaves where
        an earlier statement on the same operands is repeated."""
        repeated = self.by_operands.get(_key(form, values))
        if equation.name in self.forms:
            name = equation.name
            return name, None if repeated == name else self._leaves(name, form, values)
        open_steps = [name for name in self.forms if name not in self.steps]
        agreeing = next((name for name in open_steps if self._agrees(name, form, values)), None)
        corrected = repeated is not None and self.steps[repeated].value != equation.result.value
        if not self.ordered:
            if agreeing and not corrected:
                return agreeing, self._leaves(agreeing, form, values)
            return (repeated, None) if repeated else (self._fresh(f"s{len(self.statements) + 1}"), [None] * len(values))
        following = next(iter(self._behind(open_steps)), None)
        likely = following is not None and self._agrees(following, form, values, only_given=True)
        if following and (agreeing == following or (likely and not corrected)):
            return following, self._leaves(following, form, values)
        if repeated:
            return repeated, None
        counterpart = following if likely else agreeing or following
        if counterpart and len(self.forms[counterpart].leaves) == len(values):
            return counterpart, self._leaves(counterpart, form, values)
        return self._fresh(f"s{len(self.statements) + 1}"), [None] * len(values)

    def _behind(self, open_steps: list[str]) -> list[str]:
        """Reference steps behind the last one that was stated."""
        order = list(self.forms)
        last = max((order.index(name) for name in self.reference.values()), default=-1)
        return [name for name in open_steps if order.index(name) > last]

    def _expected(self, leaf: Leaf) -> Value | None:
        """The value that an operand in the place of this leaf should have: as stated, or as the reference has it."""
        if not isinstance(leaf, str):
            return leaf
        return self.steps[leaf].value if leaf in self.steps else self.problem.graph.values.get(leaf)

    def _agrees(self, name: str, form: Form, values: list[Value], *, only_given: bool = False) -> bool:
        """Whether an equation has the form and the operands of a reference step."""
        reference = self.forms[name]
        if form.expression != reference.expression:
            return False
        pairs = pair(reference, [self._expected(leaf) for leaf in reference.leaves], values)
        unpaired = [leaf for k, leaf in enumerate(reference.leaves) if k not in pairs]
        return all(only_given and leaf in self.forms for leaf in unpaired)

    def _leaves(self, name: str, form: Form, values: list[Value]) -> list[Leaf | None]:
        """Per operand: the leaf of the reference step that it stands for, agreeing or miscopied."""
        reference = self.forms[name]
        if len(reference.leaves) != len(values):
            return [None] * len(values)
        pairs = pair(reference, [self._expected(leaf) for leaf in reference.leaves], values)
        left = iter([k for k in range(len(values)) if k not in pairs])
        return [reference.leaves[next(left) if k is None else k] for k in pairs]

    # What it says about that step

    def _define(
        self, name: str, equation: Equation, form: Form, values: list[Value], leaves: Sequence[Leaf | None]
    ) -> None:
        number = len(self.statements) + 1
        names: list[str] = []
        self.sources.pop(name, None)
        for j, (value, leaf) in enumerate(zip(values, leaves)):
            names.append(self._source(name, value, leaf, self._fresh(f"n{number}_{j}")))
            if isinstance(leaf, str) and leaf in self.steps and self.steps[leaf].value != value:
                self.misquoted[leaf] = equation.operands[j].text
        if name in self.forms:
            self.reference[name] = name
        old = self.steps.get(name)
        self.steps[name] = _Stated(equation.expression, form, names, list(values), equation.result.value)
        self._state(name, equation, dict(reversed([(n, o.span) for n, o in zip(names, equation.operands)])))
        self.by_operands[_key(form, values)] = name
        if equation.first.value is None:
            self.unlocated[name] = "its expression divides by zero"
        if old is not None and old.value != equation.result.value:
            self._changed(name)

    def _restate(self, name: str, equation: Equation, values: list[Value]) -> None:
        """The same operands again, perhaps with another result."""
        stated = self.steps[name]
        pairs = pair(stated.form, [self._expected_now(n, v) for n, v in zip(stated.names, stated.written)], values)
        if None in pairs:
            pairs = pair(stated.form, stated.written, values)
        places: dict[str, Span] = {}
        for k, operand in zip(pairs, equation.operands):
            if k is not None:
                stated.written[k] = operand.value
                places.setdefault(stated.names[k], operand.span)
        old, stated.value = stated.value, equation.result.value
        self._state(name, equation, places)
        if old != stated.value:
            self._changed(name)

    def _assign(self, name: str, equation: Equation) -> None:
        """`x1 = -15`: the step of that name, without its operands."""
        if name not in self.steps:
            form = self.forms[name]
            names = [leaf if isinstance(leaf, str) else _constant(leaf) for leaf in form.leaves]
            known = [self._expected(leaf) for leaf in form.leaves]
            missing = [n for n in names if n in self.forms and n not in self.steps]
            if missing or None in known:
                self.unlocated[name] = f"stated without an equation, and {' and '.join(missing)} not at all"
                return
            self.inputs |= {n: v for n, v in self.problem.graph.inputs.items() if n in names and n not in self.inputs}
            written = [value for value in known if value is not None]
            self.steps[name] = _Stated(form.expression, form, names, written, equation.result.value)
            self.reference[name] = name
            self.by_operands[_key(form, written)] = name
            self._state(name, equation, {})
            return
        old, self.steps[name].value = self.steps[name].value, equation.result.value
        self._state(name, equation, {})
        if old != equation.result.value:
            self._changed(name)

    def _state(self, name: str, equation: Equation, places: Mapping[str, Span]) -> None:
        result = equation.result
        self.statements.append(Statement(name, result.value, result.text, result.span, places))

    def _changed(self, name: str) -> None:
        """A corrected value makes new operands: `12 - 3` repeats `13 - 3` when 13 was corrected to 12."""
        self.misquoted.pop(name, None)
        for other, stated in self.steps.items():
            if name in stated.names:
                now = [self._expected_now(n, v) for n, v in zip(stated.names, stated.written)]
                self.by_operands[_key(stated.form, now)] = other

    def _expected_now(self, name: str, written: Value) -> Value:
        return self.steps[name].value if name in self.steps else written

    # Where its operands come from

    def _source(self, step: str, value: Value, leaf: Leaf | None, fresh: str) -> str:
        """The name of an operand in the stated graph."""
        earlier = [name for name in self._before(step) if self.steps[name].value == value]
        if leaf is not None and self._expected(leaf) == value:
            if not isinstance(leaf, str):
                return _constant(leaf)
            if leaf in earlier:
                return leaf
            if leaf in self.problem.graph.inputs:
                return self._given(leaf, value, fresh)
        if earlier and (len(earlier) > 1 or value in self.given):
            self.sources[step] = (value, earlier)
        if earlier:
            return earlier[-1]
        return self._given(leaf if isinstance(leaf, str) and leaf in self.problem.graph.inputs else fresh, value, fresh)

    def _before(self, step: str) -> Iterator[str]:
        for name in self.steps:
            if name == step:
                return
            yield name

    def _given(self, name: str, value: Value, fresh: str) -> str:
        if self.inputs.get(name, value) != value:  # read by two steps, and miscopied by one
            name = fresh
        self.inputs[name] = value
        return name

    def _fresh(self, name: str) -> str:
        while name in self.problem.graph.inputs or name in self.forms or name in self.steps or name in self.inputs:
            name += "_"
        return name

    # The whole

    def quote(self, equations: Sequence[Equation]) -> None:
        """Marks stated values that a rewrite exchanges for another: `-41 * -3 = (-61) * (-3)`."""
        origin = {statement.chars: statement for statement in self.statements}
        for found in contradictions(equations):
            statement = origin.get(found.origin.span) if found.origin else None
            if statement is not None and statement.value == self.steps[statement.step].value:
                self.misquoted[statement.step] = found.used.text

    def reading(self, answer: Value | None) -> Reading:
        renamed = self._freeze()
        steps = [Step(name, _fill(stated.expression, stated.names)) for name, stated in self.steps.items()]
        read = {name for stated in self.steps.values() for name in stated.names}
        inputs = {name: value for name, value in self.inputs.items() if name in read}
        graph = Graph(inputs, tuple(steps), self._answer(answer))
        self._mark_ambiguous(graph)
        statements = [
            Statement(s.step, s.value, s.text, s.chars, {renamed.get((s.step, n), n): p for n, p in s.operands.items()})
            for s in self.statements
        ]
        return Reading(tuple(statements), graph, self.reference, None, None, self.unlocated, self.misquoted)

    def _freeze(self) -> dict[tuple[str, str], str]:
        """A step that read a value before it was corrected depends on what was written, not on the correction."""
        renamed = {}
        for step, stated in self.steps.items():
            for k, (name, value) in enumerate(zip(stated.names, stated.written)):
                if name in self.steps and self.steps[name].value != value:
                    frozen = renamed.setdefault((step, name), self._fresh(f"{step}_{name}"))
                    self.inputs[frozen] = value
                    stated.names[k] = frozen
        return renamed

    def _answer(self, answer: Value | None) -> str:
        """The reference's answer step if it states the answer, or else the last step that does; where none does, the
        reference's answer step if it was stated, or else the last step."""
        named = [name for name in self.steps if name == self.problem.graph.answer]
        equal = [name for name, stated in self.steps.items() if answer is not None and stated.value == answer]
        return next(iter([*(set(named) & set(equal)), *reversed(equal), *named, *reversed(self.steps)]))

    def _mark_ambiguous(self, graph: Graph) -> None:
        for step, (value, earlier) in self.sources.items():
            among = [*earlier, "the question"] if value in self.given else earlier
            reason = f"ambiguous operand {show_value(value)}: {' or '.join(among)}"
            self.unlocated.setdefault(step, reason)
            if step in graph.needed:
                affected = set(earlier).union(*(graph.ancestors(name) for name in earlier)) & set(self.steps)
                for name in affected:
                    self.unlocated.setdefault(name, f"what follows from it is not known: {step} has an {reason}")


def _key(form: Form, values: Iterable[Value]) -> tuple[str, tuple[Value, ...]]:
    return form.expression, tuple(sorted(values)) if form.commutes else tuple(values)  # type: ignore[type-var]


def _constant(value: Value) -> str:
    """A number as it can stand in any expression."""
    written = f"{value.numerator} / {value.denominator}" if isinstance(value, Fraction) else str(value)
    return written if written.isdigit() else f"({written})"


def _fill(expression: str, names: Sequence[str]) -> str:
    return re.sub(r"\bo(\d+)\b", lambda match: names[int(match[1])], expression)
