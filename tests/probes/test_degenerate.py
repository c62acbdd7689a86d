"""Data that cannot be read: a clear error with its number, or a result that says that there is nothing."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest

from faithprobe.errors import UnscoredError
from faithprobe.probes import MISSING, Information, cross_fitted, transfer

N = 320
Case = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features, labels, groups."""


def within(x: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Information:
    return cross_fitted({0: x}, labels, groups=groups, controls={"text": x[:, :1]}, shuffles=2, conditional=True)


def between(x: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Information:
    """The last 60 items are read by probes of the others."""
    train, other = slice(0, N - 60), slice(N - 60, N)
    return transfer(
        *({0: x[train]}, labels[train], {0: x[other]}, labels[other]),
        groups=groups[train],
        eval_groups=groups[other],
        controls={"text": x[train, :1]},
        eval_controls={"text": x[other, :1]},
        shuffles=2,
        conditional=True,
    )


def case(**changed: Callable[[np.random.Generator], np.ndarray]) -> Case:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(N, 6)), rng.integers(0, 2, N).astype(str)
    made = {"x": x, "labels": labels, "groups": np.arange(N)} | {name: make(rng) for name, make in changed.items()}
    return made["x"], made["labels"], made["groups"]


def one_nan(rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(size=(N, 6))
    x[7, 3] = np.nan
    return x


REFUSED = {
    "one class": (case(labels=lambda rng: np.full(N, "a")), r"constant"),
    "no label": (case(labels=lambda rng: np.full(N, MISSING)), r"no item has a label"),
    "a class for every item": (case(labels=lambda rng: np.arange(N).astype(str)), r"\d+ items for \d+ classes"),
    "fewer items than twice the classes": (
        case(labels=lambda rng: rng.permutation(np.arange(N) // 2).astype(str)),
        r"items for \d+ classes",
    ),
    "fewer problems than classes": (
        case(labels=lambda rng: (np.arange(N) // 40).astype(str), groups=lambda rng: np.arange(N) // 40),
        r"of \d+ (evaluated )?items have a class that (training items lack|no training item has)",
    ),
    "one problem": (
        case(groups=lambda rng: np.zeros(N, int)),
        r"one group holds more than half|0 training items are left",
    ),
    "NaN": (case(x=one_nan), r"1 numbers of activations at layer 0 are not finite"),
    "too few labels": (
        case(labels=lambda rng: np.where(np.arange(N) < 80, rng.integers(0, 2, N).astype(str), MISSING)),
        r"at least 200 are needed|none of 60 evaluated items",
    ),
}


@pytest.mark.parametrize("read", [within, between])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_number(name: str, read: Callable[..., Information]) -> None:
    given, message = REFUSED[name]
    with pytest.raises(UnscoredError, match=message):
        read(*given)


READ = {
    "constant features": case(x=lambda rng: np.full((N, 6), 3.0)),
    "all zero": case(x=lambda rng: np.zeros((N, 6))),
    "one constant column": case(x=lambda rng: np.column_stack([rng.normal(size=(N, 5)), np.full(N, 1e6)])),
    "more features than items": case(x=lambda rng: rng.normal(size=(N, 2 * N))),
    "one column six times": case(x=lambda rng: np.repeat(rng.normal(size=(N, 1)), 6, axis=1)),
    "huge numbers": case(x=lambda rng: 1e12 * rng.normal(size=(N, 6))),
    "tiny numbers": case(x=lambda rng: 1e-12 * rng.normal(size=(N, 6))),
    "one feature": case(x=lambda rng: rng.normal(size=(N, 1))),
    "a rare class": case(labels=lambda rng: (np.arange(N) % 50 == 0).astype(str)),
}


@pytest.mark.parametrize("read", [within, between])
@pytest.mark.parametrize("name", READ)
def test_what_holds_nothing_is_read_as_nothing(name: str, read: Callable[..., Information]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(*READ[name])
    assert found.bits == pytest.approx(0, abs=0.03)
    assert found.gain.low <= 0.01
    assert found.fraction < 0.1
    for interval in (found.gain, found.credit, found.accuracy_interval, found.conditional):
        assert interval is not None
        assert np.isfinite([interval.value, interval.low, interval.high]).all()
    assert found.conditional_fraction is not None


@pytest.mark.parametrize("read", [within, between])
def test_more_features_than_items_still_find_a_signal(read: Callable[..., Information]) -> None:
    x, labels, groups = READ["more features than items"]
    x = x + 3 * (labels == "1")[:, None] * np.random.default_rng(1).normal(size=x.shape[1])
    assert read(x, labels, groups).bits > 0.9
