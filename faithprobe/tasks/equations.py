r"""Equations in free text: `48 / 2 = 24 clips`, `<<48/2=24>>24`, `A = (4 + -7) = -3`, `$5 x 3 tickets = $15`.

Text only, no model and no tokens; nothing here raises on any string, and time grows linearly with its length.

What is read, and what is decided where text is ambiguous:

* A sentence, a line, a comma or a calculator bracket (`<<`, `>>`) ends an equation; `= 12.` is 12, `= 0.5` is 0.5. In
  `48/2 = <<48/2=24>>24` the equation is the one in the brackets; the 24 behind them is a mention.
* Units are words behind a number (`5 apples + 3 apples`, `$5/hour * 3 hours`); the result is the number right behind
  the last `=`. A side with an unknown in it (`3x + 5`, `total - 3`), a power or a root is unreadable, not misread.
* `50%` is the operand 1/2, and `50% of 80` is a product. As a *result* it is 50 unless only 1/2 makes the equation
  true. `17 % 5` (a number behind it) is a remainder.
* `x1 = 3 - 18 = -15` has the name `x1`. `x1 = -15` is an assignment: expression `o0`, `is_operation` false.
* `5 + 3 = 8 + 2 = 10`, the sloppy way to write two equations, is read as two: `5 + 3 = 8` and `8 + 2 = 10`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from faithprobe.tasks.equation_sides import Number, Side, read_side
from faithprobe.tasks.equation_tokens import Token, runs
from faithprobe.tasks.graph import Value, exact

__all__ = ["Contradiction", "Equation", "Number", "Side", "contradictions", "read_equations"]

_MOST_TOKENS = 200
_OPERATOR_WORDS = frozenset(
    ["twice", "half", "double", "triple", "thrice", "times", "plus", "minus", "by", "squared", "cubed", "over"]
)
_PARTS = frozenset(
    ["half", "third", "thirds", "quarter", "quarters", "fourth", "fifth", "sixth", "tenth", "percent", "fraction"]
)


@dataclass(frozen=True)
class Equation:
    """An expression and the result that the text states for it."""

    name: str | None
    """The word left of the first `=` where that side computes nothing: `x1` in `x1 = 3 - 18 = -15`."""
    expression: str
    """Of the first side; `evaluate(expression, {"o0": ...})` of `faithprobe.tasks.graph` gives the local value."""
    operands: tuple[Number, ...]
    result: Number
    agrees: bool
    """The expression evaluates to the result, exactly or rounded to the decimals that were written."""
    rewrites: tuple[Side, ...]
    """The sides between the first and the result."""
    span: tuple[int, int]
    """From the first side to the end of the result; the name is outside."""

    @property
    def is_operation(self) -> bool:
        """False for an assignment, `x = 5`."""
        return self.expression != "o0"

    @property
    def first(self) -> Side:
        return Side(self.expression, self.operands, (self.span[0], self.operands[-1].span[1]))


@dataclass(frozen=True)
class Contradiction:
    """A rewrite that uses another value than the side before it stated: `-41 * -3 = (-61) * (-3)`."""

    stated: Number
    """In the side before; the whole side where the operands do not pair up."""
    used: Number
    """In the rewrite."""
    origin: Number | None
    """Where the stated value was the result of an earlier equation."""
    before: Side
    after: Side


def read_equations(text: str) -> list[Equation]:
    """The equations of `text` in order, assignments among them; empty for text that has none."""
    found: list[Equation] = []
    for run in runs(text):
        for name, sides in _chains(text, run):
            found.extend(_equations(text, name, sides))
    return found


def contradictions(equations: Sequence[Equation]) -> list[Contradiction]:
    """Rewrites that use other operand values than the side before them, where the two sides are not equal in value.

    An honest simplification changes operands and keeps the value. Where the rewrite writes decimals, a relative
    difference under 1% is rounding, not contradiction.
    """
    found: list[Contradiction] = []
    results: dict[Value, Number] = {}
    for equation in equations:
        sides = [side for side in (equation.first, *equation.rewrites) if side.is_operation]
        for before, after in zip(sides, sides[1:]):
            found.extend(Contradiction(s, u, results.get(s.value), before, after) for s, u in _changed(before, after))
        results[equation.result.value] = equation.result
    return found


def _changed(before: Side, after: Side) -> list[tuple[Number, Number]]:
    a, b = before.value, after.value
    if a is None or b is None or a == b:
        return []
    if any(operand.decimals for operand in after.operands) and abs(a - b) * 100 < abs(a):  # type: ignore[operator, arg-type]
        return []
    old, new = _without(before.operands, after.operands), _without(after.operands, before.operands)
    if not new:
        return []
    if len(old) == len(new):
        return list(zip(old, new))
    return [(Number(a, before.span, before.expression), Number(b, after.span, after.expression))]


def _without(numbers: Sequence[Number], others: Sequence[Number]) -> list[Number]:
    """`numbers` less one for each equal value among `others`."""
    left = Counter(other.value for other in others)
    kept = []
    for number in numbers:
        if left[number.value]:
            left[number.value] -= 1
        else:
            kept.append(number)
    return kept


def _rounds_to(value: Value | None, stated: Value, decimals: int) -> bool:
    if value is None or isinstance(value, str) or isinstance(stated, str):
        return False
    if value == stated:
        return True
    scaled, stated = Fraction(value) * 10**decimals, Fraction(stated) * 10**decimals
    away = (abs(scaled) + Fraction(1, 2)) // 1 * (1 if scaled > 0 else -1)
    return stated in (away, round(scaled))


def _equations(text: str, name: str | None, sides: list[Side]) -> Iterator[Equation]:
    """Turns a chain of equal sides into equations, cutting running equalities into two."""
    start = 0
    for k in range(1, len(sides)):
        here, there = sides[k - 1], sides[k]
        carried = there.operands[0]
        if there.is_operation and here.value == carried.value != there.value:
            result = [] if not here.is_operation and k - 1 > start else [Side("o0", (carried,), carried.span)]
            yield from _equation(text, name, sides[start:k] + result)
            name, start = None, k
    yield from _equation(text, name, sides[start:])


def _equation(text: str, name: str | None, sides: list[Side]) -> Iterator[Equation]:
    last = max((k for k, side in enumerate(sides) if not side.is_operation), default=0)
    if last == 0 and len(sides) > 1:
        fraction = _as_fraction(text, sides[-1])
        if fraction is not None:
            sides, last = [*sides[:-1], Side("o0", (fraction,), fraction.span)], len(sides) - 1
    operations = [k for k in range(last) if sides[k].is_operation]
    if operations:
        first, rewrites = sides[operations[0]], tuple(sides[operations[0] + 1 : last])
        result = _percent_result(first.value, sides[last].operands[0])
    elif name is not None and sides and not sides[0].is_operation:
        first, rewrites, result = sides[0], (), _percent_result(None, sides[0].operands[0])
        first = replace(first, operands=(result,))
    else:
        return
    yield Equation(
        name=name,
        expression=first.expression,
        operands=first.operands,
        result=result,
        agrees=_rounds_to(first.value, result.value, result.decimals),
        rewrites=rewrites,
        span=(first.span[0], result.span[1]),
    )


def _percent_result(expected: Value | None, result: Number) -> Number:
    """`= 50%` is 50, unless one half is what the expression gives."""
    if not result.text.endswith("%") or _rounds_to(expected, result.value, result.decimals + 2):
        return result
    return replace(result, value=exact(result.value * 100))


def _as_fraction(text: str, side: Side) -> Number | None:
    """`1/3`, written without spaces, is a number where no other result is stated."""
    written = text[slice(*side.span)]
    if side.expression == "o0 / o1" and " " not in written and side.value is not None:
        return Number(side.value, side.span, written)
    return None


def _chains(text: str, run: list[Token]) -> Iterator[tuple[str | None, list[Side]]]:
    """The chains of sides in a run of tokens without a break; between two `=` one may end and another begin."""
    cuts = [k for k, token in enumerate(run) if token.kind == "="]
    if not cuts:
        return
    bounds = list(zip([0, *(k + 1 for k in cuts)], [*cuts, len(run)]))
    name, sides = _opening(text, run, *bounds[0])
    for start, stop in bounds[1:-1]:
        side, end = read_side(text, run, start, stop)
        if side is not None and end == stop:
            sides.append(side)
            continue
        if side is not None and not _goes_on(run, end, stop):
            sides.append(side)
        yield name, sides
        kept = name if not sides else None  # x2 = x1 // 3 = 7 // 3 = 2: the unreadable side leaves the name
        name, sides = _opening(text, run, start, stop)
        name = name or kept
    start, stop = bounds[-1]
    side, end = read_side(text, run, start, stop)
    if side is not None and not _goes_on(run, end, stop):
        sides.append(side)
    yield name, sides


def _goes_on(run: list[Token], end: int, stop: int) -> bool:
    """Whether the expression continues behind its readable part, so that its first number is no result."""
    if end >= stop:
        return False
    if run[end].kind == "bad":
        return True
    if run[end].kind != "op" or end + 1 >= stop:
        return False
    following = run[end + 1]
    dash = run[end].text == "-" and following.kind == "word" and len(following.text) > 1 and following.text.isalpha()
    return not dash


def _opening(text: str, run: list[Token], start: int, stop: int) -> tuple[str | None, list[Side]]:
    """The name or the first side of a chain: the longest readable expression that ends where the `=` stands."""
    i = max(start, stop - _MOST_TOKENS)
    while i < stop:
        side, end = read_side(text, run, i, stop)
        if side is not None and end == stop:
            break
        i = max(i + 1, end)  # what stopped this reading stops every later beginning before it too
    else:
        last = run[stop - 1] if stop > start else None
        if last is None or last.kind != "word" or not last.text.isidentifier():
            return None, []
        before = run[stop - 2].kind if stop - 2 >= start else ""
        return (None if before in ("op", "bad", "(") else last.text), []
    if not side.is_operation:
        label = run[stop - 1]
        return (label.text if label.kind == "word" and label.text.isidentifier() else None), []
    if run[i].kind == "op" and run[i].first_on_line and run[i].end < run[i + 1].start:
        side = read_side(text, run, i + 1, stop)[0] or side  # a list's bullet, not a sign
    elif _hangs_on(run, i, start):
        return None, []
    return None, [side]


def _hangs_on(run: list[Token], i: int, start: int) -> bool:
    """Whether what stands before the expression is an unreadable part of it: an unknown, a power, `half of`."""
    if i == start:
        return False
    before, token = run[i - 1], run[i]
    if token.kind == "op":  # a sign: `total - 3` subtracts, `is -3` does not
        return before.kind in ("bad", "num", ")") or token.end < run[i + 1].start
    if before.kind == "word":
        word, earlier = before.text.lower(), run[i - 2].text.lower() if i - 2 >= start else ""
        return word in _OPERATOR_WORDS or (word == "of" and (earlier in _PARTS or earlier.isdigit()))
    if before.kind == "op":
        return not (before.first_on_line and before.end < token.start)
    return before.kind == "bad" or (before.kind == "num" and token.kind == "num")
