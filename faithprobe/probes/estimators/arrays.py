"""What the estimators share: arrays and tensors in, checked; the same kind out.

A numpy array (or list, or data frame) is computed with on the CPU, a tensor where it lies; both in float64, whatever
they came in (a device without float64, Apple's, lends its data to the CPU). What is learned is kept as numpy arrays.
`predict` and its like answer an array with an array, and a tensor with a tensor on its device; class labels that are
not numbers are an array always.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor


def features(estimator: BaseEstimator, X: Any) -> Tensor:
    """(items, features) to predict from, as many features as `estimator` was fitted to."""
    check_is_fitted(estimator)
    return _compute(X, validate_data(estimator, _shown(X), reset=False, **_checks(X)))


def any_features(estimator: BaseEstimator, X: Any) -> Tensor:
    """(items, features), any number of them, to predict from."""
    check_is_fitted(estimator)
    return _compute(X, check_array(_shown(X), estimator=estimator, input_name="X", **_checks(X)))


def features_and_values(estimator: BaseEstimator, X: Any, y: Any) -> tuple[Tensor, Tensor]:
    """(items, features) and (items,) or (items, targets) to fit a regression to, on one device."""
    shown, values = validate_data(
        estimator, _shown(X), as_numpy(y), multi_output=True, y_numeric=True, ensure_min_samples=2, **_checks(X)
    )
    x = _compute(X, shown)
    return x, torch.from_numpy(np.require(values, np.float64, ["C", "W"])).to(x.device)


def features_and_classes(estimator: BaseEstimator, X: Any, y: Any) -> tuple[Tensor, np.ndarray]:
    """(items, features), and (items,) class numbers; sets `classes_`."""
    shown, labels = validate_data(estimator, _shown(X), as_numpy(y), **_checks(X))
    check_classification_targets(labels)
    estimator.classes_, codes = np.unique(labels, return_inverse=True)
    name, n_classes = type(estimator).__name__, len(estimator.classes_)
    if n_classes < 2:
        raise ValueError(f"{name} needs 2 classes, and the {len(codes)} items have 1 class, {estimator.classes_[0]}")
    if len(codes) <= n_classes:
        raise ValueError(f"{name} got {len(codes)} items of {n_classes} classes: there must be more items than classes")
    return _compute(X, shown), codes.reshape(-1)


def alike(X: Any, values: Tensor) -> Any:
    """`values` as the caller has `X`: a tensor on its device, or an array."""
    if not isinstance(X, Tensor):
        return values.cpu().numpy()
    return values.to(X.device, torch.float32 if X.device.type == "mps" else values.dtype)


def learned(estimator: BaseEstimator, name: str, x: Tensor) -> Tensor:
    """A fitted attribute where `x` is."""
    return torch.as_tensor(getattr(estimator, name), dtype=x.dtype, device=x.device)


class ProbeClassifier(ClassifierMixin, BaseEstimator):
    """A classifier whose logits are linear in the features: `coef_` (classes, features), one row where there are two
    classes, and `intercept_`. What it predicts for a tensor is a tensor (see the module's docstring)."""

    classes_: np.ndarray
    coef_: np.ndarray
    intercept_: np.ndarray
    n_features_in_: int

    def decision_function(self, X: Any) -> Any:
        """Logits (items, classes); of two classes (items,), of the second against the first."""
        return alike(X, self._logits(X))

    def predict_proba(self, X: Any) -> Any:
        """(items, classes)"""
        return alike(X, probabilities(self._logits(X)))

    def predict(self, X: Any) -> Any:
        """(items,) labels."""
        return labels(self, X, self._logits(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy."""
        return self._accuracy(y, self.predict(X), sample_weight)

    def _accuracy(self, y: Any, found: Any, sample_weight: Any) -> float:
        return float(accuracy_score(as_numpy(y), as_numpy(found), sample_weight=as_numpy(sample_weight)))

    def _logits(self, X: Any) -> Tensor:
        x = features(self, X)
        found = x @ learned(self, "coef_", x).mT + learned(self, "intercept_", x)
        return found[:, 0] if len(self.classes_) == 2 else found


def probabilities(logits: Tensor) -> Tensor:
    """(items, classes)"""
    if logits.ndim == 1:
        return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)
    return torch.softmax(logits, dim=1)


def labels(estimator: BaseEstimator, X: Any, logits: Tensor) -> Any:
    """(items,) the most probable classes."""
    codes = (logits > 0).long() if logits.ndim == 1 else logits.argmax(dim=1)
    classes = estimator.classes_
    if isinstance(X, Tensor) and classes.dtype.kind in "biuf":
        known = (
            classes.astype(np.int64) if classes.dtype.kind == "u" else classes
        )  # few of torch's functions know those
        return torch.as_tensor(known, device=codes.device)[codes].to(X.device)
    return classes[codes.cpu().numpy()]


def as_numpy(values: Any) -> Any:
    """A tensor as an array, for those that know no tensors; anything else as it is."""
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def _checks(X: Any) -> dict[str, Any]:
    return {"dtype": np.float64, "ensure_all_finite": not isinstance(X, Tensor)}


def _shown(X: Any) -> Any:
    """What scikit-learn checks: of a tensor, an array of the same shape that takes no memory."""
    if not isinstance(X, Tensor):
        return X
    if X.is_complex() or X.is_sparse:
        raise ValueError(f"Complex data not supported, nor sparse tensors: a tensor of {X.dtype}, {X.layout}")
    return np.broadcast_to(np.zeros(1), tuple(X.shape))


def _compute(X: Any, checked: np.ndarray) -> Tensor:
    if not isinstance(X, Tensor):
        return torch.from_numpy(np.require(checked, np.float64, ["C", "W"]))
    x = X.detach()
    x = (x.cpu() if x.device.type == "mps" else x).double()
    bad = int((~x.isfinite()).sum())
    if bad:
        raise ValueError(f"Input X contains NaN or infinity: {bad} of {x.numel()} numbers are not finite")
    return x
