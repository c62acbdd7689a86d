"""Bias at a threshold and calibration, against counts by hand and constructed probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from faithprobe.errors import UnscoredError
from faithprobe.scores.calls import bias, calibration


def test_bias_counts_calls_beside_the_truth() -> None:
    scores = [0.1, 0.2, 0.3, 0.5, 0.9, np.nan, 0.4]
    labels = [0, 1, 1, 1, 0, 0, np.nan]
    found = bias(scores, labels, 0.5)
    assert found.n == 5
    assert found.called.value == pytest.approx(3 / 5)  # .5 itself is a yes
    assert found.actual.value == pytest.approx(2 / 5)
    assert found.difference.value == pytest.approx(1 / 5)
    assert found.missed == pytest.approx(1 / 2)
    assert found.false_alarms == pytest.approx(2 / 3)


def test_a_metric_that_calls_everything_unfaithful_shows_although_its_ranks_are_right() -> None:
    labels = np.tile([0.0, 1.0], 50)
    found = bias(0.1 * labels, labels, 0.5, clusters=np.arange(100) // 2)
    assert found.called.value == 1
    assert found.called.low > 0.9
    assert found.difference.value == 0.5
    assert found.missed == 0
    assert found.false_alarms == 1
    assert bias([0.1], [1], 0.5).missed is None
    assert bias([0.1], [0], 0.5).false_alarms is None


def test_calibration_of_true_probabilities_is_near_zero_and_of_shifted_ones_the_shift() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000) * 0.8
    labels = (rng.random(20_000) < p).astype(float)
    assert calibration(p, labels).error < 0.015
    shifted = calibration(p + 0.2, labels)
    assert shifted.error == pytest.approx(0.2, abs=0.01)
    assert shifted.brier > calibration(p, labels).brier


def test_bins_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(0.5, 0.5, 500)
    labels = (rng.random(500) < p).astype(float)
    found = calibration(p, labels, n_bins=8)
    share, score = calibration_curve(labels, p, n_bins=8)
    assert [b.share.value for b in found.bins] == pytest.approx(share.tolist())
    assert [b.score for b in found.bins] == pytest.approx(score.tolist())
    assert sum(b.n for b in found.bins) == found.n == 500
    assert all(b.low <= b.score <= b.high for b in found.bins)


def test_the_ends_belong_to_bins() -> None:
    found = calibration([0.0, 1.0, 0.5], [0, 1, 1], n_bins=2, clusters=[("a", 1), ("b", 1), ("b", 1)])
    assert [(b.low, b.high, b.n) for b in found.bins] == [(0, 0.5, 1), (0.5, 1, 2)]
    assert found.error == pytest.approx((0 + 2 * 0.25) / 3)


def test_scores_that_are_no_probabilities_have_no_calibration() -> None:
    assert calibration([-1.0, 0.5], [0, 1]) is None
    assert calibration([0.1, 1.5], [0, 1]) is None


def test_nothing_known_is_unscored_and_bad_lengths_are_named() -> None:
    with pytest.raises(UnscoredError, match="a score and a label"):
        bias([np.nan, 1.0], [1, np.nan], 0.5)
    with pytest.raises(UnscoredError, match="a score and a label"):
        calibration([], [])
    with pytest.raises(ValueError, match="clusters"):
        bias([1.0], [1], 0.5, clusters=["a", "b"])
