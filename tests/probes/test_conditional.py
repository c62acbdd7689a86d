"""What activations add to the text: nothing for a copy, all of a computed value, and what only both together tell."""

import numpy as np
import pytest

from faithprobe.probes import cross_fitted
from tests.probes.planted import parity, planted, sums


def test_a_computed_parity_is_all_new() -> None:
    operands, values, groups, text = sums(600, seed=5)
    state = planted(np.column_stack([operands / 10, values % 2 * 4]), seed=6, noise=0.3)
    found = cross_fitted({0: state}, parity(values), groups=groups, controls={"text": text}, conditional=True)
    assert found.conditional is not None
    assert found.conditional.low > 0.8
    # never more than there is: probes of the text are below chance here (XOR), and that is not credited
    assert found.conditional.value <= found.entropy
    assert found.conditional_fraction == pytest.approx(found.conditional.value / found.entropy)


def test_a_bit_that_only_text_and_state_together_tell() -> None:
    """The state holds the bit plus a number that is on the page: a one-time pad, which the page takes off."""
    rng = np.random.default_rng(0)
    bit, pad = rng.integers(0, 2, 800), rng.integers(-5, 6, 800) * 3.0
    found = cross_fitted(
        {0: planted(bit * 2 - 1 + pad, seed=3, noise=0.2)},
        bit.astype(str),
        groups=np.arange(800),
        controls={"text": pad[:, None]},
        conditional=True,
    )
    assert found.bits < 0.05
    assert max(found.controls.values()) < 0.05
    assert found.conditional is not None
    assert found.conditional.low > 0.9


def test_what_the_text_tells_too_is_not_added() -> None:
    """Text and state hold the same bit: beyond the text nothing is left."""
    rng = np.random.default_rng(1)
    bit = rng.integers(0, 2, 600)
    x, text = planted(bit * 3, seed=4, noise=0.3), planted(bit * 3, seed=5, noise=0.3, width=6)
    found = cross_fitted(
        {0: x}, bit.astype(str), groups=np.arange(600), controls={"text": text}, conditional=True, shuffles=2
    )
    assert found.bits > 0.9
    assert found.conditional is not None
    assert found.conditional.value == pytest.approx(0, abs=0.02)


def test_noise_adds_nothing_to_an_informative_text() -> None:
    credited = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        bit = rng.integers(0, 2, 300)
        found = cross_fitted(
            {0: rng.normal(size=(300, 32))},
            bit.astype(str),
            groups=np.arange(300),
            controls={"text": planted(bit, seed=seed, noise=1.0, width=8)},
            conditional=True,
            n_folds=3,
            shuffles=0,
            seed=seed,
        )
        assert found.conditional is not None
        assert abs(found.conditional.value) < 0.05
        credited += found.conditional.low > 0
    assert credited <= 2


def test_it_needs_a_text() -> None:
    rng = np.random.default_rng(2)
    x, y = {0: rng.normal(size=(300, 4))}, rng.integers(0, 2, 300).astype(str)
    with pytest.raises(ValueError, match="called 'text'; there are \\['page'\\]"):
        cross_fitted(x, y, groups=np.arange(300), controls={"page": x[0]}, conditional=True)
    assert cross_fitted(x, y, groups=np.arange(300)).conditional is None
