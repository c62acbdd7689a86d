"""Examples: a chain as a row of a data set, and the rows that may join its batch."""

from __future__ import annotations

import pytest

from faithprobe.chains.subject import Subject
from faithprobe.errors import TaskError
from faithprobe.tasks import Problem
from faithprobe.tasks.arithmetic import Arithmetic
from faithprobe.training.examples import AS_WRITTEN, groups_of, training_example, training_examples
from tests.subjects import arithmetic, forced, text_of
from tests.tiny import tiny_language_model
from tests.training.texts import SUM, asked_for, roomy


def test_an_example_holds_a_chain_and_its_groups():
    subject = roomy()
    example = training_example(subject, forced(subject, SUM), objective="frodo", counterfactuals=2)
    tokens = subject.forced(SUM, SUM.response)
    assert tuple(example["input_ids"]) == (*tokens, 1)  # the end token
    n = len(subject.prompt(SUM))
    assert example["labels"] == [-100] * n + example["input_ids"][n:]
    assert "".join(text_of(subject, (tokens[t],)) for t in example["answer_targets"]) == "11"
    assert example["group_steps"] == ["v1", "v1", "v2", "v2", "v3", "v3"]
    groups = list(groups_of(example))
    assert [step for step, _ in groups] == example["group_steps"]
    for _, rows in groups:
        assert set(rows) == {"answered", "flipped"}
        a, b = rows["answered"], rows["flipped"]
        assert a.targets[0] == b.targets[0]
        assert a.tokens[: a.targets[0]] == b.tokens[: b.targets[0]]
        assert asked_for(subject, b) == ["11"] != asked_for(subject, a)
    assert groups[0][1] != groups[1][1]


def test_steps_are_named_by_the_reference_and_drawn_by_the_seed():
    subject = arithmetic()
    chain = forced(subject, SUM)
    assert set(training_example(subject, chain, steps=["v2"])["group_steps"]) == {"v2"}
    one, same, other = (training_example(subject, chain, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one["row_tokens"] != other["row_tokens"]
    assert training_example(subject, chain, objective="cross-entropy")["row_tokens"] == []
    with pytest.raises(TaskError, match="no step 'v9'; its steps: v1, v2, v3"):
        training_example(subject, chain, steps=["v9"])


@pytest.mark.parametrize("objective", ["counterfactual", "markovian", "probe", "pcs"])
def test_chains_that_state_nothing_are_refused_or_left_out(objective):
    subject = arithmetic()
    silent = Problem(SUM.id, SUM.question, SUM.graph, "I will not say.", "It is eleven")
    with pytest.raises(TaskError, match="skip=True leaves such problems out"):
        training_examples(subject, [silent], objective=objective)
    assert len(training_examples(subject, [SUM, silent], objective=objective, skip=True)) == 1


def test_chains_as_they_are_written():
    subject = roomy("merged")
    chain = forced(subject, SUM)
    blind = training_example(subject, chain, objective="markovian")
    assert blind["group_steps"] == ["v3"]
    ((_, rows),) = groups_of(blind)
    row = rows["blind"]
    assert list(row.tokens) == blind["input_ids"]
    assert asked_for(subject, row) == ["11<eos>"]
    hidden = text_of(subject, row.tokens[slice(*row.hidden)])
    assert hidden == f"{SUM.question}\nA:"
    stated = training_example(subject, chain, objective="probe")
    assert stated["group_steps"] == ["v1", "v2", "v3"]
    found = [rows["stated"] for _, rows in groups_of(stated)]
    assert [asked_for(subject, row) for row in found] == [["12"], ["9"], ["11"]]
    assert [row.targets for row in found] == [(chain.literals[step].span[0],) for step in ("v1", "v2", "v3")]
    assert set(AS_WRITTEN) == {"blind", "stated"}


def test_a_reference_that_is_longer_than_a_response_may_be_still_ends():
    asked = Subject(tiny_language_model("llama"), Arithmetic(steps=2, shots=0))
    asked.task.max_new_tokens = 3
    (example,) = training_examples(asked, asked.task.problems(1), objective="cross-entropy")
    assert example["labels"][-1] == example["input_ids"][-1] == asked.model.tokenizer.eos_token_id
