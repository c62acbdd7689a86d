"""Does a probe beat the predictor that ignores its input? If that cannot be told on training items, ignorance it is.

The family V holds that predictor (Xu et al. 2020, definition 1), so noise has 0 bits by definition. A fit to noise is
truly a little worse, and its interval lies below 0: penalised, it keeps a trace of what it fitted, and the penalty with
the smallest cross-validated loss is often not the strongest. The remedy is the one-standard-error rule (Breiman,
Friedman, Olshen and Stone, *Classification and Regression Trees*, 1984, section 3.4.3; Hastie, Tibshirani and Friedman,
*Elements of Statistical Learning*, section 7.10): of two predictors the simpler one, unless the other is better by more
than the standard error. Here that is said of ignorance alone, not of neighbouring penalties, so that what *is* read is
read with the penalty that reads it best. With d_i the bits that item i's probe saves in the inner folds,

    informed:   mean(d) > z * SE(d),      SE by the jackknife over clusters,      z = 1 for one layer.

The best of L layers is better by chance than any one of them. One standard error is passed by noise with chance
1 - Phi(1) = .16, and z is such that the best of L passes as often: Phi(z)^L = Phi(1) (Sidak).

One decision for all folds, from the inner folds of each, d_i averaged over the folds that train on i. Evaluated items
have a part in it where training and evaluated items are one set. That gives noise no credit: the decision can only
turn a reading into ignorance, and the interval lies above 0 no more often than it would without.

Measured on noise (n = 300, d = 32, 4 folds; share of 200 runs in which the interval of the gain covers 0):

                          without the rule    one decision    a decision by fold
    one layer                   .76                .98                .95
    the best of 8 layers        .55                .96                .97

Decisions by fold look at no evaluated item and cover as well, but lose more of a weak signal (a mean of .014 bits of 30
runs instead of .023 for classes .6 apart in one of 32 directions, n = 400; .118 and .120 for classes 1 apart). Where an
interval is wrong, it mostly lies below 0. `tests/probes/test_noise.py` holds the coverage of one decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from faithprobe.probes.sources import Part, Source
from faithprobe.scores.statistics import clustered_mean


def informed(source: Source, clusters: np.ndarray) -> bool:
    """The source, at the layer that each fold chose, beats ignorance on training items.

    Args:
        source: with a layer at least.
        clusters: (training items,) of all folds.
    """
    return surpasses(
        inner_losses(source, len(clusters)),
        null_losses(source.parts, len(clusters)),
        clusters,
        candidates=len(source.loss),
    )


def surpasses(losses: np.ndarray, simpler: np.ndarray, clusters: np.ndarray, *, candidates: int) -> bool:
    """The losses (training items,) are below those of the simpler predictor by more than chance makes them, where they
    are the best of several candidates; NaN where an item was in no fold."""
    known = ~np.isnan(losses)
    level = 1 - 2 * (1 - NormalDist().cdf(1) ** (1 / candidates))  # both tails, where 1 SE is the least for one
    saved = (simpler - losses)[known]
    return clustered_mean(saved, clusters[known], level=level, share=False).low > 0


def inner_losses(source: Source, n: int) -> np.ndarray:
    """(n training items,) bits of each in the inner folds at the chosen layer and penalty, mean over the outer folds
    that train on it; NaN where none does."""
    losses = [best.reading.inner_losses for best in source.chosen]
    return _mean_over_folds([part.train for part in source.parts], losses, n)


def null_losses(parts: Sequence[Part], n: int) -> np.ndarray:
    """The same of the label frequencies."""
    return _mean_over_folds([part.train for part in parts], [part.inner_null for part in parts], n)


def _mean_over_folds(rows: Sequence[np.ndarray], values: Sequence[np.ndarray], n: int) -> np.ndarray:
    total, times = np.zeros(n), np.zeros(n)
    for some, value in zip(rows, values, strict=True):
        total[some] += value
        times[some] += 1
    return np.divide(total, times, out=np.full(n, np.nan), where=times > 0)
