"""Ridge regression for values, a penalty per target chosen by grouped cross-validation.

    w(a) = argmin_w  sum_i (y_i - b - x_i . w)^2 + a |w|^2 = (X^T X + a I)^-1 X^T y       (X, y about their means)

One eigendecomposition of the Gram matrix of a fold's training items serves every penalty and every target (Hoerl and
Kennard 1970). Penalties are given in units of the features' mean variance, so one grid serves any layer; `alpha_` is
in the units of `sklearn.linear_model.Ridge`, which is the same fit. As there, features are not standardised: directions
of little variance are shrunk most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from torch import Tensor

from faithprobe.probes.estimators.arrays import alike, as_numpy, features, features_and_values, learned
from faithprobe.probes.estimators.components import centred, in_span
from faithprobe.probes.estimators.penalty import check_penalties, folds
from faithprobe.probes.splits import Fold

ALPHAS = tuple(float(10 ** (k / 2)) for k in range(-6, 15))
"""From next to none to 10^7 of the features' mean variance: a fit of d features whose noise is as large as the signal
wants about d, and one of noise wants infinity."""


class RidgeProbe(RegressorMixin, MultiOutputMixin, BaseEstimator):
    """Ridge for values.

    Args:
        alphas: penalties that are tried, in units of the features' mean variance; of one, nothing is chosen.
        cv: folds for the choice: a number, a splitter of scikit-learn, or pairs of row numbers.
        random_state: of the order in which groups are dealt to folds.

    Learned: `coef_` (features,) or (targets, features), `intercept_`, and `alpha_`, one per target, in the units of
    `sklearn.linear_model.Ridge`: a number where y is (items,).
    """

    coef_: np.ndarray
    intercept_: np.ndarray | float
    alpha_: np.ndarray | float
    n_features_in_: int

    def __init__(self, alphas: Sequence[float] = ALPHAS, *, cv: Any = 5, random_state: Any = 0) -> None:
        self.alphas = alphas
        self.cv = cv
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> RidgeProbe:
        """Fits X (items, features) to y, (items,) or (items, targets).

        Args:
            groups: (items,) or a tuple of several groupings: items that share one never stand on two sides of a fold.
        """
        alphas = check_penalties("alphas", self.alphas)
        x, values = features_and_values(self, X, y)
        x, mean = centred(x)
        y_mean = values.mean(dim=0)
        variance = x.square().mean()
        variance = torch.where(variance > 0, variance, 1.0)  # else all features are constant
        x, basis = in_span(x)
        targets = (values - y_mean).reshape(len(x), -1)
        penalties = torch.tensor(alphas, dtype=x.dtype, device=x.device) * variance
        chosen = torch.zeros(targets.shape[1], dtype=torch.long, device=x.device)
        if len(alphas) > 1:
            splits = folds(self.cv, groups, len(x), random_state=self.random_state)
            chosen = _squared_errors(x, targets, penalties, splits).argmin(dim=0)
        variances, vectors = torch.linalg.eigh(x.mT @ x)
        coef = vectors @ (vectors.mT @ (x.mT @ targets) / (variances.clamp(min=0)[:, None] + penalties[chosen]))
        coef = coef if basis is None else basis @ coef
        shape = values.shape[1:]
        self.coef_ = coef.mT.reshape(*shape, -1).cpu().numpy()
        intercept = (y_mean.reshape(-1) - mean @ coef).cpu().numpy().reshape(shape)
        alpha = penalties[chosen].cpu().numpy().reshape(shape)
        self.intercept_, self.alpha_ = (intercept, alpha) if shape else (float(intercept), float(alpha))
        return self

    def predict(self, X: Any) -> Any:
        """(items,) or (items, targets); a tensor for a tensor."""
        x = features(self, X)
        coef = learned(self, "coef_", x)
        return alike(X, x @ (coef if coef.ndim == 1 else coef.mT) + learned(self, "intercept_", x))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R2, the mean over targets."""
        return float(r2_score(as_numpy(y), as_numpy(self.predict(X)), sample_weight=as_numpy(sample_weight)))


def _squared_errors(
    x: Float[Tensor, "items k"], y: Float[Tensor, "items t"], penalties: Float[Tensor, " a"], splits: Sequence[Fold]
) -> Float[Tensor, "a t"]:
    """Summed over the items of all test folds, by penalty and target."""
    gram, explained = x.mT @ x, x.mT @ y
    errors = torch.zeros(len(penalties), y.shape[1], dtype=x.dtype, device=x.device)
    for fold in splits:
        train, test = _rows(fold.train, x), _rows(fold.test, x)
        left_out = torch.ones(len(x), dtype=torch.bool, device=x.device)
        left_out[train] = False
        without, y_without = x[left_out], y[left_out]
        x_mean, y_mean = x[train].mean(dim=0), y[train].mean(dim=0)
        inner = gram - without.mT @ without - len(train) * torch.outer(x_mean, x_mean)
        target = explained - without.mT @ y_without - len(train) * torch.outer(x_mean, y_mean)
        variances, vectors = torch.linalg.eigh(inner)
        z, target, missing = (x[test] - x_mean) @ vectors, vectors.mT @ target, y[test] - y_mean
        for number, penalty in enumerate(penalties):
            predicted = z @ (target / (variances.clamp(min=0) + penalty)[:, None])
            errors[number] += (missing - predicted).square().sum(dim=0)
    return errors


def _rows(rows: np.ndarray, x: Tensor) -> Int[Tensor, " rows"]:
    return torch.as_tensor(rows, device=x.device)
