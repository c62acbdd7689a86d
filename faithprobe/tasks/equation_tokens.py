r"""Splits text into the tokens of equations: numbers, operators, brackets, `=`, words, and what no equation crosses.

One regular expression without nested repetition, so that time is linear on any text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from faithprobe.tasks.graph import Value, exact, parse_number

_MOST_DIGITS = 60

_TOKEN = re.compile(
    r"""
    (?P<break><<|>>|<=|>=|!=|=>|->|={3,}|\.\.+|\\[()\[\]]|\n(?![ \t]{0,40}&?[ \t]{0,4}[=≈]))
  | (?P<eq>:=|==?|[≈≅]|\\approx(?![A-Za-z]))
  | (?P<unit>\\(?:text|textbf|mathrm|mbox)\{[^{}\n]{0,60}\}|\([A-Za-z][A-Za-z ]{0,30}\))
  | (?P<space>[\s$€£¥&~{}`]|\\[,;:!$\ ]|\\\\|\\(?:left|right|quad|qquad|boxed|displaystyle)(?![A-Za-z]))
  | (?P<stars>\*\*)
  | (?P<op>\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|\\div(?![A-Za-z])|//|[-+*/%×÷·−–])
  | (?P<num>(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)
    (?P<percent>\\?%(?!\s{0,3}(?:\.?[0-9]|\(\s{0,3}[-0-9(]))|\s?%(?=\s{0,3}of\b))?
  | (?P<times>(?<=[0-9)])[xX](?=[0-9(.]))
  | (?P<bad>[\^√²³¹⁰⁴⁵⁶⁷⁸⁹½¼¾⅓⅔]|\\[A-Za-z]+)
  | (?P<word>[^\W\d]\w*(?:['’]\w+)?)
  | (?P<left>[(\[])
  | (?P<right>[)\]])
  | (?P<other>.)
    """,
    re.VERBOSE,
)
_OPERATORS = {"×": "*", "·": "*", "\\times": "*", "\\cdot": "*", "÷": "/", "\\div": "/", "−": "-", "–": "-"}
_COEFFICIENTS = frozenset("bcnpqtuvwxyz")


@dataclass(frozen=True)
class Token:
    """A piece of an equation; positions are characters of the text."""

    kind: str
    """`num`, `op`, `(`, `)`, `=`, `word`, or `bad`: something that makes the side it stands in unreadable."""
    text: str
    """Operators in Python's spelling."""
    start: int
    end: int
    value: Value = 0
    """Of a number; a percentage divided by 100."""
    first_on_line: bool = False


def runs(text: str) -> Iterator[list[Token]]:
    """Lists of tokens between breaks: sentence ends, lines, commas, calculator brackets."""
    run: list[Token] = []
    line_begins = True
    for match in _TOKEN.finditer(text):
        kind, start, end = match.lastgroup, match.start(), match.end()
        if kind == "percent":
            kind = "num"
        if kind == "space":
            continue
        if kind == "stars":  # bold print, unless it stands between two values: a power
            if start > 0 and end < len(text) and _tight(text[start - 1]) and _tight(text[end]):
                run.append(Token("bad", "**", start, end))
            continue
        token = None
        if kind not in ("break", "other"):
            token = _token(text, match, run[-1] if run else None, line_begins)
        line_begins = text[start] == "\n"
        if token is None:
            if run:
                yield run
            run = []
        else:
            run.append(token)
    if run:
        yield run


def _tight(character: str) -> bool:
    return character.isalnum() or character in "()"


def _token(text: str, match: re.Match[str], before: Token | None, first_on_line: bool) -> Token:
    kind, written, start, end = match.lastgroup, match[0], match.start(), match.end()
    if kind in ("num", "percent"):
        number = parse_number(match["num"]) if end - start <= _MOST_DIGITS else None
        if number is None:
            return Token("bad", written, start, end)
        value = exact(number * Fraction(1, 100)) if match["percent"] else number
        return Token("num", written, start, end, value)
    if kind == "times":
        return Token("op", "*", start, end)
    if kind == "op":
        return Token("op", _OPERATORS.get(written, written), start, end, first_on_line=first_on_line)
    if kind == "word":
        return _word(text, written, start, end, before)
    named = {"eq": "=", "left": "(", "right": ")", "unit": "word", "bad": "bad"}[str(kind)]
    return Token(named, written, start, end)


def _word(text: str, written: str, start: int, end: int, before: Token | None) -> Token:
    """A word, or what a word can stand for: `x` between numbers, `of` behind a share, an unknown behind its factor."""
    word = Token("word", written, start, end)
    if before is None:
        return word
    tight = before.end == start
    product = Token("op", "*", start, end)
    following = text[end : end + 4].lstrip(" $")
    if written in ("x", "X"):
        if before.kind in ("num", ")") and re.match(r"[0-9(]|\.[0-9]|[-−][0-9]", following):
            return product
        if before.kind == "word" and not tight and re.match(r" +\$?[0-9]", text[end : end + 4]):
            return product
    if before.kind == "num":
        if written == "of" and before.text.endswith("%"):
            return product
        if written.lower() in _COEFFICIENTS or (tight and written.lower() == "a"):
            return Token("bad", written, start, end)
    return word
