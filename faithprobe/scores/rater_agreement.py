"""Do two metrics call the same items unfaithful? Gwet's AC1.

Agreement p_a has to be read against chance. Cohen's kappa takes chance from each rater's own margins; where nearly all
calls are alike, as with metrics at saturation, chance comes close to 1 and kappa collapses: with the table of counts
[[118, 5], [2, 0]], raters who agree on .94 of all items have kappa -.02. So kappa is not used here. Gwet's chance is
that of items on which a rater would guess,

    AC1 = (p_a - p_e) / (1 - p_e),   p_e = 1 / (q - 1) sum_k pi_k (1 - pi_k)

with pi_k the mean share of category k over both raters, and AC1 = .94 in that example (Gwet, *British Journal of
Mathematical and Statistical Psychology* 61, 2008). Its variance is that of the mean of

    g_i = (p_a|i - p_e) / (1 - p_e) - 2 (1 - AC1) (p_e|i - p_e) / (1 - p_e)

over items, p_a|i and p_e|i being the item's own; here over clusters of items (`clustered_mean`), which with one item a
cluster is Gwet's. The interval is Wilson's of p_a on the effective number that this variance implies, p_e held, as in
`statistics`: it stays below 1 and has a width where the metrics agree on everything.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.scores.auroc import codes
from faithprobe.scores.statistics import clustered_mean, share_interval


@dataclass(frozen=True)
class RaterAgreement:
    """AC1 of two raters."""

    value: float
    low: float
    high: float
    n: int
    """Items that both called."""
    observed: float
    """p_a: share of items on which they agree."""
    chance: float
    """p_e."""
    variance: float
    """Of AC1, over clusters."""


def ac1(
    first: Sequence[Hashable] | np.ndarray,
    second: Sequence[Hashable] | np.ndarray,
    *,
    categories: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    level: float = 0.95,
) -> RaterAgreement:
    """Gwet's AC1 of two raters over the items that both called; the module's docstring has the equations.

    Args:
        first: (items,) calls of one rater: flags or categories; NaN and None: no call.
        second: (items,) of the other.
        categories: all that could have been called; None: false and true where calls are flags, else those that occur.
        clusters: (items,) what is independent of one another, usually problems; None: every item.

    Raises:
        UnscoredError: no item was called by both. ValueError: lengths differ, or a call outside the categories.
    """
    if len(first) != len(second) or (clusters is not None and len(clusters) != len(first)):
        raise ValueError(f"{len(first)} and {len(second)} calls: one of each rater, and one cluster, per item")
    first, second = list(first), list(second)
    both = [i for i, (a, b) in enumerate(zip(first, second)) if not (_missing(a) or _missing(b))]
    if not both:
        raise UnscoredError(f"none of {len(first)} items was called by both")
    a, b = [first[i] for i in both], [second[i] for i in both]
    found = set(a) | set(b)
    known = (
        list(categories) if categories is not None else [False, True] if found <= {0, 1} else list(dict.fromkeys(a + b))
    )
    if not found <= set(known):
        raise ValueError(f"calls {sorted(map(str, found - set(known)))} are not among the categories {known}")
    q = len(known)
    if q < 2:
        raise ValueError(f"one category, {known}, is nothing to agree about; name all that could have been called")

    at = {category: k for k, category in enumerate(known)}
    share = np.zeros((len(both), q))  # of the two raters, by item and category
    for calls in (a, b):
        share[np.arange(len(both)), [at[call] for call in calls]] += 0.5
    agree = (share == 1).any(axis=1).astype(float)
    mean = share.mean(axis=0)
    chance = float((mean * (1 - mean)).sum() / (q - 1))
    chance_of_item = (share * (1 - mean)).sum(axis=1) / (q - 1)
    observed = float(agree.mean())
    value = (observed - chance) / (1 - chance)
    linear = ((agree - chance) - 2 * (1 - value) * (chance_of_item - chance)) / (1 - chance)

    group = codes(clusters)[0][both] if clusters is not None else np.arange(len(both))
    spread = clustered_mean(linear, group, level=level, share=False)
    half = (spread.high - spread.low) / 2 * (1 - chance)  # in units of p_a; infinite with one cluster
    z = NormalDist().inv_cdf((1 + level) / 2)
    effective = float(spread.n)
    if 0 < observed < 1 and half > 1e-6:
        effective = min(max(observed * (1 - observed) * (z / half) ** 2, 1.0), float(len(both)))
    bounds = share_interval(observed * effective, effective, level=level)
    group = codes(group)[0]
    residual, size = np.bincount(group, linear - value), np.bincount(group)
    n = len(size)
    variance = float((n - 1) / n * ((residual / (len(both) - size)) ** 2).sum()) if n > 1 else float("inf")
    low, high = ((bound - chance) / (1 - chance) for bound in (bounds.low, bounds.high))
    return RaterAgreement(value, low, high, len(both), observed, chance, variance)


def _missing(call: Hashable) -> bool:
    return call is None or (isinstance(call, (float, np.floating)) and bool(np.isnan(call)))
