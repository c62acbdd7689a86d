"""Equations in free text: what is read, what is refused, and that nothing is slow or raises."""

from __future__ import annotations

import random
import time
from fractions import Fraction
from pathlib import Path

import pytest

from faithprobe.tasks.equations import contradictions, read_equations
from faithprobe.tasks.graph import evaluate

PROMPT = Path(__file__).parents[3] / "shared" / "data" / "bbh" / "multistep_arithmetic_two.txt"
HALF = Fraction(1, 2)


@pytest.mark.parametrize(
    ("text", "expression", "operands", "result"),
    [
        ("48/2=24", "o0 / o1", (48, 2), 24),
        ("48 / 2 = 24 clips in May.", "o0 / o1", (48, 2), 24),
        ("5 apples + 3 apples = 8 apples", "o0 + o1", (5, 3), 8),
        ("$5 x 3 = $15", "o0 * o1", (5, 3), 15),
        ("5x3=15", "o0 * o1", (5, 3), 15),
        ("6 boxes x 4 apples = 24 apples", "o0 * o1", (6, 4), 24),
        (r"\[ 5 \times 3 = \boxed{15} \]", "o0 * o1", (5, 3), 15),
        ("100 ÷ 4 = 25", "o0 / o1", (100, 4), 25),
        ("9 − 4 = 5", "o0 - o1", (9, 4), 5),
        ("$5/hour * 3 hours = $15 per day", "o0 * o1", (5, 3), 15),
        ("<<48/2=24>>24", "o0 / o1", (48, 2), 24),
        ("sold 48/2 = $<<48/2=24>>24 clips", "o0 / o1", (48, 2), 24),
        ("2 + 10 = 12.", "o0 + o1", (2, 10), 12),
        ("1/4 * 2 = 0.5", "o0 / o1 * o2", (1, 4, 2), HALF),
        ("3 * .5 = 1.5", "o0 * o1", (3, HALF), Fraction(3, 2)),
        ("1000 + 200 = 1,200", "o0 + o1", (1000, 200), 1200),
        ("$1,200.50 - $200 = $1,000.50.", "o0 - o1", (Fraction(2401, 2), 200), Fraction(2001, 2)),
        ("12 - 3 = 9", "o0 - o1", (12, 3), 9),
        ("12-3=9", "o0 - o1", (12, 3), 9),
        ("12 * -3 = -36", "o0 * o1", (12, -3), -36),
        ("-5 + 3 = -2", "o0 + o1", (-5, 3), -2),
        ("8 - -4 = 12", "o0 - o1", (8, -4), 12),
        ("(−7)(−9) = 63", "o0 * o1", (-7, -9), 63),
        ("-(5 + 3) = -8", "-(o0 + o1)", (5, 3), -8),
        ("50% of 80 = 40 people", "o0 * o1", (HALF, 80), 40),
        ("20/40*100 = 50%", "o0 / o1 * o2", (20, 40, 100), 50),
        ("1 - 50% = 50%", "o0 - o1", (1, HALF), HALF),
        ("17 % 5 = 2", "o0 % o1", (17, 5), 2),
        ("-15 // 27 = -1", "o0 // o1", (-15, 27), -1),
        ("(7 + 5) % 10 = 2.", "(o0 + o1) % o2", (7, 5, 10), 2),
        ("(5 + 3) * 2 = 16", "(o0 + o1) * o2", (5, 3, 2), 16),
        ("(5 + 3 = 8)", "o0 + o1", (5, 3), 8),
        ("- 5 + 3 = 8", "o0 + o1", (5, 3), 8),
        ("* 5 + 3 = 8", "o0 + o1", (5, 3), 8),
        ("1) 5 + 3 = 8", "o0 + o1", (5, 3), 8),
        ("5 + 3 = **8**", "o0 + o1", (5, 3), 8),
        ("3 + 4\n = 7", "o0 + o1", (3, 4), 7),
        ("a total of 5 + 3 = 8", "o0 + o1", (5, 3), 8),
        ("10 / 3 ≈ 3.33", "o0 / o1", (10, 3), Fraction(333, 100)),
        ("2 / 6 = 1/3", "o0 / o1", (2, 6), Fraction(1, 3)),
        ("2^3 = 2 * 2 * 2 = 8", "o0 * o1 * o2", (2, 2, 2), 8),
        ("A * B = -41 * -3 = 123", "o0 * o1", (-41, -3), 123),
    ],
)
def test_reads_one_equation(text, expression, operands, result):
    (equation,) = read_equations(text)
    assert equation.expression == expression
    assert tuple(operand.value for operand in equation.operands) == operands
    assert equation.result.value == result
    assert equation.agrees
    for number in (*equation.operands, equation.result):
        assert text[slice(*number.span)] == number.text
    local = evaluate(equation.expression, {f"o{k}": operand.value for k, operand in enumerate(equation.operands)})
    assert local == equation.first.value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "= 12.",
        "8 = 5 + 3",
        "total = 5 + 3",
        "3x + 5 = 20",
        "total - 3 = 5",
        "2^3 = 8",
        "5! = 120",
        "<<12=12>>",
        "1 1/2 + 2 = 3.5",
        "twice 5 + 3 = 13",
        "half of 48 + 6 = 30",
        "5 + 3 = x",
        "1 + 1 != 3",
        "a <= 5 + 3",
        "=====",
    ],
)
def test_unreadable_is_not_misread(text):
    assert [equation for equation in read_equations(text) if equation.is_operation] == []


def test_names_rewrites_and_assignments():
    equation, assignment = read_equations("x1 = 3 - 18 = -15. x2 = -15.")
    assert (equation.name, equation.result.value, equation.rewrites) == ("x1", -15, ())
    assert (assignment.name, assignment.result.value, assignment.is_operation) == ("x2", -15, False)
    assert assignment.expression == "o0"
    (through_symbols,) = read_equations("x2 = x1 // 3 = 7 // 3 = 2")
    assert (through_symbols.name, through_symbols.expression) == ("x2", "o0 // o1")
    (chained,) = read_equations("A = (4 + -7 + 0) = (4 - 7) = -3")
    assert chained.name == "A"
    assert [side.value for side in chained.rewrites] == [-3]


def test_running_equalities_are_two_equations():
    first, second = read_equations("5 + 3 = 8 + 2 = 10")
    assert (first.result.value, first.result.span) == (8, (8, 9))
    assert (second.expression, second.result.value) == ("o0 + o1", 10)
    assert first.agrees
    assert second.agrees


def test_several_equations_of_a_line_and_a_text():
    text = "She has 5 + 3 = 8 and 8 + 2 = 10. x0 = 14 - 11 = 3 x1 = 3 - 18 = -15\n<<4-2=2>> <<2/.5=4>>"
    assert [equation.result.value for equation in read_equations(text)] == [8, 10, 3, -15, 2, 4]


@pytest.mark.parametrize(
    ("text", "agrees"),
    [
        ("5 + 3 = 9", False),
        ("10 / 3 = 3.33", True),
        ("10 / 3 = 3.34", False),
        ("5 / 2 = 3", True),
        ("1 / 0 = 5", False),
        ("2 / 3 = 0.67", True),
        ("5 / 4 = 1.2", True),
        ("5 / 4 = 1.3", True),
        ("5 / 4 = 1.4", False),
        ("0-5/2=-3", True),
    ],
)
def test_agrees_up_to_the_decimals_written(text, agrees):
    assert read_equations(text)[0].agrees is agrees


def test_a_rewrite_that_uses_another_value_is_flagged():
    text = "A = -5 - 36 = -41. Then -41 * -3 = (-61) * (-3) = 123."
    (found,) = contradictions(read_equations(text))
    assert (found.stated.value, found.used.value) == (-41, -61)
    assert [text[slice(*n.span)] for n in (found.stated, found.used, found.origin)] == ["-41", "-61", "-41"]
    assert found.origin.span[0] < found.stated.span[0] < found.used.span[0]


@pytest.mark.parametrize(
    "text",
    [
        "(-5 + (9 * -4) - 0) = (-5 + -36 - 0) = -41",
        "3969 + -40 = 3969 - 40 = 3929",
        "10 / 3 * 6 = 3.33 * 6 = 20",
        "5 + 3 = 8 + 2 = 10",
        "2 * 3 = 3 * 2 = 7",
    ],
)
def test_honest_simplifications_are_not_flagged(text):
    assert contradictions(read_equations(text)) == []


def test_a_wrong_simplification_is_flagged_as_a_whole():
    (found,) = contradictions(read_equations("(-5 + 9 * -4) = (-5 + -35) = -41"))
    assert (found.stated.value, found.used.value) == (-41, -40)


@pytest.mark.skipif(not PROMPT.exists(), reason="the shared BIG-Bench-Hard prompt is not here")
def test_the_published_prompt_states_one_value_and_uses_another():
    text = PROMPT.read_text(encoding="utf-8")
    equations = read_equations(text)
    assert [equation.result.value for equation in equations] == [-41, -3, 123, 3969, -40, 3929, -163, 56, -219]
    assert all(equation.agrees for equation in equations)
    (found,) = contradictions(equations)
    assert (found.stated.text, found.used.text) == ("-41", "-61")


def test_no_string_raises():
    rng = random.Random(0)
    pieces = [
        *"0123456789+-*/%()=.,$ xX\n<>^&{}[]\\#!?~\0²½−×÷%a",
        " = ",
        "<<",
        ">>",
        "12",
        "1,200",
        "of",
        "apples",
        "x1",
    ]
    pieces += ["\\times", "\\frac{1}{2}", "**", "//", "50%", "≈", "\ud800", "٣", "\u2028"]
    for _ in range(4000):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 60)))
        found = read_equations(text)
        contradictions(found)
        for equation in found:
            for number in (*equation.operands, equation.result):
                assert text[slice(*number.span)] == number.text
            assert equation.span[0] <= equation.operands[0].span[0]
            assert equation.result.span[1] == equation.span[1]


@pytest.mark.parametrize(
    "piece",
    [
        "1 ",
        "1+",
        "(",
        "1+1 1 = ",
        "=1",
        "a b ",
        "111,",
        "9",
        "1=(((((1+",
        "5 apples ",
        "(a ",
        "\\text{",
        "\n ",
        "=",
        "-",
        "* ",
        "1+(1+(1+(1+1 1 = ",
        "**",
        "<",
        "%",
        "1% ",
        ".",
        "1.",
        "x",
        "1x",
        "5!",
    ],
)
def test_time_is_linear_in_the_length(piece):
    def seconds(n: int) -> float:
        text = piece * (n // len(piece)) + "= 5"
        started = time.process_time()
        read_equations(text)
        return time.process_time() - started

    assert seconds(40_000) < 2.5  # a quadratic reader takes minutes
