"""DifferenceOfMeans: the direction between two means, and linear discriminant analysis where it is whitened."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from faithprobe.probes.estimators import DifferenceOfMeans


def correlated(n: int, d: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, n, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 2 * rng.normal(size=(classes, d))[y] + 50, y


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
@pytest.mark.parametrize("priors", [None, "even"])
def test_whitened_it_is_linear_discriminant_analysis(classes: int, shrinkage: float, priors: str | None) -> None:
    x, y = correlated(300, 12, classes)
    given = None if priors is None else np.full(classes, 1 / classes)
    probe = DifferenceOfMeans(whiten=True, shrinkage=shrinkage, priors=given).fit(x, y)
    peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage or None)
    if given is None:
        peer.fit(x, y)
        assert np.abs(probe.predict_proba(x) - peer.predict_proba(x)).max() < 1e-8
        assert (probe.predict(x) == peer.predict(x)).all()
    else:  # scikit-learn weighs the classes' covariances by the priors: the same covariance from evenly many items
        some = np.concatenate([np.flatnonzero(y == c)[: np.bincount(y).min()] for c in range(classes)])
        peer.set_params(priors=given).fit(x[some], y[some])
        found = probe.fit(x[some], y[some]).predict_proba(x)
        assert np.abs(found - peer.predict_proba(x)).max() < 1e-8


def test_the_direction_is_the_difference_of_the_means() -> None:
    x, y = correlated(200, 6, 2)
    probe = DifferenceOfMeans().fit(x, y)
    difference = x[y == 1].mean(axis=0) - x[y == 0].mean(axis=0)
    assert probe.coef_.shape == (1, 6)
    assert np.linalg.norm(probe.coef_[0] / np.linalg.norm(probe.coef_) - difference / np.linalg.norm(difference)) < 1e-9
    # One direction, one variance within classes: Gaussian odds along it.
    along = x @ difference / np.linalg.norm(difference)
    low, high = along[y == 0].mean(), along[y == 1].mean()
    variance = np.mean((along - np.where(y == 1, high, low)) ** 2)
    odds = (high - low) / variance * (along - (high + low) / 2) + np.log((y == 1).sum() / (y == 0).sum())
    assert np.abs(probe.decision_function(x) - odds).max() < 1e-8


def test_of_several_classes_it_is_the_nearest_mean() -> None:
    x, y = correlated(300, 10, 5)
    probe = DifferenceOfMeans(priors=[0.2] * 5).fit(x, y)
    assert (probe.predict(x) == NearestCentroid().fit(x, y).predict(x)).all()
    assert np.abs(probe.means_ - NearestCentroid().fit(x, y).centroids_).max() < 1e-9


def test_probabilities_are_calibrated_for_gaussian_classes() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(3, 20_000, p=[0.6, 0.3, 0.1])
    x = rng.normal(size=(20_000, 8)) + np.eye(3, 8)[y] * 1.5
    p = DifferenceOfMeans().fit(x[:10_000], y[:10_000]).predict_proba(x[10_000:])
    for low in np.arange(0, 1, 0.2):
        inside = (p >= low) & (p < low + 0.2)
        assert p[inside].mean() == pytest.approx(np.eye(3)[y[10_000:]][inside].mean(), abs=0.03)


@pytest.mark.parametrize(("n", "d"), [(80, 20), (30, 60)])
def test_automatic_shrinkage_is_that_of_ledoit_and_wolf(n: int, d: int) -> None:
    x, y = correlated(n, d, 2)
    within = x - np.stack([x[y == c].mean(axis=0) for c in (0, 1)])[y]
    share = ledoit_wolf_shrinkage(within, assume_centered=True)
    assert 0 < share < 1
    found, expected = (DifferenceOfMeans(whiten=True, shrinkage=some).fit(x, y) for some in ("auto", share))
    assert found.coef_ == pytest.approx(expected.coef_)


def test_a_planted_direction_is_found() -> None:
    """Among directions of large variance whitening finds the one that tells, and the plain difference does not."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 2000)
    x = rng.normal(size=(2000, 16)) * np.r_[1, np.full(15, 20)]
    x[:, 0] += 2 * y
    cosines = [
        abs(coef[0]) / np.linalg.norm(coef)
        for coef in (DifferenceOfMeans(whiten=whiten).fit(x, y).coef_[0] for whiten in (True, False))
    ]
    assert cosines[0] > 0.99
    assert DifferenceOfMeans(whiten=True).fit(x, y).score(x, y) > DifferenceOfMeans().fit(x, y).score(x, y) + 0.05


def test_a_singular_covariance_is_refused_with_the_way_out() -> None:
    x, y = correlated(30, 60, 2)
    twice = correlated(100, 5, 2)
    for some, labels in ((x, y), (np.column_stack([twice[0], twice[0][:, 0] + twice[0][:, 1]]), twice[1])):
        with pytest.raises(ValueError, match="singular; set shrinkage='auto'"):
            DifferenceOfMeans(whiten=True).fit(some, labels)
        assert DifferenceOfMeans(whiten=True, shrinkage="auto").fit(some, labels).score(some, labels) > 0.7
    assert DifferenceOfMeans().fit(x, y).score(x, y) > 0.7


def test_degenerate_data() -> None:
    x, y = correlated(60, 4, 2)
    wide = np.column_stack([x, np.full(60, 0.1)])
    for whiten in (False, True):
        assert DifferenceOfMeans(whiten=whiten).fit(wide, y).coef_[0, -1] == 0
        nothing = DifferenceOfMeans(whiten=whiten).fit(np.full((60, 3), 0.1), y)
        assert nothing.predict_proba(np.zeros((1, 3)))[0] == pytest.approx(np.bincount(y) / 60)
    apart = DifferenceOfMeans().fit(np.repeat([[0.0], [1.0]], 5, axis=0), np.repeat([0, 1], 5))  # no variance within
    assert apart.predict([[0.1], [0.9]]).tolist() == [0, 1]
    assert np.isfinite(apart.decision_function([[0.1]])).all()
    with pytest.raises(ValueError, match="priors"):
        DifferenceOfMeans(priors=[0.5, 0.6]).fit(x, y)
    with pytest.raises(ValueError, match="shrinkage"):
        DifferenceOfMeans(whiten=True, shrinkage=2.0).fit(x, y)
