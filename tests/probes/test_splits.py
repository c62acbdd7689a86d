"""No group stands on two sides, however the groupings overlap."""

import numpy as np
import pytest

from faithprobe.errors import UnscoredError
from faithprobe.probes import connected_components, grouped_folds, operand_combinations
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
