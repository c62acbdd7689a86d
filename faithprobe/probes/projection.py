"""Standardised principal components of each fold's training items, from features that are read in chunks.

What components need of all items adds up over chunks: count, sum and Gram matrix. Items that are trained on by the same
folds share one such sum, and a fold's moments are those of its sums together: no item is counted once a fold. Where
there are more features than items, the inner products of the items take the Gram matrix' place: the eigenproblem is
never larger than the smaller of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from faithprobe.probes.chunks import Features, chunks

COMPONENTS = 128


@dataclass(frozen=True)
class Projection:
    """Standardised principal components of one feature source."""

    mean: np.ndarray
    """(features,)"""
    map: np.ndarray
    """(features, k)"""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(items, features) to (items, k)."""
        return (x - self.mean) @ self.map


def fit_projections(
    x: Features, trains: Sequence[np.ndarray], *, components: int = COMPONENTS
) -> tuple[Projection, ...]:
    """One for each fold's training rows: at most `components` and items / 4 of them, all with variance."""
    wide = x.shape[1] > max(len(train) for train in trains)
    found = []
    for train, (mean, second) in zip(trains, _moments(x, trains, gram=not wide), strict=True):
        spread = np.sqrt(second if wide else np.diag(second))
        scale = np.where(spread > 1e-6 * max(float(spread.max(initial=0.0)), 1e-30), spread, np.inf)  # constant: drop
        k = max(1, min(components, len(train) // 4, x.shape[1]))
        z = _Standardised(x, train, mean, scale)
        matrix = z.inner_products() if wide else second * len(train) / scale[:, None] / scale
        variances, vectors = np.linalg.eigh(matrix)
        variances, vectors = variances[::-1][:k], vectors[:, ::-1][:, :k]
        kept = variances > 1e-8 * max(float(variances[0]), 1e-30)
        variances, vectors = variances[kept], vectors[:, kept]
        if not len(variances) or variances[0] <= 0:  # constant features: one column of zeros, which predicts nothing
            found.append(Projection(mean, np.zeros((x.shape[1], 1))))
            continue
        basis = z.combined(vectors / np.sqrt(variances)) if wide else vectors
        unit = np.sqrt(variances.sum() / len(train) / len(variances))
        found.append(Projection(mean, basis / scale[:, None] / unit))
    return tuple(found)


def project(x: Features, projections: Sequence[Projection], rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Coordinates (rows, k) of some rows of `x` under each projection, in one pass."""
    found = [np.empty((len(some), projection.map.shape[1])) for projection, some in zip(projections, rows, strict=True)]
    for begin, chunk in chunks(x):
        for projection, some, out in zip(projections, rows, found, strict=True):
            inside = (some >= begin) & (some < begin + len(chunk))
            out[inside] = projection(chunk[some[inside] - begin])
    return found


def _moments(x: Features, trains: Sequence[np.ndarray], *, gram: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each fold's training items: mean (features,), and covariance (features, features) or variance (features,)."""
    sets, members = _sums(x.shape[0], trains)
    d = x.shape[1]
    first = np.zeros((len(sets), d))
    second = np.zeros((len(sets), d, d) if gram else (len(sets), d))
    shift = np.zeros(d)
    for begin, chunk in chunks(x):
        if begin == 0:  # else the square of a large mean would swallow a small variance
            shift = chunk.mean(axis=0)
        for k, inside in enumerate(sets[:, begin : begin + len(chunk)]):
            some = chunk[inside] - shift
            first[k] += some.sum(axis=0)
            second[k] += some.T @ some if gram else (some**2).sum(axis=0)
    for train, of_fold in zip(trains, members, strict=True):
        mean = first[of_fold].sum(axis=0) / len(train)
        square = np.outer(mean, mean) if gram else mean**2
        spread = second[of_fold].sum(axis=0) / len(train) - square
        if gram:
            np.fill_diagonal(spread, np.maximum(np.diag(spread), 0))
        yield mean + shift, spread if gram else np.maximum(spread, 0)


def _sums(n: int, trains: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(sums, items) which items are summed together; (folds, sums) which sums make up a fold's training items."""
    trained = np.zeros((n, len(trains)), dtype=bool)
    for k, train in enumerate(trains):
        trained[train, k] = True
    kinds, kind = np.unique(trained, axis=0, return_inverse=True)
    if len(kinds) > len(trains) + 1:  # folds that overlap in many ways: then one sum a fold is less to hold
        return trained.T, np.eye(len(trains), dtype=bool)
    return kind.reshape(-1) == np.arange(len(kinds))[:, None], kinds.T


@dataclass(frozen=True)
class _Standardised:
    """Training items of one fold, standardised, a chunk at a time; for features that are more than the items."""

    x: Features
    train: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def chunks(self, stop: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places in `train`, and (items, features); of the items before `stop`."""
        for begin, chunk in chunks(self.x):
            if stop is not None and begin >= stop:
                return
            places = np.flatnonzero((self.train >= begin) & (self.train < begin + len(chunk)))
            yield places, (chunk[self.train[places] - begin] - self.mean) / self.scale

    def inner_products(self) -> np.ndarray:
        """(items, items), two chunks at a time."""
        found = np.empty((len(self.train), len(self.train)))
        for places, z in self.chunks():
            for others, other in self.chunks(stop=int(self.train[places].max(initial=-1)) + 1):
                found[np.ix_(places, others)] = z @ other.T
                found[np.ix_(others, places)] = found[np.ix_(places, others)].T
        return found

    def combined(self, weights: np.ndarray) -> np.ndarray:
        """(features, k): the items' sum, weighted by (items, k)."""
        return sum(
            (z.T @ weights[places] for places, z in self.chunks()), np.zeros((self.x.shape[1], weights.shape[1]))
        )
