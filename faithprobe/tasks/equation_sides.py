"""One side of an equation: the longest readable expression at a place in the text, as Python over placeholders.

Reads left to right with a counter instead of recursion, and within fixed bounds, so that no text is too deep or long.
"""

from __future__ import annotations

from dataclasses import dataclass

from faithprobe.errors import TaskError
from faithprobe.tasks.equation_tokens import Token
from faithprobe.tasks.graph import Value, evaluate

_MOST_OPERANDS = 64
_MOST_DEPTH = 24
_MOST_UNIT_WORDS = 6


@dataclass(frozen=True)
class Number:
    """A number as it stands in the text."""

    value: Value
    """Exact: an int or a Fraction; `50%` as an operand is 1/2."""
    span: tuple[int, int]
    """Half-open, in characters: sign and percent included, a leading currency sign not."""
    text: str

    @property
    def decimals(self) -> int:
        """How many digits were written behind the decimal point."""
        return len(self.text.rstrip("%\\").partition(".")[2])


@dataclass(frozen=True)
class Side:
    """One side of an equation."""

    expression: str
    """Python over placeholders in the order of the text: `(o0 + o1) * o2`; a number alone is `o0`."""
    operands: tuple[Number, ...]
    span: tuple[int, int]

    @property
    def is_operation(self) -> bool:
        """Whether anything is computed here."""
        return self.expression != "o0"

    @property
    def value(self) -> Value | None:
        """What the side evaluates to; None where it divides by zero."""
        try:
            return evaluate(self.expression, {f"o{k}": operand.value for k, operand in enumerate(self.operands)})
        except TaskError:
            return None


def _begins_operand(run: list[Token], k: int, stop: int) -> bool:
    if k < stop and run[k].kind == "op" and run[k].text in "+-":
        k += 1
    return k < stop and run[k].kind in ("num", "(")


def read_side(text: str, run: list[Token], start: int, stop: int) -> tuple[Side | None, int]:
    """The longest expression that begins at token `start`, and the index of the token that ended it."""
    parts: list[str] = []
    operands: list[Number] = []
    depth, need, k, end = 0, True, start, start
    best: tuple[int, int, int, int] | None = None
    while k < stop and depth < _MOST_DEPTH and len(operands) < _MOST_OPERANDS:
        token = run[k]
        if need:
            signed = token.kind == "op" and token.text in "+-" and _begins_operand(run, k + 1, stop)
            if token.kind == "num" or (signed and run[k + 1].kind == "num"):
                last = run[k + 1] if signed else token
                value = -last.value if signed and token.text == "-" else last.value  # type: ignore[operator]
                begin = token.start if signed and token.text == "-" else last.start
                parts.append(f"o{len(operands)}")
                operands.append(Number(value, (begin, last.end), text[begin : last.end]))
                need, k = False, k + 1 + signed
                if depth and len(parts) > 1 and parts[-2] == "(" and k < stop and run[k].kind == ")":
                    del parts[-2]  # (-36) is a number in brackets
                    depth, k = depth - 1, k + 1
            elif token.kind == "(" or (signed and run[k + 1].kind == "("):
                parts += ["-", "("] if token.text == "-" else ["("]
                depth, k = depth + 1, k + 1 + signed
            else:
                break
        elif token.kind == "op" and _begins_operand(run, k + 1, stop):
            parts.append(f" {token.text} ")
            need, k = True, k + 1
        elif token.kind == ")" and depth:
            parts.append(")")
            depth, k = depth - 1, k + 1
        elif token.kind == "(" and run[k - 1].end == token.start and _begins_operand(run, k + 1, stop):
            parts.append(" * ")  # (-63)(-63)
            need = True
        else:
            units = _units_end(run, k, stop)
            goes_on = units == stop or (run[units].kind == ")" and depth) or _begins_after_operator(run, units, stop)
            if units == k or not goes_on:
                break
            k = units
            if best and depth == 0:
                best = (*best[:3], k)
            continue
        end = k
        if depth == 0 and not need:
            best = (len(parts), len(operands), run[k - 1].end, end)
    if best is None:
        return None, k if k < stop else start + 1  # an open bracket hides nothing behind it
    n_parts, n_operands, end_char, index = best
    expression = "".join(parts[:n_parts])
    kept = tuple(operands[:n_operands])
    return Side(expression, kept, (run[start].start, end_char)), index


def _begins_after_operator(run: list[Token], k: int, stop: int) -> bool:
    return k < stop and run[k].kind == "op" and _begins_operand(run, k + 1, stop)


def _units_end(run: list[Token], k: int, stop: int) -> int:
    """Behind the unit words at k: `apples`, `dollars per hour`, `/hour`; a word with a digit is a name, not a unit."""
    begin = k
    while k < stop and k - begin < _MOST_UNIT_WORDS:
        if run[k].kind == "op" and run[k].text == "/" and k + 1 < stop and run[k + 1].kind == "word":
            k += 2
        elif run[k].kind == "word" and not any(c.isdigit() or c == "_" for c in run[k].text):
            k += 1
        else:
            break
    return k
