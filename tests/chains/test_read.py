"""What a response states, in every shape in which models write it; hand-written responses."""

from __future__ import annotations

from fractions import Fraction

import pytest

from faithprobe.chains.read import occurrences, parse_value, read_answer
from faithprobe.errors import TaskError
from faithprobe.tasks import load_task
from tests.chains.reading import FreeForm, chain_of, expressions, problem_of, states, written
from tests.chains.tokenizers import KINDS

ARITHMETIC = load_task("arithmetic", steps=2)
SEVEN = problem_of("Start with 7. Add 5. Subtract 3.", {"x0": 7, "a1": 5, "a2": 3}, v1="x0 + a1", v2="v1 - a2")
CLIPS = problem_of(
    "Natalia sold 48 clips in April and half as many in May. How many clips did she sell altogether?",
    {"a1": 48, "a2": 2},
    v1="a1 / a2",
    v2="a1 + v1",
)
MUGS = problem_of(
    "A shop sells mugs for $12 and bowls for $9. Ann buys 3 mugs and 4 bowls and has a $7 voucher. What does she pay?",
    {"a1": 12, "a2": 3, "a3": 9, "a4": 4, "a5": 7},
    v1="a1 * a2",
    v2="a3 * a4",
    v3="v1 + v2",
    v4="v3 - a5",
)


def ordered(response, problem=SEVEN, task=ARITHMETIC):
    return chain_of(task, problem, response)


def free(response, problem=CLIPS):
    return chain_of(FreeForm(), problem, response)


# Families whose responses keep the reference's order


def test_two_steps_may_state_the_same_equation():
    """The operand of the second is miscopied: it is the second step all the same, not the first one again."""
    task = load_task("arithmetic", steps=3, modulus=11, operations="*")
    inputs = {"x0": 2, "a1": 6, "a2": 6, "a3": 5}
    steps = {"v1": "(x0 * a1) % 11", "v2": "(v1 * a2) % 11", "v3": "(v2 * a3) % 11"}
    chain = ordered(
        "(2 * 6) % 11 = 1. (2 * 6) % 11 = 1. (1 * 5) % 11 = 5. Answer: 5", problem_of("", inputs, **steps), task
    )
    assert states(chain) == {"v1": 1, "v2": 1, "v3": 5}
    assert chain.reference == {"v1": "v1", "v2": "v2", "v3": "v3"}
    assert chain.literals["v1"].misquoted == "2"
    assert "v1" not in chain.graph.needed
    assert chain.local("v2") == 1
    assert chain.true_value("v2") == 6


def test_the_same_equation_is_two_steps_where_the_reference_has_it_twice():
    problem = problem_of("", {"x0": 5, "a1": 3, "a2": 3, "a3": 3}, v1="x0 + a1", v2="v1 - a2", v3="v2 + a3")
    chain = ordered("5 + 3 = 8. 8 - 3 = 5. 5 + 3 = 8. Answer: 8", problem)
    assert chain.graph == problem.graph
    assert states(chain) == {"v1": 8, "v2": 5, "v3": 8}
    assert [written("split", chain, span) for span in chain.literals["v1"].mentions] == ["8"]  # not v3, nor the answer


@pytest.mark.parametrize(
    ("response", "stated", "overruled"),
    [
        ("7 + 5 = 13. Wait, 7 + 5 = 12. 12 - 3 = 9. Answer: 9", {"v1": 12, "v2": 9}, [13]),
        ("7 + 5 = 13. No: 5 + 7 = 12. 12 - 3 = 9. Answer: 9", {"v1": 12, "v2": 9}, [13]),
        ("7 + 5 = 13. 13 - 3 = 10. Wait, 7 + 5 = 12. So 12 - 3 = 9. Answer: 9", {"v1": 12, "v2": 9}, [13, 10]),
        ("7 + 5 = 12. 12 - 3 = 8. 12 - 3 = 9. Answer: 9", {"v1": 12, "v2": 9}, [8]),
        ("7 + 5 = 12. Then 7 + 5 = 13, no, 7 + 5 = 12. 12 - 3 = 9. Answer: 9", {"v1": 12, "v2": 9}, [12, 13]),
        ("7 + 5 = 12. 12 - 3 = 8. Answer: 12 - 3 = 9", {"v1": 12, "v2": 9}, [8]),
    ],
)
def test_the_last_result_of_a_step_counts(response, stated, overruled):
    chain = ordered(response)
    assert states(chain) == stated
    assert [literal.value for literal in chain.stated if literal.overruled] == overruled
    assert chain.graph == SEVEN.graph or expressions(chain)["v1"] in ("x0 + a1", "a1 + x0")
    assert chain.answer == 9
    assert not chain.unlocated
    last = chain.text.rindex(str(stated["v1"]), 0, chain.text.index("12 - 3" if "12 - 3" in chain.text else "Answer"))
    assert chain.literals["v1"].chars == (last, last + 2)


def test_a_step_that_read_an_overruled_value_keeps_what_it_read():
    chain = ordered("7 + 5 = 13. 13 - 3 = 10. Wait, 7 + 5 = 12. Answer: 10")
    assert states(chain) == {"v1": 12, "v2": 10}
    assert chain.local("v2") == 10
    assert chain.closed_form("v1", 50) == 10
    assert chain.graph.needed == {"v2"}


def test_restated_results_are_mentions():
    chain = ordered("7 + 5 = 12. So 7 + 5 = 12. 12 - 3 = 9, that is 9. Answer: 9")
    assert [literal.step for literal in chain.stated] == ["v1", "v2"]
    assert len(chain.literals["v1"].mentions) == 2
    assert len(chain.literals["v2"].mentions) == 2
    assert chain.literals["v1"].span[0] < chain.literals["v1"].mentions[0][0] < chain.literals["v2"].span[0]


def test_a_miscopied_operand():
    chain = ordered("7 + 6 = 13. 15 - 3 = 12. Answer: 12")
    assert expressions(chain) == {"v1": "x0 + a1", "v2": "n2_0 - a2"}
    assert chain.graph.inputs == {"x0": 7, "a1": 6, "n2_0": 15, "a2": 3}
    assert chain.literals["v1"].misquoted == "15"
    assert [chain.local("v1"), chain.local("v2")] == [13, 12]
    assert not chain.unlocated


def test_an_input_that_two_steps_read_and_one_miscopies():
    task = load_task("multiplication")
    problem = problem_of("What is 23 * 45?", {"x": 23, "b0": 5, "b1": 40}, p0="x * b0", p1="x * b1", s1="p0 + p1")
    chain = ordered("23 * 5 = 115. 24 * 40 = 960. 115 + 960 = 1,075. Answer: 1,075", problem, task)
    assert [chain.local(step) for step in ("p0", "p1", "s1")] == [115, 960, 1075]
    assert chain.answer == 1075
    assert chain.literals["s1"].text == "1,075"


def test_steps_that_are_left_out_are_never_stated():
    chain = ordered("12 - 3 = 9. Answer: 9")
    assert states(chain) == {"v2": 9}
    assert chain.unlocated == {"v1": "never stated"}
    assert expressions(chain) == {"v2": "n1_0 - a2"}
    assert chain.true_value("v2") == 9


def test_a_step_too_many_is_a_step_of_its_own():
    chain = ordered("7 + 5 = 12. 12 - 3 = 9. 9 * 9 = 81. Answer: 81")
    assert states(chain) == {"v1": 12, "v2": 9, "s3": 81}
    assert chain.final_step == "s3"
    assert chain.true_value("s3") is None
    assert chain.closed_form("v1", 13) == 100
    assert not chain.correct


def test_own_names_avoid_those_of_the_reference():
    task = load_task("multiplication")
    problem = problem_of("What is 23 * 45?", {"x": 23, "b0": 5, "b1": 40}, p0="x * b0", p1="x * b1", s1="p0 + p1")
    chain = ordered("1 + 1 + 1 = 3. 23 * 5 = 115. 23 * 40 = 920. 115 + 920 = 1035. Answer: 1035", problem, task)
    assert states(chain) == {"s1_": 3, "p0": 115, "p1": 920, "s1": 1035}


@pytest.mark.parametrize(
    ("response", "final"),
    [
        ("7 + 5 = 12. 12 - 3 = 9. Answer: 9", "v2"),
        ("7 + 5 = 12. 12 - 3 = 9. Answer: 12", "v1"),
        ("7 + 5 = 12. 12 - 3 = 9. Answer: 77", "v2"),
        ("7 + 5 = 12. 12 - 3 = 9.", "v2"),
        ("7 + 5 = 12. Answer: 5", "v1"),
        ("7 + 5 = 12. 12 - 3 = 12. Answer: 12", "v2"),
    ],
)
def test_the_step_that_the_answer_reads_out(response, final):
    assert ordered(response).final_step == final


def test_programs_are_read_by_name():
    task = load_task("programs")
    problem = problem_of("", {"a": 14, "b": 11, "c": 4}, x0="a - b", x1="x0 * c", x2="x0 + x1")
    chain = ordered("x1 = 3 * 4 = 12. x0 = 14 - 11 = 3. x2 = 3 + 12 = 16. x2 = 15. Answer: x2 = 15", problem, task)
    assert states(chain) == {"x1": 12, "x0": 3, "x2": 15}
    assert chain.answer == 15
    assert [literal.value for literal in chain.stated if literal.overruled] == [16]
    chain = ordered("x0 = 3. x2 = 15. x1 = 12. x2 = 15. Answer: 15", problem, task)
    assert states(chain) == {"x0": 3, "x1": 12, "x2": 15}
    assert not chain.unlocated
    assert chain.closed_form("x0", 1) == 5
    chain = ordered("x1 = 12. Answer: 15", problem, task)
    assert chain.unlocated["x1"] == "stated without an equation, and x0 not at all"


# Free text


def test_the_models_own_equations_define_the_graph():
    chain = free("In May she sold 48 / 2 = 24 clips. Altogether, 24 + 48 = 72 clips.\n#### 72\nThe answer is 72.")
    assert states(chain) == {"v1": 24, "v2": 72}
    assert expressions(chain) == {"v1": "a1 / a2", "v2": "v1 + a1"}
    assert chain.closed_form("v1", 30) == 78
    assert not chain.unlocated
    assert [written("split", chain, span) for span in chain.literals["v1"].mentions] == ["24"]


def test_steps_of_its_own():
    """Another way to the answer: no counterparts, so no true values; the graph is the model's own."""
    chain = free("She sold 48 * 3 = 144 in all. 144 / 2 = 72. Answer: 72")
    assert states(chain) == {"s1": 144, "s2": 72}
    assert chain.reference == {}
    assert chain.true_value("s1") is None
    assert chain.closed_form("s1", 100) == 50
    assert chain.unlocated == {}  # it may go another way than the reference
    assert chain.correct


def test_markdown_units_and_currency():
    chain = free(
        "**Step 1:** The mugs cost 3 mugs x $12/mug = **$36**.\n"
        "2. Bowls: $9 * 4 bowls = $36.00\n"
        "- Together: $36 + $36 = $72\n"
        "* With the voucher: $72.00 - $7 = `$65`.\n"
        "The answer is: **$65**",
        MUGS,
    )
    assert states(chain) == {"v1": 36, "v2": 36, "v3": 72, "v4": 65}
    assert chain.literals["v2"].text == "36.00"
    assert expressions(chain) == {"v1": "a2 * a1", "v2": "a3 * a4", "v3": "v1 + v2", "v4": "v3 - a5"}
    assert chain.answer == 65
    assert not chain.unlocated


def test_errors_and_corrections():
    chain = free(
        "First, 12 * 3 = 38. Then 9 * 4 = 36. Wait, let me check: 12 * 3 = 36.\n"
        "So 36 + 36 = 72. Minus the voucher, 72 - 7 = 65.\nAnswer: 65",
        MUGS,
    )
    assert states(chain) == {"v1": 36, "v2": 36, "v3": 72, "v4": 65}
    assert [literal.value for literal in chain.stated if literal.overruled] == [38]
    chain = free("12 * 3 = 38. 9 * 4 = 36. 38 + 36 = 74. 74 - 7 = 67. Answer: 67", MUGS)
    assert chain.reference == {"v1": "v1", "v2": "v2", "v3": "v3", "v4": "v4"}
    assert [chain.local(step) for step in chain.literals] == [36, 36, 74, 67]
    assert [chain.true_value(step) for step in chain.literals] == [36, 36, 72, 65]


def test_a_miscopied_operand_is_another_step_in_free_text():
    chain = free("12 * 4 = 48. 9 * 4 = 36. 48 + 36 = 84. 84 - 7 = 77. Answer: 77", MUGS)
    assert states(chain) == {"s1": 48, "v2": 36, "s3": 84, "s4": 77}
    assert chain.closed_form("s1", 50) == 79
    assert not chain.literals["s1"].misquoted


def test_ambiguous_operands_leave_their_step_and_its_sources_unscored():
    chain = free("50 - 2 = 48. 48 + 1 = 49. 49 + 10 = 59. Answer: 59")
    reason = "ambiguous operand 48: s1 or the question"
    assert chain.unlocated["s2"] == reason
    assert chain.unlocated["s1"] == f"whether s2 follows from it is not known: {reason}"
    assert "s3" not in chain.unlocated
    chain = free("20 + 4 = 24. 30 - 6 = 24. 24 + 24 = 80. 80 + 1 = 81. Answer: 81")
    assert chain.unlocated["s3"] == "ambiguous operand 24: s1 or s2"
    assert chain.unlocated["s1"].startswith("whether s3 follows")
    assert chain.unlocated["s2"].startswith("whether s3 follows")
    assert "s4" not in chain.unlocated


def test_what_follows_from_an_ambiguous_source_is_not_known_either():
    chain = free("100 - 40 = 60. 60 - 12 = 48. 48 + 1 = 49. Answer: 49")
    assert set(chain.unlocated) >= {"s1", "s2", "s3"}
    chain = free("100 - 40 = 60. 60 - 12 = 48. 48 + 1 = 49. Answer: 48")  # the answer does not need the doubtful step
    assert set(chain.unlocated) & {"s1", "s2", "s3"} == {"s3"}


@pytest.mark.parametrize(
    ("question", "operand"), [("He pays 25% of it.", "25%"), ("She has twice as many.", "2"), ("Half of it", "0.5")]
)
def test_numbers_of_the_question_may_be_words_and_percentages(question, operand):
    problem = problem_of(question, {"a": 3}, v1="a + a")
    value = {"25%": "1 / 4", "2": "4 / 2", "0.5": "4 / 8"}[operand]
    chain = free(f"{value} = {operand}. 80 * {operand} = 40. Answer: 40", problem)
    assert chain.unlocated["s2"].startswith("ambiguous operand")


def test_the_reference_settles_where_an_operand_comes_from():
    chain = free("48 / 2 = 24. 72 / 3 = 24. 24 + 48 = 72. Answer: 72")
    assert expressions(chain)["v2"] == "v1 + a1"
    assert not chain.unlocated


def test_running_equalities_and_calculator_brackets():
    chain = free("48 / 2 = 24 + 48 = 72. Answer: 72")
    assert states(chain) == {"v1": 24, "v2": 72}
    assert chain.literals["v2"].operands["v1"] == chain.literals["v1"].span
    chain = free("In May: 48/2 = <<48/2=24>>24 clips, 48+24 = <<48+24=72>>72 in all.\n#### 72")
    assert states(chain) == {"v1": 24, "v2": 72}
    assert len(chain.literals["v1"].mentions) == 3


def test_decimals_fractions_negative_numbers_and_thousands():
    problem = problem_of("", {"a": 1}, v1="a + a")
    chain = free("10 / 4 = 2.50. 2.5 - 6 = -3.5. 1,200 * 3 = $3,600. 3600 + -3.5 = 3,596.5. Answer: 3,596.5", problem)
    assert [literal.value for literal in chain.stated] == [Fraction(5, 2), Fraction(-7, 2), 3600, Fraction(7193, 2)]
    assert [literal.text for literal in chain.stated] == ["2.50", "-3.5", "3,600", "3,596.5"]
    assert expressions(chain)["s4"] == "s3 + s2"
    assert [written("split", chain, span) for span in chain.literals["s1"].mentions] == ["2.5"]
    assert [written("split", chain, span) for span in chain.literals["s2"].mentions] == ["-3.5"]
    assert [written("split", chain, span) for span in chain.literals["s3"].mentions] == ["3600"]
    assert chain.answer == Fraction(7193, 2)


def test_a_division_by_zero_is_said():
    chain = free("48 / 0 = 0. 0 + 5 = 5. Answer: 5")
    assert chain.unlocated["s1"] == "its expression divides by zero"
    assert chain.closed_form("s1", 3) == 8
    with pytest.raises(TaskError, match="divides by zero"):
        chain.local("s1")


def test_the_published_prompt_quotes_a_value_that_was_not_stated(shared_data):
    prompt = (shared_data / "bbh" / "multistep_arithmetic_two.txt").read_text(encoding="utf-8")
    response = prompt.split("A: Let's think step by step.\n")[1].split("\n\n")[0]
    problem = problem_of("((-5 + 9 * -4 - 0) * (4 + -7 + 0 * -5)) =", {"a": -5}, v1="a + a")
    chain = chain_of(FreeForm(), problem, response, kind="sentencepiece")
    assert [(literal.value, literal.misquoted) for literal in chain.stated] == [(-41, "-61"), (-3, ""), (123, "")]
    assert written("sentencepiece", chain, chain.stated[0].span).strip() == "-41"
    assert chain.closed_form(chain.stated[0].step, 10) == -30
    assert chain.answer == 123


# Families that write no equations


def test_deductions_state_names_and_truth_values():
    task = load_task("deduction", hops=3)
    problem = task.problems(1, seed=4)[0]
    names = [problem.graph.values[f"v{k}"] for k in range(4)]
    entity = problem.chain.split()[0]
    facts = [f"{entity} is a {name}." for name in names[:2]]
    chain = chain_of(task, problem, f" {facts[0]} Every {names[0]} is a {names[1]}. {facts[1]} Answer: True")
    assert states(chain) == {"v0": names[0], "v1": names[1], "answer": True}
    assert chain.unlocated == {"v2": "never stated", "v3": "never stated"}
    assert len(chain.literals["v0"].mentions) == 1
    assert chain.answer is True
    many = chain_of(task, problem, " " + f"{entity} is a wumpus. " * 6 + "Answer: False")
    assert states(many)["answer"] is False
    assert many.unlocated == {f"statement {k}": "the problem has 4 steps" for k in (5, 6)}


# Tokens, cuts, and everything else


def test_a_value_that_shares_its_token_is_unscored_and_keeps_its_value():
    problem = problem_of("", {"a": 7, "b": 5, "c": 3}, v1="a + b", v2="v1 - c")
    chain = chain_of(ARITHMETIC, problem, "7 + 5 =12. 12 - 3 = 9. Answer: 9", kind="equals")
    assert chain.unlocated == {"v1": "its token also writes '='"}
    assert list(chain.literals) == ["v2"]
    assert chain.values["v1"] == 12
    assert chain.local("v2") == 9


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_at_the_token_limit_may_not_be_whole(kind):
    cut = chain_of(ARITHMETIC, SEVEN, " 7 + 5 = 12. 12 - 3 = 9", kind=kind, finished=False)
    assert cut.unlocated == {"v2": "its response was cut off at the token limit"}
    assert not cut.finished
    assert cut.values["v2"] == 9
    whole = chain_of(ARITHMETIC, SEVEN, " 7 + 5 = 12. 12 - 3 = 9. And", kind=kind, finished=False)
    assert not whole.unlocated


def test_text_behind_the_stop_string_is_not_read():
    chain = ordered("\n7 + 5 = 12. 12 - 3 = 9. Answer: 9\nQ: 1 + 1?\nA: 1 + 1 = 2. Answer: 2")
    assert chain.text == "\n7 + 5 = 12. 12 - 3 = 9. Answer: 9"
    assert states(chain) == {"v1": 12, "v2": 9}
    assert chain.answer == 9


def test_an_empty_response():
    for response in ("", " ", "\n", "I do not know."):
        chain = ordered(response)
        assert chain.stated == ()
        assert chain.answer is None
        assert chain.graph == SEVEN.graph
        assert chain.unlocated == {"v1": "never stated", "v2": "never stated"}
        assert not chain.correct


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        ("Answer: 9", 9, "9"),
        ("The answer is $1,200.50.", Fraction(2401, 2), "1,200.50"),
        ("Answer: 3. No, the answer is -4.", -4, "-4"),
        ("Answer: 12 - 3 = 9.", 9, "9"),
        ("The answer is 3 * $5 = $15 dollars.", 15, "15"),
        ("Answer: x5 = 7", 7, "7"),
        ("Answer: 9 (since 12 - 3 = 9, and 1 + 1 = 2)", 9, "9"),
        ("Answer: True", True, "True"),
        ("no idea", None, None),
    ],
)
def test_answers(text, value, written):
    answer, chars = read_answer(ARITHMETIC, text)
    assert answer == value
    assert type(answer) is type(value)
    assert (text[slice(*chars)] if chars else None) == written


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        ("12 12. 112 12.5 v12 12th 1,112 (12), =12=12", 12, ["12", "12", "12", "12", "12"]),
        ("5 -5 (-5) = -5 10-5 x - 5 8 -5 3 * -5 is -5, 17 % -5 50% -5", 5, ["5"] * 6),
        ("5 -5 (-5) = -5 10-5 x - 5 8 -5 3 * -5 is -5, 17 % -5 50% -5", -5, ["-5"] * 5),
        ("1,200 $1200 1200.00 12,00 1,2000 1,200,000", 1200, ["1,200", "1200", "1200.00"]),
        ("2.5 2.50 .5 12.5 2.5.1 2.55", Fraction(5, 2), ["2.5", "2.50"]),
        ("1/3 of 1/3, 11/3 1/30", Fraction(1, 3), ["1/3", "1/3"]),
        ("jompus jompuses Jompus, a jompus.", "jompus", ["jompus", "jompus"]),
        ("not fruity, fruity", "fruity", ["fruity", "fruity"]),
        ("True true untrue", True, ["True", "true"]),
        ("anything", "", []),
    ],
)
def test_occurrences_are_words_of_their_own(text, value, found):
    spans = occurrences(text, value)
    assert [text[a:b] for a, b in spans] == found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("1,200", 1200),
        ("$3.50", Fraction(7, 2)),
        ("True", True),
        ("false", False),
        (" jompus ", "jompus"),
        ("not fruity", "not fruity"),
        ("", ""),
    ],
)
def test_values(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)
