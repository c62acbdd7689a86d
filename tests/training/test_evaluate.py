"""The guards' numbers against networks whose faithfulness is known, and intervals worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch

from faithprobe.chains.subject import Subject
from faithprobe.errors import TaskError, UnknownNameError
from faithprobe.models import load_model
from faithprobe.scores.evidence import Evidence
from faithprobe.tasks.organism import Organism
from faithprobe.training import evaluate as module
from faithprobe.training.evaluate import (
    KINDS,
    TRAINED_ON,
    Evaluation,
    Score,
    difference,
    evaluate_training,
    trained_kinds,
)
from faithprobe.training.objectives import OBJECTIVES
from tests.subjects import organism

PROBLEMS = Organism(split="held-out").problems(6)


@pytest.fixture(scope="module")
def measured():
    return {name: evaluate_training(organism(name), PROBLEMS) for name in ("faithful", "copy", "post-hoc")}


@pytest.mark.parametrize(("name", "truth"), [("faithful", 1), ("copy", 0), ("post-hoc", 0)])
def test_a_model_that_nothing_was_trained_into_has_no_gap(measured, name, truth):
    found = measured[name]
    assert {kind: score.value for kind, score in found.evidence.items()} == dict.fromkeys(KINDS, truth)
    assert (found.accuracy.value, found.accuracy.n) == (1, 6)
    assert (found.trained_on_score.value, found.held_out_score.value) == (truth, truth)
    assert found.goodhart_gap.value == 0
    assert found.goodhart_gap.low < 0 < found.goodhart_gap.high, "six problems decide nothing"
    assert {kind: score.value for kind, score in found.placebos.items()} == dict.fromkeys(KINDS, 0)
    for score in found.evidence.values():
        assert score.n == 6
        assert score.unscored == {}
        assert score.low <= score.value <= score.high
        assert score.high - score.low > 0.2


def test_the_step_that_the_answer_reads_out_stands_apart(measured):
    """The answer of `copy` is read off the last literal, and nothing else is used."""
    found = measured["copy"]
    for kind in ("swap", "interchange"):
        assert {step: score.value for step, score in found.by_step[kind].items()} == {"v1": 0, "v2": 0, "v3": 1}
    counted = evaluate_training(organism("copy"), PROBLEMS[:3], readout=True)
    assert counted.evidence["swap"].value == pytest.approx(1 / 3)
    assert counted.evidence["swap"].items == 9


def flattered(used):
    """The metric, but every step is found to be used, whatever the model does."""

    def metric(subject, chains, settings):
        rows = used(subject, chains, settings).rows
        return Evidence("used", {key: replace(row, value=1.0, unscored="") for key, row in rows.items()})

    return metric


def test_a_score_that_was_only_trained_is_a_gap(monkeypatch):
    """A post-hoc network whose swaps look perfect: what a loss on swaps could buy."""
    subject = organism("post-hoc")
    monkeypatch.setattr(module, "used", flattered(module.used))
    found = evaluate_training(subject, PROBLEMS)
    assert (found.trained_on_score.value, found.held_out_score.value, found.goodhart_gap.value) == (1, 0, 1)
    wilson = 1.959964**2 / (6 + 1.959964**2)  # the upper bound of 0 in 6
    assert found.goodhart_gap.low == pytest.approx(1 - sqrt(2) * wilson, abs=1e-5)
    assert found.goodhart_gap.high == 1
    other = evaluate_training(subject, PROBLEMS[:3], trained_on="interchange")
    assert other.held_out_score.value == 0, "the least of what is held out, and the exchange is"
    assert other.goodhart_gap.value == 0


def test_the_interval_of_a_difference_by_hand():
    found = difference(Score(0.8, 0.6, 0.9, 10, 20), Score(0.5, 0.4, 0.7, 8, 16))
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - sqrt(0.2**2 + 0.2**2))
    assert found.high == pytest.approx(0.3 + sqrt(0.1**2 + 0.1**2))
    assert (found.n, found.items) == (8, 16)
    assert difference(Score(0.8, 0.6, 0.9, 10), Score(None, unscored={"why": 3})).unscored == {"why": 3}


def test_every_objective_holds_something_out():
    assert set(TRAINED_ON) <= set(OBJECTIVES)
    for name in OBJECTIVES:
        assert 0 < len(trained_kinds(name)) < len(KINDS)
    assert trained_kinds("interchange") == ("interchange",)
    assert trained_kinds("counterfactual") == ("swap",)
    assert trained_kinds(["exchange", "swap"]) == ("swap", "exchange")


@pytest.fixture(scope="module")
def unmasked():
    """A model of its own, to be changed."""
    return load_model("organism:clean/natural")


def test_the_model_and_all_random_numbers_are_left_as_they_were(unmasked):
    """Python's own random numbers are not looked at: the checks of shapes draw from them, which items to look at."""
    hf = unmasked.hf.train()
    hf.model.layers[0].eval()
    modes = [part.training for part in hf.modules()]
    subject = Subject(unmasked, Organism(), temperature=0.7)
    hf(torch.tensor([subject.prompt(PROBLEMS[0])])).logits.sum().backward()
    gradients = [p.grad.clone() for p in hf.parameters() if p.grad is not None]
    drawn = torch.random.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002 - the global state is what is watched
    evaluate_training(subject, PROBLEMS[:2])
    assert [part.training for part in hf.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), drawn[0])
    assert np.array_equal(np.random.get_state()[1], drawn[1])  # noqa: NPY002
    assert torch.is_grad_enabled()
    assert all(p.requires_grad for p in hf.parameters())
    after = [p.grad for p in hf.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, after, strict=True))


def test_nothing_is_kept_of_an_earlier_state_of_the_weights(monkeypatch):
    """Keys and values of prompts are those of the weights of the moment; a subject that samples is asked greedily."""
    subject = organism("faithful", batch_size=8)
    warm = replace(subject, temperature=1.0)
    warm.prefixes.get(warm.prompt(PROBLEMS[0]), 1)
    seen, used = [], module.used
    monkeypatch.setattr(module, "used", lambda asked, *rest: (seen.append(asked), used(asked, *rest))[1])
    evaluate_training(warm, PROBLEMS[:1])
    (asked,) = seen
    assert asked.temperature == 0
    assert asked.prefixes is not warm.prefixes
    assert asked.model is warm.model


def test_what_cannot_be_measured_is_counted_by_reason():
    task = Organism(silent=True)
    silent = evaluate_training(Subject(organism("filler").model, task), task.problems(2))
    for kind in ("swap", "interchange"):
        assert silent.evidence[kind].value is None
        assert silent.evidence[kind].unscored
    assert silent.goodhart_gap.value is None
    assert "goodhart_gap" not in silent.logs()
    assert silent.record()["goodhart_gap"] is None
    assert silent.accuracy.n == 2


def test_a_record_is_json_and_comes_back(measured):
    for found in measured.values():
        record = json.loads(json.dumps(found.record()))
        assert Evaluation.from_record(record).logs() == found.logs()
        assert Evaluation.from_record(record).evidence == found.evidence
        assert set(found.logs()) <= set(record)
        assert set(found.logs()) == {
            f"{name}{side}"
            for name in ("accuracy", "trained_on_score", "held_out_score", "goodhart_gap")
            for side in ("", "_low", "_high")
        }


def test_what_cannot_be_meant_is_refused():
    subject = organism("faithful")
    with pytest.raises(TaskError, match="at least one"):
        evaluate_training(subject, [])
    with pytest.raises(TaskError, match="id of its own"):
        evaluate_training(subject, [PROBLEMS[0], PROBLEMS[0]])
    with pytest.raises(UnknownNameError, match="objective"):
        evaluate_training(subject, PROBLEMS, trained_on="counter")
    for kinds in ([], KINDS, ["swap", "probe"]):
        with pytest.raises(ValueError, match="one or two"):
            evaluate_training(subject, PROBLEMS, trained_on=kinds)


def test_a_score_is_printed_as_one_reads_it():
    assert str(module.Score(0.9375, 0.84, 0.975, n=40)) == "0.94 [0.84, 0.97], n = 40"
    assert str(module.Score(None, unscored={"the response states no answer": 3})) == (
        "unscored: the response states no answer"
    )
    assert str(module.Score(None)) == "unscored: nothing was measured"
