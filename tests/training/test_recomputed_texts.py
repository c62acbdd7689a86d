"""A recomputed text, read by the reader of chains and not by what wrote it, says what the executor says."""

from __future__ import annotations

import random

import pytest

from faithprobe.chains.subject import Subject
from faithprobe.interventions.swap import replacements
from faithprobe.tasks import load_task
from faithprobe.tasks.graph import show_value
from faithprobe.training.examples import VARIANTS
from tests.subjects import forced, organism, text_of
from tests.tiny import tiny_language_model
from tests.training.texts import FIXTURES, asked_for

FAMILIES = [
    pytest.param("arithmetic", {"steps": 2}, 12, 6, id="arithmetic-2"),
    pytest.param("arithmetic", {"steps": 5, "operations": "+-*"}, 5, 3, id="arithmetic-5"),
    pytest.param("arithmetic", {"steps": 4, "modulus": 11, "operations": "+-*"}, 6, 4, id="arithmetic-modulo"),
    pytest.param("programs", {}, 6, 5, id="programs"),
    pytest.param("programs", {"variables": 5, "operations": "+-*/%", "largest": 999}, 4, 3, id="programs-all"),
    pytest.param("programs", {"path": FIXTURES / "dag_small.jsonl"}, 2, 2, id="programs-file"),
    pytest.param("multiplication", {}, 8, 6, id="multiplication"),
    pytest.param("multiplication", {"digits": 3, "multiplier_digits": 4}, 4, 4, id="multiplication-3x4"),
    pytest.param("gsm8k", {"path": FIXTURES / "gsm8k_small.jsonl"}, 6, 3, id="gsm8k"),
    pytest.param("deduction", {"hops": 1, "ask": "choice"}, 15, 1, id="deduction-choice"),
    pytest.param("organism", {}, 8, 8, id="organism"),
    pytest.param("organism", {"variant": "graph"}, 6, 6, id="organism-graph"),
]


@pytest.mark.parametrize(("name", "options", "n", "least"), FAMILIES)
@pytest.mark.parametrize("digits", ["split", "merged"])
def test_a_recomputed_text_read_again_says_what_the_executor_says(name, options, n, least, digits):
    """Over random problems and steps of every family: read by the reader of chains, not by what wrote the text."""
    if name == "organism":
        subject = organism("faithful" if not options else "graph/faithful")
        task = load_task(name, **options)
        subject = Subject(subject.model, task)
    else:
        task = load_task(name, **options)
        subject = Subject(tiny_language_model(digits=digits, max_position_embeddings=4096), task)
    problems = 0
    for problem in task.problems(n, seed=3):
        chain = forced(subject, problem)
        stated = subject.reading(problem, chain.text)
        rows = 0
        for step in chain.literals:
            if step in chain.unlocated or step not in chain.graph.needed:
                continue
            for replacement in replacements(subject, chain, step, n=3, rng=random.Random(f"{problem.id} {step}")):
                row = VARIANTS["recomputed"](subject, chain, replacement)
                if row is None:
                    continue
                rows += 1
                values = chain.graph.recompute({step: replacement.value})
                text = text_of(subject, row.tokens[chain.n_prompt :])
                read = subject.reading(problem, text)
                assert [s.value for s in read.statements] == [values[s.step] for s in stated.statements]
                assert read.answer == values[chain.graph.answer] == replacement.closed_form
                assert read.answer != chain.answer
                # the literal is the value in as many tokens, and in front of it nothing is new
                start, end = chain.literals[step].span
                assert row.literal == (start, end)
                assert row.tokens[:start] == chain.tokens[:start]
                assert text_of(subject, row.tokens[start:end]).strip() == show_value(replacement.value)
                # what is asked for are the values behind it, and no other word
                later = [s for s in read.statements if s.chars[0] >= chain.literals[step].chars[0] + 1]
                assert min(row.targets) >= end
                assert len(asked_for(subject, row)) >= len(later)
                assert asked_for(subject, row)[-1] == show_value(read.answer)
        problems += rows > 0
    assert problems >= least


def test_deductions_state_rules_of_the_names_that_change():
    """All but the last step are followed by a rule with their name in it; of the last one a text can be made."""
    task = load_task("deduction", hops=4, ask="choice")
    subject = Subject(tiny_language_model(digits="split", max_position_embeddings=4096), task)
    steps = set()
    for problem in task.problems(12):
        chain = forced(subject, problem)
        for step, literal in chain.literals.items():
            for replacement in replacements(subject, chain, step, n=3, rng=random.Random(0)):
                row = VARIANTS["recomputed"](subject, chain, replacement)
                if row is not None:
                    steps.add(step)
                    old, new = str(literal.value), str(replacement.value)
                    head, tail = chain.text[: literal.chars[0]], chain.text[literal.chars[0] :]
                    assert text_of(subject, row.tokens[chain.n_prompt :]) == head + tail.replace(old, new)
    assert steps == {"v4"}
