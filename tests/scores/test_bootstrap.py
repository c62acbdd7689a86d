"""Draws as weights against draws as copies of items; what is drawn together; differences on the same items."""

from __future__ import annotations

import time

import numpy as np
import pytest

from faithprobe.scores.auroc import auroc
from faithprobe.scores.bootstrap import auroc_difference, bootstrap_aurocs, percentiles, resample, weighted_auroc


def items(n: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """scores, labels, problems, organisms, strata: problems crossed with organisms, two strata of three organisms."""
    rng = np.random.default_rng(seed)
    problems, organisms = np.divmod(np.arange(n), 6)
    labels = (rng.random(n) < 0.5).astype(float)
    scores = np.round(rng.normal(size=n) + labels, 1)
    return scores, labels, problems, organisms, organisms // 3


def test_weights_equal_copies_of_items() -> None:
    scores, labels, problems, organisms, strata = items(180)
    scores[::17] = np.nan
    labels[::23] = np.nan
    draws = resample(problems, organisms, within=strata, n_draws=150, seed=3)
    found = bootstrap_aurocs(np.column_stack([scores, -scores]), labels, draws, strata)
    weights = draws.weights().astype(int)
    assert weights.shape == (180, 150)
    for d in range(150):
        copied = np.repeat(np.arange(180), weights[:, d])
        naive = auroc(scores[copied], labels[copied], strata=strata[copied]).value
        assert found[d] == pytest.approx([naive, 1 - naive])
    assert weighted_auroc(scores, labels, weights, strata) == pytest.approx(found[:, 0])


def test_units_are_drawn_whole_and_organisms_within_their_strata() -> None:
    _, _, problems, organisms, strata = items(180)
    draws = resample(problems, organisms, within=strata, n_draws=40)
    by_problem, by_organism = draws.counts
    assert (by_problem.sum(axis=0) == 30).all()
    assert (by_organism[:3].sum(axis=0) == 3).all()
    assert (by_organism[3:].sum(axis=0) == 3).all()
    assert (draws.weights() == by_problem[problems] * by_organism[organisms]).all()
    assert (draws.weights(10, 20) == draws.weights()[:, 10:20]).all()
    again = resample(problems, organisms, within=strata, n_draws=40)
    assert (again.weights() == draws.weights()).all()
    other = resample(problems, organisms, within=strata, n_draws=40, seed=1)
    assert (other.weights() != draws.weights()).any()


def test_organisms_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    problems, organisms = np.divmod(np.arange(2000), 10)
    labels = (rng.random(2000) < 0.5).astype(float)
    scores = labels * np.linspace(-1, 3, 10)[organisms] + rng.normal(size=2000)
    alone = bootstrap_aurocs(scores, labels, resample(problems, n_draws=300))
    both = bootstrap_aurocs(scores, labels, resample(problems, organisms, n_draws=300))
    assert both.std() > 3 * alone.std()
    assert alone.std() == pytest.approx((auroc(scores, labels).high - auroc(scores, labels).low) / 3.92, rel=0.25)


def test_draws_without_a_pair_are_counted() -> None:
    # Two organisms, one of each label: half of the draws take one of them twice.
    labels = np.tile([1.0, 0.0], 20)
    found = bootstrap_aurocs(labels, labels, resample(np.arange(40) // 2, np.arange(40) % 2, n_draws=200))[:, 0]
    interval = percentiles(1.0, found)
    assert 70 < interval.undefined < 130
    assert interval.n_draws + interval.undefined == 200
    assert (interval.low, interval.high) == (1, 1)
    assert np.isnan(percentiles(1.0, np.full(3, np.nan)).low)


def test_a_paired_difference_is_narrower_than_its_parts() -> None:
    scores, labels, problems, organisms, strata = items(600)
    better = scores + 0.3 * labels
    found = auroc_difference(better, scores, labels, problems=problems, organisms=organisms, strata=strata, n_draws=400)
    values = [auroc(x, labels, strata=strata).value for x in (better, scores)]
    assert found.value == pytest.approx(values[0] - values[1])
    assert 0 < found.low < found.value < found.high
    parts = bootstrap_aurocs(scores, labels, resample(problems, organisms, within=strata, n_draws=400), strata)[:, 0]
    assert found.high - found.low < 0.5 * (np.quantile(parts, 0.975) - np.quantile(parts, 0.025))
    same = auroc_difference(scores, scores, labels, problems=problems, n_draws=50)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_difference_is_over_items_that_both_score() -> None:
    scores, labels, problems, *_ = items(300)
    first, second = scores.copy(), -scores
    first[:100], second[200:] = np.nan, np.nan
    found = auroc_difference(first, second, labels, problems=problems, n_draws=20)
    middle = slice(100, 200)
    expected = auroc(scores[middle], labels[middle]).value - auroc(-scores[middle], labels[middle]).value
    assert found.value == pytest.approx(expected)
    nothing = auroc_difference(np.full(300, np.nan), second, labels, problems=problems, n_draws=20)
    assert np.isnan(nothing.value)
    assert nothing.undefined == 20


def test_a_thousand_draws_of_ten_thousand_items_take_seconds() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(10_000) < 0.5).astype(float)
    scores = rng.normal(size=(10_000, 2)) + labels[:, None]
    draws = resample(np.arange(10_000) // 20, np.arange(10_000) % 20, n_draws=1000)
    begin = time.process_time()
    assert bootstrap_aurocs(scores, labels, draws).shape == (1000, 2)
    assert time.process_time() - begin < 6  # of two metrics; about one second on a quiet core


def test_bad_lengths_are_named() -> None:
    with pytest.raises(ValueError, match="one per item"):
        resample([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="weights of 3 items for 2"):
        weighted_auroc([1, 2], [1, 0], np.ones((3, 1)))
    with pytest.raises(ValueError, match="draws of 3 items for 2"):
        bootstrap_aurocs(np.ones(2), [1, 0], resample([1, 2, 3]))
