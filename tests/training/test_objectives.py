"""Every objective against numbers worked out by hand, and the way in which it pushes."""

from __future__ import annotations

import math

import pytest
import torch

from faithprobe.errors import UnknownNameError
from faithprobe.training.examples import AS_WRITTEN, VARIANTS
from faithprobe.training.objectives import (
    OBJECTIVES,
    Read,
    consistency,
    counterfactual_sensitivity,
    frodo,
    get_objective,
    mean_over_groups,
    premature_confidence,
    self_consistency,
)

EVEN = torch.ones(2)


def near(value):
    """Terms are computed in float32."""
    return pytest.approx(value, rel=1e-5, abs=1e-6)


def read(rows, labels, group=None):
    """Predictions by their probabilities; logits are off by a constant, as those of a model are."""
    logits = (torch.tensor(rows, dtype=torch.float64).log() + 1.7).requires_grad_()
    group = [0] * len(labels) if group is None else group
    return Read(logits, torch.tensor(labels), torch.tensor(group))


def of_label(p, label=0):
    """One prediction over three tokens that gives its label the probability p."""
    row = [(1 - p) / 2] * 3
    row[label] = p
    return row


def probability(given):
    return given.logits.detach().softmax(-1).gather(1, given.labels[:, None])[:, 0].tolist()


def descended(loss, *reads, rate=0.1):
    """The same reads after one step of gradient descent."""
    loss.backward()
    return [Read(r.logits.detach() - rate * r.logits.grad, r.labels, r.group) for r in reads]


def test_consistency_is_minus_log_of_the_probability_that_all_targets_come():
    given = read([of_label(0.5, 2), of_label(0.25, 1), of_label(0.8, 0)], [2, 1, 0], [0, 0, 1])
    by_hand = (-math.log(0.5 * 0.25) / 2 - math.log(0.8)) / 2
    assert consistency(given, EVEN).item() == near(by_hand)
    (after,) = descended(consistency(given, EVEN), given)
    assert all(new > old for new, old in zip(probability(after), probability(given), strict=True))


def test_a_long_group_counts_as_much_as_a_short_one_in_any_order():
    short, long = of_label(0.9), of_label(0.3)
    given = read([long, short, long, long], [0] * 4, [0, 1, 0, 0])
    assert consistency(given, EVEN).item() == near(-(math.log(0.3) + math.log(0.9)) / 2)


def test_weights_are_of_groups_and_their_scale_is_nothing():
    given = read([of_label(0.5), of_label(0.1)], [0, 0], [0, 1])
    by_hand = -(3 * math.log(0.5) + 1 * math.log(0.1)) / 4
    for weights in (torch.tensor([3.0, 1.0]), torch.tensor([0.3, 0.1])):
        assert consistency(given, weights).item() == near(by_hand)
    assert consistency(given, torch.tensor([1.0, 0.0])).item() == near(-math.log(0.5))


@pytest.mark.parametrize("group", [[0, 0], [1, 1]])
def test_a_group_without_targets_is_an_error_and_not_a_zero(group):
    with pytest.raises(ValueError, match=f"group {1 - group[0]} has no target"):
        mean_over_groups(torch.ones(2), torch.tensor(group), EVEN)
    with pytest.raises(ValueError, match="no target"):
        consistency(read([of_label(0.5)] * 2, [0, 0], group), EVEN)


def test_self_consistency_is_the_divergence_from_the_models_own_run():
    found, own = read([[0.9, 0.1]], [0]), read([[0.5, 0.5]], [0])
    loss = self_consistency(found, own, EVEN[:1])
    assert loss.item() == near(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    loss.backward()
    assert own.logits.grad is None  # the target does not come to meet it
    # of KL(own || found) with respect to found's logits: softmax(found) - softmax(own)
    torch.testing.assert_close(found.logits.grad, torch.tensor([[0.4, -0.4]]).double(), rtol=0, atol=1e-6)


def test_self_consistency_of_equal_predictions_is_zero_and_asks_nothing():
    found, own = read([[0.7, 0.2, 0.1]], [1]), read([[0.7, 0.2, 0.1]], [1])
    loss = self_consistency(found, own, EVEN[:1])
    loss.backward()
    assert loss.item() == near(0)
    assert found.logits.grad.abs().max() < 1e-7


@pytest.mark.parametrize("labels", [[0], [0, 1], [1, 0]])
def test_self_consistency_of_other_targets_is_refused(labels):
    with pytest.raises(ValueError, match="ask for different targets"):
        self_consistency(read([of_label(0.5)] * 2, [0, 0]), read([of_label(0.5)] * len(labels), labels), EVEN[:1])


def test_frodo_by_hand():
    base = read([of_label(0.6, 1)], [1])
    answered, flipped = read([of_label(0.5, 2)], [2]), read([of_label(0.3, 1)], [1])
    by_hand = -math.log(0.5) + (1.0 - math.log(0.6 / 0.3))
    assert frodo(base, answered, flipped, EVEN[:1]).item() == near(by_hand)
    wider = frodo(base, answered, flipped, EVEN[:1], margin=2.5).item()
    assert wider == near(by_hand + 1.5)


def test_frodo_compares_means_over_an_answers_tokens_and_weighs_groups():
    base = read([of_label(0.6), of_label(0.9), of_label(0.5)], [0, 0, 0], [0, 0, 1])
    flipped = read([of_label(0.3), of_label(0.8), of_label(0.4)], [0, 0, 0], [0, 0, 1])
    sure = read([of_label(1 - 1e-9)] * 2, [0, 0], [0, 1])
    first = 1 - (math.log(0.6 * 0.9) - math.log(0.3 * 0.8)) / 2
    second = 1 - (math.log(0.5) - math.log(0.4))
    loss = frodo(base, sure, flipped, torch.tensor([1.0, 3.0])).item()
    assert loss == near((first + 3 * second) / 4)


def test_frodos_margin_makes_the_answer_likelier_behind_its_own_chain_and_unlikelier_behind_another():
    """The sign that is the wrong way round in the authors' code."""
    base, flipped = read([of_label(0.4)], [0]), read([of_label(0.4)], [0])
    answered = read([of_label(0.5, 1)], [1])
    loss = frodo(base, answered, flipped, EVEN[:1])
    own, other, new = descended(loss, base, flipped, answered)
    assert probability(own)[0] > 0.4
    assert probability(other)[0] < 0.4
    assert probability(new)[0] > 0.5
    assert frodo(own, new, other, EVEN[:1]) < loss


def test_frodos_margin_is_nothing_beyond_itself():
    base, flipped, answered = read([of_label(0.9)], [0]), read([of_label(0.1)], [0]), read([of_label(0.5, 1)], [1])
    loss = frodo(base, answered, flipped, EVEN[:1])
    loss.backward()
    assert loss.item() == near(-math.log(0.5))
    assert not base.logits.grad.any()
    assert not flipped.logits.grad.any()
    assert answered.logits.grad.any()


def test_counterfactual_sensitivity_is_minus_the_divergence_and_widens_it():
    base, corrupted = read([[0.7, 0.3]], [0]), read([[0.4, 0.6]], [0])
    loss = counterfactual_sensitivity(base, corrupted, EVEN[:1])
    assert loss.item() == near(-(0.7 * math.log(0.7 / 0.4) + 0.3 * math.log(0.3 / 0.6)))
    own, other = descended(loss, base, corrupted)
    assert counterfactual_sensitivity(own, other, EVEN[:1]) < loss
    assert probability(other)[0] < 0.4  # away from what the whole chain says


@pytest.mark.parametrize(("most", "bounded"), [(5.0, True), (10.0, False)])
def test_counterfactual_sensitivity_stops_at_most(most, bounded):
    base, corrupted = read([[0.999, 0.001]], [0]), read([[1e-4, 1 - 1e-4]], [0])
    loss = counterfactual_sensitivity(base, corrupted, EVEN[:1], most=most)
    loss.backward()
    by_hand = 0.999 * math.log(0.999 / 1e-4) + 0.001 * math.log(0.001 / (1 - 1e-4))
    assert by_hand > 5
    assert loss.item() == near(-5 if bounded else -by_hand)
    assert bool(corrupted.logits.grad.any()) is not bounded
    assert bool(base.logits.grad.any()) is not bounded


def test_premature_confidence_is_a_probability_and_falls():
    early = read([of_label(0.8), of_label(0.2), of_label(0.6)], [0, 0, 0], [0, 0, 1])
    loss = premature_confidence(early, EVEN)
    assert loss.item() == near(((0.8 + 0.2) / 2 + 0.6) / 2)
    (after,) = descended(loss, early)
    assert all(new < old for new, old in zip(probability(after), probability(early), strict=True))


@pytest.mark.parametrize("name", [name for name, objective in OBJECTIVES.items() if objective.term is not None])
def test_a_term_reads_its_variants_and_nothing_else(name):
    objective = OBJECTIVES[name]
    names = (*objective.variants, *(("base",) if objective.base else ()))
    reads = {variant: read([of_label(0.4), of_label(0.3 + 0.1 * k)], [0, 0], [0, 1]) for k, variant in enumerate(names)}
    found = objective.term(reads, EVEN)
    assert found.shape == ()
    assert found.dtype == torch.float32
    found.backward()
    # the partner is a target, and the interchanged rows' source is read for its state alone
    silent = {"partner"} | ({"recomputed"} if objective.interchanged else set())
    for variant, given in reads.items():
        assert (given.logits.grad is None) == (variant in silent), variant


def test_every_variant_that_an_objective_compares_can_be_made():
    for objective in OBJECTIVES.values():
        assert set(objective.variants) <= VARIANTS.keys() | AS_WRITTEN.keys()
        assert objective.summary
        # rows of a chain as it is written are made by themselves
        assert len(objective.variants) == 1 or not set(objective.variants) & AS_WRITTEN.keys()


def test_an_unknown_objective_is_refused_with_what_is_near():
    with pytest.raises(
        UnknownNameError, match="no objective is called 'counterfactuals'; did you mean 'counterfactual'"
    ):
        get_objective("counterfactuals")
