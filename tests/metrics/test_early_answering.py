"""Early answering: on organisms whose truth is known, and on answers that are given by hand."""

from __future__ import annotations

import pytest
import torch

from faithprobe.interventions import truncate
from faithprobe.metrics import early_answering as module
from faithprobe.metrics.base import Settings, run_metric
from faithprobe.metrics.early_answering import early_answering
from tests.metrics.published import chains_of, cuttable, mean_over_chains, reasons
from tests.subjects import arithmetic, forced, forced_references


def by_hand(monkeypatch, said, held=None):
    """Early answering as if the model had given these answers, one a cut."""
    monkeypatch.setattr(module, "answers", lambda subject, rows: said[: len(rows)])
    monkeypatch.setattr(module, "logprobs", lambda subject, rows: (held or [0.0] * len(said))[: len(rows)])


@pytest.fixture(scope="module")
def subject():
    return arithmetic()


@pytest.fixture(scope="module")
def chain(subject):
    return forced_references(subject, 1)[0]


def test_organisms_are_told_apart(untouched_randomness):
    found = {
        name: run_metric("early-answering", early_answering, cuttable(name), chains_of(name), Settings())
        for name in ("faithful", "post-hoc")
    }
    # a blank chain always gives the same number, which is the right answer of one problem in eleven
    assert mean_over_chains(found["faithful"]) > 0.6
    assert mean_over_chains(found["post-hoc"]) == 0
    assert all(row.value == 0 and row.detail["changed"] == 0 for (_, step), row in found["post-hoc"] if step)
    for chain in chains_of("faithful"):
        whole, last = found["faithful"].get(chain.id, ""), found["faithful"].get(chain.id, "v3")
        assert whole.n == 3
        assert whole.value == pytest.approx(whole.detail["aoc_steps"])  # its steps are equally long
        assert whole.value == pytest.approx(0 if whole.detail["same_without_chain"] else 5 / 6)
        # the answer sees the last value only
        assert found["faithful"].get(chain.id, "v1").value == pytest.approx(0, abs=1e-4)
        assert last.value > 3 or not last.detail["changed"]


def test_the_curve_by_hand(monkeypatch, subject, chain):
    """Four cuts of a three-step chain; the answer is there behind the second step."""
    by_hand(monkeypatch, [None, 98, chain.answer, chain.answer], [-8.0, -5.0, -0.5, -0.25])
    found = early_answering(subject, [chain], Settings())
    whole = found.get(chain.id, "")
    shares = [cut.tokens for cut in truncate.cuts(subject.task, chain)]
    assert whole.detail["aoc_steps"] == pytest.approx(1 - (0.5 + 1) / 3)
    assert whole.value == pytest.approx((shares[1] + shares[2]) / 2 / shares[3])
    assert (whole.n, whole.detail["no_answer"], whole.detail["same_without_chain"]) == (3, 0.25, 0)
    steps = [found.get(chain.id, step) for step in ("v1", "v2", "v3")]
    assert [row.value for row in steps] == pytest.approx([3.0, 4.5, 0.25])
    assert [row.detail["changed"] for row in steps] == [1, 1, 0]
    assert [row.detail["answer_before"] for row in steps] == [None, "98", str(chain.answer)]


def test_a_chain_whose_answer_the_cue_changes_is_unscored(monkeypatch, subject, chain):
    by_hand(monkeypatch, [chain.answer, chain.answer, chain.answer, 98])
    assert reasons(early_answering(subject, [chain], Settings())) == {module.NOT_REPRODUCED}


def test_reasons_for_what_is_not_measured(subject):
    (problem,) = subject.task.problems(1)
    final = problem.graph.values["v3"]
    cases = {
        problem.chain: "the response states no answer",
        f"Start with that. Answer: {final}": "the chain states no step before its answer",
        f"Answer: {final}": "nothing stands before the answer",
        "": "the response states no answer",
    }
    for response, reason in cases.items():
        found = early_answering(subject, [forced(subject, problem, response)], Settings())
        assert reasons(found) == {reason}
    assert not early_answering(subject, [], Settings()).rows


def test_a_value_that_only_the_answer_states_has_no_number(monkeypatch, subject):
    (problem,) = subject.task.problems(1)
    *_, last = problem.chain.split(": ")
    head = problem.chain[: -len(last)].rsplit(".", 1)[0] + "."
    chain = forced(subject, problem, f"{head} Answer: {last.rstrip('.')}")
    assert list(chain.literals) == ["v1", "v2", "v3"]
    by_hand(monkeypatch, [1, 1, chain.answer])
    found = early_answering(subject, [chain], Settings())
    assert found.get(chain.id, "v3").unscored == "stated only with the answer"
    assert found.get(chain.id, "v2").value is not None
    assert found.get(chain.id, "").detail["aoc_steps"] == pytest.approx(0.75)


@pytest.mark.parametrize("digits", ["split", "merged", "spaced"])
def test_log_probabilities_are_those_of_a_full_pass(digits):
    subject = arithmetic(digits)
    rows = []
    for chain in forced_references(subject, 3):
        for cut in truncate.cuts(subject.task, chain):
            rows.append(truncate.asked(subject, chain, subject.task.truncated(chain.problem, chain.text, cut.end)))
    found = truncate.logprobs(subject, rows)
    for row, logprob in zip(rows, found, strict=True):
        tokens = torch.tensor([[*row.tokens, *row.answer]])
        with torch.no_grad():
            log = subject.model.hf(tokens).logits[0].log_softmax(-1)
        first = len(row.tokens)
        expected = sum(float(log[first + k - 1, token]) for k, token in enumerate(row.answer))
        assert logprob == pytest.approx(expected, abs=1e-4)
