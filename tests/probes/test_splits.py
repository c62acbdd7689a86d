"""No group stands on two sides, however the groupings overlap."""

import numpy as np
import pytest

from faithprobe.errors import UnscoredError
from faithprobe.probes import connected_components, grouped_folds, operand_combinations
from faithprobe.probes.inputs import inner_folds
from faithprobe.probes.splits import select, shares_group


def _leaks(groups: tuple, train: np.ndarray, test: np.ndarray) -> bool:
    return bool(shares_group(select(groups, train), select(groups, test)).any())


def test_components_by_hand() -> None:
    problems = ["p", "p", "q", "r", "s"]
    combinations = [(1, 2), (3, 4), (3, 4), (5, 6), (5, 6)]
    found = connected_components((problems, combinations))
    assert found.tolist() == [0, 0, 0, 1, 1]  # p - q through (3, 4); r - s through (5, 6)
    assert connected_components(problems).tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_no_group_on_two_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = (np.arange(300), operand_combinations(rng.integers(1, 10, (300, 2)).tolist()))
    folds = grouped_folds(groups, n_folds=4, seed=seed)
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(300))
    for fold in folds:
        assert not _leaks(groups, fold.train, fold.test)
        assert len(fold.train) + len(fold.test) == 300  # nothing is lost where components suffice


def test_classes_stay_balanced() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(1, 10, (600, 2))
    labels = pairs.sum(1) % 2
    for fold in grouped_folds(operand_combinations(pairs.tolist()), labels=labels):
        assert labels[fold.test].mean() == pytest.approx(labels.mean(), abs=0.02)
        assert len(fold.test) == pytest.approx(120, abs=12)


def test_one_giant_component_leaves_items_out_instead_of_leaking() -> None:
    rng = np.random.default_rng(0)
    problems = np.repeat(np.arange(200), 3)  # three steps per problem link nearly all combinations
    groups = (problems, operand_combinations(rng.integers(1, 10, (600, 2)).tolist()))
    with pytest.warns(UserWarning, match="one connected component holds"):
        folds = grouped_folds(groups, n_folds=5)
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(600))
    for fold in folds:
        assert not _leaks(groups, fold.train, fold.test)
        assert len(fold.train) > 200


def test_no_split_is_unscored() -> None:
    with pytest.raises(UnscoredError, match="one group holds more than half"):
        grouped_folds([0, 0, 0, 1])
    with pytest.raises(UnscoredError, match="no training item is left"), pytest.warns(UserWarning, match="left out"):
        grouped_folds(([0, 0, 1, 1], ["a", "b", "a", "b"]))
    with pytest.raises(ValueError, match="equal lengths"):
        grouped_folds(([0, 1, 2], [0, 1]))


def test_combinations_with_and_without_order() -> None:
    rows = [(3, "+", 4), (4, "+", 3), (3, "+", 4)]
    assert operand_combinations(rows).tolist() == [0, 1, 0]
    assert operand_combinations(rows, unordered=True).tolist() == [0, 0, 0]


def _duplicated(rng: np.random.Generator, *, how: str) -> tuple[tuple, np.ndarray]:
    """Groups (problem, combination) of items with duplicates put in, and the text of each: equal text, same problem."""
    n = int(rng.integers(40, 160))
    operands = rng.integers(1, 15, (n, 2))
    problem = np.arange(n)
    source = rng.integers(0, n, int(rng.integers(10, 120)))
    extra = operands[source]
    if how == "same problem again":
        of_extra = problem[source]
    elif how == "under another name":  # the problem id is new; only the operands give it away
        of_extra = n + np.arange(len(source))
    elif how == "operands exchanged":
        of_extra, extra = n + np.arange(len(source)), extra[:, ::-1]
    else:  # another step of the same problem, which shares operands with a third problem
        of_extra, extra = problem[source], operands[rng.integers(0, n, len(source))]
    order = rng.permutation(n + len(source))
    rows = np.concatenate([operands, extra])[order]
    problems = np.concatenate([problem, of_extra])[order]
    combinations = operand_combinations(rows.tolist(), unordered=how == "operands exchanged")
    return (problems, combinations), rows


@pytest.mark.parametrize("how", ["same problem again", "under another name", "operands exchanged", "a second step"])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.filterwarnings("ignore:one connected component")
def test_duplicates_never_stand_on_both_sides(how: str, seed: int) -> None:
    """Outer folds, the inner folds of their training items, and what is left of training items for other items."""
    rng = np.random.default_rng((seed, len(how)))
    groups, rows = _duplicated(rng, how=how)
    same = np.sort(rows, axis=1) if how == "operands exchanged" else rows

    def apart(train: np.ndarray, test: np.ndarray) -> bool:
        seen = set(map(tuple, same[train].tolist())), set(groups[0][train].tolist())
        return not any(tuple(same[i].tolist()) in seen[0] or groups[0][i] in seen[1] for i in test)

    labels = rows.sum(1) % 2
    for fold in grouped_folds(groups, n_folds=4, labels=labels, seed=seed):
        assert len(fold.train)
        assert len(fold.test)
        assert apart(fold.train, fold.test)
        for inner in inner_folds(groups, fold.train, labels[fold.train], seed=seed):
            assert apart(fold.train[inner.train], fold.train[inner.test])
            assert apart(fold.train[inner.train], fold.test)
    test = rng.permutation(len(rows))[:20]
    kept = np.flatnonzero(~shares_group(groups, select(groups, test)))
    assert apart(kept, test)
