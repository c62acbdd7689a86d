"""Cutting chains: where, with which tokens, and what counts as an answer."""

from __future__ import annotations

import pytest

from faithprobe.chains.subject import Subject
from faithprobe.errors import UnscoredError
from faithprobe.interventions.truncate import Asked, answers, asked, chain_end, cuts
from tests.subjects import arithmetic, forced, forced_references, text_of


@pytest.mark.parametrize("digits", ["split", "merged", "spaced"])
def test_cuts_end_sentences_and_keep_the_models_own_tokens(digits):
    subject = arithmetic(digits)
    for chain in forced_references(subject, 4):
        found = cuts(subject.task, chain)
        assert [cut.step for cut in found] == ["", "v1", "v2", "v3"]
        assert (found[0].end, found[0].tokens) == (0, 0)
        assert all(chain.text[: cut.end].endswith(f"= {chain.values[cut.step]}.") for cut in found[1:])
        for cut in found:
            text = subject.task.truncated(chain.problem, chain.text, cut.end)
            row = asked(subject, chain, text)
            own = chain.n_prompt + cut.tokens
            assert row.tokens[:own] == chain.tokens[:own]
            assert text_of(subject, row.tokens[own:]) == " Answer:"
            assert text_of(subject, row.answer) == f" {chain.answer}"
        assert (*row.tokens, *row.answer) == chain.tokens  # nothing is cut off any more


def test_words_behind_the_last_step_are_a_piece_of_their_own():
    subject = arithmetic()
    (problem,) = subject.task.problems(1)
    chain = forced(subject, problem, f"{problem.chain} That is all. {problem.answer_line}")
    found = cuts(subject.task, chain)
    assert [cut.step for cut in found] == ["", "v1", "v2", "v3", ""]
    assert found[-1].end == chain_end(subject.task, chain)
    assert chain.text[found[-2].end : found[-1].end].strip() == "That is all."


def test_two_steps_in_one_sentence_are_cut_between_them():
    subject = arithmetic(operations="+")
    subject.task.stop = ("\n\n",)
    problem = next(p for p in subject.task.problems(50) if len({*p.graph.values.values()}) == 7)
    x0, a1, a2, a3, v1, v2, v3 = (problem.graph.values[n] for n in ("x0", "a1", "a2", "a3", "v1", "v2", "v3"))
    text = f"First {x0} + {a1} = {v1}, {v1} + {a2} = {v2} in all\n{v2} + {a3} = {v3}!\nAnswer: {v3}"
    chain = forced(subject, problem, text)
    ends = [chain.text[: cut.end] for cut in cuts(subject.task, chain)[1:]]
    for end, tail in zip(ends, (f"= {v1}", "in all", f"= {v3}!"), strict=True):
        assert end.endswith(tail)


@pytest.mark.parametrize(
    ("tail", "value"),
    [
        (" 12", 12),
        ("12", 12),
        ("\n12\n\nQ: 3", 12),
        (" 12. Wait. Answer: 13", 12),
        (" 12\nAnswer: 13", 12),
        (" 12 - 3 = 9", 9),
        (" no idea", "no"),
        ("", None),
        (" +", None),
    ],
)
def test_the_answer_is_what_the_first_line_behind_the_cue_says(monkeypatch, tail, value):
    subject = arithmetic()
    monkeypatch.setattr(Subject, "complete", lambda self, rows, **options: [tail for _ in rows])
    row = Asked("My answer is 5. Answer:", (1, 2), (3,))
    assert answers(subject, [row, row]) == [value, value]


def test_equal_rows_are_asked_once_and_greedily(monkeypatch):
    seen = []

    def complete(self, rows, *, decoding):
        seen.append((list(rows), decoding.temperature, decoding.max_new_tokens))
        return [str(len(row)) for row in rows]

    monkeypatch.setattr(Subject, "complete", complete)
    subject = Subject(arithmetic().model, arithmetic().task, temperature=1.0)
    rows = [Asked("Answer:", tokens, (3,)) for tokens in ((1, 2), (1, 2, 3), (1, 2))]
    assert answers(subject, rows) == [2, 3, 2]
    assert seen == [([(1, 2), (1, 2, 3)], 0.0, 24)]


def test_chains_without_an_answer_or_with_nothing_else():
    subject = arithmetic()
    (problem,) = subject.task.problems(1)
    for response, words in ((problem.chain, "no answer"), (" Answer: 3", "nothing stands before")):
        with pytest.raises(UnscoredError, match=words):
            cuts(subject.task, forced(subject, problem, response))
