"""The probes are estimators as scikit-learn understands the word."""

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from faithprobe.probes.estimators import (
    AttentionPooledProbe,
    DifferenceOfMeans,
    LinearProbe,
    MaxPooledProbe,
    RidgeProbe,
)

PROBES = [
    RidgeProbe(),
    LinearProbe(),
    LinearProbe([10.0], components=2),
    DifferenceOfMeans(),
    DifferenceOfMeans(whiten=True),
    DifferenceOfMeans(whiten=True, shrinkage="auto"),
    AttentionPooledProbe(),
    AttentionPooledProbe(queries="per class", penalties=[10.0]),
    MaxPooledProbe(),
]


@parametrize_with_checks(PROBES)
def test_check(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("probe", [LinearProbe(cv=3), DifferenceOfMeans(), MaxPooledProbe(cv=3)], ids=str)
def test_probes_stand_in_pipelines_and_searches(probe: BaseEstimator) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 120)
    x = rng.normal(size=(120, 8)) + 3 * y[:, None]
    assert cross_val_score(make_pipeline(StandardScaler(), probe), x, y).mean() > 0.95


def test_a_search_over_a_pooled_probe_takes_three_dimensions() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 150)
    x = rng.normal(size=(150, 4, 6))
    x[np.arange(150), rng.integers(0, 4, 150), 0] += 6 * y
    search = GridSearchCV(MaxPooledProbe(), {"penalties": [[1e-6], [100]]}, cv=3).fit(x, y)
    assert search.best_params_ == {"penalties": [100]}
    assert search.best_score_ > 0.9
