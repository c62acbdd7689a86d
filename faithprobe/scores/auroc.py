"""Does a score rank what is true above what is not? The area under the ROC curve, within strata and over clusters.

AUROC is the chance that an item whose label is true scores higher than one whose label is false, ties counted half.
Only items of one stratum are compared, so that a difference *between* strata (their texts, lengths, difficulty) cannot
pass for skill. Over strata s with M_s true and N_s false items,

    A = sum_s M_s N_s A_s / sum_s M_s N_s                     the mean of the strata, weighted by their pairs.

Each item has its *placement*, the share of the other class in its stratum that it beats: V_i = (R_i - R'_i) / N_s, with
R its midrank among all items and R' among its own class (Sun and Xu, *IEEE Signal Processing Letters* 21, 2014). With
w_s = M_s N_s / sum M N the variance is the sum of squares of what each cluster (problem) contributes,

    var(A) = sum_c ( sum_s w_s [ f_s sum_{true i} (V_i - A_s) / M_s + g_s sum_{false j} (V_j - A_s) / N_s ] )^2

f_s^2 = G / (G - 1) for the G clusters with a true item in s, g_s likewise for false ones; where G is 1, f is 1 and A
stands for A_s, since one cluster cannot say how far it is from itself. With one stratum and every item its own cluster
this is DeLong, DeLong and Clarke-Pearson (*Biometrics* 44, 1988); with one stratum it is Obuchowski (*Biometrics* 53,
1997), exactly where clusters are of one class or all of both, and else with a geometric mean in place of her factor of
the covariance, which keeps it positive. Strata are taken as they are: their weights carry no variance.

The interval. A +- 1.96 sqrt(var) leaves [0, 1], has no width at AUROC 1, and is far too narrow near it: with 10 + 10
items it covers .52 of the time at AUROC .98, and .18 where failures come as whole items. So, as for shares in
`statistics`, Wilson's interval is used on an *effective* number of observations, A (1 - A) / var, corrected for the
degrees of freedom. Near 1 that number stands on the few items that were misplaced, and at 1 on nothing. What is always
known is the largest variance that any distribution can have, A (1 - A) / n0 with n0 the smaller class in clusters
(Birnbaum and Klose, *Annals of Mathematical Statistics* 28, 1957). So the two are weighted,

    1 / n = k / (k + z^2) * (t / z)^2 var / (A (1 - A)) + z^2 / (k + z^2) / n0

with k the number of clusters over which the misplacements spread, (sum l)^2 / sum l^2 (Kish), in the class where it is
smaller: the bound counts for z^2 = 3.84 clusters, the weight that Agresti and Coull (*American Statistician* 52, 1998)
give to what they add. At AUROC 1 this is Wilson's interval of n0 trials; with many misplaced items it is DeLong's.
Coverage in simulations (10 to 200 items a class, normal scores and whole-item failures): .915 to .995, where DeLong's
interval has .18 to .95; `tests/scores/test_auroc.py` holds it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from faithprobe.scores.statistics import share_interval


@dataclass(frozen=True)
class Auroc:
    """An AUROC with its interval; `value` is None where there is nothing to compare, and `undefined` says why."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Items compared: scored, labelled, and in a stratum that holds both classes."""
    n_true: int = 0
    n_false: int = 0
    n_pairs: int = 0
    n_clusters: int = 0
    undefined: str = ""
    strata: Mapping[str, float | None] = field(default_factory=dict)
    """AUROC of every stratum; None where it holds one class only."""


@dataclass(frozen=True)
class _Items:
    """Items that can be compared: scored, labelled, in a stratum with both classes."""

    keep: np.ndarray
    """(items,) which of those given they are; the other arrays are of these only."""
    score: np.ndarray
    label: np.ndarray
    stratum: np.ndarray
    """Codes 0 .. n - 1."""
    names: list[str]
    """Of the strata, by code."""


def codes(values: Sequence[Hashable] | np.ndarray) -> tuple[np.ndarray, list[Hashable]]:
    """(items,) integer of each item's value, and the values, by first appearance."""
    seen: dict[Hashable, int] = {}
    array = np.array([seen.setdefault(value, len(seen)) for value in values], dtype=int)
    return array, list(seen)


def comparable(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    strata: Sequence[Hashable] | np.ndarray | None = None,
) -> _Items:
    """The items that enter an AUROC. Raises ValueError where lengths differ or a label is not 0, 1 or NaN."""
    x, y = as_scores_and_labels(scores, labels)
    place, names = codes([""] * len(x) if strata is None else strata)
    if len(place) != len(x):
        raise ValueError(f"{len(place)} strata for {len(x)} scores: one stratum per item")
    keep = ~np.isnan(x) & ~np.isnan(y)
    n_true = np.bincount(place[keep], y[keep], minlength=len(names))
    n_false = np.bincount(place[keep], 1 - y[keep], minlength=len(names))
    keep &= ((n_true > 0) & (n_false > 0))[place]
    kept, stratum = np.unique(place[keep], return_inverse=True)
    return _Items(keep, x[keep], y[keep] == 1, stratum, [str(names[k]) for k in kept])


def as_scores_and_labels(
    scores: Sequence[float] | np.ndarray, labels: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both as (items,) floats. Raises ValueError where lengths differ or a label is not 0, 1 or NaN."""
    x = np.asarray(scores, dtype=float).reshape(-1)
    y = np.asarray(labels, dtype=float).reshape(-1)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} scores for {len(y)} labels: one score per item, NaN where it is unscored")
    if not (np.isnan(y) | np.isin(y, (0, 1))).all():
        raise ValueError("a label is true (1), false (0) or missing (NaN)")
    return x, y


def auroc(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    *,
    strata: Sequence[Hashable] | np.ndarray | None = None,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    level: float = 0.95,
) -> Auroc:
    """AUROC within strata with an interval over clusters; the module's docstring has the equations.

    Args:
        scores: (items,) higher means more likely true; NaN: unscored, left out.
        labels: (items,) 1 or True, 0 or False; NaN: no label, left out.
        strata: (items,) only items of one stratum are compared; None: all are.
        clusters: (items,) what is independent of one another, usually problems; None: every item.

    Raises:
        ValueError: lengths differ, or a label that is none. Where nothing can be compared there is no exception: the
            value is None and `undefined` says why.
    """
    items = comparable(scores, labels, strata)
    by_stratum: dict[str, float | None] = dict.fromkeys(map(str, codes(strata)[1]) if strata is not None else [""])
    if not len(items.score):
        return Auroc(None, None, None, 0, undefined=_why_not(scores, labels), strata=by_stratum)
    if clusters is None:
        group = np.arange(len(items.score))
    elif len(clusters) == len(items.keep):
        group = codes([cluster for cluster, kept in zip(clusters, items.keep) if kept])[0]
    else:
        raise ValueError(f"{len(clusters)} clusters for {len(items.keep)} scores: one cluster per item")

    y, s = items.label, items.stratum
    placement, n_true, n_false = placements(items.score, y, s)
    pairs = n_true * n_false
    weight = pairs / pairs.sum()
    areas = np.bincount(s[y], placement[y], minlength=len(pairs)) / n_true
    value = float(np.clip((weight * areas).sum(), 0, 1))
    by_stratum.update(zip(items.names, areas.tolist()))

    contribution = np.zeros(group.max() + 1)
    smaller, losses = [], []
    bound = np.full(len(pairs), np.inf)
    for own, size in ((y, n_true), (~y, n_false)):
        cell, _ = codes(list(zip(s[own].tolist(), group[own].tolist())))
        first = np.unique(cell, return_index=True)[1]
        n_cells = np.bincount(s[own][first], minlength=len(pairs))  # clusters of this class in each stratum
        bound = np.minimum(bound, n_cells)
        centre = np.where(n_cells > 1, areas, value)[s[own]]
        factor = np.sqrt(n_cells / np.maximum(n_cells - 1, 1))
        part = (weight * factor / size)[s[own]] * (placement[own] - centre)
        contribution += np.bincount(group[own], part, minlength=len(contribution))
        misplaced = 1 - placement[own] if value >= 0.5 else placement[own]
        losses.append(np.bincount(group[own], (weight / size)[s[own]] * misplaced))
        smaller.append(len(np.unique(group[own])))
    # No more independent than its clusters, nor than its strata taken as independent of each other.
    least = min(*smaller, 1 / float((weight**2 / bound).sum()))
    low, high = _interval(value, float((contribution**2).sum()), least, min(map(_spread, losses)), level)
    return Auroc(
        *(value, low, high, len(y), int(y.sum()), int((~y).sum()), int(pairs.sum()), len(contribution)),
        strata=by_stratum,
    )


def placements(score: np.ndarray, label: np.ndarray, stratum: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(items,) share of the other class of its stratum that an item is on the right side of, ties half; and the
    (strata,) numbers of true and of false items. Every stratum, coded 0 .. n - 1, must hold both classes."""
    from scipy.stats import rankdata

    n = stratum.max() + 1
    n_true, n_false = np.bincount(stratum[label], minlength=n), np.bincount(stratum[~label], minlength=n)
    placement = np.empty(len(score))
    for s in range(n):
        true, false = np.flatnonzero(label & (stratum == s)), np.flatnonzero(~label & (stratum == s))
        rank = rankdata(np.concatenate([score[true], score[false]]))
        placement[true] = (rank[: len(true)] - rankdata(score[true])) / len(false)
        placement[false] = 1 - (rank[len(true) :] - rankdata(score[false])) / len(true)
    return placement, n_true, n_false


def _spread(losses: np.ndarray) -> float:
    """Kish's effective number of clusters over which the misplacements spread; 0 where there are none."""
    squares = float((losses**2).sum())
    return float(losses.sum()) ** 2 / squares if squares > 1e-24 else 0.0


def _interval(value: float, variance: float, least: float, spread: float, level: float) -> tuple[float, float]:
    from scipy.special import stdtrit

    z = NormalDist().inv_cdf((1 + level) / 2)
    trust = spread / (spread + z**2) if least > 1 else 0.0
    inverse = (1 - trust) / least
    if trust and 0 < value < 1:
        inverse += trust * variance * (float(stdtrit(least - 1, (1 + level) / 2)) / z) ** 2 / (value * (1 - value))
    n = max(1 / inverse, 1.0)
    found = share_interval(value * n, n, level=level)
    return found.low, found.high


def _why_not(scores: Sequence[float] | np.ndarray, labels: Sequence[float] | np.ndarray) -> str:
    x, y = as_scores_and_labels(scores, labels)
    if not len(x):
        return "there are no items"
    if np.isnan(y).all():
        return f"none of {len(x)} items has a label"
    if np.isnan(x).all():
        return f"none of {len(x)} items is scored"
    both = y[~np.isnan(x) & ~np.isnan(y)]
    if not len(both):
        return f"no item is both scored and labelled, of {len(x)}"
    if both.min() == both.max():
        return f"all {len(both)} scored items are labelled {'true' if both[0] else 'false'}"
    return "no stratum holds scored items of both labels"
