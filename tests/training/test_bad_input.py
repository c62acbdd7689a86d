"""Whatever cannot be trained on is an error that says what to do, and never a silent zero."""

from __future__ import annotations

import string

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from faithprobe.chains.subject import Subject
from faithprobe.errors import FaithprobeError, HookError, ModelError, TaskError, UnknownNameError
from faithprobe.models import load_model
from faithprobe.tasks import Graph, Problem, Step, Task
from faithprobe.training.batches import GROUPS, BatchError, Collator
from faithprobe.training.examples import training_examples
from faithprobe.training.loss import FaithfulnessLoss
from tests.tiny import tiny_model, tiny_tokenizer
from tests.training.material import batch, batch_of, examples, plain, small, subject


def ready(objective: str = "counterfactual", **options):
    model = small()
    faithful = FaithfulnessLoss(model, objective=objective, **options)
    return model, faithful, faithful.stack(batch(8, objective))


# What a batch must hold


def test_a_batch_without_counterfactual_columns():
    _, faithful, _ = ready()
    with pytest.raises(BatchError, match=f"no '{GROUPS}', only input_ids, attention_mask, labels: make examples with"):
        faithful.stack(plain(batch()))
    with pytest.raises(BatchError, match=r"no column 'group_steps'.*remove_unused_columns=False"):
        batch_of([{name: value for name, value in examples(1)[0].items() if name != "group_steps"}])


def test_examples_without_a_counterfactual_of_what_is_asked():
    with pytest.raises(BatchError, match="no example of the batch has a counterfactual of v9"):
        FaithfulnessLoss(small(), steps=["v9"]).stack(batch())
    with pytest.raises(BatchError, match="step_weights names w1, and the batch's chains have v1, v2, v3"):
        FaithfulnessLoss(small(), step_weights={"w1": 2.0}).stack(batch())
    with pytest.raises(BatchError, match="no example of the batch has a counterfactual of any step"):
        FaithfulnessLoss(small()).stack(batch(8, "cross-entropy"))
    with pytest.raises(BatchError, match=r"hold recomputed.*compares 'interchanged'.*objective='interchange'"):
        FaithfulnessLoss(small(), objective="interchange").stack(batch())
    with pytest.raises(TaskError, match="no step 'v9'; its steps: v1, v2, v3"):
        training_examples(subject(), subject().task.problems(1), steps=["v9"])
    with pytest.raises(UnknownNameError, match=r"'interchanged'; did you mean 'interchange'"):
        training_examples(subject(), subject().task.problems(1), objective="interchanged")


def test_a_batch_without_room():
    with pytest.raises(BatchError, match=r"1 rows have no room for one counterfactual of 1 rows within share=0\.5"):
        FaithfulnessLoss(small()).stack(batch(1))
    with pytest.raises(BatchError, match=r"3 rows have no room for one counterfactual of 2 rows within share=0\.5"):
        FaithfulnessLoss(small(), objective="interchange").stack(batch(3, "interchange"))


def test_left_padding():
    given = batch()
    given["attention_mask"][2, 0] = 0
    with pytest.raises(BatchError, match=r"padded on the left.*pad right"):
        FaithfulnessLoss(small()).stack(given)


@pytest.mark.parametrize("name", ["token_type_ids", "inputs_embeds", "pixel_values"])
def test_tensors_of_which_nobody_knows_what_a_row_should_have(name):
    with pytest.raises(BatchError, match=f"holds '{name}'.*is not known"):
        FaithfulnessLoss(small()).stack(batch() | {name: torch.zeros(8, 1)})


# Cut texts


def test_a_literal_that_is_cut_away():
    longest = max(len(row) for example in examples(4) for row in (example["input_ids"], *example["row_tokens"]))
    with pytest.raises(BatchError, match=f"a text has {longest} tokens, and max_length is {longest - 1}"):
        Collator(subject().model.tokenizer, max_length=longest - 1)(examples(4))
    example = examples(1)[0]
    literal = example["row_literals"][0][1] - 1
    for cut, what in ((literal, "a literal"), (max(example["row_targets"][0]), "what follows a literal")):
        shorter = {**example, "row_tokens": [row[:cut] for row in example["row_tokens"]]}
        with pytest.raises(BatchError, match=f"ends after {cut} tokens, and {what} stands at .*truncated"):
            batch_of([shorter])


def test_an_answer_that_is_cut_away():
    example = examples(1)[0]
    cut = example["answer_targets"][-1]
    shorter = {**example, "input_ids": example["input_ids"][:cut], "labels": example["labels"][:cut]}
    with pytest.raises(BatchError, match=f"ends after {cut} tokens, and its answer stands at {cut}: it was truncated"):
        batch_of([shorter])
    given = batch(4, "frodo")
    cut_later = {name: value[:, :cut] for name, value in plain(given).items()} | {GROUPS: given[GROUPS]}
    with pytest.raises(BatchError, match=f"has {cut} tokens, and its answer stands at {cut}: it was truncated"):
        FaithfulnessLoss(small(), objective="frodo").stack(cut_later)


@pytest.mark.parametrize("change", [-1, 1])
def test_labels_of_another_length(change):
    example = examples(1)[0]
    labels = [*example["labels"], -100][: len(example["labels"]) + change]
    with pytest.raises(BatchError, match=f"{len(labels)} labels for {len(example['input_ids'])} tokens"):
        batch_of([{**example, "labels": labels}])
    given = batch()
    wide = nn.functional.pad(given["labels"], (0, change), value=-100)
    with pytest.raises(BatchError, match=rf"'labels' has shape \[8, {wide.shape[1]}\], and 'input_ids' \[8, \d+\]"):
        FaithfulnessLoss(small()).stack({**given, "labels": wide})
    with pytest.raises(BatchError, match=r"'labels' has shape \[7, \d+\]"):
        FaithfulnessLoss(small()).stack({**given, "labels": given["labels"][:7]})


# Texts that cannot be made


class Mugs(Task):
    """Without partners: replacements are the numbers near a value."""

    name = "mugs"
    summary = "a price times a number, less a discount"

    def problems(self, n, *, seed=0):
        steps = (Step("full", "price * number"), Step("paid", "full - discount"))
        problem = Problem(
            id="25 4 3",
            question="A mug costs 25. Ann buys 4, less 3. What does she pay?",
            graph=Graph({"price": 25, "number": 4, "discount": 3}, steps, answer="paid"),
            chain="25 * 4 = 100. 100 - 3 = 97.",
            answer_line="Answer: 97",
        )
        return [problem] * n


def knows_a_hundred() -> PreTrainedTokenizerFast:
    """One token a character, and one for 100: no number near it has as many tokens."""
    words = ("<pad>", "<eos>", *string.printable[:97], "100")
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"100|[\s\S]"), behavior="isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", name_or_path="hundred",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def test_a_tokenizer_that_splits_every_replacement_differently():
    task = Mugs()
    for tokenizer, possible in ((tiny_tokenizer("split"), True), (knows_a_hundred(), False)):
        asked = Subject(load_model(tiny_model(), tokenizer, name="tiny"), task)
        if possible:
            assert training_examples(asked, task.problems(1), steps=["full"])[0]["group_steps"]
            continue
        with pytest.raises(TaskError, match=r"'25 4 3' can be replaced .*number of tokens\. skip=True"):
            training_examples(asked, task.problems(1), steps=["full"])
        assert training_examples(asked, task.problems(1), steps=["full"], skip=True) == []


# The forward pass


def test_a_batch_that_was_not_stacked():
    model, faithful, whole = ready()
    out = model(**whole)
    for other in (plain(batch()), dict(whole)):
        with pytest.raises(BatchError, match="was not stacked"):
            faithful(out, other)


@pytest.mark.parametrize("objective", ["counterfactual", "interchange"])
def test_a_model_in_eval_mode(objective):
    model, faithful, whole = ready(objective)
    out = model.eval()(**whole)
    with pytest.raises(HookError, match=r"eval mode: call model\.train\(\)"):
        faithful(out, whole)


def test_a_forward_pass_in_eval_mode_alone():
    model, faithful, whole = ready("interchange")
    out = model.eval()(**whole)
    model.train()
    with pytest.raises(HookError, match=r"layer \d was not captured, so no state was interchanged"):
        faithful(out, whole)


@pytest.mark.parametrize("options", [{}, {"kl": 1.0, "objective": "cross-entropy"}], ids=["term", "kl"])
@pytest.mark.parametrize("logits", [True, False])
def test_nothing_to_train(options, logits):
    model, faithful, whole = ready(**options)
    with torch.no_grad():
        out = model(**whole)
    with pytest.raises(HookError, match="has no gradient"):
        faithful(out if logits else {"loss": out.loss}, whole)
    model.requires_grad_(False)
    out = model(**whole)
    with pytest.raises(HookError, match="has no gradient"):
        faithful(out if logits else {"loss": out.loss}, whole)


def test_a_pass_that_nobody_saw():
    model, faithful, whole = ready()
    out = small()(**whole)
    with pytest.raises(HookError, match=r"no logits, and no pass of \(12, \d+\) rows and positions was seen"):
        faithful({"loss": out.loss}, whole)
    with pytest.raises(HookError, match="no pass of"):  # as `return_dict=False`
        faithful.term(out.to_tuple(), whole)
    model, faithful, whole = ready("interchange")
    with pytest.raises(HookError, match=r"layer \d was not captured"):
        faithful(small()(**whole), whole)
    faithful.close()
    with pytest.raises(HookError, match=r"layer \d was not captured"):
        faithful(model(**whole), whole)


# Compiled models


def test_hooks_are_not_set_on_a_model_that_is_compiled():
    compiled = torch.compile(small())
    in_place = small()
    in_place.compile()
    by_layer = small()
    by_layer.model.layers[1].compile()
    wrapped = small()
    wrapped.model.layers[1] = torch.compile(wrapped.model.layers[1])
    for model in (compiled, in_place, by_layer, wrapped, nn.ModuleDict({"inner": compiled})):
        with pytest.raises(ModelError, match="make the FaithfulnessLoss first, then compile"):
            FaithfulnessLoss(model)


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [False, True])
def test_hooks_that_are_set_before_fire_in_a_compiled_model(in_place):
    model, given = small(), batch(8, "interchange")
    faithful = FaithfulnessLoss(model, objective="interchange")

    def terms(called):
        for step in range(4):
            whole = faithful.stack(given, step=step)
            layer = faithful.taps.interchange.layer
            yield layer, float(faithful.term(called(**whole, use_cache=False), whole).detach())

    expected = list(terms(model))
    assert {layer for layer, _ in expected} == {0, 1}
    if in_place:
        model.compile(backend="eager")
    found = list(terms(model if in_place else torch.compile(model, backend="eager")))
    torch.compiler.reset()
    assert found == [(layer, pytest.approx(term, rel=1e-4)) for layer, term in expected]


def test_every_error_is_one_of_ours_or_a_value_error():
    assert issubclass(BatchError, ValueError)
    assert all(issubclass(error, FaithprobeError) for error in (HookError, ModelError, TaskError, UnknownNameError))
