"""Batches: what is padded with what, where predictions are read, and that every row is as if it was alone."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch

from faithprobe.training.batches import (
    GROUPS,
    BatchError,
    Collator,
    Group,
    StackedBatch,
    right_padded,
    stacked,
    unanswered,
)
from faithprobe.training.counterfactual import Row
from faithprobe.training.examples import COLUMNS, groups_of, training_examples
from tests.subjects import arithmetic, text_of
from tests.tiny import tiny_model, tiny_tokenizer

PAD, EOS = 0, 1


@cache
def examples(objective: str = "frodo", n: int = 3, digits: str = "merged"):
    subject = arithmetic(digits)
    subject.task.max_new_tokens = 200
    return subject, training_examples(subject, subject.task.problems(n, seed=1), objective=objective, skip=True)


def group(example: int, *rows: Row, answer: tuple[int, ...] = (2,), step: str = "v1") -> Group:
    return Group(example, step, {f"row{k}": row for k, row in enumerate(rows)}, answer)


def own(*lengths: int, mask: bool = True) -> dict:
    rows = [[10 * (i + 1) + k for k in range(n)] for i, n in enumerate(lengths)]
    batch = {"input_ids": right_padded(rows, PAD), "labels": right_padded(rows, -100)}
    return batch | ({"attention_mask": right_padded([[1] * n for n in lengths], 0)} if mask else {})


def test_a_collated_batch_is_padded_on_the_right():
    subject, found = examples()
    batch = Collator(subject.model.tokenizer)(found)
    longest = max(len(example["input_ids"]) for example in found)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (3, longest)
    assert len({len(example["input_ids"]) for example in found}) > 1
    for i, example in enumerate(found):
        n = len(example["input_ids"])
        assert batch["input_ids"][i].tolist() == example["input_ids"] + [PAD] * (longest - n)
        assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (longest - n)
        assert batch["labels"][i].tolist() == example["labels"] + [-100] * (longest - n)
        assert example["labels"][-1] == EOS
        prompt = example["labels"].count(-100)
        assert text_of(subject, tuple(example["input_ids"][:prompt])).endswith("\nA:")
    assert [g.example for g in batch[GROUPS]] == [i for i, e in enumerate(found) for _ in e["group_steps"]]
    assert all(g.answer == tuple(found[g.example]["answer_targets"]) for g in batch[GROUPS])


@pytest.mark.parametrize("objective", ["counterfactual", "self-consistency", "frodo", "markovian", "probe"])
def test_an_example_comes_back_from_any_dataset_as_it_was(objective):
    _, found = examples(objective)
    for example in found:
        assert set(example) == set(COLUMNS)
        stored = json.loads(json.dumps(example))
        before, after = list(groups_of(example)), list(groups_of(stored))
        assert before == after
        assert [step for step, _ in before] == example["group_steps"]
        rows = [row for _, rows in before for row in rows.values()]
        assert [list(row.tokens) for row in rows] == example["row_tokens"]
        assert [list(row.targets) for row in rows] == example["row_targets"]
        assert [list(row.literal) for row in rows] == example["row_literals"]
        assert [list(row.hidden) for row in rows] == example["row_hidden"]
        assert all(max(row.targets) < len(row.tokens) for row in rows)


def test_the_tokenizers_end_token_stands_in_for_a_missing_pad_token():
    _, found = examples()
    batch = Collator(tiny_tokenizer(pad_token=None))(found)
    assert batch["input_ids"][batch["attention_mask"] == 0].unique().tolist() == [EOS]
    with pytest.raises(BatchError, match="neither a pad token nor an end token"):
        Collator(tiny_tokenizer(pad_token=None, eos_token=None))


def test_nothing_is_cut_off():
    subject, found = examples()
    longest = max(len(row) for example in found for row in (example["input_ids"], *example["row_tokens"]))
    Collator(subject.model.tokenizer, max_length=longest)(found)
    with pytest.raises(BatchError, match=f"a text has {longest} tokens, and max_length is {longest - 1}"):
        Collator(subject.model.tokenizer, max_length=longest - 1)(found)


@pytest.mark.parametrize("column", COLUMNS)
def test_missing_columns_are_named(column):
    subject, found = examples()
    cut = {name: value for name, value in found[0].items() if name != column}
    with pytest.raises(BatchError, match=f"no column '{column}'.*remove_unused_columns=False"):
        Collator(subject.model.tokenizer)([cut])


def test_rows_join_behind_the_batch_with_what_they_have_in_each_tensor():
    short, long = Row((7, 8, 9), (2,), (1, 2)), Row((1, 2, 3, 4, 5, 6, 7), (5, 6), (1, 2))
    batch = own(4, 2)
    whole = stacked(batch, [group(1, short, long)], pad=PAD)
    assert whole["input_ids"].tolist() == [
        [10, 11, 12, 13, 0, 0, 0],
        [20, 21, 0, 0, 0, 0, 0],
        [7, 8, 9, 0, 0, 0, 0],
        [1, 2, 3, 4, 5, 6, 7],
    ]
    assert whole["attention_mask"].sum(1).tolist() == [4, 2, 3, 7]
    assert whole["labels"].tolist()[:2] == [[10, 11, 12, 13] + [-100] * 3, [20, 21] + [-100] * 5]
    assert (whole["labels"][2:] == -100).all()
    assert "position_ids" not in whole
    assert whole.plan.own == 2
    assert whole.plan.rows == 4
    assert whole.plan.places == ({"row0": 2, "row1": 3},)
    assert batch["input_ids"].shape == (2, 4)  # the caller's batch is as it was


def test_targets_are_read_in_front_of_them():
    rows = [Row((7, 8, 9), (2,), (1, 2)), Row((1, 2, 3, 4, 5), (3, 4), (1, 2))]
    groups = [group(1, *rows, answer=(1,)), group(0, *rows[::-1], answer=(2, 3))]
    whole = stacked(own(4, 2), groups, pad=PAD)
    found = whole.plan.targets("row1", whole["input_ids"])
    assert found.rows.tolist() == [3, 3, 5]
    assert found.positions.tolist() == [2, 3, 1]
    assert found.labels.tolist() == [4, 5, 9]
    assert found.group.tolist() == [0, 0, 1]
    base = whole.plan.targets("base", whole["input_ids"])
    assert base.rows.tolist() == [1, 0, 0]
    assert base.positions.tolist() == [0, 1, 2]
    assert base.labels.tolist() == [21, 12, 13]
    assert base.group.tolist() == [0, 1, 1]


def test_a_value_that_is_read_in_the_batchs_own_row_adds_none():
    row = Row((10, 11, 12, 13), (2,), (2, 4))
    groups = [Group(0, "v1", {"stated": row}, (3,)), Group(1, "v2", {"stated": Row((20, 21), (1,), (1, 2))}, (1,))]
    whole = stacked(own(4, 2), groups, pad=PAD)
    assert whole["input_ids"].tolist() == own(4, 2)["input_ids"].tolist()
    assert whole.plan.rows == whole.plan.own == 2
    found = whole.plan.targets("stated", whole["input_ids"])
    assert found.rows.tolist() == [0, 1]
    assert found.positions.tolist() == [1, 0]
    assert found.labels.tolist() == [12, 21]


def test_without_rows_a_batch_stays_as_it_is():
    whole = stacked(own(4, 2), [], pad=PAD)
    assert isinstance(whole, StackedBatch)
    assert all(torch.equal(whole[name], value) for name, value in own(4, 2).items())
    assert whole.plan.rows == 2


@pytest.mark.parametrize(("length", "needed"), [(3, False), (2, True), (4, True)])
def test_a_mask_is_made_where_something_is_padded(length, needed):
    row = Row(tuple(range(1, length + 1)), (1,), (1, 2))
    whole = stacked(own(3, 3, mask=False), [group(0, row)], pad=PAD)
    assert ("attention_mask" in whole) == needed
    if needed:
        assert whole["attention_mask"].sum(1).tolist() == [3, 3, length]


def test_positions_count_from_the_left_in_every_row():
    batch = own(4, 2) | {"position_ids": torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]])}
    whole = stacked(batch, [group(0, Row((1, 2, 3, 4, 5), (4,), (1, 2)))], pad=PAD)
    assert whole["position_ids"].tolist() == [[0, 1, 2, 3, 0], [0, 1, 0, 0, 0], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("mask", [True, False])
def test_hidden_tokens_keep_their_positions_and_are_masked(mask):
    row = Row((1, 2, 3, 4, 5), (4,), (4, 5), hidden=(1, 3))
    whole = stacked(own(5, 5, mask=mask), [group(0, row)], pad=PAD)
    assert whole["attention_mask"].tolist() == [[1] * 5, [1] * 5, [1, 0, 0, 1, 1]]
    assert whole["position_ids"].tolist() == [[0, 1, 2, 3, 4]] * 3


def test_what_is_not_known_to_be_of_the_batch_is_refused():
    with pytest.raises(BatchError, match=r"holds 'token_type_ids'.*is not known"):
        stacked(own(4, 2) | {"token_type_ids": torch.zeros(2, 4)}, [], pad=PAD)
    left = own(4, 2) | {"attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])}
    with pytest.raises(BatchError, match="padded on the left"):
        stacked(left, [], pad=PAD)


def test_own_rows_are_not_asked_for_their_answers():
    batch = own(5, 3) | {GROUPS: [group(1, answer=(1,)), group(0, answer=(3, 4)), group(0, answer=(3, 4))]}
    labels = batch["labels"].clone()
    found = unanswered(batch)
    assert found["labels"].tolist() == [[10, 11, 12, -100, -100], [20, -100, -100, -100, -100]]
    assert torch.equal(batch["labels"], labels)
    assert {name: value for name, value in found.items() if name != "labels"}.keys() == batch.keys() - {"labels"}
    for wrong in ([], [group(0)], [group(0), group(1, answer=())]):
        with pytest.raises(BatchError, match="does not say where its answer is"):
            unanswered(batch | {GROUPS: wrong})
    with pytest.raises(BatchError, match="does not say where"):
        unanswered(own(5, 3))
    with pytest.raises(BatchError, match="no 'labels'"):
        unanswered({"input_ids": batch["input_ids"], GROUPS: batch[GROUPS]})


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_model_sees_every_row_as_if_it_was_alone_and_has_the_loss_that_it_had(family):
    subject, found = examples("frodo")
    model = tiny_model(family, **({"n_positions": 512} if family == "gpt2" else {"max_position_embeddings": 512}))
    batch = Collator(subject.model.tokenizer)(found)
    groups = [batch[GROUPS][0], batch[GROUPS][-1]]
    whole = stacked(batch, groups, pad=PAD)
    plain = {name: value for name, value in batch.items() if name != GROUPS}
    with torch.no_grad():
        out, before = model(**whole), model(**plain)
        torch.testing.assert_close(out.loss, before.loss, rtol=0, atol=1e-5)
        for chosen, places in zip(groups, whole.plan.places, strict=True):
            for variant, row in chosen.rows.items():
                alone = model(torch.tensor([row.tokens])).logits[0]
                torch.testing.assert_close(
                    out.logits[places[variant], : len(row.tokens)], alone, rtol=0, atol=1e-4 * float(alone.abs().max())
                )
                read = whole.plan.targets(variant, whole["input_ids"])
                here = read.rows == places[variant]
                assert read.labels[here].tolist() == [row.tokens[t] for t in row.targets]
                torch.testing.assert_close(
                    out.logits[read.rows[here], read.positions[here]],
                    alone[[t - 1 for t in row.targets]],
                    rtol=0,
                    atol=1e-4 * float(alone.abs().max()),
                )
