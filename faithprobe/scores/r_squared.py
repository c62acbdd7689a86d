"""How much of the spread of a number do predictions explain? R2 with an interval clustered by problem.

    R2 = 1 - sum_i (y_i - p_i)^2 / sum_i (y_i - r_i)^2

with p the predictions and r what would be said without them: the mean of y, or, out of sample, the mean of the training
items (Campbell and Thompson, *Review of Financial Studies* 21, 2008), so that a probe is never charged for a difference
between training and evaluated items that it could not know.

R2 is a ratio of cluster totals, bounded by 1 and skewed: a symmetric interval leaves the range where predictions are
good. So log(1 - R2), the logarithm of a ratio of two sums of squares, gets the interval, by the jackknife that leaves
out one cluster at a time (and computes the mean of y without it), with t_{G-1}; its ends are taken back,

    var = (G - 1) / G * sum_g (log(1 - R2_(g)) - log(1 - R2))^2.

Coverage in simulations (20 to 200 clusters of 1 to 5 items, R2 of 0 to .95): `tests/scores/test_r_squared.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import exp, inf, log, sqrt

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.scores.statistics import Interval


def clustered_r2(
    y: Sequence[float] | np.ndarray,
    predicted: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
    *,
    reference: Sequence[float] | np.ndarray | float | None = None,
    level: float = 0.95,
) -> Interval:
    """R2 of held-out predictions; the module's docstring has the equations.

    Args:
        y: (items,) numbers.
        predicted: (items,) of probes that did not see the item. Items in which either is NaN are left out.
        groups: (items,) the cluster of each item, usually its problem.
        reference: (items,) or one number: the mean of the training items; None: the mean of y.
        level: coverage of the interval.

    Returns:
        Interval, n = number of clusters; (-inf, 1) where there is one cluster only.

    Raises:
        UnscoredError: no item, or nothing to explain: y is constant. ValueError: lengths differ.
    """
    target, said = np.asarray(y, dtype=float).reshape(-1), np.asarray(predicted, dtype=float).reshape(-1)
    if not len(target) == len(said) == len(groups):
        raise ValueError(f"{len(target)} numbers, {len(said)} predictions and {len(groups)} groups: one each per item")
    known = ~(np.isnan(target) | np.isnan(said))
    if not known.any():
        raise UnscoredError(f"none of {len(target)} items has a number and a prediction")
    codes: dict[Hashable, int] = {}
    cluster = np.array([codes.setdefault(group, len(codes)) for group, kept in zip(groups, known, strict=True) if kept])
    error = np.square(target - said)[known]
    if reference is None:
        centred = target[known] - target[known].mean()  # else the square of a large mean would swallow the spread
        parts = [np.bincount(cluster, weights=w) for w in (np.ones_like(centred), centred, np.square(centred))]
        n, first, second = (part.sum() for part in parts)
        total = second - first**2 / n
        with np.errstate(invalid="ignore", divide="ignore"):
            rest = (second - parts[2]) - np.square(first - parts[1]) / (n - parts[0])
    else:
        squares = np.square(target - np.asarray(reference, dtype=float))[known]
        total = squares.sum()
        rest = total - np.bincount(cluster, weights=squares)
    scale = float(np.square(target[known]).sum())
    if total <= 1e-12 * max(scale, 1e-300):
        raise UnscoredError(f"{int(known.sum())} numbers are constant: there is nothing to explain")
    ratio = float(error.sum() / total)
    g = len(codes)
    if g == 1:
        return Interval(1 - ratio, -inf, 1.0, 1)
    if ratio == 0:
        return Interval(1.0, 1.0, 1.0, g)
    left = error.sum() - np.bincount(cluster, weights=error)
    if (rest <= 1e-12 * scale).any() or (left <= 0).any():  # all error, or all spread, is in one cluster
        return Interval(1 - ratio, -inf, 1.0, g)
    variance = (g - 1) / g * float(np.square(np.log(left / rest) - log(ratio)).sum())
    half = _t_quantile(g - 1, level) * sqrt(variance)
    return Interval(1 - ratio, 1 - ratio * exp(min(half, 700.0)), 1 - ratio * exp(-half), g)


def _t_quantile(degrees: int, level: float) -> float:
    from scipy.special import stdtrit  # 0.1 s to import: not at the import of `scores`

    return float(stdtrit(degrees, (1 + level) / 2))
