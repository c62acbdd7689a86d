"""Gwet's AC1 against an example worked by hand, his variance formula for tables, and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from faithprobe.errors import UnscoredError
from faithprobe.scores.rater_agreement import ac1


def calls(table: list[list[int]]) -> tuple[list[int], list[int]]:
    """Both raters' calls from a table of counts."""
    cells = [(a, b) for a, row in enumerate(table) for b, count in enumerate(row) for _ in range(count)]
    return [a for a, _ in cells], [b for _, b in cells]


def gwet_variance(table: list[list[int]]) -> float:
    """Of AC1 of two raters from their table, sampling items with n - 1 (Gwet 2008, infinite population)."""
    p = np.array(table) / np.sum(table)
    n, q = np.sum(table), len(table)
    pi = (p.sum(0) + p.sum(1)) / 2
    chance, agree = (pi * (1 - pi)).sum() / (q - 1), np.trace(p)
    value = (agree - chance) / (1 - chance)
    cell = np.eye(q) - 2 * (1 - value) * (1 - (pi[:, None] + pi) / 2) / (q - 1)
    return float(((p * cell**2).sum() - (agree - 2 * (1 - value) * chance) ** 2) / (1 - chance) ** 2 / (n - 1))


def test_agreement_at_saturation_where_kappa_collapses() -> None:
    first, second = calls([[118, 5], [2, 0]])
    found = ac1(first, second)
    # The first category's mean share is (123 + 120) / 250 = .972; chance is 2 x .972 x .028 = .054432.
    assert found.value == pytest.approx((0.944 - 0.054432) / (1 - 0.054432))
    assert found.value == pytest.approx(0.9408, abs=5e-5)
    assert found.observed == pytest.approx(118 / 125)
    assert cohen_kappa_score(first, second) == pytest.approx(-0.0234, abs=5e-5)
    assert 0.85 < found.low < found.value < found.high < 1


@pytest.mark.parametrize("table", [[[118, 5], [2, 0]], [[40, 9], [6, 45]], [[20, 3, 2], [4, 30, 5], [1, 2, 33]]])
def test_the_variance_is_gwets(table: list[list[int]]) -> None:
    found = ac1(*calls(table))
    assert found.variance == pytest.approx(gwet_variance(table))


def test_perfect_agreement_has_a_width_and_no_agreement_a_bound() -> None:
    always = ac1([1] * 30, [True] * 30)
    assert (always.value, always.high) == (1, 1)
    assert 0.8 < always.low < 0.95
    assert always.chance == 0
    never = ac1([0, 1] * 10, [1, 0] * 10)
    assert never.value == pytest.approx(-1)
    few = ac1([1] * 30, [1] * 30, clusters=np.arange(30) % 3)
    assert few.low < always.low


def test_copies_inside_a_cluster_add_nothing() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(50) < 0.7
    second = np.where(rng.random(50) < 0.2, ~first, first)
    once = ac1(first, second)
    four = ac1(np.repeat(first, 4), np.repeat(second, 4), clusters=np.repeat(np.arange(50), 4))
    assert (four.value, four.low, four.high) == pytest.approx((once.value, once.low, once.high))


@pytest.mark.parametrize("saturated", [0.5, 0.97])
def test_the_interval_covers(saturated: float) -> None:
    rng = np.random.default_rng(1)
    flip = 0.05
    pi = saturated * (1 - flip) + (1 - saturated) * flip
    mean = (saturated + pi) / 2
    chance = 2 * mean * (1 - mean)
    truth = (1 - flip - chance) / (1 - chance)
    inside = 0
    for _ in range(400):
        first = rng.random(80) < saturated
        found = ac1(first, first ^ (rng.random(80) < flip))
        inside += found.low <= truth <= found.high
    assert inside / 400 >= 0.92


def test_items_that_one_did_not_call_are_left_out() -> None:
    found = ac1([1.0, np.nan, 0.0, 1.0], [1.0, 1.0, None, 0.0])
    assert found.n == 2
    assert found.observed == 0.5
    named = ac1(["used", "idle"], ["used", "used"], categories=["used", "idle", "post-hoc"])
    assert named.chance == pytest.approx((0.75 * 0.25 * 2) / 2)


def test_bad_input_is_named() -> None:
    with pytest.raises(UnscoredError, match="called by both"):
        ac1([None], [1])
    with pytest.raises(ValueError, match="2 and 1 calls"):
        ac1([1, 0], [1])
    with pytest.raises(ValueError, match="idle"):
        ac1(["idle"], ["used"], categories=["used", "decorative"])
    with pytest.raises(ValueError, match="nothing to agree about"):
        ac1(["used"], ["used"])
