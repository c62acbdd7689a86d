"""Could the probe have learned anything? Its accuracy on a control task, and what is left beyond that: selectivity.

In a control task every *type* gets one label, drawn at random from the distribution of the real ones (Hewitt and Liang,
EMNLP 2019, arXiv 1909.03368). Nothing about the real labels can solve it: a probe that does well has the capacity to
memorise types from the activations, and then its accuracy on the real task says little.

    selectivity = accuracy(task) - accuracy(control task)         same probe, layer, folds and penalty; held out

There, types are words. Here a type is what stands at the position or last before it, the last visible literal: what an
activation is sure to identify. It must recur on both sides of a split, or there is nothing to memorise; items whose
type no training item of their fold has are left out of both accuracies. (Operand combinations are no types: splits keep
them apart.)

One draw of few types is a matter of luck: accuracies are means over draws, and the interval adds the variance between
draws to that over items.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from faithprobe.probes.estimator import Problem, fit_predict
from faithprobe.probes.inputs import encode
from faithprobe.probes.sources import Chosen, Labelled, Part, gathered
from faithprobe.probes.targets import MISSING
from faithprobe.scores.statistics import Interval, clustered_mean


def control_labels(types: Sequence[Hashable], labels: Sequence[str] | np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(items,) labels of one control task: items of one type have one, drawn from how often labels occur.

    Items without a label (`MISSING`) stay without. Raises ValueError where lengths differ.
    """
    y, names = encode(labels)
    drawn = _drawn(types, y, np.random.default_rng(seed))
    return np.append(names, MISSING)[drawn]


@dataclass(frozen=True)
class Selectivity:
    """Accuracy on the task beyond that on control tasks."""

    interval: Interval
    accuracies: tuple[float, ...]
    """On every control task."""


def selectivity(
    parts: Sequence[Part],
    chosen: Sequence[Chosen],
    train: Labelled,
    evaluated: Labelled,
    *,
    clusters: np.ndarray,
    n_classes: int,
    draws: int,
    seed: int,
) -> Selectivity | None:
    """Refits every fold to each control task. None where no evaluated item has a type that its training items have.

    Ignorance takes no probe's place here: it would do as well on the one task as on the other.
    """
    if train.types is None or evaluated.types is None:
        raise ValueError("training and evaluated items need types")
    rng = np.random.default_rng(seed)
    own, other = _codes(train, train), _codes(evaluated, train)
    known = [np.isin(other[part.test], own[part.train]) for part in parts]
    if not any(some.any() for some in known):
        return None
    n = len(evaluated.y)
    right = gathered(
        parts,
        [
            np.where(some, best.reading.probabilities.argmax(axis=1) == part.y_test, np.nan)
            for part, best, some in zip(parts, chosen, known, strict=True)
        ],
        n,
    )
    by_draw = []
    for _ in range(draws):
        drawn = _drawn_for_both(train, evaluated, rng)
        problems = [
            Problem(best.coordinates[0], drawn[0][part.train], best.coordinates[1])
            for part, best in zip(parts, chosen, strict=True)
        ]
        found = fit_predict(problems, n_classes=n_classes, penalties=[best.reading.penalty for best in chosen])
        values = [
            np.where(some, p.argmax(axis=1) == drawn[1][part.test], np.nan)
            for part, p, some in zip(parts, found, known, strict=True)
        ]
        by_draw.append(gathered(parts, values, n))
    accuracies = tuple(float(np.nanmean(values)) for values in by_draw)
    over_items = clustered_mean(right - np.mean(by_draw, axis=0), clusters, share=False)
    between = float(np.var(accuracies, ddof=1)) / draws if draws > 1 else 0.0
    half = sqrt((over_items.high - over_items.value) ** 2 + 1.96**2 * between)
    value = over_items.value
    return Selectivity(Interval(value, value - half, value + half, over_items.n), accuracies)


def _drawn_for_both(train: Labelled, evaluated: Labelled, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers of training and of evaluated items; a type has one label on both sides."""
    assert train.types is not None
    assert evaluated.types is not None
    if train is evaluated:
        one = _drawn(train.types, train.y, rng)
        return one, one
    both = _drawn([*train.types, *evaluated.types], np.concatenate([train.y, evaluated.y]), rng)
    return both[: len(train.y)], both[len(train.y) :]


def _drawn(types: Sequence[Hashable], y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if len(types) != len(y):
        raise ValueError(f"{len(types)} types for {len(y)} items: one type per item")
    known: dict[Hashable, int] = {}
    code = np.array([known.setdefault(one, len(known)) for one in types])
    labelled = y[y >= 0]
    return np.where(y >= 0, rng.choice(labelled, size=len(known))[code], -1)


def _codes(side: Labelled, other: Labelled) -> np.ndarray:
    """(items,) number of each item's type among the other side's, -1 where it is not among them."""
    assert side.types is not None
    assert other.types is not None
    known: dict[Hashable, int] = {}
    for one in other.types:
        known.setdefault(one, len(known))
    return np.array([known.get(one, -1) for one in side.types])
