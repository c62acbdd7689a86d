"""Two prompts crossed with two chains: what is run, what is left out, and what organisms of known wiring answer."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from faithprobe.chains.subject import Subject
from faithprobe.errors import UnscoredError
from faithprobe.interventions.mediation import Answers, Mediator, Pair, mediator, partners_of, run_crossings
from faithprobe.scores.mediation import Cells
from faithprobe.tasks import load_task
from tests.subjects import answered, arithmetic, forced, forced_references, organism
from tests.tiny import tiny_language_model


def test_a_chain_is_cut_behind_its_last_value():
    subject = arithmetic()
    for chain in forced_references(subject, 4):
        chain = replace(chain, answer=9, answer_chars=(len(chain.text), len(chain.text)))
        cut = mediator(subject, chain)
        assert cut.tokens == chain.tokens[chain.n_prompt : chain.stated[-1].span[1]]
        assert chain.text.startswith(cut.text)
        assert cut.text.endswith(f"= {chain.stated[-1].text}")
        assert subject.answer(cut.text) is None


def test_a_value_that_is_the_answer_itself_is_no_part_of_the_mediator():
    subject = Subject(tiny_language_model("llama", max_position_embeddings=1024), load_task("deduction", shots=0))
    for problem in subject.task.problems(4):
        chain = forced(subject, problem)
        if chain.unplaced:
            continue
        assert chain.stated[-1].chars == chain.answer_chars
        assert chain.text[: chain.answer_chars[0]].startswith(mediator(subject, chain).text)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("Start with 3. Add 4: 3 + 4 = 7.", "the response states no answer"),
        ("Answer: 7", "no value is stated before the answer"),
        ("Answer: 7. Start with 3. Add 4: 3 + 4 = 7. Answer: 7", "an answer is stated before the last value"),
    ],
)
def test_a_chain_that_cannot_be_cut_is_left_out_with_a_reason(response, reason):
    subject = arithmetic(steps=2)
    chain = forced(subject, subject.task.problems(1)[0], response)
    with pytest.raises(UnscoredError, match=reason):
        mediator(subject, chain)
    assert run_crossings(subject, [chain]) == ([], {chain.id: reason})


def test_a_value_without_a_token_border_is_left_out():
    subject = organism("faithful")
    (chain,) = answered(subject, 1)
    chain = replace(chain, unplaced={"v3": 1}, unlocated={"v3": "shares a token"})
    with pytest.raises(UnscoredError, match="shares a token"):
        mediator(subject, chain)


def test_a_family_without_partners_is_left_out(monkeypatch):
    subject = organism("faithful")
    (chain,) = answered(subject, 1)
    monkeypatch.setattr(type(subject.task), "partners", lambda *_, **__: iter(()))
    assert run_crossings(subject, [chain]) == ([], {chain.id: "no counterfactual partner with another answer"})


def test_partners_have_other_answers():
    subject = organism("faithful")
    for chain in answered(subject, 4):
        for partner in partners_of(subject, chain.problem, chain.answer, rng=random.Random(0)):
            assert partner.answer != chain.problem.answer


def test_equal_answers_to_both_are_left_out(monkeypatch):
    """A model that says the same of every problem has no effects."""
    subject = organism("faithful")
    (chain,) = answered(subject, 1)
    monkeypatch.setattr(Subject, "respond", lambda self, problems: iter([(chain, Done(0))]))
    assert run_crossings(subject, [chain]) == ([], {chain.id: "on the partner: the model gives the same answer"})


class Done:
    def __init__(self, index: int) -> None:
        self.index = index


def test_the_cells_are_every_prompt_with_every_chain(monkeypatch):
    subject = organism("faithful")
    chains = answered(subject, 3)
    rows: list[tuple[int, ...]] = []
    complete = Subject.complete
    monkeypatch.setattr(Subject, "complete", lambda self, asked: rows.extend(asked) or complete(self, asked))
    crossings, reasons = run_crossings(subject, chains)
    assert len(crossings) + len(reasons) == 3
    assert len(rows) == 4 * len(crossings) > 0
    for k, crossing in enumerate(crossings):
        pair = crossing.pair
        prompts = [subject.prompt(problem) for problem in (pair.problem, pair.partner)] * 2
        kept = [pair.chain.tokens] * 2 + [pair.partner_chain.tokens] * 2
        assert rows[4 * k : 4 * k + 4] == [(*prompt, *chain) for prompt, chain in zip(prompts, kept, strict=True)]


TRUTH = {"faithful": (0, 1), "post-hoc": (1, 0), "commit": (1, 0)}
"""Natural direct and indirect effect, by wiring."""


@pytest.mark.parametrize("name", TRUTH)
def test_effects_are_what_the_wiring_says(name):
    subject = organism(name)
    crossings, _ = run_crossings(subject, answered(subject, 6))
    assert len(crossings) >= 5
    for crossing in crossings:
        direct, indirect = TRUTH[name]
        expected = {"total": 1, "direct": direct, "indirect": indirect, "interaction": 0}
        assert crossing.cells.effects == expected
        assert crossing.control == Cells(0, 0, 0, 0)


def test_an_answer_that_cannot_be_read_is_nobodys():
    assert Answers(None, 3, None, 4).equal(3) == Cells(0, 1, 0, 0)
    (problem,) = organism("faithful").task.problems(1)
    pair = Pair(problem, problem, Mediator((), "", 1), Mediator((), "", 2), None)
    assert [chain.answer for _, chain in pair.crossed()] == [1, 1, 2, 2]
