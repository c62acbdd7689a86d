"""Multinomial logistic regression with an L2 penalty, chosen by grouped cross-validation.

    standardise -> principal components -> minimise  mean nats + k / (2 n penalty) |W|^2

Components are scaled so that a row has mean squared norm k, the number of components: a penalty is the prior variance
of a logit, and one short grid serves any width (`probes.estimator`). With all components this is the logistic
regression on standardised features, of C = penalty / k in scikit-learn's terms, in coordinates in which the batched
solver takes few steps (`probes.logistic`). All folds are one batch, and each penalty starts from the solution of the
stronger one before it: on a CPU up to 4 times faster than one batch of all folds and penalties, and as many times
smaller as there are penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithprobe.probes.estimators.arrays import ProbeClassifier, features_and_classes
from faithprobe.probes.estimators.components import components
from faithprobe.probes.estimators.penalty import PENALTIES, check_penalties, class_folds, nats
from faithprobe.probes.logistic import Batch
from faithprobe.probes.splits import Fold

_HOPELESS = 1.0
"""Nats by which a penalty does worse than a stronger one before weaker ones are not tried. A value in a direction of
little variance is found late, after overfitting the others has cost up to .6."""


class LinearProbe(ProbeClassifier):
    """Linear classifier.

    Args:
        penalties: tried, as the prior variance of a logit: larger is weaker. Of one, nothing is chosen.
        components: principal components that are read; None: all.
        cv: folds for the choice: a number, a splitter of scikit-learn, or pairs of row numbers.
        random_state: of the order in which groups are dealt to folds.

    Learned: `classes_`, `coef_` (classes, features), of two classes (1, features), `intercept_`, `penalty_` and
    `cv_loss_`, nats per held-out item by penalty, ascending: empty where there was one, infinite where a penalty was
    not tried because stronger ones had done better by far.
    """

    penalty_: float
    cv_loss_: np.ndarray

    def __init__(
        self,
        penalties: Sequence[float] = PENALTIES,
        *,
        components: int | None = None,
        cv: Any = 5,
        random_state: Any = 0,
    ) -> None:
        self.penalties = penalties
        self.components = components
        self.cv = cv
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> LinearProbe:
        """Fits X (items, features) to labels y (items,).

        Args:
            groups: (items,) or a tuple of several groupings: items that share one never stand on two sides of a fold.
        """
        penalties = sorted(check_penalties("penalties", self.penalties))
        x, codes = features_and_classes(self, X, y)
        space = components(x, self.components)
        numbers, n_classes = torch.as_tensor(codes, device=x.device), len(self.classes_)
        self.penalty_, self.cv_loss_ = penalties[0], np.zeros(0)
        if len(penalties) > 1:
            splits = class_folds(self.cv, groups, codes, self.random_state)
            self.cv_loss_ = _losses(space.z, numbers, splits, penalties, n_classes)
            self.penalty_ = penalties[int(self.cv_loss_.argmin())]
        batch = Batch([_quick(space.z)], [_quick(numbers)], n_classes)
        batch.solve([self.penalty_])
        coef = torch.as_tensor(batch.coef[0]) @ space.map.mT
        intercept = torch.as_tensor(batch.intercept[0]) - coef @ space.mean
        if n_classes == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        self.coef_, self.intercept_ = coef.cpu().numpy(), intercept.cpu().numpy()
        return self


def _losses(
    z: Float[Tensor, "items k"],
    y: Int[Tensor, " items"],
    splits: Sequence[Fold],
    penalties: Sequence[float],
    n_classes: int,
) -> np.ndarray:
    """(penalties,) nats per test item."""
    z, y = _quick(z), _quick(y)
    batch = Batch([z[fold.train] for fold in splits], [y[fold.train] for fold in splits], n_classes)
    unseen = [z[fold.test] for fold in splits]
    answers = torch.cat([torch.as_tensor(y[fold.test]) for fold in splits])
    losses = np.full(len(penalties), np.inf)
    for number, penalty in enumerate(penalties):
        batch.solve([penalty] * len(splits))
        odds = torch.cat([torch.as_tensor(found) for found in batch.probabilities(unseen)])
        losses[number] = float(nats(odds, answers)) / len(answers)
        if losses[number] > losses.min() + _HOPELESS:
            break
    return losses


def _quick(some: Tensor) -> Any:
    """What `Batch` is fastest with: an array on a CPU, a tensor elsewhere."""
    return some.numpy() if some.device.type == "cpu" else some
