"""What the engine works on: labelled items, folds ready to be fitted, held-out losses by feature source."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from faithprobe.probes.estimator import Problem, Reading, loss_bits, null_predictor, read
from faithprobe.probes.inputs import Pair, inner_folds
from faithprobe.probes.projection import fit_projections, project
from faithprobe.probes.splits import Fold, Groups, as_groupings, connected_components, largest_share

Coordinates: TypeAlias = tuple[np.ndarray, np.ndarray]
"""(training items, k), (evaluated items, k) of one fold, projected."""


@dataclass(frozen=True)
class Labelled:
    """One side of a measurement: training or evaluated items. Within one set of items both sides are one object."""

    y: np.ndarray
    """(items,) class numbers, -1 where there is no label."""
    groups: Groups
    types: Sequence[Hashable] | None = None
    """(items,) what a control task is about (`control_task`)."""


@dataclass(frozen=True)
class Part:
    """One fold, ready to be fitted."""

    number: int
    train: np.ndarray
    test: np.ndarray
    """Without items of a class that the training items lack: nothing could predict it."""
    y_train: np.ndarray
    y_test: np.ndarray
    inner: tuple[Fold, ...]
    inner_null: np.ndarray
    """(training items,) bits of the label frequencies of the inner fold that leaves the item out."""
    null: np.ndarray
    """(classes,) the null predictor."""


def parts_of(
    folds: Sequence[Fold], train: Labelled, evaluated: Labelled, *, n_classes: int, seed: int
) -> tuple[Part, ...]:
    """Folds that have something to evaluate."""
    found = []
    for number, (rows, test) in enumerate((fold.train, fold.test) for fold in folds):
        y = train.y[rows]
        test = test[np.isin(evaluated.y[test], np.unique(y))]
        if not len(test):
            continue
        inner = inner_folds(train.groups, rows, y, seed=seed)
        found.append(part_of(number, rows, test, y, evaluated.y[test], inner, n_classes=n_classes))
    return tuple(found)


def part_of(
    number: int,
    train: np.ndarray,
    test: np.ndarray,
    y_train: np.ndarray,
    y_test: np.ndarray,
    inner: tuple[Fold, ...],
    *,
    n_classes: int,
) -> Part:
    """A fold and what its label frequencies say."""
    inner_null = np.zeros(len(train))
    for fold in inner:
        inner_null[fold.test] = loss_bits(null_predictor(y_train[fold.train], n_classes), y_train[fold.test])
    return Part(number, train, test, y_train, y_test, inner, inner_null, null_predictor(y_train, n_classes))


def clusters_of(groups: Groups) -> np.ndarray:
    """Components, because items of one combination share their fate; problems alone where all is one component."""
    blocks = connected_components(groups)
    return blocks if largest_share(blocks) <= 0.5 else as_groupings(groups)[0]


def projected(pair: Pair, parts: Sequence[Part]) -> list[Coordinates]:
    """Of one feature source, in every fold."""
    trains = [part.train for part in parts]
    projections = fit_projections(pair[0], trains)
    tests = [part.test for part in parts]
    if pair[0] is pair[1]:  # one pass for both
        both = project(pair[0], (*projections, *projections), [*trains, *tests])
        return list(zip(both[: len(parts)], both[len(parts) :], strict=True))
    return list(zip(project(pair[0], projections, trains), project(pair[1], projections, tests), strict=True))


@dataclass(frozen=True)
class Chosen:
    """The layer that reads best on one fold's training items."""

    layer: Hashable
    reading: Reading
    coordinates: Coordinates


class Source:
    """Held-out losses of one feature source (activations or a control) at each of its layers."""

    def __init__(self, parts: Sequence[Part], n_eval: int) -> None:
        self.parts, self.n_eval = parts, n_eval
        self.loss: dict[Hashable, np.ndarray] = {}
        """Of each layer (items,) bits, NaN where an item is not scored."""
        self.right: dict[Hashable, np.ndarray] = {}
        self._chosen: list[Chosen | None] = [None] * len(parts)

    def add(self, layer: Hashable, readings: Sequence[Reading], coordinates: Sequence[Coordinates]) -> None:
        """Stores a layer; what of its coordinates is held are those of folds in which it is the best so far."""
        loss = self.loss[layer] = np.full(self.n_eval, np.nan)
        right = self.right[layer] = np.full(self.n_eval, np.nan)
        for k, (part, reading, own) in enumerate(zip(self.parts, readings, coordinates, strict=True)):
            loss[part.test] = loss_bits(reading.probabilities, part.y_test)
            right[part.test] = reading.probabilities.argmax(axis=1) == part.y_test
            best = self._chosen[k]
            if best is None or reading.inner_loss < best.reading.inner_loss:
                self._chosen[k] = Chosen(layer, reading, own)

    def read(self, coordinates: Sequence[Coordinates], *, n_classes: int) -> list[Reading]:
        """Fits every fold to these features, with its own penalty."""
        problems = [
            Problem(z, part.y_train, z_eval, part.inner)
            for part, (z, z_eval) in zip(self.parts, coordinates, strict=True)
        ]
        return read(problems, n_classes=n_classes)

    @property
    def chosen(self) -> tuple[Chosen, ...]:
        """Of each fold."""
        return tuple(best for best in self._chosen if best)

    @property
    def chosen_loss(self) -> np.ndarray:
        """(items,) bits at the layer that each fold chose, as fitted."""
        found = np.full(self.n_eval, np.nan)
        for part, best in zip(self.parts, self.chosen, strict=True):
            found[part.test] = self.loss[best.layer][part.test]
        return found


def gathered(parts: Sequence[Part], values: Sequence[np.ndarray], n_eval: int) -> np.ndarray:
    """(items, ...) of what each fold says of its evaluated items; NaN elsewhere."""
    found = np.full((n_eval, *values[0].shape[1:]), np.nan)
    for part, some in zip(parts, values, strict=True):
        found[part.test] = some
    return found
