"""Faithful by masking: what is asked of the chain alone does not depend on the question, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from faithprobe.chains.subject import Subject
from faithprobe.errors import TaskError
from faithprobe.metrics.base import Settings
from faithprobe.metrics.used import used
from faithprobe.models import load_model
from faithprobe.models.generation import Continuation, Layout
from faithprobe.tasks.organism import Organism
from faithprobe.training import markovian
from faithprobe.training.batches import GROUPS, BatchError, Collator, Group
from faithprobe.training.batches import stacked as stack_rows
from faithprobe.training.counterfactual import Row
from faithprobe.training.examples import training_examples
from faithprobe.training.loss import FaithfulnessLoss
from faithprobe.training.markovian import MarkovianSubject, continued
from tests.subjects import arithmetic, forced, organism, text_of
from tests.tiny import FAMILIES, tiny_model

MODELS = (*FAMILIES, "organism")


@cache
def given(kind: str, objective: str = "markovian", n: int = 4):
    """A subject and a batch of its examples."""
    if kind == "organism":
        subject = Subject(load_model("organism:clean/natural"), Organism())
    else:
        subject = arithmetic("merged")
        subject.task.max_new_tokens = 200
    found = training_examples(subject, subject.task.problems(n, seed=5), objective=objective)
    return subject, Collator(subject.model.tokenizer)(found)


def model_of(kind: str):
    if kind == "organism":
        return load_model("organism:clean/natural").hf
    return tiny_model(kind, **{"n_positions" if kind == "gpt2" else "max_position_embeddings": 512})


def stacked(kind: str, **options: object):
    """A model in train mode without dropout, its loss and a stacked batch."""
    _, batch = given(kind)
    model = model_of(kind).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    faithful = FaithfulnessLoss(model, objective="markovian", share=1.0, **options)
    return model, faithful, faithful.stack(batch)


def logits_of(model, inputs, plan):
    targets = plan.targets("blind", inputs["input_ids"])
    return model(**inputs).logits[targets.rows, targets.positions]


def other_questions(whole, organism: bool):
    """The same batch, other tokens in place of the questions of its blind rows."""
    ids = whole["input_ids"].clone()
    generator = torch.Generator().manual_seed(0)
    low, high = (4, 15) if organism else (4, 300)
    for group, places in zip(whole.plan.groups, whole.plan.places, strict=True):
        start, end = group.rows["blind"].hidden
        assert end - start > 5
        ids[places["blind"], start:end] = torch.randint(low, high, (end - start,), generator=generator)
    return ids


@pytest.mark.parametrize("kind", MODELS)
def test_another_question_changes_nothing_in_the_answer(kind):
    model, _, whole = stacked(kind)
    with torch.no_grad():
        before = logits_of(model, whole, whole.plan)
        other = other_questions(whole, kind == "organism")
        # targets are read by position, and none of them lies in a question
        after = logits_of(model, {**whole, "input_ids": other}, whole.plan)
        seen = {name: value for name, value in whole.items() if name != "attention_mask"}
        seen["attention_mask"] = (whole["input_ids"] != 0).long()
        sighted = [logits_of(model, {**seen, "input_ids": ids}, whole.plan) for ids in (whole["input_ids"], other)]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    assert (sighted[0] - sighted[1]).abs().max() > 1e-2  # the same change in sight


@pytest.mark.parametrize("kind", MODELS)
def test_no_gradient_goes_into_the_question(kind):
    model, faithful, whole = stacked(kind)
    plain = {name: value for name, value in whole.items() if name not in ("input_ids", "labels")}
    embedded = model.get_input_embeddings()(whole["input_ids"]).detach().requires_grad_()
    faithful.term(model(**plain, inputs_embeds=embedded), whole).backward()
    into = embedded.grad.abs().sum(-1)
    for group, places in zip(whole.plan.groups, whole.plan.places, strict=True):
        row, (start, end) = into[places["blind"]], group.rows["blind"].hidden
        assert not row[start:end].any()
        answer = group.rows["blind"].targets[0]
        assert row[end:answer].any()
        assert not row[answer + len(group.rows["blind"].targets) - 1 :].any()
    assert not into[: whole.plan.own].any()  # the term is not about the batch's own rows


@pytest.mark.parametrize("kind", MODELS)
def test_it_is_the_model_under_a_mask_of_queries_and_keys(kind):
    """The same by a 4D mask that is written out; a sliding window as well."""
    model, _, whole = stacked(kind)
    model.eval()
    _, batch = given(kind)
    window = model.config.sliding_window if kind == "gemma" else None
    with torch.no_grad():
        found = logits_of(model, whole, whole.plan)
        for number, (group, places) in enumerate(zip(whole.plan.groups, whole.plan.places, strict=True)):
            row = group.rows["blind"]
            order = torch.arange(len(row.tokens))
            allowed = order[None] <= order[:, None]
            allowed[:, slice(*row.hidden)] = False
            allowed |= torch.eye(len(order), dtype=torch.bool)  # a token may see itself, whoever it is
            mask = allowed[None, None]
            if window is not None:
                near = allowed & (order[:, None] - order[None] < window)
                mask = {"full_attention": mask, "sliding_attention": near[None, None]}
            alone = model(torch.tensor([row.tokens]), attention_mask=mask).logits[0]
            here = whole.plan.targets("blind", whole["input_ids"]).group == number
            expected = alone[[t - 1 for t in row.targets]]
            torch.testing.assert_close(found[here], expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
            assert places["blind"] >= len(batch["input_ids"])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_row_may_hide_its_first_token_as_well(kind, attention):
    """Where a prompt does not quote its question, all of it is hidden, and its own tokens see nothing at all."""
    model = model_of(kind)
    model.set_attn_implementation(attention)
    row = Row(tuple(range(10, 30)), (17, 18), (17, 18), hidden=(0, 12))
    batch = {"input_ids": torch.arange(40, 62)[None], "attention_mask": torch.ones(1, 22, dtype=torch.long)}
    whole = stack_rows(batch, [Group(0, "v1", {"blind": row}, (20,))], pad=0)
    other = {**whole, "input_ids": whole["input_ids"].clone()}
    other["input_ids"][1, :12] += 100
    found, changed = logits_of(model, whole, whole.plan), logits_of(model, other, whole.plan)
    torch.testing.assert_close(found, changed, rtol=0, atol=1e-6)
    found.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert found.isfinite().all()


def test_the_batchs_own_rows_are_never_asked_for_the_answer():
    subject, batch = given("llama")
    model, faithful, _ = stacked("llama", every=2)
    for step in (0, 1, 2, 3):
        whole = faithful.stack(batch, step=step)
        assert (whole.plan is not None) == (step % 2 == 0)
        own = whole["labels"][: len(batch["labels"]), : batch["labels"].shape[1]]
        for i, group in enumerate(batch[GROUPS]):
            answer = group.answer[0]
            assert (own[i, answer:] == -100).all()
            assert torch.equal(own[i, :answer], batch["labels"][i, :answer])
            assert (own[i, answer - 1] != -100).all()  # the words that lead to it are the chain's
            n = (batch["labels"][i] != -100).sum()
            assert n - (own[i] != -100).sum() == len(group.rows["blind"].targets)
        out = model(**whole)
        assert faithful.term(out, whole).requires_grad == (step % 2 == 0)
    assert (batch["labels"] != -100).sum() > (own != -100).sum()  # the caller's batch is as it was
    assert text_of(subject, tuple(batch["labels"][0][batch["labels"][0] != -100].tolist())).endswith("<eos>")


def test_the_term_is_the_cross_entropy_of_the_blind_answer():
    model, faithful, whole = stacked("llama")
    out = model(**whole)
    targets = whole.plan.targets("blind", whole["input_ids"])
    logprobs = out.logits[targets.rows, targets.positions].log_softmax(-1).gather(1, targets.labels[:, None])[:, 0]
    by_hand = torch.stack([-logprobs[targets.group == k].mean() for k in range(len(whole.plan.groups))]).mean()
    torch.testing.assert_close(faithful.term(out, whole), by_hand)
    assert faithful.logs["counterfactual_rows"] == len(whole.plan.groups) == 4


def test_batches_that_do_not_say_where_answers_are_are_refused():
    _, batch = given("llama")
    faithful = FaithfulnessLoss(tiny_model(), objective="markovian", every=2)
    bare = {name: value for name, value in batch.items() if name != GROUPS}
    for step in (0, 1):
        with pytest.raises(BatchError, match="row 0 of the batch does not say where its answer is"):
            faithful.stack(bare, step=step)
    _, wrong = given("llama", "counterfactual")
    with pytest.raises(BatchError, match="'markovian' compares 'blind'"):
        faithful.stack(wrong, step=0)


def blind(subject: Subject) -> MarkovianSubject:
    return MarkovianSubject(subject.model, subject.task)


def test_who_reads_the_chain_answers_as_before_and_who_does_not_cannot():
    for name, same in (("faithful", True), ("post-hoc", False)):
        subject = organism(name)
        problems = subject.task.problems(24, seed=1)
        sighted = {chain.id: chain for chain, _ in subject.respond(problems)}
        for chain, done in blind(subject).respond(problems):
            other = sighted[chain.id]
            written = len(other.tokens) - 1
            assert chain.tokens[:written] == other.tokens[:written]  # the chain is written in sight of the question
            assert chain.tokens[chain.n_prompt :] == done.tokens
            assert chain.literals.keys() == other.literals.keys()
            if same:
                assert chain == other
        answers = [chain.correct for chain, _ in blind(subject).respond(problems)]
        assert sum(chain.correct for chain in sighted.values()) >= 23
        assert (sum(answers) >= 23) if same else (sum(answers) <= 8)


def test_use_is_measured_on_it_as_on_any_subject():
    settings = Settings(replacements=3)
    plain = organism("copy")  # states each value out of its head, and answers what is stated last
    subject = blind(plain)
    chains = [chain for chain, _ in subject.respond(plain.task.problems(6, seed=2))]
    found, before = used(subject, chains, settings), used(plain, chains, settings)
    assert len(found.rows) == 18
    for (chain, step), measured in found.rows.items():
        assert measured.value == before.rows[chain, step].value == (step == "v3"), (chain, step)


def test_a_blind_answer_does_not_depend_on_the_question():
    subject = organism("post-hoc")
    chains = [forced(subject, problem) for problem in subject.task.problems(12)]
    fronts = [(chain.tokens[:-1], (chain.question_start, chain.n_prompt)) for chain in chains]
    strange = [
        ((*row[:start], *chains[k - 1].tokens[start:end], *row[end:]), (start, end))
        for k, (row, (start, end)) in enumerate(fronts)
    ]
    in_sight = [[(row, (0, 0)) for row, _ in rows] for rows in (fronts, strange)]
    assert [tokens[:1] for tokens in continued(subject, in_sight[0])] == [chain.tokens[-1:] for chain in chains]
    assert continued(subject, in_sight[0]) != continued(subject, in_sight[1])
    assert continued(subject, fronts) == continued(subject, strange)
    # one at a time, as in a batch
    assert [continued(replace(subject, batch_size=1), [row])[0] for row in fronts[:3]] == continued(subject, fronts[:3])


@pytest.mark.parametrize("digits", ["split", "merged", "spaced"])
@pytest.mark.parametrize("written", ["all of it", "a part", "up to the cue", "the answer too"])
def test_the_answer_is_asked_for_behind_the_tokens_that_were_written(monkeypatch, digits, written):
    plain = arithmetic(digits)
    plain.task.max_new_tokens = 200
    subject = blind(plain)
    chain = forced(subject, plain.task.problems(1)[0])
    answer = len(chain.tokens) - len(plain.model.tokenizer(str(chain.answer))["input_ids"])
    if digits == "spaced":
        answer = len(chain.tokens) - 1
    kept = {
        "all of it": chain.n_prompt,
        "a part": chain.literals["v2"].span[1],
        "up to the cue": answer,
        "the answer too": len(chain.tokens),
    }[written]
    layout = Layout(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long), 0, (0,))

    def generate(model, rows, decoding, **options):
        yield Continuation(0, chain.tokens[kept:], 0, layout)

    asked = []

    def answering(subject, rows):
        asked.extend(rows)
        return [tuple(plain.model.tokenizer("77")["input_ids"]) for _ in rows]

    monkeypatch.setattr(markovian, "generate", generate)
    monkeypatch.setattr(markovian, "continued", answering)
    (tail,) = subject.complete([chain.tokens[:kept]])
    if written == "the answer too":
        assert (asked, tail) == ([], "")
    else:
        assert asked == [(chain.tokens[:answer], (chain.question_start, chain.n_prompt))]
        assert tail == text_of(plain, chain.tokens[kept:answer]) + "77"


def test_a_response_without_an_answer_stays_as_it_is():
    plain = arithmetic("merged")
    problems = plain.task.problems(3)
    for (chain, _), (other, _) in zip(plain.respond(problems), blind(plain).respond(problems), strict=True):
        assert chain.answer is None  # a random model's
        assert other == chain


def test_rows_of_prompts_that_are_not_its_own_are_refused():
    plain = arithmetic("merged")
    chain = forced(plain, plain.task.problems(1)[0])
    with pytest.raises(TaskError, match="begins with no prompt that this subject has made"):
        blind(plain).complete([chain.tokens])
    subject = blind(plain)
    subject.read(chain.problem, chain.tokens[: chain.n_prompt], chain.tokens[chain.n_prompt :])
    assert subject.complete([chain.tokens]) == plain.complete([chain.tokens])
    assert subject.with_seed(3).complete([chain.tokens]) == plain.complete([chain.tokens])
    assert subject.with_seed(3).seed == 3
