"""Difference of means: the probe that fits nothing but the class means.

The direction mu_1 - mu_0 is the one along which steering moves a model, and generalises better than directions that a
loss was minimised for ("mass-mean probing", Marks and Tegmark 2023, arXiv 2310.06824). Each class is taken for a
Gaussian about its mean with a covariance S that all classes share, so logits are linear:

    logits_c(x) = mu_c^T P x - mu_c^T P mu_c / 2 + log prior_c

    P = I / s^2    nearest mean, s^2 the variance within classes in the span of the means (one direction for two)
    P = S^-1       whitened: linear discriminant analysis, the probe for items like those that it was fitted to
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from faithprobe.probes.estimators.arrays import ProbeClassifier, features_and_classes
from faithprobe.probes.estimators.components import centred


class DifferenceOfMeans(ProbeClassifier):
    """Mass-mean probe; of several classes, the nearest mean in the span of the means.

    Args:
        whiten: measure distances by the covariance within classes.
        shrinkage: of that covariance S towards its mean variance v: (1 - shrinkage) S + shrinkage v I. "auto": by the
            formula of Ledoit and Wolf (2004). Needed where there are more features than items. Used with `whiten`.
        priors: (classes,) probabilities; None: as frequent as they are.

    Learned: `classes_`, `means_` (classes, features), `priors_`, `coef_`, `intercept_`; of two classes `coef_` is
    (1, features), along the difference of the means, or the whitened difference.
    """

    means_: np.ndarray
    priors_: np.ndarray

    def __init__(
        self, *, whiten: bool = False, shrinkage: float | str = 0.0, priors: Sequence[float] | None = None
    ) -> None:
        self.whiten = whiten
        self.shrinkage = shrinkage
        self.priors = priors

    def fit(self, X: Any, y: Any) -> DifferenceOfMeans:
        """Fits X (items, features) to labels y (items,)."""
        x, codes = features_and_classes(self, X, y)
        counts = np.bincount(codes)
        self.priors_ = _priors(self.priors, counts)
        of_class = torch.nn.functional.one_hot(torch.as_tensor(codes, device=x.device), len(counts)).to(x)
        x, centre = centred(x)
        means = of_class.mT @ x / of_class.sum(dim=0)[:, None]
        residuals = x - means[torch.as_tensor(codes, device=x.device)]
        if self.whiten:
            coef = _whitened(residuals, means, self.shrinkage)
        else:
            coef = means / _variance_in_span(residuals, means)
        intercept = torch.as_tensor(np.log(self.priors_)).to(x) - (coef * means).sum(dim=1) / 2 - coef @ centre
        if len(counts) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        self.means_ = (means + centre).cpu().numpy()
        self.coef_, self.intercept_ = coef.cpu().numpy(), intercept.cpu().numpy()
        return self


def _priors(given: Sequence[float] | None, counts: np.ndarray) -> np.ndarray:
    if given is None:
        return counts / counts.sum()
    priors = np.asarray(given, dtype=np.float64)
    if priors.shape != counts.shape or not (priors > 0).all() or abs(priors.sum() - 1) > 1e-6:
        raise ValueError(f"priors={given!r}: {len(counts)} classes need as many probabilities above 0 that add up to 1")
    return priors


def _variance_in_span(residuals: Float[Tensor, "items d"], means: Float[Tensor, "classes d"]) -> Tensor:
    """Per direction; never so small against the distances of the means that logits overflow."""
    _, sizes, directions = torch.linalg.svd(means - means.mean(dim=0), full_matrices=False)
    directions = directions[sizes > 1e-9 * sizes.max()]
    if not len(directions):  # all means are one: nothing can be told apart
        return residuals.new_ones(())
    variance = (residuals @ directions.mT).square().mean()
    return torch.maximum(variance, 1e-9 * sizes.max().square())


def _whitened(
    residuals: Float[Tensor, "items d"], means: Float[Tensor, "classes d"], shrinkage: float | str
) -> Float[Tensor, "classes d"]:
    """Means times the inverse of the covariance within classes."""
    n, d = residuals.shape
    share = _ledoit_wolf(residuals) if shrinkage == "auto" else shrinkage
    if isinstance(share, str) or not 0 <= share <= 1:
        raise ValueError(f"shrinkage={shrinkage!r}: a number from 0 to 1, or 'auto'")
    covariance = residuals.mT @ residuals / n
    variance = covariance.diagonal().mean()
    if share > 0:
        covariance = (1 - share) * covariance + share * variance * torch.eye(d).to(covariance)
    spread = covariance.diagonal().sqrt()
    kept = (spread > 0) | (means != 0).any(dim=0)  # a constant feature tells nothing
    scale = torch.where(spread > 0, spread, 1.0)
    correlation = covariance / scale[:, None] / scale
    factor, failed = torch.linalg.cholesky_ex(correlation[kept][:, kept])
    # Squared, the diagonal is the share of a feature's variance that the features before it leave unexplained.
    if failed or (len(factor) and factor.diagonal().min() ** 2 < 1e-10):
        raise ValueError(
            f"the covariance within classes of {d} features from {n} items is singular; set shrinkage='auto', or leave "
            "out features that are combinations of others"
        )
    coef = torch.zeros_like(means)
    coef[:, kept] = torch.cholesky_solve((means / scale)[:, kept].mT, factor).mT / scale[kept]
    return coef


def _ledoit_wolf(residuals: Float[Tensor, "items d"]) -> float:
    """Share of v I in the best mixture with the covariance S: E |S_sample - S|^2 / E |S_sample - v I|^2."""
    n, d = residuals.shape
    small = residuals.mT @ residuals / n if d <= n else residuals @ residuals.mT / n  # of the same norm
    squares = residuals.square().sum(dim=1)
    square = small.square().sum()
    distance = square - (squares.sum() / n) ** 2 / d
    error = (squares.square().sum() / n - square) / n
    return float((error / distance).clamp(0, 1)) if distance > 0 else 0.0
