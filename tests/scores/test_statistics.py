"""Intervals over clusters: coverage, few clusters, shares of exactly 0 and 1."""

import subprocess
import sys

import numpy as np
import pytest

from faithprobe.errors import UnscoredError
from faithprobe.scores import clustered_mean, share_interval


@pytest.mark.parametrize("n_clusters", [5, 10, 20, 100, 500])
@pytest.mark.parametrize("kind", ["real", "share"])
def test_the_interval_covers_as_often_as_it_says(n_clusters: int, kind: str) -> None:
    rng = np.random.default_rng(n_clusters)
    runs, inside = (2000 if n_clusters <= 20 else 400), 0
    for _ in range(runs):
        sizes = rng.integers(1, 6, n_clusters)
        groups = np.repeat(np.arange(n_clusters), sizes)
        if kind == "real":
            truth = 0.4
            x = truth + rng.normal(size=n_clusters)[groups] + 0.5 * rng.normal(size=len(groups))
        else:
            truth = 0.3
            x = (rng.random(len(groups)) < rng.beta(1.5, 3.5, n_clusters)[groups]).astype(float)
        inside += truth in clustered_mean(x, groups)
    # Shares of 5 clusters are wider than they need be (the module says why), never narrower.
    assert 0.92 <= inside / runs <= (0.98 if kind == "real" or n_clusters > 5 else 1.0)


def test_a_share_of_0_or_1_has_an_interval_of_its_clusters() -> None:
    groups = np.repeat(np.arange(10), 30)
    for value in (0.0, 1.0, 0.5):
        found = clustered_mean(np.full(300, value), groups)
        expected = share_interval(10 * value, 10)
        assert (found.value, found.low, found.high) == pytest.approx((value, expected.low, expected.high))
        assert found.n == 10
        assert found.high - found.low > 0.2


def test_copies_of_an_item_inside_its_cluster_add_nothing() -> None:
    rng = np.random.default_rng(0)
    x = (rng.random(40) < 0.3).astype(float)
    once = clustered_mean(x, np.arange(40))
    five = clustered_mean(np.repeat(x, 5), np.repeat(np.arange(40), 5))
    assert (five.low, five.high) == pytest.approx((once.low, once.high))


def test_single_clusters_of_a_share_give_about_wilson() -> None:
    x = np.array([1.0] * 30 + [0.0] * 70)
    found, wilson = clustered_mean(x, np.arange(100)), share_interval(30, 100)
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=0.01)


def test_one_cluster_is_no_spread() -> None:
    assert clustered_mean([1.0, 0.0], ["a", "a"]).high - clustered_mean([1.0, 0.0], ["a", "a"]).low > 0.8
    real = clustered_mean([3.0, 4.0], ["a", "a"])
    assert (real.value, real.low, real.high, real.n) == (3.5, -np.inf, np.inf, 1)


def test_missing_values_are_left_out_and_nothing_is_unscored() -> None:
    found = clustered_mean([1.0, np.nan, 3.0, np.nan], ["a", "a", "b", "c"])
    assert (found.value, found.n) == (2.0, 2)
    with pytest.raises(UnscoredError, match="none of 2"):
        clustered_mean([np.nan, np.nan], [0, 1])
    with pytest.raises(UnscoredError):
        clustered_mean([], [])
    with pytest.raises(ValueError, match="3 values in 2 groups"):
        clustered_mean([1.0, 2.0, 3.0], [0, 1])


def test_bits_that_happen_to_lie_in_the_unit_interval_can_be_kept_real() -> None:
    x = np.random.default_rng(0).normal(0.01, 0.003, 30).clip(0.001)
    assert clustered_mean(x, np.arange(30), share=False).low < clustered_mean(x, np.arange(30)).low + 0.01
    with pytest.raises(ValueError, match="a share lies in"):
        clustered_mean([2.0, 1.0], [0, 1], share=True)


def test_shares_by_hand() -> None:
    # Wilson, 8 of 10 at 95%: centre (.8 + 3.8415/20) / 1.38415, half-width 1.96 sqrt(.016 + 3.8415/400) / 1.38415.
    found = share_interval(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert share_interval(0, 5).low == 0.0
    assert share_interval(5, 5).high == 1.0
    with pytest.raises(UnscoredError):
        share_interval(0, 0)
    with pytest.raises(ValueError, match="3 successes in 2"):
        share_interval(3, 2)


def test_scores_import_no_heavy_library() -> None:
    code = "import faithprobe.scores, sys; print([m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_an_interval_is_printed_as_one_reads_it():
    assert str(share_interval(8, 8)) == "1.00 [0.68, 1.00], n = 8"
