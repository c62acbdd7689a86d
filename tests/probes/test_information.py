"""Planted information is found in bits; what is copied, linear in the text, noise or leaked is not credited."""

import numpy as np
import pytest

from faithprobe.errors import UnscoredError
from faithprobe.probes import MISSING, cross_fitted, one_hot_by_slot, transfer
from tests.probes.planted import WIDTH, parity, planted, sums


@pytest.mark.parametrize("flip", [0.0, 0.11, 0.3])
def test_a_binary_symmetric_channel_has_its_capacity(flip: float) -> None:
    rng = np.random.default_rng(1)
    bit = rng.integers(0, 2, 1500)
    seen = bit ^ (rng.random(1500) < flip)
    capacity = 1 + sum(p * np.log2(p) for p in (flip, 1 - flip) if p > 0)
    found = cross_fitted({3: planted(seen, seed=2, noise=0.05)}, bit.astype(str), groups=np.arange(1500), shuffles=20)
    assert found.bits == pytest.approx(capacity, abs=0.05)
    assert found.entropy == pytest.approx(1, abs=0.01)
    assert found.accuracy == pytest.approx(1 - flip, abs=0.04)
    assert found.fraction == pytest.approx(capacity, abs=0.05)
    assert found.pointwise.min() >= 0
    assert found.pointwise.max() <= 1
    if flip == 0:
        assert np.median(found.pointwise) > 0.95


def test_a_linear_function_of_the_operands_earns_nothing() -> None:
    operands, values, groups, text = sums(600, seed=0, largest=9)
    x = {1: planted(np.column_stack([operands, values]), seed=1, noise=0.1)}
    # The sum itself, in five ordered classes, is decodable from such a state; so it is from the page.
    ordered = np.digitize(values, [6, 9, 12, 15]).astype(str)
    for labels in (ordered, parity(values)):
        found = cross_fitted(x, labels, groups=groups, controls={"text": text})
        assert found.gain.low <= 0
        assert found.fraction < 0.05
    assert cross_fitted(x, ordered, groups=groups).bits > 1  # without a control it would have looked computed


def test_a_better_conditioned_copy_of_the_text_earns_nothing() -> None:
    """One-hot operands are a poor text control for ordered classes; the linear part of the state is as good as it."""
    operands, values, groups, _ = sums(500, seed=3)
    (one_hot,) = one_hot_by_slot([{"a": int(a), "b": int(b)} for a, b in operands], magnitudes=False)
    labels = np.digitize(values, np.arange(6, 36, 4)).astype(str)
    found = cross_fitted(
        {0: planted(operands / 5, seed=4, noise=0.05)}, labels, groups=groups, controls={"text": one_hot}
    )
    assert found.bits > found.controls["text"] + 0.2
    assert found.control == "text-linear"
    assert found.fraction < 0.05


def test_a_computed_parity_earns_credit() -> None:
    operands, values, groups, text = sums(600, seed=5)
    state = planted(np.column_stack([operands / 10, values % 2 * 4]), seed=6, noise=0.3)
    noise = planted(operands, seed=7)
    found = cross_fitted({0: noise, 1: state, 2: noise}, parity(values), groups=groups, controls={"text": text})
    assert found.gain.low > 0.7
    assert set(found.layers) == {1}
    assert found.control_bits < 0.1
    assert [row["layer"] for row in found.table] == [0, 1, 2]
    assert found.table[1]["bits"] == pytest.approx(found.bits)
    assert found.table[0]["bits"] < 0.05
    assert len(found.shuffled) == 20
    assert max(found.shuffled) < 0.1


def test_a_copied_token_earns_nothing_beyond_its_embedding() -> None:
    rng = np.random.default_rng(8)
    values = rng.integers(0, 40, 500)
    embedding = rng.normal(size=(40, WIDTH))[values]
    state = embedding @ rng.normal(size=(WIDTH, WIDTH)) + 0.05 * rng.normal(size=(500, WIDTH))
    found = cross_fitted({0: state}, parity(values), groups=np.arange(500), controls={"embedding": embedding})
    assert found.bits > 0.5
    assert found.control == "embedding"
    assert found.gain.value < 0.03


def test_a_twin_chooses_its_own_layer() -> None:
    _, values, groups, _ = sums(400, seed=9)
    good, noise = planted(values % 2 * 3, seed=10, noise=0.3), planted(values * 0, seed=11)
    found = cross_fitted({0: noise, 1: good}, parity(values), groups=groups, controls={"twin": {0: good, 1: noise}})
    assert found.control == "twin"
    assert abs(found.gain.value) < 0.02
    # In the table each layer stands against the same layer.
    assert found.table[1]["control_bits"] < 0.1


def test_xor_below_chance_is_no_control() -> None:
    """Parity from one-hot operands on unseen combinations: systematically below chance. That must not add credit."""
    _, values, groups, text = sums(600, seed=12, largest=6)
    found = cross_fitted(
        {0: np.random.default_rng(0).normal(size=(600, WIDTH))}, parity(values), groups=groups, controls={"text": text}
    )
    assert found.control_bits >= 0
    # What the clipping is for, in the text as it was fitted; what is settled on is ignorance.
    assert found.controls["text"] == 0
    assert found.fraction < 0.05
    assert np.mean(found.pointwise) < 0.05


def test_groups_seen_in_training_cannot_help() -> None:
    """Labels decided by the combination at random, with states that identify it: only a leak could read them."""
    rng = np.random.default_rng(13)
    combinations = rng.integers(0, 60, 600)
    labels = rng.integers(0, 2, 60)[combinations].astype(str)
    state = {0: 3 * rng.normal(size=(60, WIDTH))[combinations]}
    leaky = cross_fitted(state, labels, groups=np.arange(600))
    assert leaky.bits > 0.5  # split by problem alone, the probe recites the combinations
    held_out = cross_fitted(state, labels, groups=(np.arange(600), combinations))
    assert held_out.bits < 0.05
    moved = transfer(
        {0: state[0][:500]},
        labels[:500],
        {0: state[0][500:]},
        labels[500:],
        groups=(np.arange(500), combinations[:500]),
        eval_groups=(np.arange(500, 600), combinations[500:]),
    )
    assert moved.bits < 0.1  # nearly all combinations occur on both sides: each fold loses what it shares
    assert moved.n_eval == 100
    assert 200 <= moved.n_train <= 440


def test_transfer_removes_exactly_what_is_shared() -> None:
    """Counted, because grouped inner folds alone already refuse to fit what does not carry over to unseen groups."""
    rng = np.random.default_rng(20)
    combinations = rng.integers(0, 60, 600)
    bit = rng.integers(0, 2, 600)
    x, y = planted(bit * 4, seed=21, noise=0.3), bit.astype(str)
    few = np.flatnonzero(combinations[500:] < 8) + 500
    found = transfer(
        {0: x[:500]},
        y[:500],
        {0: x[few]},
        y[few],
        groups=(np.arange(500), combinations[:500]),
        eval_groups=(few, combinations[few]),
    )
    assert found.n_train == (~np.isin(combinations[:500], combinations[few])).sum() < 500
    assert found.accuracy > 0.9


def test_transfer_finds_what_is_planted_and_keeps_gaps() -> None:
    _, values, groups, text = sums(700, seed=14)
    state = planted(values % 2 * 4, seed=15, noise=0.3)
    labels = parity(values)
    labels[690] = MISSING
    parts = [slice(0, 600), slice(600, 700)]
    train, other = ({0: state[part]} for part in parts)
    found = transfer(
        train,
        labels[:600],
        other,
        labels[600:],
        groups=tuple(g[:600] for g in groups),
        eval_groups=tuple(g[600:] for g in groups),
        controls={"text": text[:600]},
        eval_controls={"text": text[600:]},
    )
    assert found.gain.low > 0.7
    assert found.accuracy > 0.95
    assert found.n_eval == 99
    assert np.isnan(found.pointwise[90])
    assert found.table[0]["n"] == 99


def test_the_same_seed_gives_the_same_numbers() -> None:
    _, values, groups, text = sums(300, seed=16)
    x = {0: planted(values % 2, seed=17)}
    a, b = (cross_fitted(x, parity(values), groups=groups, controls={"text": text}, shuffles=4) for _ in range(2))
    assert (a.bits, a.gain, a.controls) == (b.bits, b.gain, b.controls)


def test_unscored_with_the_number() -> None:
    rng = np.random.default_rng(18)
    x, y = {0: rng.normal(size=(300, 4))}, rng.integers(0, 2, 300).astype(str)
    with pytest.raises(UnscoredError, match=r"240 training items .* at least 500"):
        cross_fitted(x, y, groups=np.arange(300), fewest=500)
    with pytest.raises(UnscoredError, match="constant"):
        cross_fitted(x, ["a"] * 300, groups=np.arange(300))
    with pytest.raises(UnscoredError, match="no item has a label"):
        cross_fitted(x, [MISSING] * 300, groups=np.arange(300))
    with pytest.raises(UnscoredError, match="300 items for 300 classes"):
        cross_fitted(x, np.arange(300).astype(str), groups=np.arange(300))
    broken = x[0].copy()
    broken[3, 1], broken[7, 0] = np.nan, np.inf
    with pytest.raises(UnscoredError, match="2 numbers of activations at layer 0"):
        cross_fitted({0: broken}, y, groups=np.arange(300))
    with pytest.raises(UnscoredError, match="2 numbers of text"):
        cross_fitted(x, y, groups=np.arange(300), controls={"text": broken})
    with pytest.raises(UnscoredError, match=r"300 group.* 1 fold"):
        cross_fitted(x, y, groups=np.arange(300), n_folds=1)
    with pytest.raises(UnscoredError, match="one group holds more than half"):
        cross_fitted(x, y, groups=np.zeros(300, dtype=int))
    # A class that stands in one group only is never seen where it is read.
    lone = np.where(np.arange(300) < 60, "c", y)
    with pytest.raises(UnscoredError, match="60 of 300 items have a class"):
        cross_fitted(x, lone, groups=np.maximum(np.arange(300), 59))
    with pytest.raises(UnscoredError, match="none of 10 evaluated"):
        transfer(x, y, {0: x[0][:10]}, ["z"] * 10, groups=np.arange(300), eval_groups=np.arange(900, 910))
    with pytest.raises(UnscoredError, match="50 of 100 evaluated items have a class"):
        transfer(
            x,
            y,
            {0: x[0][:100]},
            np.where(np.arange(100) < 50, "z", y[:100]),
            groups=np.arange(300),
            eval_groups=np.arange(900, 1000),
        )
    with pytest.raises(UnscoredError, match="100 training items"):
        transfer(x, y, {0: x[0][:200]}, y[:200], groups=np.arange(300), eval_groups=np.arange(200), n_folds=1)
    with pytest.raises(UnscoredError, match="no layers"):
        cross_fitted({}, y, groups=np.arange(300))
    with pytest.raises(ValueError, match=r"shape \(299, 4\)"):
        cross_fitted({0: x[0][:299]}, y, groups=np.arange(300))


def test_constant_features_predict_nothing() -> None:
    y = np.random.default_rng(19).integers(0, 2, 300).astype(str)
    found = cross_fitted({0: np.ones((300, 5))}, y, groups=np.arange(300), controls={"text": np.zeros((300, 2))})
    assert found.bits == pytest.approx(0, abs=0.01)
