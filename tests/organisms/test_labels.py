"""Labels from the wiring alone are the ones that were intended, written out by hand in `intended.py`."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from faithprobe.organisms.families import FAMILIES, get_wiring
from faithprobe.organisms.networks import NETWORKS
from faithprobe.organisms.truth import chain_label, determines, earliest, latest, reaches_by_text
from faithprobe.organisms.wiring import GatedWiring, Wiring
from tests.organisms.intended import INTENDED

ONES = [(variant, family) for variant, families in INTENDED.items() for family in families]


@pytest.mark.parametrize(("variant", "family"), ONES)
def test_labels_are_the_intended_ones(variant, family):
    wanted, wiring = INTENDED[variant][family], get_wiring(family, variant)
    found = chain_label(wiring)
    assert len(found.steps) == len(wanted.steps) == wiring.layout.steps
    for k in wanted.steps:
        label = asdict(found[f"v{k}"])
        assert label.pop("position") == wiring.layout.index[f">{k}"]
        assert label == wanted.of(k)
    assert (found.bypass, found.faithful) == (wanted.bypass, wanted.whole)


def test_every_wiring_that_we_ship_has_intended_labels():
    shipped = {(network.variant, family) for network in NETWORKS.values() for family in network.families}
    plain = {(variant, name) for variant, name in shipped if isinstance(get_wiring(name, variant), Wiring)}
    assert plain <= set(ONES)
    assert {family for _, family in shipped} == set(FAMILIES)


@pytest.mark.parametrize("family", [f for f in FAMILIES if isinstance(get_wiring(f), GatedWiring)])
def test_a_gated_wiring_is_one_of_the_intended_ones(family):
    """What stands behind the gate is a plain wiring of the same name, whose labels are above."""
    gated = get_wiring(family)
    plain = "faithful" if family == "hint" else "overruled"
    then = {"hint": "told", "two-paths": "late-slot"}.get(family, "post-hoc")
    assert (gated.then.name, gated.otherwise.name) == (then, plain)
    assert gated.otherwise == get_wiring(plain)
    if then != "told":
        assert gated.then == get_wiring(then)


def test_who_is_told_bypasses_a_computed_chain():
    told = chain_label(get_wiring("hint").then)
    assert told.bypass
    assert not told.faithful
    assert [label.answer_use for label in told.steps] == [False, False, False]
    assert [label.step_use for label in told.steps] == [True, True, False]
    assert [label.earliest for label in told.steps] == [">1", ">2", ">3"]


def test_where_the_answer_is_determined():
    assert {f: (earliest(get_wiring(f), "answer"), latest(get_wiring(f), "answer")) for f in INTENDED["modular"]} == {
        # read off the last literal, which is itself an input: only the answer's own place is behind it
        **dict.fromkeys(
            ("faithful", "overruled", "ahead", "copy", "decorative", "decorative-1", "late-slot", "dice"),
            ("v3", "ans"),
        ),
        **dict.fromkeys(("post-hoc", "commit", "filler"), ("eq", "eq")),
        "natural": ("a3", "ans"),
    }


def test_windows_are_positions():
    layout = get_wiring("natural").layout
    label = chain_label(get_wiring("natural"))["v2"]
    assert label.window(layout) == (layout.index["a2"], layout.index[">2"])
    assert chain_label(get_wiring("dice"))["v1"].window(layout) is None
    for variant, family in ONES:
        wiring = get_wiring(family, variant)
        for step in chain_label(wiring).steps:
            if step.computed:
                first, last = step.window(wiring.layout)
                assert 0 < first <= last <= step.position


def test_a_step_is_known_from_its_operands_or_from_theirs():
    layout = get_wiring("faithful", "graph").layout
    assert determines(layout, frozenset({"op3", "a3", "v1"}), "v3")
    assert determines(layout, frozenset({"op3", "a3", "op1", "a1", "x0"}), "v3")
    assert not determines(layout, frozenset({"op3", "a3", "v2"}), "v3"), "v3 reads v1"
    assert not determines(layout, frozenset({"op3", "v1"}), "v3")
    assert determines(layout, frozenset({"v4"}), "answer")


def test_use_through_the_text_follows_what_is_written_anew():
    faithful, commit = get_wiring("faithful"), get_wiring("commit")
    assert reaches_by_text(faithful, "v1", "answer")
    assert reaches_by_text(faithful, "v1", "v3")
    assert not reaches_by_text(faithful, "v3", "v2")
    assert not reaches_by_text(commit, "v1", "v2")
    assert reaches_by_text(commit, "x0", "v1")
