"""L2-penalised multinomial logistic regressions, many small ones at once.

A fit of a few hundred items and some dozens of components takes less time than the Python around it: of scikit-learn's,
nine tenths are checks and the way from SciPy to NumPy and back. Here all folds of a feature source are one batch of
L-BFGS (Nocedal & Wright, Numerical Optimization, algorithm 7.5). Weights are scaled by the curvature that the loss has
where nothing is known, p (1 - p) E[z^2] + penalty, so that steps of length 1 fit from the start; a step that lowers the
loss too little is halved. Each problem stops on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

GAP = 1e-6
"""Nats per item that the next step promises to gain, below which a problem is solved."""
STEPS = 200
"""At most; held-out loss judges a fit, wherever it stopped."""
_MEMORY = 6
_NEVER = -1e9
"""Added to the logit of a class that a problem lacks."""

_Some = TypeVar("_Some", bound="_ByProblem")


class Batch:
    """Problems that are solved together: items (n, k) and classes (n,) of each; n and k may differ."""

    def __init__(self, z: Sequence[np.ndarray], y: Sequence[np.ndarray], n_classes: int) -> None:
        n, k = max(len(some) for some in z), max(some.shape[1] for some in z)
        self._items = np.array([len(some) for some in z])
        self._widths = np.array([some.shape[1] for some in z])
        self._x = np.zeros((len(z), n, k + 1))  # zeros where a problem is smaller; the last column: intercepts
        self._target = np.zeros((len(z), n_classes, n))  # sums over a few classes are fast where items stand last
        for b, (some, classes) in enumerate(zip(z, y, strict=True)):
            self._x[b, : len(some), : some.shape[1]] = some
            self._x[b, : len(some), -1] = 1
            self._target[b, classes, np.arange(len(some))] = 1
        self._share = self._target.sum(axis=2) / self._items[:, None]
        self.present = self._share > 0
        """(problems, classes) the classes that a problem's items have; the others get no probability."""
        self._weights = np.zeros((len(z), n_classes, k + 1))
        self._weights[:, :, -1] = np.log(
            np.where(self.present, self._share, 1)
        )  # the optimum where nothing can be read

    def solve(self, penalties: Sequence[float] | np.ndarray) -> None:
        """Fits each problem at its prior variance of a logit, from the weights that it has."""
        ridge = np.zeros((len(self._items), self._x.shape[2]))
        ridge[:, :-1] = (self._widths / np.asarray(penalties) / self._items)[:, None]
        ridge[self.present.sum(axis=1) == 2] *= 2  # two classes have one logit, the difference of two
        second = np.square(self._x).sum(axis=1) / self._items[:, None]
        scale = np.sqrt((self._share * (1 - self._share))[:, :, None] * second[:, None] + ridge[:, None])
        scale = np.maximum(scale, 1e-6)  # where there is no curvature, there is no gradient
        data = _Data(self._x, self._target, self.present, self._items, ridge, scale)
        solved = _minimise(data, (self._weights * scale).reshape(len(scale), -1))
        self._weights = solved.reshape(scale.shape) / scale

    def probabilities(self, z: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(items, classes) of other items, for each problem."""
        found = []
        for some, weights, width, present in zip(z, self._weights, self._widths, self.present, strict=True):
            logits = some @ weights[:, :width].T + weights[:, -1] + np.where(present, 0, _NEVER)
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            found.append(odds / odds.sum(axis=1, keepdims=True))
        return found


class _ByProblem:
    """Arrays whose first axis is the problem."""

    def only(self: _Some, chosen: np.ndarray) -> _Some:
        return type(self)(*(getattr(self, field.name)[chosen] for field in fields(self)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Data(_ByProblem):
    x: np.ndarray
    """(problems, items, components + 1)"""
    target: np.ndarray
    """(problems, classes, items) one-hot; zeros where a problem has fewer items."""
    present: np.ndarray
    items: np.ndarray
    ridge: np.ndarray
    """(problems, components + 1)"""
    scale: np.ndarray
    """(problems, classes, components + 1)"""

    def loss(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(problems,) nats per item with the penalty, and its gradient, by scaled weights (problems, parameters)."""
        weights = u.reshape(self.scale.shape) / self.scale
        logits = weights @ self.x.transpose(0, 2, 1)
        logits += np.where(self.present, 0, _NEVER)[:, :, None]
        logits -= logits.max(axis=1, keepdims=True)
        counts = self.target.sum(axis=1, keepdims=True)  # 1, or 0 for no item
        odds = np.exp(logits)
        total = odds.sum(axis=1, keepdims=True)
        nats = (np.log(total) * counts).sum(axis=(1, 2)) - np.einsum("bcn,bcn->b", logits, self.target)
        odds *= counts / total
        odds -= self.target
        shrink = self.ridge[:, None] * weights
        gradient = odds @ self.x / self.items[:, None, None] + shrink
        value = nats / self.items + np.einsum("bck,bck->b", shrink, weights) / 2
        return value, (gradient / self.scale).reshape(u.shape)


@dataclass(frozen=True)
class _State(_ByProblem):
    """Where the search is: all (problems, parameters), or (problems,)."""

    u: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    direction: np.ndarray
    slope: np.ndarray
    """Along the direction; its negative is what a step of length 1 promises to gain."""
    length: np.ndarray
    """Of the next step."""


@dataclass(frozen=True)
class _Pair(_ByProblem):
    """A step that was taken, and by how much it changed the gradient."""

    step: np.ndarray
    change: np.ndarray
    weight: np.ndarray
    """(problems,) 1 / step . change; 0 where no step was taken or the curvature is not positive."""
    size: np.ndarray
    """(problems,) step . change / change . change, of the last pair with a weight."""


def _minimise(data: _Data, u: np.ndarray) -> np.ndarray:
    """Scaled weights (problems, parameters) of least loss, from `u`."""
    found, left = u.copy(), np.arange(len(u))
    value, gradient = data.loss(u)
    state = _State(u, value, gradient, -gradient, -_dot(gradient, gradient), np.ones(len(u)))
    pairs: list[_Pair] = []
    for _ in range(STEPS):
        going = -state.slope > GAP
        if going.sum() <= 0.75 * len(going):  # solved problems go on for free until it is worth leaving them out
            found[left] = state.u
            left, data, state = left[going], data.only(going), state.only(going)
            pairs = [pair.only(going) for pair in pairs]
            if not len(left):
                return found
        state, pairs = _step(data, state, pairs)
    found[left] = state.u
    return found


def _step(data: _Data, old: _State, pairs: list[_Pair]) -> tuple[_State, list[_Pair]]:
    u = old.u + old.length[:, None] * old.direction
    value, gradient = data.loss(u)
    taken = value <= old.value + 1e-4 * old.length * old.slope + 1e-12
    u, gradient = (np.where(taken[:, None], a, b) for a, b in ((u, old.u), (gradient, old.gradient)))
    step, change = u - old.u, gradient - old.gradient
    curvature, square = _dot(step, change), _dot(change, change)
    good = (curvature > 1e-10 * square) & (square > 0)
    weight = np.divide(1, curvature, out=np.zeros(len(u)), where=good)
    size = pairs[-1].size.copy() if pairs else np.ones(len(u))
    np.divide(curvature, square, out=size, where=good)
    pairs = [*pairs[1 - _MEMORY :], _Pair(step, change, weight, size)]
    direction = np.where(taken[:, None], -_newton(gradient, pairs), old.direction)
    state = _State(
        u=u,
        value=np.where(taken, value, old.value),
        gradient=gradient,
        direction=direction,
        slope=_dot(gradient, direction),
        length=np.where(taken, 1.0, old.length / 2),
    )
    return state, pairs


def _newton(gradient: np.ndarray, pairs: Sequence[_Pair]) -> np.ndarray:
    """The gradient times the inverse Hessian, as far as the pairs know it: the two loops of L-BFGS."""
    found, parts = gradient.copy(), []
    for pair in reversed(pairs):
        parts.append(pair.weight * _dot(pair.step, found))
        found -= parts[-1][:, None] * pair.change
    found *= pairs[-1].size[:, None]
    for pair, part in zip(pairs, reversed(parts), strict=True):
        found += (part - pair.weight * _dot(pair.change, found))[:, None] * pair.step
    return found


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("bp,bp->b", a, b)
