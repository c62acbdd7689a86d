"""The form of an expression: the same computation whatever its operands are called."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

from faithprobe.tasks import Value
from faithprobe.tasks.graph import parse_number

Leaf: TypeAlias = str | int | Fraction
"""What an expression reads: a name or a constant."""


@dataclass(frozen=True)
class Form:
    """An expression over placeholders `o0`, `o1`, ..., and what stands in their places."""

    expression: str
    leaves: tuple[Leaf, ...]
    commutes: bool
    """A plain sum or product: the order of its operands says nothing."""

    def key(self, values: Sequence[Value]) -> tuple[str, tuple[Value, ...]]:
        """Equal for the same computation on the same operand values."""
        return self.expression, tuple(sorted(values) if self.commutes else values)

    def pair(self, expected: Sequence[Value | None], values: Sequence[Value]) -> list[int | None]:
        """For each operand value the leaf that expects it, in its own place or, if the form commutes, in any."""
        pairs: list[int | None] = [k if expected[k] == value else None for k, value in enumerate(values)]
        if self.commutes:
            for j, value in enumerate(values):
                if pairs[j] is None:
                    free = (k for k, other in enumerate(expected) if other == value and k not in pairs)
                    pairs[j] = next(free, None)
        return pairs

    def pair_all(self, expected: Sequence[Value | None], values: Sequence[Value]) -> list[int]:
        """As `pair`; operands that no leaf expects take the places that are left."""
        pairs = self.pair(expected, values)
        left = iter([k for k in range(len(values)) if k not in pairs])
        return [next(left) if k is None else k for k in pairs]


class _Blank(ast.NodeTransformer):
    """Puts placeholders where names and numbers stand."""

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []

    def _leaf(self, leaf: Leaf) -> ast.expr:
        self.leaves.append(leaf)
        return ast.Name(f"o{len(self.leaves) - 1}", ast.Load())

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._leaf(node.id)

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        number = parse_number(str(node.value))
        return node if number is None else self._leaf(number)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            number = parse_number(str(node.operand.value))
            return node if number is None else self._leaf(-number)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        node.args = [self.visit(argument) for argument in node.args]
        return node


@lru_cache(maxsize=4096)
def form_of(expression: str) -> Form:
    """The form of an expression that a `Graph` accepts; the placeholders of an equation count as names."""
    tree = ast.parse(expression, mode="eval").body
    kinds = {type(node) for node in ast.walk(tree)} - {ast.Name, ast.Constant, ast.Load, ast.BinOp}
    blank = _Blank()
    return Form(ast.unparse(blank.visit(tree)), tuple(blank.leaves), kinds in ({ast.Add}, {ast.Mult}))


def constant(value: Value) -> str:
    """A number as it can stand in any expression."""
    written = f"{value.numerator} / {value.denominator}" if isinstance(value, Fraction) else str(value)
    return written if written.isdigit() else f"({written})"


def fill(expression: str, names: Sequence[str]) -> str:
    """Puts names in the places of the placeholders."""
    return re.sub(r"\bo(\d+)\b", lambda match: names[int(match[1])], expression)
