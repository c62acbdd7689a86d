"""The curve whose area `auroc` is: the share of true items that are found, over the share of false ones called true.

Of several strata it is the mean of their curves at every false alarm rate, weighted by their pairs M_s N_s, so that the
area below it is the AUROC within strata, exactly.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from faithprobe.scores.auroc import comparable


def roc_curve(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[float] | np.ndarray,
    *,
    strata: Sequence[Hashable] | np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(points,) false alarm rates and (points,) hit rates, from (0, 0) to (1, 1); without points where nothing can be
    compared. Arguments and errors as `auroc`'s."""
    items = comparable(scores, labels, strata)
    curves, pairs = [], []
    for s in range(len(items.names)):
        own = items.stratum == s
        label = items.label[own]
        curves.append(_curve(items.score[own], label))
        pairs.append(label.sum() * (~label).sum())
    if not curves:
        return np.empty(0), np.empty(0)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    weight = np.array(pairs) / sum(pairs)
    rises = [sum(w * _at(grid, *curve, side) for w, curve in zip(weight, curves)) for side in (0, -1)]
    # Where the curve rises straight up, both ends are points.
    return np.repeat(grid, 2), np.clip(np.stack(rises, axis=1).ravel(), 0, 1)


def _curve(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, place = np.unique(-score, return_inverse=True)  # equal scores are called together
    hits, alarms = np.bincount(place, label), np.bincount(place, ~label)
    x, y = (np.concatenate([[0], np.cumsum(counts)]) / counts.sum() for counts in (alarms, hits))
    return x, y


def _at(grid: np.ndarray, x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
    """(grid,) height of a curve at every x of the grid: where it rises straight up its foot (0) or its top (-1)."""
    own, first = np.unique(x, return_index=True)
    last = np.append(first[1:], len(x)) - 1
    foot, top = y[first], y[last]
    k = np.searchsorted(own, grid, side="right") - 1
    after = np.minimum(k + 1, len(own) - 1)
    part = (grid - own[k]) / np.maximum(own[after] - own[k], 1e-300)
    between = top[k] + part * (foot[after] - top[k])
    return np.where(own[k] == grid, foot[k] if side == 0 else top[k], between)
