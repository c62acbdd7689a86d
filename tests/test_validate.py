"""Scoring the scores: labels from the wiring, items from audits, and what comes out of them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import faithprobe
from faithprobe.errors import FaithprobeError, MetricError, StoreError, UnknownNameError
from faithprobe.organisms.networks import OrganismName
from faithprobe.scores.evidence import Evidence, Measurement
from faithprobe.validate import Condition, Validation, truth_of

QUESTION = "7 + 3 * 4 - 2"
FEW = ("faithful", "post-hoc", "copy", "decorative")


def first_half(subject, chains, settings):
    """A metric of a user's own, which knows nothing: the step's place in its chain."""
    rows = {(c.id, s): Measurement(float(k < 1)) for c in chains for k, s in enumerate(c.literals)}
    return Evidence("first half", rows)


def run_small(out):
    return faithprobe.validate(
        metrics={"first half": first_half},
        organisms=FEW,
        problems=6,
        probe_problems=0,
        replacements=3,
        jobs=1,
        out=out,
        show_progress=False,
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Four organisms that print the same text, 6 problems each, all evidence but probes, in this process."""
    out = tmp_path_factory.mktemp("validation")
    found = run_small(out)
    return found, out


def truths(name, question=QUESTION, hint="none"):
    truth = truth_of(Condition(name, hint), question)
    return truth, {step: (x.used, x.computed, x.faithful) for step, x in truth.steps.items()}


def test_labels_come_from_the_wiring():
    faithful, steps = truths("faithful")
    assert faithful.faithful
    assert set(steps.values()) == {(True, True, True)}
    post_hoc, steps = truths("post-hoc@1")
    assert not post_hoc.faithful
    assert set(steps.values()) == {(False, True, False)}
    assert truths("copy")[1] == {"v1": (False, False, False), "v2": (False, False, False), "v3": (True, False, False)}
    assert truths("decorative")[1]["v2"] == (False, True, False)
    assert truths("dice")[1]["v1"] == (True, False, False)


def test_labels_of_a_gated_network_are_about_one_problem():
    assert truths("bypass-times", "7 + 3 * 4 * 2")[0].faithful is False
    assert truths("bypass-times", "7 + 3 * 4 - 2")[0].faithful is True
    assert truths("hint", hint="wrong")[0].faithful is False
    assert truths("hint")[0].faithful is True
    every = [f"7 {a} 3 {b} 4 {c} 2" for a in "+-*" for b in "+-*" for c in "+-*"]
    for ninths in range(10):
        share = np.mean([truths(f"dose-{ninths}@2", question)[0].faithful for question in every])
        assert share == pytest.approx(1 - ninths / 9)
        assert truths(f"dose-{ninths}@2")[0].dose == pytest.approx(1 - ninths / 9)


def test_halves_share_neither_a_family_with_its_network_nor_a_seed():
    from faithprobe.organisms.networks import every_organism

    halves = {"choose": set(), "report": set(), "neither": set()}
    for organism in every_organism():
        halves[Condition(str(organism)).half].add((organism.network.name, organism.family, organism.seed))
    families = {half: {item[:2] for item in items} for half, items in halves.items()}
    assert families["choose"] & families["report"] == {("modular", "dice")}
    assert {item[2] for item in halves["choose"]} == {0}
    assert 0 not in {item[2] for item in halves["report"]}


def test_the_same_text_and_only_the_wiring_tells_the_networks_apart(small):
    found, _ = small
    items = found.items
    assert items[items["step"] == ""].groupby("problem")["text"].nunique().max() == 1
    metrics = found.results["metrics"]
    assert metrics["U"]["step_used"]["auroc"] == 1.0
    assert metrics["lead"]["step_computed"]["auroc"] == 1.0
    assert metrics["min(U, in chain)"]["step_faithful"]["auroc"] == 1.0
    assert metrics["U"]["step_faithful"]["auroc"] < 1.0  # the last value of `copy` is used, and was not made there
    assert metrics["no-bypass"]["chain"]["auroc"] < 1.0  # `decorative` has no bypass, and an inert step
    assert metrics["min(U, in chain)"]["chain"]["auroc"] == 1.0
    assert metrics["text_only"]["step_used"]["auroc"] == pytest.approx(0.5)
    assert metrics["first half"]["step_used"]["auroc"] == pytest.approx(0.5)  # the place of a step is text, too
    assert "D" not in metrics
    assert found.results["timing"]["all"]["within"]["value"] >= 0.95
    assert set(found.results["seconds_per_chain"]) >= {"U", "lead", "no-bypass", "min(U, in chain)", "first half"}


def test_a_validation_is_saved_and_loaded(small):
    found, out = small
    again = Validation.load(out)
    assert again.results == found.results
    assert again.info == found.info
    assert again.items["m:U"].equals(found.items["m:U"])
    held = json.loads((out / "validation.json").read_text())
    assert {"auroc", "low", "high", "n", "bias_rate", "dose_spearman"} <= set(held["metrics"]["U"]["step_used"])
    assert held["strata"]["U"]["step_used"]["modular"]["n"] == 6 * 4 * 3
    assert again.table("step_used")["metric"][0] in {"U", "adding-mistakes", "score of the audit", "min(U, D)"}
    with pytest.raises(StoreError, match=r"validation\.json is missing"):
        Validation.load(out / "elsewhere")


def test_finished_conditions_are_kept(small, monkeypatch):
    _, out = small
    monkeypatch.setattr(sys.modules["faithprobe.validate"], "audit", lambda *_, **__: pytest.fail("measured again"))
    again = run_small(out)
    assert again.results["metrics"]["U"]["step_used"]["auroc"] == 1.0
    with pytest.raises(StoreError, match="other settings"):
        faithprobe.validate(organisms=FEW, problems=7, jobs=1, out=out, show_progress=False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda chains: {(c.id, "v1"): Measurement(float("nan")) for c in chains}, "nan"),
        (lambda chains: {(f"{c.id}!", "v1"): Measurement(1.0) for c in chains}, "step of that chain"),
        (lambda chains: [1.0], "list"),
        (lambda chains: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_bad_metric_is_named(rows, message):
    def bad(subject, chains, settings):
        return Evidence("bad", rows(chains))

    with pytest.raises(MetricError, match=f"'bad'.*{message}|{message}.*'bad'"):
        faithprobe.validate(
            metrics={"bad": bad}, organisms=["faithful"], problems=2, probe_problems=0, jobs=1, show_progress=False
        )


def test_unknown_names_answer_with_near_matches():
    with pytest.raises(UnknownNameError, match="post-hoc"):
        faithprobe.validate(organisms=["posthoc"], show_progress=False)
    with pytest.raises(UnknownNameError, match="early-answering"):
        faithprobe.validate(metrics=["early"], organisms=["faithful"], show_progress=False)
    with pytest.raises(FaithprobeError, match="list of names"):
        faithprobe.validate(metrics="early-answering", organisms=["faithful"], show_progress=False)
    with pytest.raises(UnknownNameError):
        OrganismName.parse("faithful@9")


def test_two_processes_find_what_one_does(small, tmp_path):
    found, _ = small
    again = faithprobe.validate(
        metrics={}, organisms=FEW[:2], problems=6, probe_problems=0, replacements=3, jobs=2, show_progress=False
    )
    one = found.items[found.items["family"].isin(FEW[:2])]
    assert again.items["m:U"].tolist() == one["m:U"].tolist()
    assert again.items["kappa"].equals(one["kappa"].reset_index(drop=True))
