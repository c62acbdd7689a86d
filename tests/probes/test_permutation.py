"""The null distribution: p is uniform where there is nothing, small where there is something, and labels stay whole."""

import numpy as np
import pytest

from faithprobe.errors import UnscoredError
from faithprobe.probes import MISSING, permutation_test
from faithprobe.probes.permutation import exchangeable, permuted
from tests.probes.planted import parity, planted, sums


def test_labels_are_permuted_over_whole_combinations() -> None:
    _, values, groups, _ = sums(400, seed=0, largest=6)
    y = values % 2
    y[:5] = -1
    units = exchangeable(y, groups)
    assert (units[:5] == -1).all()
    assert units.max() + 1 == len(set(groups[1][5:].tolist()))
    changed = 0
    for seed in range(20):
        out = permuted(y, units, np.random.default_rng(seed))
        assert (out[:5] == -1).all()
        changed += int((out != y).sum())
        for unit in range(int(units.max()) + 1):
            assert len(set(out[units == unit].tolist())) == 1
    assert changed > 20 * 100


def test_where_components_mix_labels_the_combinations_are_permuted_and_else_the_items() -> None:
    """Several steps of a problem link all combinations into one component, in which labels differ."""
    rng = np.random.default_rng(1)
    combinations = rng.integers(0, 40, 300)
    problems = np.repeat(np.arange(100), 3)
    label = rng.integers(0, 2, 40)[combinations]
    units = exchangeable(label, (problems, combinations))
    assert units.max() + 1 == len(set(combinations.tolist()))
    assert exchangeable(rng.integers(0, 2, 300), (problems, combinations)).max() + 1 == 300


@pytest.mark.parametrize(("score", "choose_again"), [("bits", False), ("accuracy", False), ("bits", True)])
def test_noise_is_significant_no_more_often_than_it_says(score: str, choose_again: bool) -> None:
    p = []
    for seed in range(40 if not choose_again else 12):
        _, values, groups, _ = sums(260, seed=seed, largest=9)
        x = np.random.default_rng(seed).normal(size=(260, 16))
        found = permutation_test(
            x,
            parity(values),
            groups=groups,
            permutations=19,
            score=score,
            choose_again=choose_again,
            n_folds=4,
            fewest=150,
            seed=seed,
        )
        assert len(found.null) == 19
        p.append(found.p)
    assert np.mean(np.array(p) <= 0.05) < 0.15
    assert 0.3 < np.mean(p) < 0.75


def test_a_planted_bit_is_found_and_p_is_never_0() -> None:
    _, values, groups, _ = sums(400, seed=2, largest=12)
    found = permutation_test(planted(values % 2 * 3, seed=3), parity(values), groups=groups, permutations=39)
    assert found.value > 0.9 > 0.3 > max(found.null)
    assert found.p == 1 / 40
    again = permutation_test(planted(values % 2 * 3, seed=3), parity(values), groups=groups, permutations=39)
    assert again == found


def test_chance_of_few_combinations_is_not_one_half() -> None:
    """36 combinations: whatever is fitted to 29 of them is worse than a coin on the other 7. The null knows."""
    _, values, groups, text = sums(600, seed=12, largest=6)
    found = permutation_test(text, parity(values), groups=groups, permutations=60, score="accuracy")
    assert found.n_units == 36
    assert found.value < 0.45  # additive in the operands: parity is predicted wrongly on what was not seen
    assert np.mean(found.null) < 0.46
    assert found.p > 0.05


def test_unscored_and_wrong_use() -> None:
    _, values, groups, _ = sums(300, seed=4)
    x, y = np.ones((300, 3)), parity(values)
    with pytest.raises(ValueError, match="bits or accuracy, not 'auroc'"):
        permutation_test(x, y, groups=groups, score="auroc")
    with pytest.raises(ValueError, match="0 permutations"):
        permutation_test(x, y, groups=groups, permutations=0)
    with pytest.raises(UnscoredError, match="at least 500"):
        permutation_test(x, y, groups=groups, fewest=500)
    with pytest.raises(UnscoredError, match="no item has a label"):
        permutation_test(x, [MISSING] * 300, groups=groups)
    flat = permutation_test(x, y, groups=groups, permutations=9)
    assert abs(flat.value) < 1e-3
    assert flat.p >= 0.1
