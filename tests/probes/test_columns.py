"""Folds, shuffles and control tasks are functions of what an item is: not of when, where or how often it comes."""

import json
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from faithprobe.errors import UnscoredError
from faithprobe.probes.columns import CONTROL_TASK, HELD_OUT, REAL, SHUFFLED, VALUE, Columns, columns_for


def problems(n: int, *, seed: int = 0, largest: int = 30) -> tuple[list[int], list[str], list[int]]:
    """Values, operand combinations and types (the last operand)."""
    operands = np.random.default_rng(seed).integers(1, largest + 1, (n, 2)).tolist()
    return [a * b for a, b in operands], [f"{a} * {b}" for a, b in operands], [b for _, b in operands]


def of(
    n: int = 2000, *, seed: int = 0, **options: object
) -> tuple[Columns, np.ndarray, list[int], list[str], list[int]]:
    """Columns and the labels of the items that they were made from."""
    values, combinations, types = problems(n)
    columns = columns_for(values, combinations, seed=seed, **options)
    labels, known = columns.labels(values, combinations, types)
    assert known.all()
    return columns, labels, values, combinations, types


def of_kind(columns: Columns, kind: str) -> list[int]:
    return [k for k, block in enumerate(columns.blocks) if block.kind == kind]


@pytest.mark.parametrize("seed", range(5))
def test_a_combination_is_on_one_side_whatever_the_stream(seed: int) -> None:
    """Random streams with many copies, in random order and batches: no copy of a training item is held out, ever."""
    rng = np.random.default_rng(seed)
    columns = of(seed=seed)[0]
    values, combinations, types = problems(600, seed=seed, largest=12)  # 144 combinations: four copies of each
    side: dict[str, int] = {}
    for _ in range(2):
        order = rng.permutation(np.repeat(np.arange(600), rng.integers(1, 3, 600)))
        for batch in np.array_split(order, rng.integers(2, 40)):
            fold = columns.fold([combinations[i] for i in batch])
            labels, _ = columns.labels(*([field[i] for i in batch] for field in (values, combinations, types)))
            for i, k in zip(batch, fold.tolist(), strict=True):
                assert side.setdefault(combinations[i], k) == k
            first = batch[:1]
            alone, _ = columns.labels(*([field[i] for i in first] for field in (values, combinations, types)))
            assert np.array_equal(alone[0], labels[0])
    train = {combination for combination, k in side.items() if k != HELD_OUT}
    held = {combination for combination, k in side.items() if k == HELD_OUT}
    assert train
    assert held
    assert not train & held


def test_folds_are_even_and_those_of_another_seed_are_others() -> None:
    columns = of()[0]
    combinations = [f"{a} + {b}" for a in range(100) for b in range(100)]
    fold = columns.fold(combinations)
    assert chisquare(np.bincount(fold, minlength=5)).pvalue > 1e-4
    other = of(seed=1)[0].fold(combinations)
    assert chi2_contingency(np.histogram2d(fold, other, bins=5)[0]).pvalue > 1e-4


@pytest.mark.parametrize(
    "same",
    [
        [(3, "+", 4), (np.int64(3), "+", np.int64(4))],
        [frozenset((8, 0)), frozenset((0, 8))],
        [frozenset(("plus", "3", "4")), frozenset(("4", "3", "plus"))],
        [(1, frozenset((8, 16, 0))), (1, frozenset((0, 16, 8)))],
    ],
)
def test_equal_combinations_are_one_combination(same) -> None:
    """Equal sets can print in two orders, and NumPy's numbers print their type: neither may leak."""
    for seed in range(20):
        columns = of(seed=seed)[0]
        assert len(set(columns.fold(same).tolist())) == 1
        labels, _ = columns.labels([12, 12], same, same)
        assert np.array_equal(labels[0], labels[1])


SCRIPT = """
import json
from tests.probes.test_columns import of
columns, labels, values, combinations, types = of(200, moduli=(3,), shuffles=4, draws=2)
sets = [frozenset((f"{a}", "plus", f"{a * a}")) for a in range(50)]
print(json.dumps([columns.fold(combinations).tolist(), labels.tolist(), columns.fold(sets).tolist()]))
"""


def test_two_processes_agree_without_a_word() -> None:
    """With other seeds of Python's own hashes."""
    root = Path(__file__).resolve().parents[2]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT], cwd=root, env=os.environ | {"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE
        )
        for seed in ("1", "2")
    ]
    first, second = (json.loads(process.communicate(timeout=120)[0]) for process in started)
    assert first == second
    assert len(set(first[0])) == 5


PINNED = [1, 0, 1, 2, 2, 0]


def test_draws_are_the_same_in_every_year() -> None:
    """A run that goes on from an old checkpoint deals as it did. These numbers must never change."""
    columns = of()[0]
    assert columns.fold(["3 * 4", "5 * 6", "7 * 8", "9 * 10", "(1, 2)", "a"]).tolist() == PINNED
    assert columns.fold([(1, 2)]).tolist() == PINNED[4:5]


def test_shuffled_labels_are_those_of_combinations() -> None:
    columns, labels, _, combinations, _ = of(4000, shuffles=6)
    for k in of_kind(columns, SHUFFLED):
        seen: dict[str, set[float]] = {}
        for combination, label in zip(combinations, labels[:, k], strict=True):
            seen.setdefault(combination, set()).add(label)
        assert all(len(found) == 1 for found in seen.values())


def test_shuffled_labels_have_the_frequencies_of_the_pool_and_know_nothing() -> None:
    """Over combinations, as these are what is drawn: independent of the true label, of the fold and of each other."""
    columns, labels, _, combinations, _ = of(6000, shuffles=4)
    one_each = [combinations.index(combination) for combination in dict.fromkeys(combinations)]
    assert len(one_each) > 850
    fold = columns.fold([combinations[i] for i in one_each])
    for target in columns.targets:
        if not target.classes:
            continue
        blocks = [k for k, block in enumerate(columns.blocks) if block.target == target]
        real = labels[one_each, next(k for k in blocks if columns.blocks[k].kind == REAL)].astype(int)
        drawn = [labels[one_each, k].astype(int) for k in blocks if columns.blocks[k].kind == SHUFFLED]
        assert len(drawn) == 4
        pool = np.bincount(target.codes.astype(int), minlength=target.width) / len(target.pool)
        for mine in drawn:
            found = np.bincount(mine, minlength=target.width)
            assert chisquare(found[pool > 0], pool[pool > 0] * len(mine)).pvalue > 1e-4
            for other in (real, fold, *(theirs for theirs in drawn if theirs is not mine)):
                table = np.histogram2d(mine, other, bins=(target.width, int(other.max()) + 1))[0]
                assert chi2_contingency(table[table.any(axis=1)][:, table.any(axis=0)]).pvalue > 1e-4


def test_shuffled_numbers_are_numbers_of_the_pool() -> None:
    columns, labels, values, _, _ = of(3000, shuffles=3)
    target = next(target for target in columns.targets if target.name == VALUE)
    for k, block in enumerate(columns.blocks):
        if block.target == target and block.kind == SHUFFLED:
            assert set(labels[:, k]) <= set(map(float, values))
            assert abs(np.corrcoef(labels[:, k], values)[0, 1]) < 0.1
    assert not [block for block in columns.blocks if block.target == target and block.kind == CONTROL_TASK]


def test_a_control_task_is_a_label_of_the_type() -> None:
    columns, labels, values, combinations, types = of(4000, draws=5)
    blocks = of_kind(columns, CONTROL_TASK)
    assert len(blocks) == 5 * sum(bool(target.classes) for target in columns.targets)
    for k in blocks:
        seen: dict[int, set[float]] = {}
        for kind, label in zip(types, labels[:, k], strict=True):
            seen.setdefault(kind, set()).add(label)
        assert all(len(found) == 1 for found in seen.values())
        assert len(set().union(*seen.values())) > 1
    others = list(reversed(combinations))
    relabelled, _ = columns.labels(values, others, types)
    assert np.array_equal(relabelled[:, blocks], labels[:, blocks])
    assert len({tuple(labels[:, k]) for k in blocks}) == len(blocks)


def test_the_real_labels_are_those_that_the_values_have() -> None:
    columns, labels, values, _, _ = of(moduli=(3,))
    for k in of_kind(columns, REAL):
        target = columns.blocks[k].target
        if target.name == VALUE:
            assert labels[:, k].tolist() == values
            continue
        told = [target.classes[int(label)] for label in labels[:, k]]
        expected = {
            "parity": ["odd" if v % 2 else "even" for v in values],
            "last digit": [str(v)[-1] for v in values],
            "mod 3": [str(v % 3) for v in values],
        }[target.name]
        assert told == expected
    assert {target.name for target in columns.targets} == {"parity", "last digit", "mod 3", VALUE}


def test_what_the_sample_lacked_is_left_out() -> None:
    values = [v % 4 for v in range(400)]
    columns = columns_for(values, list(range(400)), shuffles=2, draws=1)
    assert {target.name: target.classes for target in columns.targets}["class"] == ("0", "1", "2", "3")
    given = [0, 3, 4, None, Fraction(1, 2), 2]
    labels, known = columns.labels(given, list("abcdef"), list("abcdef"))
    assert known.tolist() == [True, True, False, False, False, True]
    drawn = [k for k, block in enumerate(columns.blocks) if block.kind != REAL]
    assert np.isfinite(labels[:, drawn]).all()
    assert columns.matrix(labels).shape == (6, columns.width)


def test_the_matrix_is_one_hot() -> None:
    columns, labels, _, _, _ = of(300, shuffles=3, draws=2)
    matrix = columns.matrix(labels)
    assert columns.blocks[0].columns.start == 0
    assert columns.width == matrix.shape[1] == sum(block.target.width for block in columns.blocks)
    for before, after in zip(columns.blocks, columns.blocks[1:]):
        assert before.columns.stop == after.columns.start
    for k, block in enumerate(columns.blocks):
        part = matrix[:, block.columns]
        if block.target.classes:
            assert set(part.ravel().tolist()) == {0.0, 1.0}
            assert (part.sum(axis=1) == 1).all()
            assert (part.argmax(axis=1) == labels[:, k]).all()
        else:
            assert (part[:, 0] == labels[:, k]).all()


def test_a_pool_has_one_label_of_each_combination() -> None:
    """A combination that the sample holds a hundred times weighs as much as any other."""
    values = [1] * 300 + list(range(2, 102))
    combinations = ["again"] * 300 + [str(v) for v in range(2, 102)]
    columns = columns_for(values, combinations)
    pool = Counter(next(target for target in columns.targets if target.name == "parity").pool)
    assert pool == {"even": 50, "odd": 51}


def test_values_that_support_nothing_are_unscored() -> None:
    for values in ([None] * 50, ["Ada"] * 50, [7] * 50):
        with pytest.raises(UnscoredError, match="support no target"):
            columns_for(values, list(range(50)))
