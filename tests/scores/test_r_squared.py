"""R2 equals scikit-learn's, and its interval covers the truth, also near 1."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from faithprobe.errors import UnscoredError
from faithprobe.scores.r_squared import clustered_r2


def draw(rng: np.random.Generator, n_groups: int, truth: float, size: int = 4) -> tuple[np.ndarray, ...]:
    """Numbers and predictions with half of each one's variance shared within its cluster; R2 is `truth`."""
    groups = np.repeat(np.arange(n_groups), rng.integers(1, size + 1, n_groups))

    def part() -> np.ndarray:
        return (rng.normal(size=n_groups)[groups] + rng.normal(size=len(groups))) / np.sqrt(2)

    predicted = np.sqrt(truth) * part()
    return predicted + np.sqrt(1 - truth) * part(), predicted, groups


def test_the_value_is_that_of_scikit_learn() -> None:
    y, predicted, groups = draw(np.random.default_rng(0), 60, 0.4)
    found = clustered_r2(y + 1e5, predicted + 1e5, groups)
    assert found.value == pytest.approx(r2_score(y, predicted), abs=1e-6)
    assert found.low < found.value < found.high < 1
    assert found.n == 60
    y[3], predicted[5] = np.nan, np.nan
    kept = ~np.isnan(y + predicted)
    assert clustered_r2(y, predicted, groups).value == pytest.approx(r2_score(y[kept], predicted[kept]))


def test_the_jackknife_is_the_one_that_leaves_clusters_out() -> None:
    y, predicted, groups = draw(np.random.default_rng(1), 12, 0.6)
    left = [np.log(1 - r2_score(y[groups != g], predicted[groups != g])) for g in range(12)]
    whole = np.log(1 - r2_score(y, predicted))
    half = 2.200985 * np.sqrt(11 / 12 * np.sum((np.array(left) - whole) ** 2))
    found = clustered_r2(y, predicted, groups)
    assert found.low == pytest.approx(1 - np.exp(whole + half))
    assert found.high == pytest.approx(1 - np.exp(whole - half))


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("n_groups", [20, 100])
def test_coverage(truth: float, n_groups: int) -> None:
    rng = np.random.default_rng(n_groups)
    covered = np.mean([truth in clustered_r2(*draw(rng, n_groups, truth)) for _ in range(600)])
    assert 0.915 < covered < 0.985


def test_the_reference_is_the_mean_of_the_training_items() -> None:
    """A shift between training and evaluated items that the probe predicts is credited; its own mean is not."""
    rng = np.random.default_rng(2)
    y = 3 + rng.normal(size=200)
    assert clustered_r2(y, np.full(200, 3.0), range(200), reference=0.0).value > 0.8
    assert clustered_r2(y, np.full(200, 3.0), range(200)).value == pytest.approx(0, abs=0.02)
    assert clustered_r2(y, np.zeros(200), range(200), reference=0.0).value == 0


def test_unscored_and_limits() -> None:
    with pytest.raises(UnscoredError, match="4 numbers are constant"):
        clustered_r2([7.0] * 4, [1, 2, 3, 4], range(4))
    with pytest.raises(UnscoredError, match="none of 2 items"):
        clustered_r2([np.nan, 1.0], [1.0, np.nan], [0, 1])
    with pytest.raises(ValueError, match="2 numbers, 1 predictions"):
        clustered_r2([1.0, 2.0], [1.0], [0, 1])
    assert clustered_r2([1.0, 2.0], [1.0, 2.0], [0, 1]).value == 1
    one = clustered_r2([1.0, 2.0, 3.0], [1.1, 2.0, 3.0], [0, 0, 0])
    assert (one.low, one.high, one.n) == (-np.inf, 1.0, 1)
    outlier = clustered_r2([0.0, 0.0, 9.0], [0.1, 0.1, 8.0], [0, 1, 2])  # without the third nothing is left to explain
    assert outlier.low == -np.inf
