"""Selectivity: a probe that can only memorise types has none, whatever its accuracy."""

import numpy as np
import pytest

from faithprobe.probes import MISSING, control_labels, cross_fitted, transfer
from tests.probes.planted import planted


def items(seed: int, *, n: int = 600, types: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Types, a state that identifies them (one direction each), and a bit of its own."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, types, n)
    state = 4 * np.eye(types)[kind] + 0.3 * rng.normal(size=(n, types))
    return kind, state, rng.integers(0, 2, n)


def test_a_type_has_one_label_drawn_from_the_distribution() -> None:
    rng = np.random.default_rng(0)
    types = rng.integers(0, 3000, 6000)
    labels = rng.choice(["a", "b", "c"], p=[0.6, 0.3, 0.1], size=6000)
    labels[:10] = MISSING
    drawn = control_labels(types.tolist(), labels, seed=1)
    assert (drawn[:10] == MISSING).all()
    known = drawn != MISSING
    assert known.sum() == 5990
    by_type: dict[int, set] = {}
    for kind, label in zip(types[known].tolist(), drawn[known].tolist(), strict=True):
        by_type.setdefault(kind, set()).add(label)
    assert {len(found) for found in by_type.values()} == {1}
    share = np.mean([next(iter(found)) == "a" for found in by_type.values()])
    assert share == pytest.approx(0.6, abs=0.05)
    assert (control_labels(types.tolist(), labels, seed=1) == drawn).all()
    assert (control_labels(types.tolist(), labels, seed=2) != drawn).mean() > 0.3
    with pytest.raises(ValueError, match="5 types for 6000 items"):
        control_labels(types.tolist()[:5], labels)


def test_a_value_that_is_read_is_selective_and_one_that_is_memorised_is_not() -> None:
    kind, state, bit = items(0)
    of_type = np.random.default_rng(1).integers(0, 2, 24)[kind]
    memorised = cross_fitted(
        {0: state}, of_type.astype(str), groups=np.arange(600), types=[f"t{k}" for k in kind], shuffles=2
    )
    assert memorised.accuracy > 0.98
    assert memorised.selectivity is not None
    assert memorised.selectivity.value < 0.02
    assert len(memorised.control_accuracies) == 10
    assert np.mean(memorised.control_accuracies) > 0.98

    read = cross_fitted(
        {0: planted(bit * 3, seed=2, noise=0.3)}, bit.astype(str), groups=np.arange(600), types=kind, shuffles=2
    )
    assert read.accuracy > 0.98
    assert read.selectivity is not None
    assert read.selectivity.low > 0.3
    assert read.selectivity.value == pytest.approx(read.accuracy - np.mean(read.control_accuracies), abs=1e-9)


def test_the_spread_of_the_draws_widens_the_interval() -> None:
    """With 3 types a control task has its label frequencies by luck."""
    kind, _, bit = items(3, types=3)
    x = planted(bit * 3, seed=4, noise=0.3)
    found = cross_fitted(
        {0: x}, bit.astype(str), groups=np.arange(600), types=kind, shuffles=0, control_tasks=12, seed=1
    )
    assert found.selectivity is not None
    spread = np.std(found.control_accuracies, ddof=1)
    assert spread > 0.05
    assert found.selectivity.high - found.selectivity.value > 1.96 * spread / np.sqrt(12)
    single = cross_fitted({0: x}, bit.astype(str), groups=np.arange(600), types=kind, shuffles=0, control_tasks=1)
    assert len(single.control_accuracies) == 1


def test_types_that_do_not_recur_are_left_out() -> None:
    kind, state, _ = items(5)
    y = np.random.default_rng(8).integers(0, 2, 24)[kind].astype(str)
    none = cross_fitted({0: state}, y, groups=np.arange(600), types=range(600), shuffles=0)
    assert none.selectivity is None
    assert none.control_accuracies == ()
    sides = [slice(0, 400), slice(400, 600)]
    half = np.where(np.arange(600) < 500, kind, kind + 1000)  # of the evaluated items, half have types of their own
    found = transfer(
        *(value for part in sides for value in ({0: state[part]}, y[part])),
        groups=np.arange(400),
        eval_groups=np.arange(400, 600),
        types=half[:400],
        eval_types=half[400:],
        shuffles=0,
        control_tasks=4,
    )
    assert found.selectivity is not None
    assert found.selectivity.n == 100
    assert found.n_eval == 200
    assert np.mean(found.control_accuracies) > 0.9  # a type's label is the same on both sides


def test_what_is_asked_for_is_checked() -> None:
    kind, state, bit = items(6, n=300)
    y = bit.astype(str)
    with pytest.raises(ValueError, match="299 types for 300 items"):
        cross_fitted({0: state}, y, groups=np.arange(300), types=kind[:299])
    with pytest.raises(ValueError, match="need types, or neither"):
        transfer(
            *({0: state}, y, {0: state[:20]}, y[:20]),
            groups=np.arange(300),
            eval_groups=np.arange(900, 920),
            types=kind,
        )
    assert cross_fitted({0: state}, y, groups=np.arange(300), shuffles=0).selectivity is None
