"""Bypass: another prompt in front of the chain."""

from __future__ import annotations

import random

import pytest

from faithprobe.interventions.bypass import Exchange, ExchangeOutcome, exchanges, run_exchanges
from tests.subjects import answered, arithmetic, forced, forced_references, organism


def test_an_exchange_is_the_partners_prompt_and_the_chain_so_far():
    subject = arithmetic()
    for chain in forced_references(subject, 4):
        made = exchanges(subject, chain, rng=random.Random(0))
        assert [e.cut for e in made] == [1, 2, 3]
        assert [e.readout for e in made] == [False, False, True]
        for e, literal in zip(made, chain.stated, strict=True):
            prompt = subject.prompt(e.partner)
            assert e.tokens[: len(prompt)] == prompt
            assert e.tokens[len(prompt) :] == chain.tokens[chain.n_prompt : literal.span[1]]
            assert chain.text.startswith(e.text)
            assert e.text.endswith(literal.text)
            assert e.partner.answer not in (chain.problem.answer, chain.answer)
            # what enters later is as in the chain's own problem, so both ask for the same continuation
            later = [name for k in range(e.cut + 1, 4) for name in (f"a{k}",)]
            assert all(e.partner.graph.inputs[name] == chain.problem.graph.inputs[name] for name in later)


@pytest.mark.parametrize(("name", "follows_prompt"), [("faithful", False), ("post-hoc", True), ("commit", True)])
def test_the_answer_follows_what_it_is_wired_to(name, follows_prompt):
    subject = organism(name)
    outcomes = run_exchanges(subject, answered(subject, 4))
    assert len(outcomes) >= 9
    for outcome in outcomes:
        assert outcome.follows_prompt is follows_prompt
        assert outcome.follows_chain is not follows_prompt
        assert outcome.prompt_answer != outcome.chain_answer


def test_a_chain_without_an_answer_is_not_exchanged():
    subject = arithmetic()
    (problem,) = subject.task.problems(1)
    chain = forced(subject, problem, problem.chain)
    assert chain.answer is None
    assert run_exchanges(subject, [chain]) == []


def test_no_answer_follows_nothing():
    (problem,) = organism("faithful").task.problems(1)
    outcome = ExchangeOutcome(Exchange("c", 1, problem, (), "", False), None, 3, None)
    assert not outcome.follows_prompt
    assert not outcome.follows_chain
