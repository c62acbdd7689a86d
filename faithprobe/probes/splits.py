"""Folds in which no group stands on two sides, for several groupings at once.

Probes need two: by problem, because items of one problem share their text; and by operand combination, because a probe
that has seen 7 + 5 with label "even" recites it (on SmolLM2 a value read at .92 on random splits falls to .13 on unseen
combinations). Items that share a group in *any* grouping are linked; folds are made of whole connected components.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from faithprobe.errors import UnscoredError

Groups: TypeAlias = "Sequence[Hashable] | np.ndarray | tuple[Sequence[Hashable] | np.ndarray, ...]"
"""One grouping, (items,), or a *tuple* of several, the problem first: `(problems, combinations)`."""


@dataclass(frozen=True)
class Fold:
    """Row numbers of one split."""

    train: np.ndarray
    test: np.ndarray


def operand_combinations(rows: Iterable[Sequence[Hashable]], *, unordered: bool = False) -> np.ndarray:
    """(items,) group ids: items with the same tuple of operands and operation share one.

    `unordered` puts 3 + 4 and 4 + 3 together; for operations in which order matters it only makes the split stricter.
    """
    keys = (tuple(sorted(row, key=repr)) if unordered else tuple(row) for row in rows)
    return _codes(keys)


def connected_components(groups: Groups) -> np.ndarray:
    """(items,) ids of the components that arise when items sharing a group in any grouping are linked (union-find)."""
    columns = as_groupings(groups)
    parent = list(range(len(columns[0])))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for column in columns:
        first: dict[int, int] = {}
        for i, group in enumerate(column.tolist()):
            parent[root(i)] = root(first.setdefault(group, i))
    return _codes(root(i) for i in range(len(parent)))


def grouped_folds(
    groups: Groups, *, n_folds: int = 5, labels: np.ndarray | None = None, seed: int = 0
) -> tuple[Fold, ...]:
    """Folds whose training and test items share no group of any grouping.

    Args:
        groups: one grouping or a tuple of them.
        n_folds: at most; fewer where there are fewer components.
        labels: (items,) classes to balance over folds. A fold short of one class leaves the training items with too
            much of it, which by itself pushes held-out information below zero.
        seed: of the order in which groups of one size are dealt.

    Where one component holds more than half of the items, a split into components is impossible or useless. Then
    (with a warning) test folds are made of the grouping with the fewest groups, none larger than half, and training
    items that share any group with a test item are *left out* of that fold: no leak, fewer training items.

    Raises UnscoredError where fewer than 2 folds can be made, or a fold has no training items left.
    """
    columns = as_groupings(groups)
    n = len(columns[0])
    blocks = connected_components(tuple(columns))
    if largest_share(blocks) <= 0.5:
        return tuple(
            Fold(np.flatnonzero(number != k), np.flatnonzero(number == k))
            for number in [_deal(blocks, n_folds, labels, seed)]
            for k in range(number.max() + 1)
        )
    usable = [column for column in columns if largest_share(column) <= 0.5]
    if not usable:
        raise UnscoredError(
            f"no split: in every grouping of the {n} items one group holds more than half "
            f"({max(largest_share(column) for column in columns):.2f})"
        )
    warnings.warn(
        f"one connected component holds {largest_share(blocks):.2f} of {n} items; folds follow the coarsest grouping "
        "and training items that share a group with a test item are left out",
        stacklevel=2,
    )
    number = _deal(min(usable, key=lambda column: len(np.unique(column))), n_folds, labels, seed)
    folds = []
    for k in range(number.max() + 1):
        test = number == k
        shared = shares_group(tuple(columns), tuple(column[test] for column in columns))
        if shared.all():
            raise UnscoredError(f"no training item is left: each of {n} items shares a group with test fold {k}")
        folds.append(Fold(np.flatnonzero(~shared), np.flatnonzero(test)))
    return tuple(folds)


def shares_group(groups: Groups, others: Groups) -> np.ndarray:
    """(items of `groups`,) True where an item has a group, in any grouping, that also occurs in `others`."""
    mine = _raw(groups)
    theirs = _raw(others)
    if len(mine) != len(theirs):
        raise ValueError(f"{len(mine)} groupings on one side and {len(theirs)} on the other")
    found = np.zeros(len(mine[0]), dtype=bool)
    for a, b in zip(mine, theirs):
        seen = set(b)
        found |= np.fromiter((x in seen for x in a), dtype=bool, count=len(a))
    return found


def as_groupings(groups: Groups) -> list[np.ndarray]:
    """Every grouping as (items,) integer codes."""
    columns = [_codes(column) for column in _raw(groups)]
    if len({len(column) for column in columns}) != 1 or len(columns[0]) == 0:
        raise ValueError(f"groupings of {[len(column) for column in columns]} items: equal lengths, at least one item")
    return columns


def select(groups: Groups, rows: np.ndarray) -> tuple[list[Hashable], ...]:
    """The groupings of some of the items."""
    return tuple([column[i] for i in rows.tolist()] for column in _raw(groups))


def largest_share(codes: np.ndarray) -> float:
    """Share of the items in the largest group."""
    return float(np.bincount(codes).max() / len(codes))


def _raw(groups: Groups) -> list[list[Hashable]]:
    columns = groups if isinstance(groups, tuple) else (groups,)
    return [column.tolist() if isinstance(column, np.ndarray) else list(column) for column in columns]


def _codes(values: Iterable[Hashable]) -> np.ndarray:
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def _deal(blocks: np.ndarray, n_folds: int, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """(items,) fold numbers: largest block first, each to the fold that it leaves most even in size and classes."""
    n_blocks = int(blocks.max()) + 1
    n_folds = min(n_folds, n_blocks)
    if n_folds < 2:
        raise UnscoredError(f"{n_blocks} group(s) of items and {n_folds} fold(s): at least 2 of both are needed")
    classes = np.zeros(len(blocks), dtype=np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
    table = np.zeros((n_blocks, classes.max() + 2))
    np.add.at(table, (blocks, classes), 1)
    table[:, -1] = table.sum(axis=1)  # the size of a block counts like one more class
    table /= table.sum(axis=0)
    order = np.random.default_rng(seed).permutation(n_blocks)
    order = order[np.argsort(-table[order, -1], kind="stable")]
    filled = np.zeros((n_folds, table.shape[1]))
    number = np.zeros(n_blocks, dtype=np.int64)
    for block in order:
        # Adding b to a fold with f raises the sum of squares by 2 f b + b^2; the last term is the same for all folds.
        number[block] = int(np.argmin(filled @ table[block]))
        filled[number[block]] += table[block]
    return number[blocks]
