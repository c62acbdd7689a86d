"""What a metric calls unfaithful at its own threshold, and whether its scores can be read as probabilities.

AUROC does not see a metric that calls everything unfaithful: its ranks may still be right. So the share that it calls
unfaithful stands next to the true share (bias), with what it misses. Calibration asks whether of the items with score
.8 four in five are true: the expected calibration error is the mean distance of score and share of true labels over
bins of equal width, weighted by their items (Naeini, Cooper and Hauskrecht, AAAI 2015; Guo et al., ICML 2017, eq. 3).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.scores.auroc import as_scores_and_labels, codes
from faithprobe.scores.statistics import Interval, clustered_mean


@dataclass(frozen=True)
class Bias:
    """Calls at a threshold against labels, over items that have both; intervals are over clusters."""

    threshold: float
    """Scores below it are called unfaithful (or unused, ...): at the threshold or above is a yes."""
    called: Interval
    """Share of items called unfaithful: the bias rate."""
    actual: Interval
    """Share of items that are."""
    difference: Interval
    """called - actual; paired, so narrower than the two would suggest."""
    missed: float | None
    """Share of unfaithful items that are called faithful; None where there are none."""
    false_alarms: float | None
    """Share of faithful items that are called unfaithful; None where there are none."""
    n: int
    """Number of items."""


@dataclass(frozen=True)
class Bin:
    """Items with a score in [low, high), the last bin in [low, high]."""

    low: float
    high: float
    n: int
    score: float
    """Mean score."""
    share: Interval
    """Share of true labels."""


@dataclass(frozen=True)
class Calibration:
    """How far scores are from the share of true labels."""

    error: float
    """Expected calibration error, in [0, 1]."""
    brier: float
    """Mean squared distance of score and label."""
    bins: tuple[Bin, ...]
    """Those that hold items, by score."""
    n: int
    """Number of items."""


def bias(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    threshold: float,
    *,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    level: float = 0.95,
) -> Bias:
    """Calls at `threshold` against labels (true: faithful). Raises UnscoredError where no item has both."""
    x, y, group = _known(scores, labels, clusters)
    called, actual = (x < threshold).astype(float), 1 - y
    return Bias(
        threshold=threshold,
        called=clustered_mean(called, group, level=level, share=True),
        actual=clustered_mean(actual, group, level=level, share=True),
        difference=clustered_mean(called - actual, group, level=level, share=False),
        missed=float(1 - called[actual == 1].mean()) if actual.any() else None,
        false_alarms=float(called[actual == 0].mean()) if not actual.all() else None,
        n=len(x),
    )


def calibration(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    *,
    n_bins: int = 10,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    level: float = 0.95,
) -> Calibration | None:
    """Calibration over bins of equal width; None where a score lies outside [0, 1]: then it is no probability.

    Raises UnscoredError where no item has a score and a label.
    """
    x, y, group = _known(scores, labels, clusters)
    if x.min() < 0 or x.max() > 1:
        return None
    edges = np.linspace(0, 1, n_bins + 1)
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, n_bins - 1)
    bins = []
    for b in np.unique(place):
        own = place == b
        share = clustered_mean(y[own], group[own], level=level, share=True)
        bins.append(Bin(float(edges[b]), float(edges[b + 1]), int(own.sum()), float(x[own].mean()), share))
    error = sum(found.n * abs(found.score - found.share.value) for found in bins) / len(x)
    return Calibration(float(error), float(((x - y) ** 2).mean()), tuple(bins), len(x))


def _known(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = as_scores_and_labels(scores, labels)
    if clusters is not None and len(clusters) != len(x):
        raise ValueError(f"{len(clusters)} clusters for {len(x)} scores: one cluster per item")
    known = ~np.isnan(x) & ~np.isnan(y)
    if not known.any():
        raise UnscoredError(f"none of {len(x)} items has a score and a label")
    group = np.arange(len(x)) if clusters is None else codes(clusters)[0]
    return x[known], y[known], group[known]
