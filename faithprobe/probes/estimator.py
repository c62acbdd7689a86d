"""The predictive family V: logistic regression on principal components, down to ignorance.

    standardise -> principal components (<= 128, <= n / 4) -> L2-penalised multinomial logistic regression

Every feature array, activation or control, goes through the same family with its own penalty. Components are scaled so
that a row has mean squared norm k, and penalties are given as the prior variance of a logit, so one short grid serves
any width. The weakest penalty separates; the strongest leaves the label frequencies, because V must hold the predictor
that ignores its input (Xu et al. 2020, definition 1), or noise would have negative information.

Means, components and penalties come from training items alone. The penalty is chosen by inner grouped folds on
components fitted to all training items of the outer fold: these use no label and no evaluation item.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faithprobe.probes.splits import Fold

PENALTIES = (0.01, 1.0, 30.0, 1000.0)
"""Prior variance of a logit: 0.01 is ignorance, 1000 separates a direction that holds a hundredth of the variance."""
COMPONENTS = 128
MIXED = 0.01
"""Share of the null predictor in every prediction: bounds the loss of one confident error at about 7 bits + null."""


@dataclass(frozen=True)
class Projection:
    """Standardised principal components of one feature array."""

    mean: np.ndarray
    """(features,)"""
    map: np.ndarray
    """(features, k)"""

    @classmethod
    def fit(cls, x: np.ndarray, *, components: int = COMPONENTS) -> Projection:
        """Of (items, features): at most `components` and items / 4 of them, all with variance."""
        x = np.asarray(x, dtype=np.float64)
        mean, spread = x.mean(axis=0), x.std(axis=0)
        scale = np.where(spread > 1e-6 * max(float(spread.max(initial=0.0)), 1e-30), spread, np.inf)  # constant: drop
        z = (x - mean) / scale
        n, d = z.shape
        wide = d > n
        variances, vectors = np.linalg.eigh(z @ z.T if wide else z.T @ z)
        k = max(1, min(components, n // 4, d))
        variances, vectors = variances[::-1][:k], vectors[:, ::-1][:, :k]
        kept = variances > 1e-8 * max(float(variances[0]), 1e-30)
        variances, vectors = variances[kept], vectors[:, kept]
        if not len(variances) or variances[0] <= 0:  # constant features: one column of zeros, which predicts nothing
            return cls(mean, np.zeros((d, 1)))
        basis = z.T @ vectors / np.sqrt(variances) if wide else vectors
        unit = np.sqrt(variances.sum() / n / len(variances))
        return cls(mean, basis / scale[:, None] / unit)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(items, features) to (items, k)."""
        return (np.asarray(x, dtype=np.float64) - self.mean) @ self.map


@dataclass(frozen=True)
class Reading:
    """What the family makes of one feature array in one fold."""

    inner_loss: float
    """Bits per item in the inner folds, at the chosen penalty: what layers are chosen by."""
    penalty: float
    probabilities: np.ndarray
    """(evaluated items, classes), the null predictor mixed in."""


def null_predictor(y: np.ndarray, n_classes: int) -> np.ndarray:
    """(classes,) label frequencies of the training items, half an item added to each (Jeffreys)."""
    counts = np.bincount(y, minlength=n_classes) + 0.5
    return counts / counts.sum()


def loss_bits(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(items,) -log2 of the probability of each label; `probabilities` is (items, classes) or (classes,)."""
    rows = np.broadcast_to(probabilities, (len(y), probabilities.shape[-1]))
    return -np.log2(rows[np.arange(len(y)), y])


def read(
    z: np.ndarray,
    y: np.ndarray,
    z_eval: np.ndarray,
    *,
    inner: Sequence[Fold],
    n_classes: int,
    penalties: Sequence[float] = PENALTIES,
) -> Reading:
    """Chooses the penalty by the inner folds, fits on all of (z, y) and predicts `z_eval`.

    `z` is (training items, k), projected; `inner` indexes its rows, at least one fold. `z_eval` is (items, k).
    """
    losses = np.zeros(len(penalties))
    total = 0
    for fold in inner:
        for j, p in enumerate(_path(z[fold.train], y[fold.train], z[fold.test], n_classes, penalties)):
            losses[j] += loss_bits(p, y[fold.test]).sum()
        total += len(fold.test)
    best = int(np.argmin(losses))
    (probabilities,) = _path(z, y, z_eval, n_classes, penalties[best : best + 1])
    return Reading(float(losses[best] / total), penalties[best], probabilities)


def fit_predict(z: np.ndarray, y: np.ndarray, z_eval: np.ndarray, *, n_classes: int, penalty: float) -> np.ndarray:
    """(evaluated items, classes) probabilities at one penalty."""
    return _path(z, y, z_eval, n_classes, (penalty,))[0]


def _path(
    z: np.ndarray, y: np.ndarray, z_eval: np.ndarray, n_classes: int, penalties: Sequence[float]
) -> list[np.ndarray]:
    """Probabilities for each penalty, strongest first, each fit warm from the one before."""
    import sklearn
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    null = null_predictor(y, n_classes)
    present = np.unique(y)
    if len(present) < 2:  # nothing to fit: the null predictor is all there is
        return [np.tile(null, (len(z_eval), 1)) for _ in penalties]
    found = []
    model: Any = LogisticRegression(warm_start=True, max_iter=200, tol=1e-3)
    with warnings.catch_warnings(), sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        warnings.simplefilter("ignore", ConvergenceWarning)  # held-out loss judges a fit, wherever it stopped
        for penalty in penalties:
            model.set_params(C=penalty / z.shape[1]).fit(z, y)
            full = np.zeros((len(z_eval), n_classes))
            full[:, present] = model.predict_proba(z_eval)
            found.append((1 - MIXED) * full + MIXED * null)
    return found
