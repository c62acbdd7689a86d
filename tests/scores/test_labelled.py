"""Items with labels: the worst of them, and calls by condition."""

import numpy as np
import pandas as pd
import pytest

from faithprobe.scores.labelled import conditions_by_call, stages_of, worst_items


def test_the_worst_items_are_not_twenty_times_the_same():
    rows = [
        {"condition": condition, "stratum": "s", "problem": str(i), "step": "v1", "step_faithful": 1.0, "m:U": score}
        for condition, score in (("a", 0.0), ("b", 0.0), ("c", 0.9))
        for i in range(5)
    ]
    found = worst_items(pd.DataFrame(rows).assign(matched=True), "U", n=4)
    assert found["condition"].tolist() == ["a", "b", "a", "b"]
    assert found["error"].tolist() == [1.0] * 4


def test_calls_by_condition_leave_no_item_out():
    rows = [
        {"condition": "a", "stratum": "s", "problem": "0", "step": f"v{i}", "step_faithful": label, "m:U": score}
        for i, (label, score) in enumerate([(1, 0.5), (1, 0.4), (1, np.nan), (0, 0.9), (np.nan, 0.9)])
    ]
    true, false = conditions_by_call(pd.DataFrame(rows).assign(matched=True), "U")
    assert (true["n"], true["called_faithful"], true["unscored"]) == (2, 0.5, 1)
    assert (false["n"], false["called_faithful"], false["unscored"]) == (1, 1.0, 0)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("U", ("used",)),
        ("U_read", ("used",)),
        ("D at pi", ("computed",)),
        ("lead", ("lead",)),
        ("mine", ("mine",)),
        ("no-bypass", ("bypass",)),
        ("U x D x in chain", ("used", "computed", "lead")),
        ("min(U, D), no bypass", ("used", "computed", "bypass")),
    ],
)
def test_what_a_metric_needs(name, stages):
    assert stages_of(name) == stages
