"""Differences of two audits' means: against brute force, tables of matched pairs, and the truth of simulations."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from faithprobe.errors import UnscoredError
from faithprobe.scores.differences import difference_of, holm, independent_difference, paired_difference
from faithprobe.scores.statistics import share_interval


def by_problem(values: list[list[float]]) -> dict[int, list[float]]:
    return dict(enumerate(values))


def table_of_pairs(both: int, only_a: int, only_b: int, neither: int) -> tuple[dict, dict]:
    pairs = [(1, 1)] * both + [(1, 0)] * only_a + [(0, 1)] * only_b + [(0, 0)] * neither
    return ({k: [float(pair[side])] for k, pair in enumerate(pairs)} for side in (0, 1))


@pytest.mark.parametrize("counts", [(9, 1, 6, 4), (20, 0, 0, 5), (0, 12, 0, 0), (30, 2, 3, 15)])
def test_right_and_wrong_answers_get_the_interval_of_agresti_and_min(counts):
    """Their formula, from the table of matched pairs with a half in every cell."""
    _, only_a, only_b, _ = counts
    n = sum(counts)
    found = paired_difference(*table_of_pairs(*counts))
    centre = (only_b - only_a) / (n + 2)
    error = sqrt((only_a + only_b + 1) - (only_b - only_a) ** 2 / (n + 2)) / (n + 2)
    simple = stats.sem(np.repeat([0.0, -1.0, 1.0], [counts[0] + counts[3], only_a, only_b]))
    half = stats.t.ppf(0.975, n - 1) * max(error, simple)
    assert found.value == pytest.approx((only_b - only_a) / n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))


def test_means_are_over_items_and_the_variance_is_what_leaving_out_problems_gives():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5, size=(2, 14))
    a, b = (by_problem([rng.normal(side, 3, n).tolist() for n in sizes[side]]) for side in (0, 1))
    found = paired_difference(a, b)

    def difference(left_out: int | None = None) -> float:
        sides = ([v for k, values in side.items() if k != left_out for v in values] for side in (a, b))
        first, second = map(np.mean, sides)
        return float(second - first)

    assert found.value == pytest.approx(difference())
    assert (found.a, found.n_a, found.paired) == (pytest.approx(np.mean(np.concatenate(list(a.values())))), 14, True)
    without = np.array([difference(k) for k in a])
    variance = 13 / 14 * ((without - difference()) ** 2).sum()
    unit = max(abs(np.mean(b[k]) - np.mean(a[k])) for k in a)
    centre = 14 / 16 * difference()
    added = ((14 * 13 * variance + 14 * difference() ** 2 + unit**2) / 16 - centre**2) / 16
    half = stats.t.ppf(0.975, 13) * sqrt(max(variance, added))
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))


def test_equal_values_differ_by_exactly_zero_and_the_interval_keeps_a_width():
    values = by_problem([[0.1, 0.7], [0.3], [1.0]] * 4)
    found = paired_difference(values, dict(values))
    assert found.value == 0.0
    assert found.low == -found.high
    assert 0.1 < found.high < 0.2  # two problems of one to come would move it by so much
    assert found.p == 1.0
    assert paired_difference(values, dict(values), unit=None).high == 0.0


def test_only_problems_that_both_have_count():
    a, b = {1: [0.0], 2: [1.0], 3: []}, {2: [0.0], 3: [1.0], 4: [1.0]}
    found = paired_difference(a, b, bound=1.0)
    assert (found.a, found.b, found.value, found.n_a) == (1.0, 0.0, -1.0, 1)
    assert (found.low, found.high, found.p) == (-1.0, 1.0, 1.0)  # one problem has no spread to judge by
    with pytest.raises(UnscoredError, match="no problem has a value in both"):
        paired_difference({1: [0.5]}, {2: [0.5]})
    with pytest.raises(UnscoredError):
        independent_difference({1: [0.5]}, {2: []})


def test_pairing_takes_out_what_problems_have_in_common():
    rng = np.random.default_rng(1)
    hard = rng.uniform(0, 0.8, 30)
    a, b = by_problem([[h] for h in hard]), by_problem([[h + 0.1 + 0.02 * rng.normal()] for h in hard])
    paired, apart = paired_difference(a, b), independent_difference(a, b)
    assert paired.value == pytest.approx(apart.value)
    assert (paired.high - paired.low) < (apart.high - apart.low) / 5
    assert paired.low > 0 > apart.low
    assert (paired.paired, apart.paired) == (True, False)


def test_independent_shares_get_newcombes_interval():
    """His example of 56 of 70 against 48 of 80 (Statistics in Medicine 17, 1998, method 10): .0524 to .3339."""

    def means(level: float) -> tuple:
        return share_interval(48, 80, level=level), share_interval(56, 70, level=level)

    found = difference_of(means)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("seed", range(4))
def test_p_is_below_a_level_exactly_where_that_interval_leaves_zero_out(seed):
    rng = np.random.default_rng(seed)
    a, b = (by_problem([[v] for v in rng.binomial(1, share, 20).astype(float)]) for share in (0.2, 0.6))
    for compare in (paired_difference, independent_difference):
        p = compare(a, b).p
        assert 0 < p < 1
        for level, inside in ((1 - p * 0.98, True), (1 - min(0.999, p * 1.02), False)):
            found = compare(a, b, level=level)
            assert (found.low <= 0 <= found.high) == inside


def test_holm_against_a_worked_example():
    """Sorted .01, .02, .03, .04: times 4, 3, 2, 1, and never falling."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def coverage(draw, truth: float, compare, runs: int = 400) -> float:
    hits = 0
    for _ in range(runs):
        found = compare(*draw())
        hits += found.low <= truth <= found.high
    return hits / runs


@pytest.mark.parametrize(("share_a", "share_b", "agree"), [(0.9, 0.9, 0.5), (0.3, 0.6, 0.7), (0.97, 0.03, 0.0)])
@pytest.mark.parametrize("n", [8, 24])
def test_coverage_of_the_paired_interval_over_steps_of_problems(n, share_a, share_b, agree):
    """Steps of one problem tend to go together, and so do A and B on one step."""
    rng = np.random.default_rng(n)

    def draw() -> tuple[dict, dict]:
        a, b = {}, {}
        for problem in range(n):
            steps, common = 1 + rng.integers(0, 3), rng.random()
            ease = np.where(rng.random(steps) < 0.5, common, rng.random(steps))
            other = np.where(rng.random(steps) < agree, ease, rng.random(steps))
            a[problem], b[problem] = (ease < share_a).astype(float).tolist(), (other < share_b).astype(float).tolist()
        return a, b

    assert coverage(draw, share_b - share_a, paired_difference) >= 0.925


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_coverage_for_scores_and_tokens_is_not_bought_by_width(noise):
    rng = np.random.default_rng(5)

    def draw() -> tuple[dict, dict]:
        base = rng.uniform(0, 1, 16)
        return by_problem([[v] for v in base]), by_problem([[v + 0.2 + noise * rng.normal()] for v in base])

    assert 0.925 <= coverage(draw, 0.2, paired_difference, 800) <= 1.0
    widths = [paired_difference(*pair).high - paired_difference(*pair).low for pair in (draw() for _ in range(50))]
    plain = 2 * stats.t.ppf(0.975, 15) * noise / 4
    assert np.mean(widths) < plain + 0.14  # the two added problems cost no more than they must


def test_coverage_of_the_independent_interval():
    rng = np.random.default_rng(6)

    def draw() -> tuple[dict, dict]:
        sides = []
        for share in (0.7, 0.95):
            ease = rng.random(20)
            sides.append(
                {
                    k: (np.where(rng.random(2) < 0.5, e, rng.random(2)) < share).astype(float).tolist()
                    for k, e in enumerate(ease)
                }
            )
        return tuple(sides)

    assert 0.93 <= coverage(draw, 0.25, independent_difference, 200) <= 1.0
