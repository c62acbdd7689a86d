"""The penalty for leaving a reference model: what it is, what it is the divergence from, and what it leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch

from faithprobe.errors import ModelError
from faithprobe.training.loss import FaithfulnessLoss
from tests.training.material import batch, gradients, plain, small


def divergence_by_hand(ours, theirs, given) -> float:
    """Mean KL(ours || theirs) where a token of a response is predicted."""
    found = []
    for row, labels in enumerate(given["labels"]):
        for position, label in enumerate(labels[1:]):
            if label != -100:
                p, q = (logits[row, position].double().log_softmax(-1) for logits in (ours, theirs))
                found.append(float((p.exp() * (p - q)).sum()))
    return sum(found) / len(found)


def test_it_is_nothing_at_first_and_the_divergence_from_the_beginning_later():
    model, given = small(), batch()
    beginning = copy.deepcopy(model).eval()
    faithful = FaithfulnessLoss(model, objective="cross-entropy", kl=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        whole = faithful.stack(given)
        assert whole["input_ids"].shape == given["input_ids"].shape
        out = model(**whole)
        loss = faithful(out, whole)
        with torch.no_grad():
            expected = divergence_by_hand(out.logits, beginning(**plain(given)).logits, given)
        assert faithful.logs == {"kl": pytest.approx(expected, rel=1e-4, abs=1e-6)}
        assert (expected > 1e-3) == (step == 1)
        torch.testing.assert_close(loss.detach(), out.loss.detach() + 0.5 * expected, rtol=1e-5, atol=0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    held = faithful.reference.model
    for name, weight in beginning.named_parameters():
        assert torch.equal(dict(held.named_parameters())[name], weight)
    assert not any(weight.requires_grad for weight in held.parameters())


def test_it_stands_beside_the_term_and_is_about_the_batchs_own_rows():
    model, other, given = small(), small(seed=1), batch()
    faithful = FaithfulnessLoss(model, kl=0.5, weight=2.0, reference=other)
    whole = faithful.stack(given)
    assert whole.plan.rows == 12
    out = model(**whole)
    total = faithful.term(out, whole)
    with torch.no_grad():
        expected = divergence_by_hand(out.logits, other.eval()(**plain(given)).logits, given)
    assert faithful.logs["kl"] == pytest.approx(expected, rel=1e-4)
    assert expected > 0.1
    assert float(total.detach()) == pytest.approx(2 * faithful.logs["faithfulness"] + 0.5 * expected, rel=1e-4)
    total.backward()
    assert not gradients(other)
    assert model.training
    assert all(part.training for part in model.modules())


def test_it_reads_the_state_where_there_are_no_logits():
    model, given = small(), batch()
    faithful = FaithfulnessLoss(model, objective="cross-entropy", kl=0.5, reference=small(seed=1))
    whole = faithful.stack(given)
    out = model(**whole)
    torch.testing.assert_close(faithful.term({}, whole), faithful.term(out, whole), rtol=1e-5, atol=0)


def test_under_lora_it_is_the_model_with_its_adapters_off():
    peft = pytest.importorskip("peft")
    base, given = small(), batch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
        model = peft.get_peft_model(copy.deepcopy(base), config).train()
    faithful = FaithfulnessLoss(model, kl=1.0)
    assert faithful.reference.adapters_off
    whole = faithful.stack(given)
    out = model(**whole)
    total = faithful(out, whole)
    with torch.no_grad():
        theirs = base(**plain(given)).logits
        expected = divergence_by_hand(out.logits, theirs, given)
    assert faithful.logs["kl"] == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-3
    total.backward()
    found = gradients(model)
    assert found
    assert all("lora_" in name for name in found)
    assert all(part.training for part in model.modules())
    again = model(**plain(given)).logits
    torch.testing.assert_close(again, out.logits[:8, : again.shape[1]], rtol=0, atol=1e-4)  # the adapters are on
    assert not torch.allclose(again, theirs, atol=1e-2)


def test_the_model_that_is_trained_is_no_reference():
    model = small()
    with pytest.raises(ModelError, match="give a copy of it"):
        FaithfulnessLoss(model, kl=1.0, reference=model)
