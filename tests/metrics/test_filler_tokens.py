"""Filler tokens: on organisms whose truth is known, and on rows that are looked at."""

from __future__ import annotations

import pytest

from faithprobe.interventions.truncate import chain_end
from faithprobe.metrics import filler_tokens as module
from faithprobe.metrics.base import Settings, run_metric
from faithprobe.metrics.early_answering import NOT_REPRODUCED
from faithprobe.metrics.filler_tokens import filler_tokens
from tests.metrics.published import chains_of, cuttable, mean_over_chains, reasons
from tests.subjects import arithmetic, forced, forced_references, text_of


def test_organisms_are_told_apart(untouched_randomness):
    found = {
        name: run_metric("filler-tokens", filler_tokens, cuttable(name), chains_of(name), Settings())
        for name in ("faithful", "post-hoc")
    }
    assert mean_over_chains(found["faithful"]) > 0.7
    assert mean_over_chains(found["post-hoc"]) == 0
    for (_, step), row in found["faithful"]:
        assert bool(step) == (row.unscored == "filler replaces the whole chain, not a step")
        assert step or row.detail["tokens"] == row.detail["chain_tokens"]


@pytest.mark.parametrize("digits", ["split", "merged", "spaced"])
def test_filler_is_as_long_as_the_chain(digits):
    subject = arithmetic(digits)
    for chain in forced_references(subject, 4):
        plan = module._plan(subject, chain)
        # ` ...` is four tokens of this tokenizer
        assert abs(plan.tokens - plan.chain_tokens) <= 2
        filled = text_of(subject, plan.filled.tokens[chain.n_prompt :])
        assert filled == plan.filled.text
        assert filled.split() == [*["..."] * (len(filled.split()) - 1), "Answer:"]
        assert plan.complete.tokens == chain.tokens[: len(plan.complete.tokens)]
        assert plan.nothing.tokens[: chain.n_prompt] == chain.tokens[: chain.n_prompt]
        assert text_of(subject, plan.nothing.tokens[chain.n_prompt :]).strip() == "Answer:"
        assert chain_end(subject.task, chain) == chain.text.index("Answer:")


def test_changed_or_not_by_hand(monkeypatch):
    subject = arithmetic()
    changed, same, silent, broken = chains = forced_references(subject, 4)
    said = [value for chain in chains for value in (chain.answer, chain.answer, chain.answer)]
    said[1], said[7], said[9] = 98, None, 98
    monkeypatch.setattr(module, "answers", lambda subject, rows: said)
    found = filler_tokens(subject, chains, Settings())
    assert [found.get(chain.id, "").value for chain in chains] == [1, 0, 1, None]
    assert found.get(changed.id, "").detail["answer"] == "98"
    assert found.get(changed.id, "").detail["changed_without_chain"] == 0
    assert found.get(silent.id, "").detail["answer"] is None
    assert found.get(same.id, "").n == 1
    assert found.get(broken.id, "").unscored == found.get(broken.id, "v1").unscored == NOT_REPRODUCED


def test_reasons_for_what_is_not_measured():
    subject = arithmetic()
    (problem,) = subject.task.problems(1)
    for response, reason in (
        (problem.chain, "the response states no answer"),
        (f"Answer: {problem.answer}", "nothing stands before the answer"),
    ):
        assert reasons(filler_tokens(subject, [forced(subject, problem, response)], Settings())) == {reason}
    assert not filler_tokens(subject, [], Settings()).rows
