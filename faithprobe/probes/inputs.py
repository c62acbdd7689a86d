"""What the probes take, checked: features by layer, labels as text, controls; each refusal names the number."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.probes.chunks import Features, chunks
from faithprobe.probes.splits import Fold, Groups, grouped_folds, select
from faithprobe.probes.targets import MISSING

Layers: TypeAlias = Mapping[Any, Features]
"""Layer to (items, features): arrays, or whatever hands out a slice of its rows (`chunks.Features`)."""
Controls: TypeAlias = Mapping[str, "Features | Layers"]
"""Name to (items, features), or to one such source per layer."""
Pair: TypeAlias = tuple[Features, Features]
"""The same features of training and of evaluated items."""

FEWEST_TRAINING = 200
"""Training items below which nothing is scored."""
MOST_UNSEEN = 0.1
"""Share of items with a class that training items lack, above which leaving them out would bend the result."""
_INNER = 3


def encode(labels: Sequence[str] | np.ndarray, names: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(items,) class numbers, -1 where missing or not among `names`; and the names."""
    text = np.asarray(labels).astype(str)
    if names is None:
        names = np.unique(text[text != MISSING])
    code = {name: k for k, name in enumerate(names.tolist())}
    return np.array([code.get(label, -1) for label in text.tolist()], dtype=np.int64), names


def check_labels(y: np.ndarray, names: np.ndarray) -> None:
    if len(names) < 2:
        raise UnscoredError(f"the labels of {len(y)} items are constant" if len(y) else "no item has a label")
    if len(y) <= 2 * len(names):
        raise UnscoredError(f"{len(y)} items for {len(names)} classes")


def check_features(sources: Mapping[str, Mapping[Hashable, Pair]], n: int, n_eval: int) -> None:
    for name, pairs in sources.items():
        for layer, pair in pairs.items():
            where = name if layer is None else f"{name} at layer {layer}"
            for x, items in zip(pair, (n, n_eval)):
                if len(x.shape) != 2 or x.shape[0] != items:
                    raise ValueError(f"{where} has shape {tuple(x.shape)}, expected ({items}, features)")
            for x in pair if pair[0] is not pair[1] else pair[:1]:
                if bad := sum(int((~np.isfinite(chunk)).sum()) for _, chunk in chunks(x)):
                    raise UnscoredError(f"{bad} numbers of {where} are not finite")


def paired(train: Features | Layers, other: Features | Layers) -> dict[Hashable, Pair]:
    if isinstance(train, Mapping) and isinstance(other, Mapping):
        return {layer: (x, other[layer]) for layer, x in train.items()}
    if isinstance(train, Mapping) or isinstance(other, Mapping):
        raise ValueError("a control is one array, or one by layer, on both sides")
    return {None: (train, other)}


def inner_folds(groups: Groups, train: np.ndarray, y: np.ndarray, *, seed: int) -> tuple[Fold, ...]:
    """Folds of the training items alone, grouped as the outer ones; they index rows of `train`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the outer folds have warned already
        return grouped_folds(select(groups, train), n_folds=_INNER, labels=y, seed=seed + 1)
