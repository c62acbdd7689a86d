"""Components from sums over chunks are those of the items in memory, and nobody asks for more than a chunk."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from faithprobe.probes import agreement, cross_fitted, transfer
from faithprobe.probes.chunks import CHUNK
from faithprobe.probes.projection import fit_projections, project


class OnDisk:
    """Features that hand out a slice of their items, and no more than a chunk."""

    def __init__(self, x: np.ndarray) -> None:
        self._x, self.shape, self.most = x, x.shape, 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        found = self._x[rows]
        self.most = max(self.most, len(found))
        assert len(found) <= CHUNK
        return found


def features(n: int, d: int, *, seed: int) -> np.ndarray:
    """Correlated, of very different sizes, far from 0, one of them constant; float32 as in a store."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.exp(rng.normal(size=d)) + 1000 * rng.normal(size=d)
    x[:, 3] = 7
    return x.astype(np.float32)


def fives(n: int) -> list[np.ndarray]:
    return [np.flatnonzero(np.arange(n) % 5 != k) for k in range(5)]


def overlapping(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.flatnonzero(rng.random(n) < 0.7) for _ in range(5)]


@pytest.mark.parametrize("trains", [fives, overlapping])
@pytest.mark.parametrize(("n", "d"), [(700, 30), (600, 700), (90, 20), (90, 300)])
def test_components_are_those_of_the_whole_fold(n: int, d: int, trains) -> None:
    x, folds = features(n, d, seed=1), trains(n)
    projections = fit_projections(OnDisk(x), folds)
    for train, found in zip(folds, project(OnDisk(x), projections, folds), strict=True):
        z = StandardScaler().fit_transform(x[train].astype(np.float64))
        k = min(128, len(train) // 4, d - 1)
        expected = PCA(k, svd_solver="full").fit_transform(z)
        expected /= np.sqrt((expected**2).sum() / len(train) / k)
        assert found.shape == expected.shape
        assert (found**2).sum(axis=1).mean() == pytest.approx(k)
        # up to sign
        cosine = (
            np.abs((found * expected).sum(axis=0)) / np.linalg.norm(found, axis=0) / np.linalg.norm(expected, axis=0)
        )
        assert cosine[: k // 2] == pytest.approx(1, abs=1e-4)
        assert np.linalg.norm(found, axis=0) == pytest.approx(np.linalg.norm(expected, axis=0), rel=1e-4)


def test_rows_of_other_items_are_projected_likewise() -> None:
    x, other = features(400, 12, seed=2), features(300, 12, seed=3)
    (projection,) = fit_projections(x, [np.arange(0, 400, 2)])
    rows = np.array([299, 0, 255, 256, 17])
    (found,) = project(OnDisk(other), [projection], [rows])
    assert found == pytest.approx((other[rows] - projection.mean) @ projection.map)


@pytest.mark.parametrize("d", [24, 500])
def test_information_is_the_same_from_disk_and_from_memory(d: int) -> None:
    n, k = 400, 320
    y = np.random.default_rng(4).integers(0, 3, n)
    x = np.random.default_rng(5).normal(size=(n, d)) + 0.7 * np.random.default_rng(6).normal(size=(3, d))[y]
    labels, groups = y.astype(str), np.arange(n)
    twin = np.random.default_rng(7).normal(size=(n, d))
    source = OnDisk(x)
    found, expected = (
        cross_fitted({1: a}, labels, groups=groups, controls={"text": twin[:, :9], "twin": {1: b}, "other": b})
        for a, b in ((source, OnDisk(twin)), (x, twin))
    )
    assert source.most == CHUNK
    assert (found.bits, found.gain, found.controls) == (expected.bits, expected.gain, expected.controls)
    moved, expected = (
        transfer({1: a}, labels[:k], {1: b}, labels[k:], groups=groups[:k], eval_groups=groups[k:])
        for a, b in ((OnDisk(x[:k]), OnDisk(x[k:])), (x[:k], x[k:]))
    )
    assert moved.item_bits == pytest.approx(expected.item_bits)
    stated = (y[k:] + 1) % 3
    says, expected_says = (
        agreement({1: a}, labels[:k], {1: b}, labels[k:], stated.astype(str), groups=groups[:k], eval_groups=groups[k:])
        for a, b in ((OnDisk(x[:k]), OnDisk(x[k:])), (x[:k], x[k:]))
    )
    assert says == expected_says
