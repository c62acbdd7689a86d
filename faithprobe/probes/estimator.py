"""The predictive family V: logistic regression on principal components, down to ignorance.

    standardise -> principal components (<= 128, <= n / 4; `projection`) -> L2-penalised multinomial logistic regression

Every feature array, activation or control, goes through the same family with its own penalty. Components are scaled so
that a row has mean squared norm k, and penalties are given as the prior variance of a logit, so one short grid serves
any width. The weakest penalty separates; the strongest leaves the label frequencies, because V must hold the predictor
that ignores its input (Xu et al. 2020, definition 1), or noise would have negative information.

Means, components and penalties come from training items alone. The penalty is chosen by inner grouped folds on
components fitted to all training items of the outer fold: these use no label and no evaluation item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from faithprobe.probes.logistic import Array, Batch
from faithprobe.probes.splits import Fold

PENALTIES = (0.01, 1.0, 30.0, 1000.0)
"""Prior variance of a logit: 0.01 is ignorance, 1000 separates a direction that holds a hundredth of the variance."""
MIXED = 0.01
"""Share of the null predictor in every prediction: bounds the loss of one confident error at about 7 bits + null."""
HOPELESS = 2.0
"""Bits by which a penalty does worse than a stronger one, in all folds, before weaker ones are not tried. A value in a
direction of little variance is found late, after overfitting the others has cost up to .8 bits."""


@dataclass(frozen=True)
class Reading:
    """What the family makes of one feature array in one fold."""

    inner_loss: float
    """Bits per item in the inner folds, at the chosen penalty: what layers are chosen by."""
    inner_losses: np.ndarray
    """(training items,) bits of each, likewise; NaN where no inner fold leaves the item out."""
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


@dataclass(frozen=True)
class Problem:
    """What the family is fitted to, and what it then predicts."""

    z: Array
    """(training items, k), projected; a NumPy array, or a tensor on the device that is to fit."""
    y: np.ndarray
    """(training items,) class numbers."""
    z_eval: Array
    """(evaluated items, k); as `z`."""
    inner: Sequence[Fold] = ()
    """Folds of the training items, at least one, where the penalty is to be chosen."""


def read(problems: Sequence[Problem], *, n_classes: int, penalties: Sequence[float] = PENALTIES) -> list[Reading]:
    """Chooses each problem's penalty by its inner folds, fits on all its items and predicts. One batch: give all folds
    of one feature source together."""
    folds = [(k, fold) for k, problem in enumerate(problems) for fold in problem.inner]
    parts = [
        Problem(problems[k].z[fold.train], problems[k].y[fold.train], problems[k].z[fold.test]) for k, fold in folds
    ]
    owner = np.array([k for k, _ in folds])
    tested = [sum(len(fold.test) for fold in problem.inner) for problem in problems]
    losses = np.full((len(problems), len(penalties)), np.inf)
    by_item = [np.full((len(penalties), len(problem.y)), np.nan) for problem in problems]
    batch = _batch(parts, n_classes)
    coefs: list[Array] = []
    for j, penalty in enumerate(penalties):  # strongest first, each fit warm from the one before
        batch.solve([penalty] * len(parts))
        coefs.append(batch.coef)
        losses[:, j] = 0
        for (k, fold), probabilities in zip(folds, _predicted(batch, parts, n_classes), strict=True):
            bits = by_item[k][j, fold.test] = loss_bits(probabilities, problems[k].y[fold.test])
            losses[k, j] += bits.sum() / tested[k]
        if (losses[:, j] > losses.min(axis=1) + HOPELESS).all():
            break
    best = losses.argmin(axis=1)
    whole = _batch(problems, n_classes)
    # The mean of the inner folds' coefficients is close to where the fit to all of their items ends.
    whole.start([coefs[j][owner == k].mean(axis=0) for k, j in enumerate(best)])
    whole.solve([penalties[j] for j in best])
    return [
        Reading(float(losses[k, j]), by_item[k][j], penalties[j], probabilities)
        for k, (j, probabilities) in enumerate(zip(best, _predicted(whole, problems, n_classes), strict=True))
    ]


def fit_predict(problems: Sequence[Problem], *, n_classes: int, penalties: Sequence[float]) -> list[np.ndarray]:
    """(evaluated items, classes) probabilities of each problem at its penalty."""
    batch = _batch(problems, n_classes)
    batch.solve(penalties)
    return _predicted(batch, problems, n_classes)


def _batch(problems: Sequence[Problem], n_classes: int) -> Batch:
    return Batch([problem.z for problem in problems], [problem.y for problem in problems], n_classes)


def _predicted(batch: Batch, problems: Sequence[Problem], n_classes: int) -> list[np.ndarray]:
    """(evaluated items, classes) of each problem, the null predictor mixed in."""
    found = []
    for fitted, present, problem in zip(
        batch.probabilities([problem.z_eval for problem in problems]), batch.present, problems, strict=True
    ):
        null = null_predictor(problem.y, n_classes)
        if isinstance(fitted, torch.Tensor):
            fitted, present = fitted.cpu().numpy(), present.cpu().numpy()
        # of one class there is nothing to fit: the null predictor is all there is
        found.append((1 - MIXED) * np.where(present.sum() > 1, fitted, null) + MIXED * null)
    return found
