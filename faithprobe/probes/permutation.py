"""What does the held-out score of a probe look like when labels have nothing to do with the activations?

Held-out scores have no fixed chance level. Few operand combinations, classes of unequal size, and folds that take from
the training items what they test on (a fold rich in one class leaves the others poor in it) push them below 1 / K, and
their spread is not that of independent items, because items of one combination stand and fall together. So labels are
permuted as they are dealt: over whole *operand combinations*, where each has one label (it does, wherever the label is
a function of the operands), and every fold is fitted again on the permuted labels. With m permutations and b of them at
least as good as the labels themselves,

    p = (b + 1) / (m + 1)          (Phipson and Smyth, *Statistical Applications in Genetics and Molecular Biology* 9,
                                    2010: p = b / m would be 0 too often)

Folds are dealt without a look at the labels, else permuted ones would meet worse folds. The penalty of each fold is the
one chosen with the labels as they are (`choose_again=False`) or chosen anew by every permutation, which is exact and
costs some thirteen times as much.

A score *below* this null is no accident either: parity of a sum is predicted wrongly on unseen combinations by
whatever is additive in the operands (XOR). It is not credit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.probes.chunks import Features
from faithprobe.probes.estimator import Problem, fit_predict, loss_bits, null_predictor, read
from faithprobe.probes.inputs import FEWEST_TRAINING, check_features, check_labels, encode
from faithprobe.probes.sources import Labelled, Part, parts_of, projected
from faithprobe.probes.splits import Fold, Groups, as_groupings, connected_components, grouped_folds, select

_AT_ONCE = 64
"""Fits in one batch: what bounds the memory."""


@dataclass(frozen=True)
class PermutationNull:
    """A held-out score and what it is under permuted labels."""

    value: float
    null: tuple[float, ...] = field(repr=False)
    """Of every permutation."""
    p: float
    """Chance of a score as high as this one where labels have nothing to do with the activations."""
    n_units: int
    """What was permuted as a whole: components, combinations or items (`exchangeable`)."""


def permutation_test(
    x: Features,
    labels: Sequence[str] | np.ndarray,
    *,
    groups: Groups,
    permutations: int = 200,
    score: str = "bits",
    choose_again: bool = False,
    n_folds: int = 5,
    fewest: int = FEWEST_TRAINING,
    seed: int = 0,
) -> PermutationNull:
    """The cross-fitted score of one feature array, and its null distribution.

    Args:
        x: (items, features), of one layer: choosing one is a part of what a null would have to repeat.
        labels: (items,) classes as text; `MISSING` is left out.
        groups: (items,) or a tuple of several, the problem first, then the operand combination.
        permutations: m; p is never below 1 / (m + 1).
        score: `bits` (usable information) or `accuracy`.
        choose_again: every permutation chooses its own penalty.
        n_folds: outer folds.
        fewest: training items that every fold must have.
        seed: of folds and permutations.

    Raises UnscoredError as `cross_fitted` does, ValueError for an unknown score.
    """
    if score not in ("bits", "accuracy"):
        raise ValueError(f"the score is bits or accuracy, not {score!r}")
    if permutations < 1:
        raise ValueError(f"{permutations} permutations; at least 1")
    y, names = encode(labels)
    rows = np.flatnonzero(y >= 0)
    check_labels(y[rows], names)
    check_features({"activations": {None: (x, x)}}, len(y), len(y))
    folds = [Fold(rows[f.train], rows[f.test]) for f in grouped_folds(select(groups, rows), n_folds=n_folds, seed=seed)]
    if (smallest := min(len(fold.train) for fold in folds)) < fewest:
        raise UnscoredError(f"{smallest} training items are left in a fold, at least {fewest} are needed")
    side = Labelled(y, groups)
    parts = parts_of(folds, side, side, n_classes=len(names), seed=seed)
    coordinates = projected((x, x), parts)
    turns = [Problem(z, part.y_train, z_eval, part.inner) for part, (z, z_eval) in zip(parts, coordinates, strict=True)]
    readings = read(turns, n_classes=len(names))
    value = _score([reading.probabilities for reading in readings], parts, y, len(names), score)
    rng = np.random.default_rng(seed)
    units = exchangeable(y, groups)
    null: list[float] = []
    while len(null) < permutations:
        batch = min(max(1, _AT_ONCE // len(parts)), permutations - len(null))
        some = [permuted(y, units, rng) for _ in range(batch)]
        problems = [
            Problem(turn.z, other[part.train], turn.z_eval, part.inner)
            for other in some
            for part, turn in zip(parts, turns, strict=True)
        ]
        if choose_again:
            found = [reading.probabilities for reading in read(problems, n_classes=len(names))]
        else:
            penalties = [reading.penalty for reading in readings] * len(some)
            found = fit_predict(problems, n_classes=len(names), penalties=penalties)
        for k, other in enumerate(some):
            null.append(_score(found[k * len(parts) : (k + 1) * len(parts)], parts, other, len(names), score))
    at_least = sum(other >= value - 1e-12 for other in null)
    return PermutationNull(value, tuple(null), (at_least + 1) / (permutations + 1), int(units.max()) + 1)


def exchangeable(y: np.ndarray, groups: Groups) -> np.ndarray:
    """(items,) number of the unit that an item is permuted with, -1 where it has no label.

    Units are whole components, where each has one label; else the groups of the coarsest grouping in which each has;
    else the items.
    """
    labelled = np.flatnonzero(y >= 0)
    inside = select(groups, labelled)
    columns = sorted(as_groupings(inside), key=lambda column: int(column.max()))
    out = np.full(len(y), -1, dtype=np.int64)
    out[labelled] = np.arange(len(labelled))
    for codes in (connected_components(inside), *columns):
        first = np.zeros(codes.max() + 1, dtype=np.int64)
        first[codes] = y[labelled]
        if len(first) > 1 and (first[codes] == y[labelled]).all():
            out[labelled] = codes
            break
    return out


def permuted(y: np.ndarray, units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels permuted over units (`exchangeable`); those without a label (-1) stay."""
    labelled = units >= 0
    label = np.zeros(int(units.max()) + 1, dtype=np.int64)
    label[units[labelled]] = y[labelled]
    out = y.copy()
    out[labelled] = label[rng.permutation(len(label))][units[labelled]]
    return out


def _score(found: Sequence[np.ndarray], parts: Sequence[Part], y: np.ndarray, n_classes: int, score: str) -> float:
    """Mean over the evaluated items of all folds."""
    by_item = []
    for p, part in zip(found, parts, strict=True):
        target = y[part.test]
        if score == "accuracy":
            by_item.append((p.argmax(axis=1) == target).astype(float))
        else:
            null = null_predictor(y[part.train], n_classes)
            by_item.append(loss_bits(null, target) - loss_bits(p, target))
    return float(np.concatenate(by_item).mean())
