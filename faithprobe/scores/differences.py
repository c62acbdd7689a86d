"""Differences of two means over items that come in problems, B - A: paired by problem, or of independent samples.

*Paired.* Both means are ratios of problem totals, m_A = sum_g S_Ag / sum_g N_Ag, over the same G problems. Leaving out
problem g moves B - A by

    -(S_Bg - m_B N_Bg) / (N_B - N_Bg) + (S_Ag - m_A N_Ag) / (N_A - N_Ag) = -r_g,    var = (G - 1) / G * sum_g r_g^2,

the jackknife of `scores.statistics` for both at once: what the two share by asking the same problems cancels. The
interval by t_{G-1} alone has no width where every problem moved alike, and is far too narrow near there. So one problem
on which A and B are equal is added, and one on which they differ by u, the most that any problem's means differ, half
up and half down (Agresti and Min, *Statistics in Medicine* 24, 2005, who add a half to each cell of the table of
matched pairs: for answers that are right or wrong u = 1). With s^2 = G (G - 1) var,

    d' = G d / (G + 2),    var' = max(var, ((s^2 + G d^2 + u^2) / (G + 2) - d'^2) / (G + 2)),
    d' +- t_{G-1} sqrt(var').

Where no problem moved at all, u is what a move would be: 1 for a share. Coverage of 95% intervals in simulations (8 to
50 problems of 1 to 5 steps, shares and scores from .01 to .99, from independent to the same in nine of ten): .92 to
1.00, where t alone goes down to .14; `tests/scores/test_differences.py` repeats some of them.

*Independent.* Each mean has its own interval, that of `scores.statistics` for shares, else as above for its difference
from zero, and the bounds are combined as squares (Newcombe, *Statistics in Medicine* 17, 1998; Zou and Donner,
*Statistics in Medicine* 27, 2008).

The p-value is one less the largest level whose interval leaves 0 out, so it never contradicts the interval. Over many
rows it is corrected by Holm (*Scandinavian Journal of Statistics* 6, 1979), which holds however the rows depend on each
other. Nothing here is random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, inf, sqrt
from typing import Any, TypeAlias

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.scores.statistics import Interval, clustered_mean

Values: TypeAlias = Mapping[Any, Sequence[float]]
"""By problem, the values of its items; a problem without any does not count."""


@dataclass(frozen=True)
class Difference:
    """B - A of one quantity."""

    a: float
    b: float
    value: float
    low: float
    high: float
    """95% interval of `value`, not corrected for other rows."""
    p: float
    n_a: int
    """Number of problems behind A."""
    n_b: int
    paired: bool
    """The problems behind A and B are the same ones."""


def paired_difference(
    a: Values, b: Values, *, unit: float | None = 1.0, bound: float = inf, level: float = 0.95
) -> Difference:
    """B - A over the problems that have a value in both; the module's docstring has the equations.

    Args:
        a: values by problem, without NaN.
        b: likewise; of a problem both may have different numbers of items.
        unit: what a move would be where no problem moved, such as 1 for a share; None: such an interval has no width.
        bound: no difference can lie beyond it on either side.
        level: coverage of the interval.

    Raises UnscoredError where no problem has a value in both.
    """
    problems = [problem for problem in a if len(a[problem]) and len(b.get(problem, ()))]
    n = len(problems)
    if not n:
        raise UnscoredError("no problem has a value in both")
    means: list[float] = []
    residual = np.zeros(n)
    for values, sign in ((a, -1), (b, 1)):
        total = np.array([float(np.sum(values[problem])) for problem in problems])
        size = np.array([len(values[problem]) for problem in problems])
        means.append(float(total.sum() / size.sum()))
        if n > 1:
            residual += sign * (total - means[-1] * size) / (size.sum() - size)
    first, second = means
    value = second - first
    if n == 1:
        return Difference(first, second, value, -bound, bound, 1.0, n, n, True)
    moved = max(abs(float(np.mean(b[problem]) - np.mean(a[problem]))) for problem in problems)
    centre, variance = _with_added(value, float((n - 1) / n * (residual**2).sum()), n, moved or unit or 0.0)
    half = _t_quantile(n - 1, level) * sqrt(variance)
    low, high = max(centre - half, -bound), min(centre + half, bound)
    return Difference(first, second, value, low, high, _p_value(centre, variance, n - 1), n, n, True)


def _with_added(value: float, variance: float, n: int, unit: float) -> tuple[float, float]:
    """Centre and variance of a mean over n problems and the two that are added."""
    centre = n * value / (n + 2)
    added = (n * (n - 1) * variance + n * value**2 + unit**2) / (n + 2) - centre**2
    return centre, max(variance, added / (n + 2))


def independent_difference(
    a: Values, b: Values, *, share: bool = True, unit: float | None = 1.0, bound: float = inf, level: float = 0.95
) -> Difference:
    """B - A of two samples of problems that have nothing to do with each other.

    Args:
        share: values lie in [0, 1].
        unit: as `paired_difference` takes it, for values that are no shares.
        bound: no difference can lie beyond it on either side.

    Raises UnscoredError where one of them has no value.
    """

    def mean(side: Values, at: float) -> Interval:
        if share or not any(map(len, side.values())):
            items = [(value, problem) for problem, values in side.items() for value in values]
            return clustered_mean([value for value, _ in items], [g for _, g in items], level=at, share=True)
        nothing = {problem: [0.0] * len(values) for problem, values in side.items()}
        found = paired_difference(nothing, side, unit=unit, level=at)
        return Interval(found.value, found.low, found.high, found.n_b)

    return difference_of(lambda at: (mean(a, at), mean(b, at)), bound=bound, level=level)


def difference_of(
    means: Callable[[float], tuple[Interval, Interval]], *, bound: float = inf, level: float = 0.95
) -> Difference:
    """The same from a function that gives the intervals of A and of B at a level."""

    def bounds(at: float) -> tuple[float, float]:
        a, b = means(at)
        value = b.value - a.value
        low, high = value - hypot(b.value - b.low, a.high - a.value), value + hypot(b.high - b.value, a.value - a.low)
        return max(low, -bound), min(high, bound)

    a, b = means(level)
    low, high = bounds(level)
    value = b.value - a.value
    return Difference(a.value, b.value, value, low, high, _p_by_inversion(bounds), a.n, b.n, False)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: of m sorted ones, the largest of (m - i) p_(i) so far, at most 1."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def _p_by_inversion(bounds: Callable[[float], tuple[float, float]]) -> float:
    """1 - the largest level whose interval leaves 0 out, by bisection in its logarithm; at least 1e-12."""

    def leaves_zero_out(exponent: float) -> bool:
        low, high = bounds(1 - 10.0**exponent)
        return low > 0 or high < 0

    inside, outside = -12.0, -0.001
    if not leaves_zero_out(outside):
        return 1.0
    if leaves_zero_out(inside):
        return 10.0**inside
    for _ in range(40):
        middle = (inside + outside) / 2
        if leaves_zero_out(middle):
            outside = middle
        else:
            inside = middle
    return float(10.0**outside)


def _p_value(centre: float, variance: float, degrees: int) -> float:
    """Two-sided, by Student's t."""
    from scipy.special import stdtr  # 0.1 s to import: not at the import of `scores`

    if variance <= 0:
        return float(centre == 0)
    return float(2 * stdtr(degrees, -abs(centre) / sqrt(variance)))


def _t_quantile(degrees: int, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))
