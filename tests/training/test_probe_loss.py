"""The probe loss: its gradient reaches the model and not the probe, which fits itself; and it says what it is."""

from __future__ import annotations

import copy
import warnings
from functools import cache

import pytest
import torch
from torch.nn import functional

from faithprobe.errors import HookError
from faithprobe.training.batches import GROUPS, BatchError, Collator
from faithprobe.training.examples import training_examples
from faithprobe.training.loss import FaithfulnessLoss
from faithprobe.training.objectives import OBJECTIVES
from faithprobe.training.probe_loss import OnlineProbe, ProbeLossWarning
from tests.subjects import arithmetic
from tests.tiny import tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::faithprobe.training.probe_loss.ProbeLossWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@cache
def batch(objective: str = "probe"):
    subject = arithmetic("merged")
    found = training_examples(subject, subject.task.problems(3, seed=2), objective=objective)
    return subject, Collator(subject.model.tokenizer)(found)


def trained(seed: int = 0, family: str = "llama", **options: object):
    room = "n_positions" if family == "gpt2" else "max_position_embeddings"
    model = tiny_model(family, seed, **{room: 512}).train()
    return model, FaithfulnessLoss(model, objective="probe", **options)


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def test_the_gradient_goes_to_the_states_through_the_probe_of_the_moment():
    probe, labels = OnlineProbe(5), torch.tensor([0, 4, 2])
    states = normal(3, 4).requires_grad_()
    logits = probe(states, labels)
    functional.cross_entropy(logits, labels).backward()
    weight, bias = probe.linear.weight, probe.linear.bias
    torch.testing.assert_close(logits, states @ weight.T + bias)
    off = logits.detach().softmax(-1) - functional.one_hot(labels, 5)
    torch.testing.assert_close(states.grad, off @ weight.detach() / 3)
    assert states.grad.abs().max() > 0


def test_the_probe_moves_by_its_own_steps_alone():
    probe, labels = OnlineProbe(5), torch.tensor([0, 4, 2])
    states = normal(3, 4).requires_grad_()
    logits = probe(states, labels)
    before = copy.deepcopy(probe.linear.state_dict())
    functional.cross_entropy(logits, labels).backward()
    assert all(p.grad is None for p in probe.linear.parameters())
    assert all(torch.equal(probe.linear.state_dict()[name], value) for name, value in before.items())
    # its first step is AdamW's on the cross-entropy of states without gradient
    twin = torch.nn.Linear(4, 5)
    torch.nn.init.zeros_(twin.weight)
    torch.nn.init.zeros_(twin.bias)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=probe.learning_rate)
    functional.cross_entropy(twin(states.detach()), labels).backward()
    optimizer.step()
    torch.testing.assert_close(probe.linear.weight, twin.weight)
    torch.testing.assert_close(probe.linear.bias, twin.bias)


def test_it_learns_what_can_be_read_and_not_what_cannot():
    labels = torch.arange(64) % 4
    readable = normal(64, 8) + 4 * functional.one_hot(labels, 8)
    probe = OnlineProbe(4, learning_rate=0.03)
    losses = [float(functional.cross_entropy(probe(readable, labels), labels)) for _ in range(60)]
    assert losses[-1] < 0.1 < losses[0]
    assert probe.accuracy > 0.95
    fooled = OnlineProbe(4, learning_rate=0.03)
    for k in range(60):
        fooled(normal(64, 8, seed=k + 1), labels)
    assert fooled.accuracy < 0.6


def test_a_later_step_leaves_an_earlier_gradient_as_it_was():
    """Losses of several batches may be added up before the backward pass."""
    labels = torch.tensor([0, 4, 2])
    once, added = normal(3, 4).requires_grad_(), normal(3, 4).requires_grad_()
    functional.cross_entropy(OnlineProbe(5)(once, labels), labels).backward()
    probe = OnlineProbe(5)
    first = functional.cross_entropy(probe(added, labels), labels)
    second = functional.cross_entropy(probe(normal(3, 4, seed=1).requires_grad_(), labels), labels)
    (first + second).backward()
    torch.testing.assert_close(added.grad, once.grad)


def test_it_works_where_gradients_are_off_and_in_the_models_precision(untouched_randomness):
    probe, labels = OnlineProbe(5), torch.tensor([0, 4, 2])
    with torch.no_grad():
        assert probe(normal(3, 4).bfloat16(), labels).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert probe(normal(3, 4), labels).dtype == torch.float32


def test_it_warns_and_nothing_else_does():
    model = tiny_model()
    with pytest.warns(ProbeLossWarning, match="no gradient through a probe: .*not to use it") as caught:
        FaithfulnessLoss(model, objective="probe").close()
    assert issubclass(ProbeLossWarning, UserWarning)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in OBJECTIVES.keys() - {"probe"}:
            FaithfulnessLoss(model, objective=name).close()


def test_it_reads_every_stated_value_where_the_batchs_own_rows_predict_it():
    _, given = batch()
    model, faithful = trained(layers=[0])
    probe, seen = faithful.probe, {}

    def watched(states, labels):
        seen.update(states=states, labels=labels, logits=probe(states, labels))
        return seen["logits"]

    faithful.probe = watched
    whole = faithful.stack(given)
    plain = {name: value for name, value in given.items() if name != GROUPS}
    assert {name: value.tolist() for name, value in whole.items()} == {n: v.tolist() for n, v in plain.items()}
    out = model(**whole, output_hidden_states=True)
    loss = faithful.term(out, whole)
    expected = [(g.example, g.rows["stated"].literal[0]) for g in given[GROUPS]]
    assert len(expected) > 6  # nearly all of three steps of three problems
    rows, starts = (torch.tensor(column) for column in zip(*expected, strict=True))
    assert seen["labels"].tolist() == given["input_ids"][rows, starts].tolist()
    torch.testing.assert_close(seen["states"], out.hidden_states[1][rows, starts - 1])
    torch.testing.assert_close(loss, functional.cross_entropy(seen["logits"], seen["labels"]))
    assert faithful.logs["counterfactual_rows"] == 0
    assert faithful.logs["faithfulness"] == pytest.approx(float(loss.detach()))
    faithful.close()


@pytest.mark.parametrize("layer", [0, 1])
def test_the_gradient_reaches_the_model_up_to_the_layer_and_nothing_above(layer):
    _, given = batch()
    model, faithful = trained(layers=[layer])
    whole = faithful.stack(given)
    faithful.term(model(**whole), whole).backward()
    found = gradients(model)
    reached = {name for name, gradient in found.items() if gradient is not None and gradient.any()}
    assert {name for name in found if name.startswith(f"model.layers.{layer}.")} <= reached
    above = ("lm_head", "model.norm", *(f"model.layers.{k}." for k in range(layer + 1, 3)))
    tied = {name for name in reached if name.startswith(above)}
    assert not tied
    assert not [name for name, _ in faithful.probe.linear.named_parameters() if name in found]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_are_the_same_under_both_kinds_of_checkpointing(family, reentrant):
    _, given = batch()
    found = []
    for checkpointing in (False, True):
        model, faithful = trained(family=family)
        if family == "gpt2":  # its dropout would draw
            for part in model.modules():
                if isinstance(part, torch.nn.Dropout):
                    part.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})  # the name that all versions have
        whole = faithful.stack(given)
        faithful(model(**whole, use_cache=False), whole).backward()
        found.append(gradients(model))
        faithful.close()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_training_through_it_makes_the_value_readable():
    """What it promises, and all that it does."""
    _, given = batch()
    model, faithful = trained()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        whole = faithful.stack(given)
        loss = faithful.term(model(**whole), whole)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert faithful.probe.accuracy > 0.8


def test_what_was_not_captured_is_an_error():
    _, given = batch()
    model, faithful = trained()
    whole = faithful.stack(given)
    out = model(**whole)
    faithful.stack(given)  # announces another pass
    with pytest.raises(HookError, match=r"layer 1 was not captured: no pass of \(3, \d+\) rows and positions"):
        faithful.term(out, whole)
    whole = faithful.stack(given)
    with torch.no_grad():
        out = model(**whole)
    with pytest.raises(HookError, match="the output of layer 1 has no gradient"):
        faithful.term(out, whole)
    whole = faithful.stack(given)
    out = model(**whole)
    model.eval()
    with pytest.raises(HookError, match="eval mode"):
        faithful.term(out, whole)


def test_a_layer_below_which_nothing_is_trained_has_no_gradient():
    _, given = batch()
    model, faithful = trained(layers=[0])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("model.layers.2."))
    whole = faithful.stack(given)
    with pytest.raises(HookError, match=r"layer 0 has no gradient.*use_reentrant=False"):
        faithful.term(model(**whole), whole)


def test_examples_of_another_objective_and_models_of_one_layer_are_refused():
    _, given = batch("counterfactual")
    _, faithful = trained()
    with pytest.raises(BatchError, match=r"training_examples.*objective='probe'"):
        faithful.stack(given)
    with pytest.raises(ValueError, match="after layers 0 to -1 of 1"):
        FaithfulnessLoss(tiny_model(num_hidden_layers=1), objective="probe")
