"""Online codelength: what noise, a clear label and a larger margin must cost, in closed form where there is one."""

import numpy as np
import pytest

from faithprobe.errors import UnscoredError
from faithprobe.probes import MISSING, online_codelength
from faithprobe.probes.description_length import FLOOR
from faithprobe.probes.estimator import MIXED
from tests.probes.planted import planted, sums

N = 800


def fair(seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    bit = rng.permutation(np.repeat([0, 1], N // 2))
    return bit, bit.astype(str), rng


def test_noise_costs_what_its_entropy_is() -> None:
    _, labels, rng = fair(0)
    found = online_codelength(rng.normal(size=(N, 24)), labels, groups=np.arange(N))
    assert found.uniform == N
    assert found.activations.bits.value == pytest.approx(N, rel=0.02)
    assert found.null.bits.value == pytest.approx(N, rel=0.01)
    assert found.saved.low < 0.002
    # Label frequencies are learned as well: a rare label is short without any features.
    rare = (rng.random(N) < 0.1).astype(int)
    entropy = -sum(p * np.log2(p) for p in (rare.mean(), 1 - rare.mean()))
    found = online_codelength(rng.normal(size=(N, 24)), rare.astype(str), groups=np.arange(N))
    assert found.activations.bits.value == pytest.approx(FLOOR + (N - FLOOR) * entropy, rel=0.06)
    assert found.activations.compression > 1.8
    assert found.saved.value < 0.01  # and that is nothing that was read


def test_a_perfectly_readable_label_costs_its_first_block() -> None:
    """The first block is uniform; after it, every label costs what is mixed in of the null predictor."""
    bit, labels, _ = fair(1)
    found = online_codelength(planted(bit * 4, seed=1, noise=0.01), labels, groups=np.arange(N))
    expected = FLOOR - (N - FLOOR) * np.log2(1 - MIXED / 2)
    assert found.activations.bits.value == pytest.approx(expected, rel=0.03)
    assert found.activations.compression == pytest.approx(N / expected, rel=0.03)
    assert found.saved.low > 0.9


def test_a_larger_margin_is_shorter_at_one_accuracy() -> None:
    bit, labels, _ = fair(2)
    lengths = []
    for margin in (0.5, 1.0, 3.0):
        found = online_codelength(planted((2 * bit - 1) * margin, seed=2), labels, groups=np.arange(N))
        assert found.activations.blocks[-1] < 0.4  # in the end, all of them are read
        lengths.append(found.activations.bits.value)
    assert lengths[0] > 1.5 * lengths[1]
    assert lengths[1] > lengths[2]


def test_the_best_control_is_what_is_saved_from() -> None:
    bit, labels, rng = fair(3)
    x = planted(bit * 3, seed=3, noise=0.3)
    controls = {"embedding": planted(bit * 3, seed=4, noise=0.3), "twin": rng.normal(size=(N, 8))}
    found = online_codelength(x, labels, groups=np.arange(N), controls=controls, orders=3)
    assert found.control == "embedding"
    assert set(found.controls) == {"embedding", "twin"}
    assert found.saved.value == pytest.approx(0, abs=0.02)
    assert found.controls["twin"].compression == pytest.approx(1, abs=0.05)
    assert found.activations.compression > 5


def test_blocks_end_with_whole_groups_and_groups_cannot_be_recited() -> None:
    rng = np.random.default_rng(5)
    group = rng.integers(0, 60, 600)
    labels = rng.integers(0, 2, 60)[group].astype(str)
    state = 3 * rng.normal(size=(60, 90))[group]
    recited = online_codelength(state, labels, groups=np.arange(600))
    assert recited.activations.compression > 2
    whole = online_codelength(state, labels, groups=(np.arange(600), group))
    assert whole.activations.compression < 1.1
    sizes = np.bincount(group)
    assert whole.ends[0] >= FLOOR
    assert all(end == 600 or end >= FLOOR for end in whole.ends)
    assert whole.ends[-1] == whole.n == 600
    assert max(np.diff((0, *whole.ends))) <= 300 + sizes.max()


def test_the_same_seed_gives_the_same_code_and_gaps_are_left_out() -> None:
    _, values, groups, text = sums(400, seed=6)
    labels = np.where(values > 20, "high", "low")
    labels[:7] = MISSING
    a, b = (online_codelength(text, labels, groups=groups, orders=2, seed=3) for _ in range(2))
    assert a == b
    assert a.n == 393
    assert a.activations.compression > 1.5
    assert online_codelength(text, labels, groups=groups, orders=1).activations.bits.high == np.inf


def test_unscored_and_wrong_use() -> None:
    _, labels, rng = fair(7)
    x = rng.normal(size=(N, 4))
    with pytest.raises(UnscoredError, match="800 items have a label, at least 900"):
        online_codelength(x, labels, groups=np.arange(N), fewest=900)
    with pytest.raises(UnscoredError, match="constant"):
        online_codelength(x, ["a"] * N, groups=np.arange(N))
    with pytest.raises(UnscoredError, match=r"holds 1\.00 of 800 items"):
        online_codelength(x, labels, groups=np.zeros(N))
    broken = x.copy()
    broken[0, 0] = np.nan
    with pytest.raises(UnscoredError, match="1 numbers of activations"):
        online_codelength(broken, labels, groups=np.arange(N))
    with pytest.raises(ValueError, match="rising shares"):
        online_codelength(x, labels, groups=np.arange(N), blocks=(0.5, 0.2, 1.0))
    with pytest.raises(ValueError, match="floor of 1"):
        online_codelength(x, labels, groups=np.arange(N), floor=1)
    flat = online_codelength(np.ones((N, 3)), labels, groups=np.arange(N), orders=2)
    assert flat.activations.compression == pytest.approx(1, abs=0.02)
