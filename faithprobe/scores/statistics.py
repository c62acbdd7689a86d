"""Means and shares over items that come in clusters (problems), with intervals that survive few clusters and 0 or 1.

The mean is over items, m = sum_g S_g / sum_g N_g, with S_g the sum and N_g the number of items of cluster g of G. It is
a ratio of cluster totals; its cluster-robust variance is the jackknife's, which leaves out one cluster at a time,

    var(m) = (G - 1) / G * sum_g ((S_g - m N_g) / (N - N_g))^2    (Bell and McCaffrey, *Survey Methodology* 28, 2002)

and equals the linearised one where clusters have one size; where they have not, the linearised one is too small.

For real numbers the interval is m +- t_{G-1} sqrt(var). For values in [0, 1] that interval leaves [0, 1] and has zero
width at 0 and at 1, where it is least to be trusted; there the Wilson interval is used on the *effective* number of
observations m (1 - m) / var, corrected for the degrees of freedom (Korn and Graubard, *Survey Methodology* 24, 1998,
with Wilson in place of Clopper-Pearson). With no variance at all it is the number of clusters.

Coverage of 95% intervals: `tests/scores/test_statistics.py` holds it to .92 to .98. Shares of 5 clusters are the
exception, at .98 to .99 (this and what follows: 2,500 or more simulated runs each). Without the correction for degrees
of freedom they would be at .95 where clusters are loose, but at .91 with 10 clusters that agree within themselves, as
replays of one problem do; too wide is the smaller fault. A rare share (.05) in 50 such clusters is still covered only
.91 of the time.

No bootstrap: over few clusters its percentiles are too narrow, and at shares of 0 and 1 it has no width at all. So
nothing here is random, and there is no seed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist

import numpy as np

from faithprobe.errors import UnscoredError


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided interval."""

    value: float
    low: float
    high: float
    n: int
    """Number of clusters: of independent units, not of items."""

    def __str__(self) -> str:
        """`0.98 [0.91, 1.00], n = 40`"""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}], n = {self.n}"

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high


def share_interval(successes: float, n: float, *, level: float = 0.95) -> Interval:
    """Wilson's interval of a share of `n` independent trials (Wilson, JASA 22, 1927); both may be fractional.

    Raises UnscoredError where n is 0, ValueError where successes are not in [0, n].
    """
    if n <= 0:
        raise UnscoredError("a share of 0 trials")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    # At 0 and 1 the bound is exact; rounding must not push it past the share itself.
    low = 0.0 if share == 0 else max(0.0, min(centre - half, share))
    high = 1.0 if share == 1 else min(1.0, max(centre + half, share))
    return Interval(share, low, high, round(n))


def clustered_mean(
    values: Sequence[float] | np.ndarray | Iterable[float],
    groups: Sequence[Hashable] | np.ndarray,
    *,
    level: float = 0.95,
    share: bool | None = None,
) -> Interval:
    """Mean over items with an interval over clusters; the module's docstring has the equations.

    Args:
        values: (items,) numbers; NaN is ignored.
        groups: (items,) the cluster of each item, usually its problem.
        level: coverage of the interval.
        share: values are shares or probabilities in [0, 1]; None: they are if all of them lie there. Pass False for
            quantities that can leave [0, 1] but happen not to, such as bits.

    Returns:
        Interval, n = number of clusters with a value. With one cluster there is no spread to judge by: a share gets
        the interval of one trial, a real number (-inf, inf).

    Raises:
        UnscoredError: no value that is not NaN. ValueError: lengths differ, or `share` with values outside [0, 1].
    """
    x = np.asarray(list(values) if not isinstance(values, np.ndarray) else values, dtype=float).reshape(-1)
    if len(x) != len(groups):
        raise ValueError(f"{len(x)} values in {len(groups)} groups: one group per value")
    known = ~np.isnan(x)
    if not known.any():
        raise UnscoredError(f"none of {len(x)} items has a value")
    x = x[known]
    codes: dict[Hashable, int] = {}
    cluster = np.array([codes.setdefault(g, len(codes)) for g, k in zip(groups, known) if k])
    in_unit = bool(((x >= 0) & (x <= 1)).all())
    if share and not in_unit:
        raise ValueError(f"a share lies in [0, 1]; values lie in [{x.min():.3g}, {x.max():.3g}]")
    n = len(codes)
    mean = float(x.mean())
    residual = np.bincount(cluster, weights=x) - mean * np.bincount(cluster)
    without = len(x) - np.bincount(cluster)
    variance = float((n - 1) / n * ((residual / without) ** 2).sum()) if n > 1 else 0.0
    if share if share is not None else in_unit:
        return _share(mean, variance, n, binary=bool(np.isin(x, (0, 1)).all()), items=len(x), level=level)
    if n == 1:
        return Interval(mean, -inf, inf, 1)
    half = _t_quantile(n - 1, level) * sqrt(variance)
    return Interval(mean, mean - half, mean + half, n)


def _share(mean: float, variance: float, n: int, *, binary: bool, items: int, level: float) -> Interval:
    mean = min(max(mean, 0.0), 1.0)
    effective = float(n)
    # Below 1e-12 the variance is rounding: all clusters agree, and they are all that the interval can stand on.
    if n > 1 and variance > 1e-12 and 0 < mean < 1:
        effective = mean * (1 - mean) / variance
        if binary:  # clusters that agree better than independent items would are luck, not information
            effective = min(effective, float(items))
        z = NormalDist().inv_cdf((1 + level) / 2)
        effective *= (z / _t_quantile(n - 1, level)) ** 2
    found = share_interval(mean * effective, effective, level=level)
    return Interval(mean, found.low, found.high, n)


def _t_quantile(degrees: int, level: float) -> float:
    from scipy.special import stdtrit  # 0.1 s to import: not at the import of `scores`

    return float(stdtrit(degrees, (1 + level) / 2))
