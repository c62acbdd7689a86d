"""Targets of exact values, their entropy, and the text control's features."""

from fractions import Fraction

import numpy as np
import pytest

from faithprobe.probes import MISSING, entropy_bits, labels_of, one_hot_by_slot, targets_for


def test_labels_by_hand() -> None:
    values = [12, -13, Fraction(1, 2), None, True]
    assert labels_of("parity", values).tolist() == ["even", "odd", MISSING, MISSING, MISSING]
    assert labels_of("last digit", values).tolist() == ["2", "3", MISSING, MISSING, MISSING]
    assert labels_of("mod 5", values).tolist() == ["2", "2", MISSING, MISSING, MISSING]
    assert labels_of("class", values).tolist() == ["12", "-13", "0.5", MISSING, "True"]
    for name in ("mod 1", "mod x", "sum"):
        with pytest.raises(ValueError, match="no target"):
            labels_of(name, values)


def test_which_targets_are_supported() -> None:
    rng = np.random.default_rng(0)
    many = rng.integers(1, 100, 1000).tolist()
    assert set(targets_for(many)) == {"parity", "last digit"}
    assert set(targets_for(many, moduli=(3,))) == {"parity", "last digit", "mod 3"}
    assert set(targets_for(rng.integers(0, 11, 1000).tolist())) == {"parity", "last digit", "class"}
    assert set(targets_for([True, False] * 50)) == {"class"}
    assert set(targets_for([f"name{i % 30}" for i in range(900)])) == {"class"}
    assert targets_for([2] * 100) == {}
    assert targets_for([]) == {}
    assert targets_for([None] * 50) == {}


def test_small_classes_are_masked_or_the_target_is_dropped() -> None:
    labels = targets_for(["a"] * 100 + ["b"] * 100 + ["c"] * 5)["class"]
    assert set(labels[:200]) == {"a", "b"}
    assert set(labels[200:]) == {MISSING}
    assert "class" not in targets_for(["a"] * 50 + ["b"] * 50 + [f"n{i}" for i in range(50)])


def test_entropy() -> None:
    assert entropy_bits(["a", "b"] * 50, corrected=False) == pytest.approx(1)
    assert entropy_bits(["a"] * 10) == 0
    assert entropy_bits(["a", "b", MISSING, MISSING], corrected=False) == pytest.approx(1)
    rng = np.random.default_rng(0)
    p = np.array([0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    truth = float(-(p * np.log2(p)).sum())
    draws = [rng.choice(6, 40, p=p).astype(str) for _ in range(400)]
    plain = np.mean([entropy_bits(draw, corrected=False) for draw in draws])
    corrected = np.mean([entropy_bits(draw) for draw in draws])
    assert abs(corrected - truth) < 0.3 * abs(plain - truth)
    with pytest.raises(ValueError, match="no labels"):
        entropy_bits([MISSING])


def test_text_features_share_columns_between_sets() -> None:
    train = [{"a": 1, "sign": "+"}, {"a": 2, "sign": "-"}]
    other = [{"a": 2, "sign": "+", "hint": 7}]
    x, z = one_hot_by_slot(train, other)
    # a=1, a=2, a's magnitude, sign=+, sign=-, hint=7, hint's magnitude
    assert x.tolist() == [[1, 0, 1, 1, 0, 0, 0], [0, 1, 2, 0, 1, 0, 0]]
    assert z.tolist() == [[0, 1, 2, 1, 0, 1, 7]]
    assert one_hot_by_slot(train, magnitudes=False)[0].shape == (2, 4)
    assert one_hot_by_slot([])[0].shape[0] == 0
