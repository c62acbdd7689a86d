"""Depths, pairs of needed and unneeded steps, and the difference of what is read about them."""

import numpy as np
import pytest

from faithprobe.errors import UnscoredError
from faithprobe.probes import Information, contrast, cross_fitted, depth_of, matched
from faithprobe.tasks.graph import Graph, Step
from faithprobe.tasks.programs import Programs
from faithprobe.tasks.task import Task
from tests.probes.planted import planted


def graph() -> Graph:
    """a = x + y, b = a * x, c = x - y (unneeded), d = c + a (unneeded), e = b + y (answer)."""
    steps = [("a", "x + y"), ("b", "a * x"), ("c", "x - y"), ("d", "c + a"), ("e", "b + y")]
    return Graph({"x": 3, "y": 5}, tuple(Step(*step) for step in steps), "e")


def test_depth_is_the_longest_path_and_pairs_have_one() -> None:
    assert [depth_of(graph(), step) for step in "abcde"] == [1, 2, 1, 2, 3]
    assert matched(graph()) == (("a", "c"), ("b", "d"))
    with pytest.raises(KeyError):
        depth_of(graph(), "x")


def test_programs_have_pairs_and_none_of_them_leaks_into_the_answer() -> None:
    task: Task = Programs(variables=6, unneeded=0.34)
    pairs = [(problem.graph, pair) for problem in task.problems(40) for pair in matched(problem.graph)]
    assert len(pairs) > 30
    for of_problem, (needed, unneeded) in pairs:
        assert depth_of(of_problem, needed) == depth_of(of_problem, unneeded)
        assert unneeded not in of_problem.ancestors(of_problem.answer)
        assert needed in of_problem.ancestors(of_problem.answer)
        assert of_problem.recompute({unneeded: 77})[of_problem.answer] == of_problem.values[of_problem.answer]


def information(strength: float, *, seed: int, n: int = 400) -> Information:
    rng = np.random.default_rng(seed)
    bit = rng.integers(0, 2, n)
    return cross_fitted({0: planted(bit * strength, seed=seed)}, bit.astype(str), groups=np.arange(n), shuffles=0)


def test_what_is_read_alike_does_not_differ() -> None:
    found = contrast(information(2.0, seed=0), information(2.0, seed=1), groups=np.arange(400))
    assert 0 in found.difference
    assert found.needed.value > 0.5
    assert found.n_both == 400
    assert found.difference.value == pytest.approx(found.needed.value - found.unneeded.value)


def test_what_only_needed_steps_hold_is_found() -> None:
    needed, unneeded = information(2.0, seed=2), information(0.0, seed=3)
    found = contrast(needed, unneeded, groups=np.arange(400))
    assert found.difference.low > 0.5
    assert found.difference.n == 400
    # With one item a side and problem, leaving problems out of both is the paired t interval.
    paired = needed.item_bits / needed.entropy - unneeded.item_bits / unneeded.entropy
    paired -= needed.item_control_bits / needed.entropy - unneeded.item_control_bits / unneeded.entropy
    half = 1.966 * paired.std(ddof=1) / np.sqrt(400)
    assert found.difference.high - found.difference.value == pytest.approx(half, rel=0.01)


def test_problems_in_common_are_paired_and_clusters_are_whole() -> None:
    needed, unneeded = information(1.0, seed=4), information(1.0, seed=4)
    assert contrast(needed, unneeded, groups=np.arange(400)).difference.high == pytest.approx(0, abs=1e-12)
    # Four items a problem that are copies of one another are worth one.
    single = contrast(needed, information(1.0, seed=5), groups=np.arange(400)).difference
    wide = contrast(needed, information(1.0, seed=5), groups=np.arange(400) // 4).difference
    assert wide.n == 100
    assert wide.value == single.value


def test_unscored_and_wrong_use() -> None:
    one, other = information(1.0, seed=6), information(1.0, seed=7)
    with pytest.raises(UnscoredError, match="none of 800 problems has a needed and an unneeded item"):
        contrast(one, other, groups=np.arange(400), unneeded_groups=np.arange(400, 800))
    with pytest.raises(ValueError, match="399 groups for 400 unneeded items"):
        contrast(one, other, groups=np.arange(400), unneeded_groups=np.arange(399))
    alone = contrast(one, other, groups=np.zeros(400))
    assert alone.difference.low == -np.inf
