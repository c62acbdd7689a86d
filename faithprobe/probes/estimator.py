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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from faithprobe.probes.logistic import Batch
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

    z: np.ndarray
    """(training items, k), projected."""
    y: np.ndarray
    """(training items,) class numbers."""
    z_eval: np.ndarray
    """(evaluated items, k)"""
    inner: Sequence[Fold] = ()
    """Folds of the training items, at least one, where the penalty is to be chosen."""


def read(problems: Sequence[Problem], *, n_classes: int, penalties: Sequence[float] = PENALTIES) -> list[Reading]:
    """Chooses each problem's penalty by its inner folds, fits on all its items and predicts. One batch: give all folds
    of one feature source together."""
    folds = [(k, fold) for k, problem in enumerate(problems) for fold in problem.inner]
    parts = [
        Problem(problems[k].z[fold.train], problems[k].y[fold.train], problems[k].z[fold.test]) for k, fold in folds
    ]
    losses = np.full((len(problems), len(penalties)), np.inf)
    tested = [sum(len(fold.test) for fold in problem.inner) for problem in problems]
    for j, found in enumerate(_path(parts, n_classes, [[penalty] * len(parts) for penalty in penalties])):
        losses[:, j] = 0
        for (k, fold), probabilities in zip(folds, found, strict=True):
            losses[k, j] += loss_bits(probabilities, problems[k].y[fold.test]).sum() / tested[k]
        if (losses[:, j] > losses.min(axis=1) + HOPELESS).all():
            break
    best = losses.argmin(axis=1)
    chosen = [penalties[j] for j in best]
    return [
        Reading(float(losses[k, j]), penalties[j], probabilities)
        for k, (j, probabilities) in enumerate(
            zip(best, fit_predict(problems, n_classes=n_classes, penalties=chosen), strict=True)
        )
    ]


def fit_predict(problems: Sequence[Problem], *, n_classes: int, penalties: Sequence[float]) -> list[np.ndarray]:
    """(evaluated items, classes) probabilities of each problem at its penalty."""
    return next(_path(problems, n_classes, [penalties]))


def _path(problems: Sequence[Problem], n_classes: int, path: Sequence[Sequence[float]]) -> Iterator[list[np.ndarray]]:
    """Probabilities for each penalty (one a problem), strongest first, each fit warm from the one before."""
    batch = Batch([problem.z for problem in problems], [problem.y for problem in problems], n_classes)
    nulls = [null_predictor(problem.y, n_classes) for problem in problems]
    for penalties in path:
        batch.solve(penalties)
        yield [
            # of one class there is nothing to fit: the null predictor is all there is
            (1 - MIXED) * np.where(present.sum() > 1, fitted, null) + MIXED * null
            for fitted, present, null in zip(
                batch.probabilities([problem.z_eval for problem in problems]), batch.present, nulls, strict=True
            )
        ]
