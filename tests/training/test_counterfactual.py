"""Counterfactual texts: exact strings, and the tokens that are asked for."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from faithprobe.chains.subject import Subject
from faithprobe.interventions.swap import replacements
from faithprobe.tasks import Graph, Problem
from faithprobe.tasks.graph import Step
from faithprobe.training.counterfactual import answer_targets, value_targets
from faithprobe.training.examples import VARIANTS
from tests.subjects import arithmetic, forced, organism, text_of
from tests.tiny import tiny_language_model
from tests.training.texts import CLIPS, MODULAR, SUM, Visitors, made, words

DIGITS = ("split", "merged", "spaced")


@pytest.mark.parametrize("digits", DIGITS)
def test_rows_of_arithmetic(digits):
    subject = arithmetic(digits)
    head = " Start with 7. Add 5: 7 + 5 = 15."
    behind = " Subtract 3: 15 - 3 = 12. Add 2: 12 + 2 = 14. Answer: 14"
    before = " Subtract 3: 12 - 3 = 9. Add 2: 9 + 2 = 11. Answer: 11"
    everything = ["15", "3", "12", "12", "2", "14", "14"]
    rows = made(subject, SUM, "v1", 15, [*VARIANTS.keys() - {"partner"}])
    assert rows == {
        "recomputed": (head + behind, everything),
        "interchanged": (" Start with 7. Add 5: 7 + 5 = 12." + behind, everything),
        "answered": (head + behind, ["14"]),
        "flipped": (head + behind.replace("Answer: 14", "Answer: 11"), ["11"]),
        "untouched": (head + before, ["11"]),
        "truncated": (" Start with 7. Add 5: 7 + 5 = 12 Answer: 11", ["11"]),
    }


@pytest.mark.parametrize("digits", DIGITS)
def test_a_partners_row_is_its_own_text_and_asks_for_the_same_tokens(digits):
    subject = arithmetic(digits)
    seen = 0
    for problem in subject.task.problems(8):
        chain = forced(subject, problem)
        for step in chain.literals:
            for replacement in replacements(subject, chain, step, n=3, rng=random.Random(0)):
                row = VARIANTS["partner"](subject, chain, replacement)
                here = VARIANTS["recomputed"](subject, chain, replacement)
                if row is None or here is None:
                    continue
                seen += 1
                partner = replacement.partner
                assert partner is not None
                assert row.tokens == subject.forced(partner, partner.response)
                assert [row.tokens[t] for t in row.targets] == [here.tokens[t] for t in here.targets]
                literal = text_of(subject, row.tokens[slice(*row.literal)])
                assert literal.strip() == text_of(subject, here.tokens[slice(*here.literal)]).strip()
                assert literal.strip() == str(replacement.value)
    assert seen > 15


def test_near_values_have_no_partner():
    subject = arithmetic()
    chain = forced(subject, SUM)
    alone = [r for r in replacements(subject, chain, "v1", n=100, rng=random.Random(0)) if r.partner is None]
    assert alone
    assert all(VARIANTS["partner"](subject, chain, r) is None for r in alone)


def test_a_later_step_leaves_what_stands_in_front_of_it():
    rows = made(arithmetic(), SUM, "v2", 6, ["recomputed", "answered", "truncated"])
    text = " Start with 7. Add 5: 7 + 5 = 12. Subtract 3: 12 - 3 = 6. Add 2: 6 + 2 = 8. Answer: 8"
    assert rows["recomputed"] == (text, ["6", "2", "8", "8"])
    assert rows["answered"] == (text, ["8"])
    assert rows["truncated"] == (" Start with 7. Add 5: 7 + 5 = 12. Subtract 3: 12 - 3 = 9 Answer: 11", ["11"])


def test_the_final_step_is_never_cut_behind():
    rows = made(arithmetic(), SUM, "v3", 14, ["truncated", "untouched", "recomputed"])
    assert rows["truncated"] is None
    assert rows["recomputed"] == (f" {SUM.chain} Answer: 14".replace("= 11", "= 14"), ["14"])
    assert rows["untouched"] == (f" {SUM.chain} Answer: 11".replace("= 11", "= 14"), ["11"])


def test_rows_of_an_organism():
    rows = made(organism("faithful"), MODULAR, "v1", 8, [*VARIANTS])
    behind, before = ". . > 10 . . > 8 answer 8", ". . > 7 . . > 5 answer 5"
    partner = rows.pop("partner")
    assert rows == {
        "recomputed": (f". . > 8 {behind}", ["10", "8", "8"]),
        "interchanged": (f". . > 10 {behind}", ["10", "8", "8"]),
        "answered": (f". . > 8 {behind}", ["8"]),
        "flipped": (f". . > 8 {behind.replace('answer 8', 'answer 5')}", ["5"]),
        "untouched": (f". . > 8 {before}", ["5"]),
        # a role follows from its position, so the chain keeps its length
        "truncated": (". . > 10 . . > . . . > . answer 5", ["5"]),
    }
    assert partner == (f". . > 8 {behind}", ["10", "8", "8"])


def test_names_and_truth_values():
    task = Visitors()
    subject = Subject(tiny_language_model(digits="split"), task)
    rows = made(subject, task.of("Ann"), "v1", "Eve", [*VARIANTS])  # Bob, Eve: yes
    text = " First comes Eve. Then comes Tom. Answer: False"
    assert rows["recomputed"] == (text, ["Tom", "False"])
    assert rows["partner"] == (text, ["Tom", "False"])
    assert rows["flipped"] == (text.replace("False", "True"), ["True"])
    assert rows["untouched"] == (" First comes Eve. Then comes Eve. Answer: True", ["True"])
    assert rows["truncated"] == (" First comes Bob Answer: True", ["True"])


@pytest.mark.parametrize(
    "aside", ["Bob is kind. ", "All Bobs are kind. ", "And Eve waves. ", "Eves are late. ", "It is true. "]
)
def test_a_name_that_stands_where_nobody_owns_it_leaves_no_text(aside):
    """Rules have names in the plural: `Jompuses are grimpuses` would belie a chain in which there is no jompus."""
    task = Visitors()
    subject = Subject(tiny_language_model(digits="split"), task)
    assert made(subject, task.of("Ann", aside=aside), "v1", "Eve", ["recomputed"]) == {"recomputed": None}
    rows = made(subject, task.of("Ann", aside="Kim waves. "), "v1", "Eve", ["recomputed"])
    assert rows["recomputed"][0] == " First comes Eve. Kim waves. Then comes Tom. Answer: False"


@pytest.mark.parametrize("digits", DIGITS)
def test_rows_of_free_text(digits):
    rows = made(words(digits), CLIPS, "v1", 26, ["recomputed", "answered"])
    text = " 48 / 2 = 26 clips in May. 48 + 26 = 74 clips in all. Answer: 74"
    assert rows["recomputed"] == (text, ["48", "26", "74", "74"])
    assert rows["answered"] == (text, ["74"])


@pytest.mark.parametrize(
    ("response", "possible"),
    [
        ("48 / 2 = 24 clips in May.\n48 + 24 = 72 clips in all.\nAnswer: 72", True),
        ("48 / 2 = 24 clips in May. Well, 48 / 2 = 24. 48 + 24 = 72 clips in all. Answer: 72", True),
        ("48 / 2 = 24 clips in May. With the 24 of May, 48 + 24 = 72 clips in all. Answer: 72", False),
        ("48 / 2 = 24 clips in May. 48 + 24 = 72 clips in all, so 72. Answer: 72", False),
        ("48 / 2 = 24 clips in May. 48 + 24 = 72.0 clips in all. Answer: 72", False),
        ("48 / 2 = 24 clips in May. 48.0 + 24 = 72 clips in all. Answer: 72", True),  # what does not change may be
        ("48 / 2 = 24 clips in May. In all 48 + 24 = 72 clips, and no. Answer: 72 clips", True),
    ],
)
def test_a_changed_number_must_stand_where_its_owner_is_known(response, possible):
    rows = made(words(), CLIPS, "v1", 26, ["recomputed", "answered", "flipped"], response=response)
    if not possible:
        assert rows == {"recomputed": None, "answered": None, "flipped": None}
    else:
        behind = response[24:].replace("= 24", "= 26").replace("+ 24", "+ 26").replace("72", "74")
        assert rows["recomputed"][0] == f" 48 / 2 = 26 clips in May{behind}"


def test_targets_of_a_chain_as_it_stands():
    subject = arithmetic("split")
    chain = forced(subject, SUM)
    text = lambda positions: "".join(text_of(subject, (chain.tokens[p],)) for p in positions)  # noqa: E731
    assert text(answer_targets(subject, chain)) == "11"
    assert answer_targets(subject, chain) == (len(chain.tokens) - 2, len(chain.tokens) - 1)
    assert text(value_targets(subject, chain, "v1")) == "12" + "3" + "9" + "9" + "2" + "11" + "11"
    assert text(value_targets(subject, chain, "v3")) == "11"
    unanswered = forced(subject, SUM, SUM.chain)
    assert answer_targets(subject, unanswered) == ()
    assert value_targets(subject, unanswered, "v3") == ()


def test_a_fraction_that_no_short_decimal_writes_is_no_value_to_be_taught():
    """`15/7` would be read as 15, or as a division."""
    rope = Problem(
        id="rope",
        question="A rope of 5 metres is cut into 4 parts. How long are 3 of them?",
        graph=Graph({"a1": 5, "a2": 4, "a3": 3}, (Step("v1", "a1 / a2"), Step("v2", "v1 * a3")), "v2"),
        chain="5 / 4 = 1.25 metres. 1.25 * 3 = 3.75 metres.",
        answer_line="Answer: 3.75",
    )
    assert made(words(), rope, "v2", Fraction(15, 7), ["recomputed", "flipped"]) == {
        "recomputed": None,
        "flipped": None,
    }
    rows = made(words(), rope, "v2", Fraction(21, 4), ["recomputed"])
    assert rows["recomputed"] == (" 5 / 4 = 1.25 metres. 1.25 * 3 = 5.25 metres. Answer: 5.25", ["5.25"])
