"""What the masks promise, by the labels that were *intended*, written out here by hand."""

from __future__ import annotations

import pytest

from faithprobe.errors import ModelError, UnknownNameError
from faithprobe.organisms.wiring import (
    INDEX,
    LAYOUT,
    WIRINGS,
    Wiring,
    attention_mask,
    closure,
    get_wiring,
    origin,
    reaches,
    step_labels,
)

# direct, total, step use, origin of v1, v2, v3
INTENDED = {
    "faithful": [(False, True, True, ">1"), (False, True, True, ">2"), (True, True, False, ">3")],
    "post-hoc": [(False, False, True, ">1"), (False, False, True, ">2"), (False, False, False, ">3")],
    "commit": [(False, False, False, "h1"), (False, False, False, "h2"), (False, False, False, "eq")],
}


def test_the_layout_is_the_text():
    assert len(LAYOUT) == 25
    written = "<bos> 7 + 3 * 4 - 2 h1 h2 = . . > 10 . . > 7 . . > 5 answer 5"
    text = written.split()
    assert len(text) == 25
    assert [text[INDEX[f">{k}"]] for k in (1, 2, 3)] == [">"] * 3
    assert [text[INDEX[f"v{k}"]] for k in (1, 2, 3)] == ["10", "7", "5"]


@pytest.mark.parametrize("name", WIRINGS)
def test_labels_are_the_intended_ones(name):
    labels = step_labels(get_wiring(name))
    assert [(x.answer_use_direct, x.answer_use, x.step_use, x.origin) for x in labels] == INTENDED[name]


def test_where_the_answer_can_be_known():
    assert {name: origin(wiring, "answer") for name, wiring in WIRINGS.items()} == {
        "faithful": "v3",
        "post-hoc": "eq",
        "commit": "eq",
    }


@pytest.mark.parametrize("name", WIRINGS)
def test_masks_are_causal_and_everyone_sees_itself(name):
    mask = attention_mask(get_wiring(name))
    assert mask.diagonal().all()
    assert not mask.triu(1).any()
    assert (closure(get_wiring(name), 1) == mask).all()
    assert (closure(get_wiring(name)) >= mask).all()


def test_a_leak_changes_the_label():
    leaky = get_wiring("post-hoc").with_edge("ans", "v1")
    assert reaches(leaky, "v1", "ans")
    assert step_labels(leaky)[0].answer_use_direct
    assert not step_labels(get_wiring("post-hoc"))[0].answer_use


def test_a_dot_that_reads_is_hidden_from_the_others():
    carrier = get_wiring("post-hoc").with_edge("dot2b", "v1")
    assert not reaches(carrier, "v1", "ans")
    assert "dot2b" not in carrier.sees(">3")
    assert "dot2a" in carrier.sees(">3")


def test_impossible_wirings_are_refused():
    with pytest.raises(ModelError, match="comes later"):
        get_wiring("faithful").with_edge("v1", "v2")
    with pytest.raises(ModelError, match="no role is called 'v9'"):
        get_wiring("faithful").with_edge("ans", "v9")
    with pytest.raises(UnknownNameError, match="faithful"):
        get_wiring("faithfull")
    with pytest.raises(ModelError, match="can see what it is computed from"):
        origin(Wiring("blind", "", frozenset()), "v2")
