"""Probes of a window of positions, for values that stand at another position in every item.

With h_p the state at position p of the window (Kantamneni et al. 2025, arXiv 2502.16681; for chains of thought, arXiv
2603.05488), w and b the read-out, and q a query:

    attention:   logit = sum_p a_p (w . h_p) + b,    a = softmax_p(q . h_p / sqrt(d))
    max:         logit = max_p (w . h_p) + b

A maximum is the reader of "somewhere in the window" (multiple-instance learning). Of two classes it is not symmetric:
the second, `classes_[1]`, is the one that some position shows, and the first the one that no position does. Neither
reader knows where in the window a position stands, so padding that is masked, or another order, changes nothing.

Fitted in standardised principal components of the positions, with a penalty on w and on q, by the batched L-BFGS of
`probes.logistic`: all penalties are one batch over the same items. It starts from w = 0 and q = 0, the mean of the
window, so nothing is random but the order in which groups are dealt to folds. The problem is not convex; where a probe
finds nothing, that is no proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faithprobe.probes.estimators.arrays import (
    ProbeClassifier,
    alike,
    features_and_classes,
    labels,
    learned,
    probabilities,
)
from faithprobe.probes.estimators.components import components
from faithprobe.probes.estimators.penalty import check_penalties, class_folds
from faithprobe.probes.estimators.pooling import Task, held_out_losses, pooled
from faithprobe.probes.estimators.windows import blank, flat, positions, positions_of, real_positions

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
"""Prior variance of a position's logit, and of its attention's."""


class _PooledProbe(ProbeClassifier):
    """What both readers share."""

    penalty_: float
    cv_loss_: np.ndarray
    window_: int
    d_model_: int

    window: int | None
    penalties: Sequence[float]
    components: int | None
    cv: Any
    random_state: Any

    def fit(self, X: Any, y: Any, groups: Any = None, *, mask: Any = None) -> Any:
        """Fits X (items, window, d_model), or (items, window * d_model), to labels y (items,).

        Args:
            groups: (items,) or a tuple of several groupings: items that share one never stand on two sides of a fold.
            mask: (items, window) True where there is a position; what X holds elsewhere is not looked at.
        """
        penalties = sorted(check_penalties("penalties", self.penalties))
        rows, window = flat(X, self.window)
        rows, mask = blank(rows, window, mask)
        x, codes = features_and_classes(self, rows, y)
        x = positions_of(x, window)
        self.window_, self.d_model_ = window, x.shape[2]
        real = real_positions(x, mask)
        space = components(x.flatten(0, 1) if mask is None else x[real], self.components)
        z = x.new_zeros(*real.shape, space.z.shape[1])
        z[real] = space.z
        counts = torch.as_tensor(np.bincount(codes)).to(x)
        readers = 1 if len(counts) == 2 else len(counts)
        task = Task(
            z=z,
            real=real,
            y=torch.as_tensor(codes, device=x.device),
            penalties=x.new_tensor(penalties),
            prior=(counts[1:] / counts[0]).log() if readers == 1 else (counts / counts.sum()).log(),
            queries=self._n_queries(readers),
            variances=space.z.square().mean(dim=0),
        )
        self.penalty_, self.cv_loss_ = penalties[0], np.zeros(0)
        if len(penalties) > 1:
            self.cv_loss_ = held_out_losses(task, class_folds(self.cv, groups, codes, self.random_state))
            self.penalty_ = penalties[int(self.cv_loss_.argmin())]
        theta, intercept = task.only(x.new_tensor([penalties.index(self.penalty_)]).long()).solve()
        theta = theta[0] @ space.map.mT
        coef, query = theta[:readers], theta[readers:] * self.d_model_**0.5
        self.coef_ = coef.cpu().numpy()
        self.intercept_ = (intercept[0] - coef @ space.mean).cpu().numpy()
        if len(query):
            self.query_ = query.cpu().numpy()
        return self

    def decision_function(self, X: Any, mask: Any = None) -> Any:
        """Logits (items, classes); of two classes (items,), of the second against the first."""
        return alike(X, self._pooled_logits(X, mask))

    def predict_proba(self, X: Any, mask: Any = None) -> Any:
        """(items, classes)"""
        return alike(X, probabilities(self._pooled_logits(X, mask)))

    def predict(self, X: Any, mask: Any = None) -> Any:
        """(items,) labels."""
        return labels(self, X, self._pooled_logits(X, mask))

    def score(self, X: Any, y: Any, sample_weight: Any = None, *, mask: Any = None) -> float:
        """Accuracy."""
        return self._accuracy(y, self.predict(X, mask), sample_weight)

    def position_logits(self, X: Any, mask: Any = None) -> Any:
        """What each position says alone: (items, window, classes), of two classes (items, window); -inf for padding."""
        x, real = positions(self, X, mask)
        found = x @ learned(self, "coef_", x).mT + learned(self, "intercept_", x)
        found = found.masked_fill(~real[:, :, None], -torch.inf)
        return alike(X, found[..., 0] if len(self.classes_) == 2 else found)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _pooled_logits(self, X: Any, mask: Any) -> Tensor:
        x, real = positions(self, X, mask)
        theta = learned(self, "coef_", x)
        queries = 0
        if hasattr(self, "query_"):
            query = learned(self, "query_", x) / self.d_model_**0.5
            theta, queries = torch.cat([theta, query]), len(query)
        found = pooled((x @ theta.mT)[:, :, None], real, queries)[:, 0] + learned(self, "intercept_", x)
        return found[:, 0] if len(self.classes_) == 2 else found

    def _n_queries(self, readers: int) -> int:
        raise NotImplementedError


class AttentionPooledProbe(_PooledProbe):
    """A learned query attends to the positions of a window, and a linear classifier reads their mixture.

    Args:
        queries: "shared" by all classes, or one "per class".
        window: positions in a row of a two-dimensional X (None: 1); a three-dimensional X has its own.
        penalties: tried, as the prior variance of a logit: larger is weaker. Of one, nothing is chosen.
        components: principal components of a position that are read; None: all. Fewer are faster.
        cv: folds for the choice: a number, a splitter of scikit-learn, or pairs of row numbers (one pair: a
            validation split).
        random_state: of the order in which groups are dealt to folds.

    Learned: `classes_`, `coef_` (classes, d_model), of two classes (1, d_model), `intercept_`, `query_` (1, d_model) or
    as many as `coef_`; `penalty_`, `cv_loss_`, `window_`, `d_model_`. A three-dimensional X to predict from may have
    another window than the one that was fitted.
    """

    query_: np.ndarray

    def __init__(
        self,
        *,
        queries: str = "shared",
        window: int | None = None,
        penalties: Sequence[float] = PENALTIES,
        components: int | None = None,
        cv: Any = 5,
        random_state: Any = 0,
    ) -> None:
        self.queries = queries
        self.window = window
        self.penalties = penalties
        self.components = components
        self.cv = cv
        self.random_state = random_state

    def attention(self, X: Any, mask: Any = None) -> Any:
        """(items, window) weights that add up to 1; (items, window, classes) where each class has a query and there
        are more than two."""
        x, real = positions(self, X, mask)
        scores = x @ learned(self, "query_", x).mT / self.d_model_**0.5
        weights = scores.masked_fill(~real[:, :, None], -torch.inf).softmax(dim=1)
        return alike(X, weights[:, :, 0] if weights.shape[2] == 1 else weights)

    def _n_queries(self, readers: int) -> int:
        if self.queries not in ("shared", "per class"):
            raise ValueError(f"queries={self.queries!r}: 'shared' or 'per class'")
        return 1 if self.queries == "shared" else readers


class MaxPooledProbe(_PooledProbe):
    """The largest logit of any position of a window.

    Args and what is learned: as of `AttentionPooledProbe`, without queries.
    """

    def __init__(
        self,
        *,
        window: int | None = None,
        penalties: Sequence[float] = PENALTIES,
        components: int | None = None,
        cv: Any = 5,
        random_state: Any = 0,
    ) -> None:
        self.window = window
        self.penalties = penalties
        self.components = components
        self.cv = cv
        self.random_state = random_state

    def _n_queries(self, readers: int) -> int:
        return 0
