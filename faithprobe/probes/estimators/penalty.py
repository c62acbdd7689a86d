"""The choice of a penalty: by held-out items, in folds that keep groups whole."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import check_cv
from torch import Tensor

from faithprobe.errors import UnscoredError
from faithprobe.probes.estimators.arrays import as_numpy
from faithprobe.probes.splits import Fold, connected_components, grouped_folds

PENALTIES = tuple(float(10**k) for k in range(-2, 5))
"""Prior variance of a logit: from ignorance to a direction that holds a thousandth of the variance, separated."""
_MIXED = 0.01
"""Share of even odds in the probabilities that penalties are compared by, so that no single item decides."""


def folds(
    cv: Any, groups: Any, n: int, *, labels: np.ndarray | None = None, random_state: Any = None
) -> tuple[Fold, ...]:
    """Splits for the choice of a penalty.

    A number: folds in which no group, of any grouping where `groups` is a tuple of several, stands on both sides, and
    over which classes are spread evenly; with no groups, every item is its own. Or a splitter of scikit-learn, or
    pairs of row numbers. Raises ValueError where no split can be made.
    """
    groupings = _groupings(groups, n)
    if not isinstance(cv, Integral):
        one = None if groupings is None else connected_components(groupings)
        return tuple(Fold(*pair) for pair in check_cv(cv).split(np.empty((n, 1)), labels, one))
    if cv < 2:
        raise ValueError(f"cv={cv}: a penalty is chosen by at least 2 folds")
    seed = int(np.random.default_rng(random_state).integers(2**31))
    try:
        return grouped_folds(groupings or (np.arange(n),), n_folds=int(cv), labels=labels, seed=seed)
    except UnscoredError as error:
        raise ValueError(f"no folds to choose a penalty by: {error}; give one penalty, or other groups") from error


def check_penalties(name: str, penalties: Any) -> list[float]:
    """At least one positive number."""
    found = [float(penalty) for penalty in np.atleast_1d(np.asarray(penalties, dtype=np.float64))]
    if not found or not all(0 < penalty < np.inf for penalty in found):
        raise ValueError(f"{name}={penalties!r}: at least one number, all above 0 and finite")
    return found


def class_folds(cv: Any, groups: Any, codes: np.ndarray, random_state: Any) -> tuple[Fold, ...]:
    """`folds` for class numbers, those whose training items are of one class left out."""
    found = folds(cv, groups, len(codes), labels=codes, random_state=random_state)
    found = tuple(fold for fold in found if len(np.unique(codes[fold.train])) > 1)
    if not found:
        raise ValueError("no penalty can be chosen: in every fold the training items are of one class")
    return found


def nats(odds: Float[Tensor, "*problems items classes"], y: Int[Tensor, " items"]) -> Float[Tensor, "*problems"]:
    """Summed over items."""
    of_label = odds.gather(-1, y.expand(odds.shape[:-1])[..., None])[..., 0]
    return -((1 - _MIXED) * of_label + _MIXED / odds.shape[-1]).log().sum(dim=-1)


def _groupings(groups: Any, n: int) -> tuple[Sequence[Hashable] | np.ndarray, ...] | None:
    if groups is None:
        return None
    columns = tuple(as_numpy(column) for column in (groups if isinstance(groups, tuple) else (groups,)))
    for column in columns:
        if len(column) != n:
            raise ValueError(f"groups of {len(column)} items, and there are {n} items")
    return tuple(column if isinstance(column, np.ndarray) else list(column) for column in columns)
