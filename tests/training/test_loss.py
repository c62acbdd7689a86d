"""The loss in a bare loop: what is added, when, on which rows; and that nothing else is touched."""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from faithprobe.errors import TaskError
from faithprobe.training.batches import GROUPS, BatchError, Collator
from faithprobe.training.loss import FaithfulnessLoss
from faithprobe.training.step_weights import LEAST
from tests.training.material import assert_same, batch, examples, gradients, plain, small, subject

STEPS = ("v1", "v2", "v3")


def term_by_hand(logits, whole, weights=None) -> torch.Tensor:
    """Mean over groups of the mean over targets of -log p, from the logits of the whole batch."""
    found, counts = [], []
    for group, places in zip(whole.plan.groups, whole.plan.places, strict=True):
        row = group.rows["recomputed"]
        probabilities = logits[places["recomputed"]].double().log_softmax(-1)
        found.append(-sum(probabilities[t - 1, row.tokens[t]] for t in row.targets) / len(row.targets))
        counts.append((weights or {}).get(group.step, 1.0))
    return sum(c * f for c, f in zip(counts, found, strict=True)) / sum(counts)


def hooks_of(model) -> int:
    return sum(len(part._forward_hooks) for part in model.modules())


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_term_stands_beside_the_models_own_loss(weight):
    model = small()
    faithful = FaithfulnessLoss(model, weight=weight)
    whole = faithful.stack(batch())
    out = model(**whole)
    term = term_by_hand(out.logits, whole).detach()
    assert float(term) > 0.1
    found, alone = faithful(out, whole).detach(), faithful.term(out, whole).detach()
    torch.testing.assert_close(found.double(), out.loss.detach().double() + weight * term, rtol=1e-5, atol=0)
    torch.testing.assert_close(alone.double(), weight * term, rtol=1e-5, atol=0)
    assert faithful.logs == {"faithfulness": pytest.approx(float(term), rel=1e-5), "counterfactual_rows": 4}


def test_a_bare_loop_lowers_the_term():
    model = small()
    faithful = FaithfulnessLoss(model, share=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    terms = []
    for _ in range(4):
        for given in DataLoader(examples(16), batch_size=8, collate_fn=Collator(subject().model.tokenizer)):
            whole = faithful.stack(given)
            loss = faithful(model(**whole), whole)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            terms.append(faithful.logs["faithfulness"])
    assert len(terms) == 8
    assert sum(terms[-2:]) < 0.7 * sum(terms[:2])


@pytest.mark.parametrize("objective", ["counterfactual", "interchange", "self-consistency", "frodo"])
def test_stacked_rows_do_not_change_the_models_own_loss(objective):
    model, given = small(), batch(objective=objective)
    before = model(**plain(given))
    faithful = FaithfulnessLoss(model, objective=objective)
    whole = faithful.stack(given)
    out = model(**whole)
    assert whole.plan.rows > whole.plan.own == 8
    torch.testing.assert_close(out.loss, before.loss, rtol=1e-5, atol=0)
    length = given["input_ids"].shape[1]
    torch.testing.assert_close(out.logits[:8, :length], before.logits, rtol=0, atol=1e-4)


def test_the_term_is_there_at_every_kth_step_and_its_weight_rises():
    model, given = small(), batch()
    faithful = FaithfulnessLoss(model, weight=2.0, every=2, warmup=4)
    for step in range(6):
        whole = faithful.stack(given)
        out = model(**whole)
        term = faithful.term(out, whole)
        assert torch.equal(faithful(out, whole), out.loss + term)
        assert faithful.active(step) == (step % 2 == 0)
        if step % 2:
            assert whole.plan is None
            assert GROUPS not in whole
            assert {name: value.tolist() for name, value in whole.items()} == {
                name: value.tolist() for name, value in plain(given).items()
            }
            assert float(term) == 0
            assert faithful.logs == {}
        else:
            ramp = min(1.0, (step + 1) / 4)
            assert float(term.detach()) == pytest.approx(2.0 * ramp * faithful.logs["faithfulness"])


@pytest.mark.parametrize(("share", "rows"), [(0.25, 2), (0.5, 4), (0.6, 4), (1.0, 8)])
@pytest.mark.parametrize("objective", ["counterfactual", "interchange"])
def test_there_are_never_more_rows_than_the_share(objective, share, rows):
    faithful = FaithfulnessLoss(small(), objective=objective, share=share)
    whole = faithful.stack(batch(8, objective, counterfactuals=2))
    assert whole.plan.rows - whole.plan.own == rows
    assert whole["input_ids"].shape[0] == 8 + rows
    chosen = [group.example for group in whole.plan.groups]
    assert len(set(chosen)) == len(chosen)  # different examples


def test_rows_that_the_objective_does_not_compare_stay_out():
    """Examples of `interchange` hold what `counterfactual` compares, and more."""
    faithful = FaithfulnessLoss(small(), objective="counterfactual")
    whole = faithful.stack(batch(8, "interchange"))
    assert whole.plan.rows - whole.plan.own == 4
    assert all(set(places) == {"recomputed"} for places in whole.plan.places)


def test_every_step_is_corrupted_sooner_or_later_or_those_that_were_asked_for():
    given = batch(8, counterfactuals=2)
    for steps, expected in ((None, set(STEPS)), (["v2"], {"v2"}), (["v1", "v3"], {"v1", "v3"})):
        faithful = FaithfulnessLoss(small(), steps=steps)
        seen = {group.step for step in range(16) for group in faithful.stack(given, step=step).plan.groups}
        assert seen == expected


def test_steps_count_as_much_as_they_weigh():
    model, given = small(), batch(16)
    weights = {"v1": 3.0, "v2": 0.5}
    faithful = FaithfulnessLoss(model, share=1.0, step_weights=weights)
    whole = faithful.stack(given)
    assert {group.step for group in whole.plan.groups} == set(STEPS)
    out = model(**whole)
    torch.testing.assert_close(
        faithful.term(out, whole).double(), term_by_hand(out.logits, whole, weights), rtol=1e-5, atol=0
    )
    without = FaithfulnessLoss(model, share=1.0, step_weights={"v1": 0.0})
    assert {group.step for group in without.stack(given).plan.groups} == {"v2", "v3"}


def test_steps_that_an_audit_scored_low_weigh_more():
    steps = pd.DataFrame({"step": ["v1", "v1", "v2", "v2", "v3"], "score": [1.0, 0.8, 0.2, None, None]})
    faithful = FaithfulnessLoss(small(), step_weights=SimpleNamespace(steps=steps))
    assert faithful.step_weights == pytest.approx({"v1": LEAST + (1 - LEAST) * 0.1, "v2": LEAST + (1 - LEAST) * 0.8})
    nothing = SimpleNamespace(steps=steps.assign(score=float("nan")))
    with pytest.raises(TaskError, match="scored no step"):
        FaithfulnessLoss(small(), step_weights=nothing)
    with pytest.raises(ValueError, match="'v2' has a negative weight"):
        FaithfulnessLoss(small(), step_weights={"v2": -1.0})


def test_parts_of_one_optimiser_step_are_alike_and_draw_their_own_rows():
    """Two batches of 4, each with half of the loss, are one of 8: each example has one group, and all are taken."""
    found = []
    for parts in (1, 2):
        model = small()
        faithful = FaithfulnessLoss(model, share=1.0, every=2)
        loader = DataLoader(
            examples(8, steps=("v1",)), batch_size=8 // parts, collate_fn=Collator(subject().model.tokenizer)
        )
        for given in loader:
            whole = faithful.stack(given, step=6)
            assert whole.plan is not None
            (faithful(model(**whole), whole) / parts).backward()
        found.append(gradients(model))
    assert_same(found[1], found[0])
    given = batch(8, counterfactuals=2)
    faithful = FaithfulnessLoss(small())
    draws = [faithful.stack(given, step=0)["input_ids"].tolist() for _ in range(4)]
    assert any(draw != draws[0] for draw in draws)


def test_a_run_that_goes_on_at_a_step_draws_what_it_would_have_drawn():
    given = batch(8, counterfactuals=2)
    whole = FaithfulnessLoss(small(), seed=5)
    drawn = [[whole.stack(given, step=step)["input_ids"].tolist() for _ in range(2)] for step in range(6)]
    resumed = FaithfulnessLoss(small(), seed=5)
    assert [[resumed.stack(given, step=step)["input_ids"].tolist() for _ in range(2)] for step in (4, 5)] == drawn[4:]
    counted = FaithfulnessLoss(small(), seed=5)
    assert [counted.stack(given)["input_ids"].tolist() for _ in range(6)] == [parts[0] for parts in drawn]
    resumed = FaithfulnessLoss(small(), seed=5)
    resumed.step = 4
    assert [resumed.stack(given)["input_ids"].tolist() for _ in range(2)] == [parts[0] for parts in drawn[4:]]
    other = FaithfulnessLoss(small(), seed=6)
    assert [other.stack(given)["input_ids"].tolist() for _ in range(6)] != [parts[0] for parts in drawn]


def test_the_callers_randomness_is_untouched(untouched_randomness):
    given, model = batch(8, "interchange", counterfactuals=2), small()
    faithful = FaithfulnessLoss(model, objective="interchange", kl=0.1)
    whole = faithful.stack(given)
    faithful(model(**whole), whole).backward()


def test_copies_have_no_hooks_that_act_and_close_takes_them_off():
    model, given = small(), batch(8, "interchange")
    before = hooks_of(model)
    faithful = FaithfulnessLoss(model, objective="interchange", layers=[1])
    assert hooks_of(model) > before
    whole = faithful.stack(given)
    twin = copy.deepcopy(model)
    in_copy = twin(**whole).logits
    assert faithful.taps.fired == 0
    assert faithful.taps.state is None
    hooked = model(**whole).logits
    assert faithful.taps.fired == 1
    assert not torch.equal(hooked, in_copy)
    faithful.close()
    assert hooks_of(model) == before
    assert torch.equal(model(**whole).logits, in_copy)
    assert faithful.taps.fired == 1


def test_evaluation_and_passes_of_another_shape_are_not_looked_at():
    model, given = small(), batch(8, "interchange")
    faithful = FaithfulnessLoss(model, objective="interchange")
    whole = faithful.stack(given)
    untouched = copy.deepcopy(model).eval()(**whole).logits
    assert torch.equal(model.eval()(**whole).logits, untouched)
    model.train()
    model(**plain(given))
    assert faithful.taps.fired == 0
    assert faithful.taps.state is None


def test_arguments_are_checked():
    for options in ({"weight": -1}, {"every": 0}, {"warmup": -1}, {"kl": -0.1}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            FaithfulnessLoss(small(), **options)
    for layers in ([2], [-1], []):
        with pytest.raises(ValueError, match="after layers 0 to 1 of 3"):
            FaithfulnessLoss(small(), objective="interchange", layers=layers)
    documented = inspect.getdoc(FaithfulnessLoss.__init__)
    assert all(f"{name}:" in documented for name in list(inspect.signature(FaithfulnessLoss).parameters))


def test_labels_are_needed_for_the_whole_loss_and_not_for_the_term():
    model, given = small(), batch()
    del given["labels"]
    faithful = FaithfulnessLoss(model)
    whole = faithful.stack(given)
    out = model(**whole)
    with pytest.raises(BatchError, match=r"returned no loss.*faithful\.term"):
        faithful(out, whole)
    torch.testing.assert_close(faithful.term(out, whole).double(), term_by_hand(out.logits, whole), rtol=1e-5, atol=0)
