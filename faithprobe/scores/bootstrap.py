"""Bootstrap of AUROCs by problem *and* by organism, and of differences between metrics on the same items.

Items are crossed: every problem is run through many organisms, every organism (a network trained from one seed) solves
many problems. Both are drawn with replacement, independently, and an item counts as often as its problem times as often
as its organism: the pigeonhole bootstrap (Owen, *Annals of Applied Statistics* 1, 2007), whose variance is at least
that of the mean under crossed random effects. Organisms are drawn among those of the same strata, because strata are
there by design. A factor with one unit is left as it is, and so then is its part of the variance.

A draw is a weight per item; the AUROC under weights is

    A = sum_s sum_{true i, false j in s} w_i w_j [x_i > x_j] / sum_s sum_{i, j in s} w_i w_j        (ties: half)

and comes from one cumulative sum of the false items' weights, in the order of their scores, for many draws at once.
It equals the AUROC of items repeated as often as they were drawn (the tests say so).

Intervals are percentiles: at AUROC 1.0 they have no width, and over few organisms they are too narrow. Read them beside
`auroc`, whose interval knows about both but not about organisms.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from faithprobe.scores.auroc import codes, comparable

CHUNK = 128
"""Draws at once: 10,000 items times 128 weights are 10 MB."""


@dataclass(frozen=True)
class Resample:
    """How often each unit of each crossed factor was drawn."""

    counts: tuple[np.ndarray, ...]
    """For each factor (units, draws)."""
    code: tuple[np.ndarray, ...]
    """For each factor (items,): the unit of an item."""

    @property
    def n_draws(self) -> int:
        return self.counts[0].shape[1]

    def weights(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """(items, draws) how often each item counts in draws `begin` to `end`."""
        product = self.counts[0][self.code[0], begin:end]
        for counts, code in zip(self.counts[1:], self.code[1:]):
            product = product * counts[code, begin:end]
        return product


@dataclass(frozen=True)
class Draws:
    """A statistic with its bootstrap distribution and the interval of percentiles."""

    value: float
    low: float
    high: float
    n_draws: int
    """Draws in which it was defined."""
    undefined: int = 0
    """Draws without anything to compare; they are left out of the interval."""


def resample(
    *factors: Sequence[Hashable] | np.ndarray,
    within: Sequence[Hashable] | np.ndarray | None = None,
    n_draws: int = 1000,
    seed: int = 0,
) -> Resample:
    """Draws the units of each factor with replacement.

    Args:
        factors: (items,) each: an item's problem, its organism, ...
        within: (items,) units of the *last* factor are drawn among those that occur in the same set of these.
    """
    rng = np.random.default_rng(seed)
    counts: list[np.ndarray] = []
    coded: list[np.ndarray] = []
    for place, factor in enumerate(factors):
        code, units = codes(factor)
        if coded and len(code) != len(coded[0]):
            raise ValueError(f"{len(code)} and {len(coded[0])} units: one per item in every factor")
        block = np.zeros(len(units), int)
        if within is not None and place == len(factors) - 1:
            places: list[set[Hashable]] = [set() for _ in units]
            for unit, where in zip(code, within):
                places[unit].add(where)
            block = codes([frozenset(found) for found in places])[0]
        drawn = np.empty((len(units), n_draws))
        for b in range(block.max(initial=-1) + 1):
            own = np.flatnonzero(block == b)
            drawn[own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=n_draws).T
        counts.append(drawn)
        coded.append(code)
    return Resample(tuple(counts), tuple(coded))


def weighted_auroc(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    weights: np.ndarray,
    strata: Sequence[Hashable] | np.ndarray | None = None,
) -> np.ndarray:
    """(draws,) AUROC within strata under (items, draws) weights; NaN where a draw has no pair."""
    items = comparable(scores, labels, strata)
    if len(weights) != len(items.keep):
        raise ValueError(f"weights of {len(weights)} items for {len(items.keep)} scores")
    return _weighted(_order(items.score, items.label, items.stratum, np.flatnonzero(items.keep)), weights)


def bootstrap_aurocs(
    scores: np.ndarray,
    labels: Sequence[float] | np.ndarray,
    draws: Resample,
    strata: Sequence[Hashable] | np.ndarray | None = None,
) -> np.ndarray:
    """(draws, metrics) AUROCs of (items, metrics) scores under the same draws; NaN where a draw has no pair."""
    scores = np.asarray(scores, dtype=float)
    if scores.ndim == 1:
        scores = scores[:, None]
    orders = []
    for column in scores.T:
        items = comparable(column, labels, strata)
        orders.append(_order(items.score, items.label, items.stratum, np.flatnonzero(items.keep)))
    if len(scores) != len(draws.code[0]):
        raise ValueError(f"draws of {len(draws.code[0])} items for {len(scores)} scores")
    found = np.empty((draws.n_draws, len(orders)))
    for begin in range(0, draws.n_draws, CHUNK):
        weights = draws.weights(begin, begin + CHUNK)
        for metric, order in enumerate(orders):
            found[begin : begin + CHUNK, metric] = _weighted(order, weights)
    return found


def percentiles(value: float, draws: np.ndarray, *, level: float = 0.95) -> Draws:
    """The interval between the quantiles (1 - level) / 2 and (1 + level) / 2 of the draws that are not NaN."""
    known = draws[~np.isnan(draws)]
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if len(known) else (np.nan, np.nan)
    return Draws(value, float(low), float(high), len(known), len(draws) - len(known))


def auroc_difference(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    *,
    problems: Sequence[Hashable] | np.ndarray,
    organisms: Sequence[Hashable] | np.ndarray | None = None,
    strata: Sequence[Hashable] | np.ndarray | None = None,
    n_draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Draws:
    """AUROC of `first` minus that of `second`, on the items that both score, with a paired bootstrap interval.

    Returns NaN as value and bounds where those items hold no pair.
    """
    pair = np.column_stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)])
    pair[np.isnan(pair).any(axis=1)] = np.nan
    factors = [problems] if organisms is None else [problems, organisms]
    drawn = resample(*factors, within=strata if len(factors) > 1 else None, n_draws=n_draws, seed=seed)
    found = bootstrap_aurocs(pair, labels, drawn, strata)
    once = np.ones((len(pair), 1))
    value = weighted_auroc(pair[:, 0], labels, once, strata) - weighted_auroc(pair[:, 1], labels, once, strata)
    return percentiles(float(value[0]), found[:, 0] - found[:, 1], level=level)


@dataclass(frozen=True)
class _Stratum:
    true: np.ndarray
    """Rows of the true items."""
    false: np.ndarray
    """Rows of the false items, by score."""
    below: np.ndarray
    """For each true item, how many false ones score lower."""
    up_to: np.ndarray
    """... or as high."""


def _order(score: np.ndarray, label: np.ndarray, stratum: np.ndarray, rows: np.ndarray) -> list[_Stratum]:
    found = []
    for s in range(stratum.max(initial=-1) + 1):
        true, false = np.flatnonzero(label & (stratum == s)), np.flatnonzero(~label & (stratum == s))
        false = false[np.argsort(score[false], kind="stable")]
        below, up_to = (np.searchsorted(score[false], score[true], side=side) for side in ("left", "right"))
        found.append(_Stratum(rows[true], rows[false], below, up_to))
    return found


def _weighted(order: list[_Stratum], weights: np.ndarray) -> np.ndarray:
    above, pairs = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for s in order:
        true = weights[s.true]
        cumulative = np.zeros((len(s.false) + 1, weights.shape[1]))
        np.cumsum(weights[s.false], axis=0, out=cumulative[1:])
        above += np.einsum("id,id->d", true, cumulative[s.below])
        above += np.einsum("id,id->d", true, cumulative[s.up_to])
        pairs += true.sum(axis=0) * cumulative[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, above / 2 / pairs, np.nan)
