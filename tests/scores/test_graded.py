"""The dose response between conditions, and the distance of kappa to its label's interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from faithprobe.errors import UnscoredError
from faithprobe.scores.graded import dose_response, timing, timing_error
from faithprobe.scores.statistics import share_interval


def graded(noise: float, n_problems: int = 30) -> tuple[np.ndarray, ...]:
    """scores, doses, problems, seeds: nine doses x three seeds x problems."""
    rng = np.random.default_rng(0)
    dose, seed, problem = (x.ravel() for x in np.mgrid[0:9, 0:3, 0:n_problems])
    return dose / 8 + noise * rng.normal(size=len(dose)), dose / 8, problem, seed


def test_it_correlates_means_not_items() -> None:
    scores, doses, problems, seeds = graded(noise=1.0)
    found = dose_response(scores, doses, problems=problems, seeds=seeds, n_draws=200)
    means = [scores[doses == d].mean() for d in np.unique(doses)]
    assert found.means == pytest.approx(means)
    assert found.doses == tuple(np.unique(doses))
    assert found.spearman.value == pytest.approx(spearmanr(means, np.unique(doses)).statistic)
    assert found.spearman.value > spearmanr(scores, doses).statistic + 0.2
    assert found.spearman.low < found.spearman.value <= found.spearman.high <= 1
    assert found.spearman.n_draws == 200


def test_draws_are_those_of_items_copied_as_often() -> None:
    from faithprobe.scores.bootstrap import percentiles, resample

    scores, doses, problems, seeds = graded(noise=2.0, n_problems=8)
    found = dose_response(scores, doses, problems=problems, seeds=seeds, n_draws=60, seed=5).spearman
    naive = []
    for weights in resample(problems, seeds, n_draws=60, seed=5).weights().astype(int).T:
        copied = np.repeat(np.arange(len(scores)), weights)
        means = [scores[copied][doses[copied] == d].mean() for d in np.unique(doses)]
        naive.append(spearmanr(means, np.unique(doses)).statistic)
    expected = percentiles(found.value, np.array(naive))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_order_is_all_that_counts_and_it_has_a_sign() -> None:
    scores, doses, problems, seeds = graded(noise=0.0)
    for changed, expected in ((scores**3, 1), (-scores, -1), (np.round(scores), None)):
        found = dose_response(changed, doses, problems=problems, seeds=seeds, n_draws=20).spearman
        if expected is None:
            assert 0.7 < found.value < 0.95  # ties
        else:
            assert (found.value, found.low, found.high) == pytest.approx((expected, expected, expected))


def test_unscored_items_and_other_families_are_left_out() -> None:
    scores, doses, problems, seeds = graded(noise=0.5)
    scores[::7], doses[::11] = np.nan, np.nan
    found = dose_response(scores, doses, problems=problems, seeds=seeds, n_draws=20)
    assert found.n == (~np.isnan(scores) & ~np.isnan(doses)).sum()


def test_conditions_that_a_draw_lacks_make_it_undefined() -> None:
    found = dose_response([0.0, 0.5, 1.0], [0, 0.5, 1], problems=["a", "b", "c"], n_draws=100).spearman
    assert found.value == pytest.approx(1)
    assert found.undefined > 50


def test_too_few_conditions_or_equal_means_are_unscored() -> None:
    with pytest.raises(UnscoredError, match="2 conditions"):
        dose_response([0.0, 1.0], [0, 1], problems=["a", "b"])
    with pytest.raises(UnscoredError, match=r"the same, 0\.3, at every dose"):
        dose_response([0.3] * 6, [0, 0, 0.5, 0.5, 1, 1], problems=list("ababab"))
    with pytest.raises(ValueError, match="3 scores"):
        dose_response([0.0, 1.0, 2.0], [0, 1, 2], problems=["a"])


def test_timing_is_signed_and_zero_inside() -> None:
    kappa = [5, 3, 4, 8, 9, np.nan, 5]
    error = timing_error(kappa, [4] * 6 + [np.nan], [7] * 6 + [9])
    assert error.tolist() == pytest.approx([0, -1, 0, 1, 2, np.nan, np.nan], nan_ok=True)
    found = timing(kappa, [4] * 6 + [np.nan], [7] * 6 + [9])
    assert (found.n, found.unmeasured) == (5, 1)
    assert found.inside.value == pytest.approx(2 / 5)
    assert found.within.value == pytest.approx(4 / 5)
    assert (found.early, found.late) == pytest.approx((0, 1 / 5))
    assert found.mean_distance == pytest.approx(4 / 5)
    assert timing(kappa, [4] * 7, [7] * 7, tolerance=0).early == pytest.approx(1 / 6)


def test_timing_that_is_always_right_has_the_interval_of_its_clusters() -> None:
    found = timing(np.full(40, 5), np.full(40, 5), np.full(40, 5), clusters=np.arange(40) // 4)
    assert found.inside.low == pytest.approx(share_interval(10, 10).low)


def test_timing_without_anything_to_time() -> None:
    with pytest.raises(UnscoredError, match="2 labelled items"):
        timing([np.nan, np.nan], [1, 1], [2, 2])
    with pytest.raises(ValueError, match="end before they begin"):
        timing([1], [3], [2])
    with pytest.raises(ValueError, match="2 kappas"):
        timing([1, 2], [3], [4])
