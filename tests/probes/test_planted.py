"""Signals whose information is known in closed form are found within their intervals."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from faithprobe.probes import cross_fitted, one_hot_by_slot
from tests.probes.planted import WIDTH, parity, planted, sums


def gaussian_information(distance: float) -> float:
    """I(X; Y) in bits of a fair bit Y and X ~ N(+-distance, 1): H(X) - H(X | Y), by integration."""

    def minus_p_log_p(x: float) -> float:
        p = (norm.pdf(x, -distance) + norm.pdf(x, distance)) / 2
        return -p * np.log2(p)

    return quad(minus_p_log_p, -distance - 12, distance + 12, limit=200)[0] - np.log2(2 * np.pi * np.e) / 2


def rotated(signal: np.ndarray, *, seed: int, width: int = WIDTH) -> np.ndarray:
    """(items, width): the signal in one direction, unit noise in all directions orthogonal to it: nothing is lost."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0]
    return np.column_stack([signal, rng.normal(size=(len(signal), width - 1))]) @ basis.T


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0])
def test_a_bit_in_gaussian_noise(distance: float) -> None:
    rng = np.random.default_rng(round(10 * distance))
    bit = rng.integers(0, 2, 2000)
    x = rotated(distance * (2 * bit - 1) + rng.normal(size=2000), seed=1)
    found = cross_fitted({0: x}, bit.astype(str), groups=np.arange(2000), shuffles=0)
    truth = gaussian_information(distance)
    assert truth in found.gain
    assert found.bits == pytest.approx(truth, abs=0.05)
    assert found.accuracy_interval is not None
    assert norm.cdf(distance) in found.accuracy_interval
    assert found.auroc is not None
    assert norm.cdf(distance * np.sqrt(2)) == pytest.approx(found.auroc.value, abs=0.02)


def test_what_is_integrated_is_right() -> None:
    assert gaussian_information(0.0) == pytest.approx(0, abs=1e-6)
    assert gaussian_information(6.0) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("weights", [(1, 1), (3, -2), (1, 0)])
def test_any_linear_function_of_the_operands_earns_nothing(weights: tuple[int, int]) -> None:
    """In classes that are ordered by it, so that it can be read at all; beyond the page there is nothing."""
    operands, _, groups, text = sums(600, seed=30, largest=12)
    value = operands @ np.array(weights)
    labels = np.digitize(value, np.quantile(value, [0.25, 0.5, 0.75])).astype(str)
    x = {0: planted(np.column_stack([operands, value]) / 4, seed=31, noise=0.1)}
    found = cross_fitted(x, labels, groups=groups, controls={"text": text}, conditional=True)
    assert found.bits > 1
    assert found.fraction < 0.03
    assert found.conditional_fraction is not None
    assert found.conditional_fraction < 0.03


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_a_copied_token_earns_nothing_beyond_its_embedding(noise: float) -> None:
    rng = np.random.default_rng(32)
    token = rng.integers(0, 30, 600)
    embedding = rng.normal(size=(30, WIDTH))[token]
    mixed = embedding @ rng.normal(size=(WIDTH, WIDTH)) / 5 + noise * rng.normal(size=(600, WIDTH))
    found = cross_fitted({3: mixed}, parity(token), groups=np.arange(600), controls={"embedding": embedding})
    assert found.bits > 0.5
    assert found.control == "embedding"
    assert found.fraction < 0.03


def test_a_class_that_the_linear_part_tells_is_credited_for_the_rest_only() -> None:
    """A state that holds one of five ordered classes, and nothing of the operands. Its mean at given operands is a
    function of them of which the linear part tells more than a bit: the control has to be read out of sample."""
    operands, values, groups, _ = sums(600, seed=2, largest=9)
    (text,) = one_hot_by_slot([{"a": int(a), "b": int(b)} for a, b in operands])
    ordered = np.digitize(values, [6, 9, 12, 15])
    x = planted(np.eye(5)[ordered] * 2, seed=33, noise=0.3)
    found = cross_fitted({0: x}, ordered.astype(str), groups=groups, controls={"text": text})
    assert found.control == "text-linear"
    assert found.control_bits > 1.2
    assert found.bits > 2.1
