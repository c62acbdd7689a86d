"""AUROC within strata against counted pairs; its variance against the published formulas, written out; coverage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from faithprobe.scores.auroc import auroc


def counted(scores: Sequence[float], labels: Sequence[float], strata: Sequence[object]) -> float:
    """Every pair of one stratum, one by one."""
    above = pairs = 0.0
    for x, a, s in zip(scores, labels, strata):
        for y, b, t in zip(scores, labels, strata):
            if s == t and a == 1 and b == 0 and not (np.isnan(x) or np.isnan(y)):
                above += (x > y) + (x == y) / 2
                pairs += 1
    return above / pairs


def kernel(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    return (true[:, None] > false) + (true[:, None] == false) / 2


def delong_variance(scores: np.ndarray, labels: np.ndarray) -> float:
    """DeLong et al. 1988: var = S10 / m + S01 / n, with sample variances of the structural components."""
    psi = kernel(scores[labels == 1], scores[labels == 0])
    return float(psi.mean(1).var(ddof=1) / psi.shape[0] + psi.mean(0).var(ddof=1) / psi.shape[1])


def obuchowski_variance(scores: np.ndarray, labels: np.ndarray, clusters: np.ndarray) -> float:
    """Obuchowski 1997, eqs. 2 to 5, by loops over clusters."""
    true, false = labels == 1, labels == 0
    psi = kernel(scores[true], scores[false])
    area, m, n = psi.mean(), *psi.shape
    names = np.unique(clusters)
    v10, v01 = np.full(len(scores), np.nan), np.full(len(scores), np.nan)
    v10[true], v01[false] = psi.mean(1), psi.mean(0)
    a = np.array([(v10[(clusters == c) & true] - area).sum() for c in names])
    b = np.array([(v01[(clusters == c) & false] - area).sum() for c in names])
    i10 = sum(bool((true & (clusters == c)).any()) for c in names)
    i01 = sum(bool((false & (clusters == c)).any()) for c in names)
    s10, s01 = i10 / (i10 - 1) / m * (a**2).sum(), i01 / (i01 - 1) / n * (b**2).sum()
    s11 = len(names) / (len(names) - 1) * (a * b).sum()
    return float(s10 / m + s01 / n + 2 * s11 / (m * n))


def variance(monkeypatch: pytest.MonkeyPatch, *given: object, **options: object) -> float:
    """The variance that `auroc` hands to its interval."""
    seen: list[float] = []
    monkeypatch.setattr("faithprobe.scores.auroc._interval", lambda _, var, *__: (seen.append(var), (0.0, 1.0))[1])
    auroc(*given, **options)  # type: ignore[arg-type]
    return seen[0]


@pytest.mark.parametrize("seed", range(5))
def test_it_counts_pairs_within_strata_with_ties_half(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 60
    scores = rng.integers(0, 5, n).astype(float)
    scores[rng.random(n) < 0.1] = np.nan
    labels = (rng.random(n) < 0.4).astype(float)
    strata = rng.integers(0, 3, n)
    found = auroc(scores, labels, strata=strata)
    assert found.value == pytest.approx(counted(scores, labels, strata))
    for s in range(3):
        own = (strata == s) & ~np.isnan(scores)
        assert found.strata[str(s)] == pytest.approx(roc_auc_score(labels[own], scores[own]))
    assert found.n == (~np.isnan(scores)).sum() == found.n_true + found.n_false


def test_a_difference_between_strata_is_no_skill() -> None:
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], 500)
    labels = (rng.random(1000) < np.where(strata == 1, 0.9, 0.1)).astype(float)
    scores = strata + 0.01 * rng.normal(size=1000)  # knows the stratum and nothing else
    assert auroc(scores, labels).value > 0.85
    within = auroc(scores, labels, strata=strata)
    assert within.low < 0.5 < within.high


def test_a_hand_computed_example(monkeypatch: pytest.MonkeyPatch) -> None:
    # True 3, 2, 2 beat 1, .75, .75 of false 2, 1: A = 5 / 6.
    scores, labels = np.array([3, 2, 2, 2, 1.0]), np.array([1, 1, 1, 0, 0.0])
    assert auroc(scores, labels).value == pytest.approx(5 / 6)
    # S10 = var(1, 3/4, 3/4) = 1/48; S01 = var(2/3, 1) = 1/18.
    assert variance(monkeypatch, scores, labels) == pytest.approx(1 / 48 / 3 + 1 / 18 / 2)


@pytest.mark.parametrize("ties", [False, True])
def test_without_clusters_the_variance_is_delongs(monkeypatch: pytest.MonkeyPatch, ties: bool) -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random(80) < 0.3).astype(float)
    scores = rng.normal(size=80) + labels
    scores = np.round(scores) if ties else scores
    assert variance(monkeypatch, scores, labels) == pytest.approx(delong_variance(scores, labels))


@pytest.mark.parametrize("mixed", ["one class", "both", "some of each"])
def test_with_clusters_the_variance_is_obuchowskis(monkeypatch: pytest.MonkeyPatch, mixed: str) -> None:
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(40), 4)
    labels = {
        "one class": clusters % 2,
        "both": np.tile([0, 0, 1, 1], 40),
        "some of each": rng.integers(0, 2, 160),
    }[mixed].astype(float)
    scores = rng.normal(size=40)[clusters] + rng.normal(size=160) + labels
    expected = obuchowski_variance(scores, labels, clusters)
    found = variance(monkeypatch, scores, labels, clusters=clusters)
    assert found == pytest.approx(expected, rel=0.002 if mixed == "some of each" else 1e-9)
    assert found != pytest.approx(delong_variance(scores, labels), rel=0.05)


def test_over_strata_the_variance_is_that_of_their_weighted_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    strata = rng.integers(0, 3, 150)
    labels = (rng.random(150) < 0.5).astype(float)
    scores = rng.normal(size=150) + labels
    parts = [(scores[strata == s], labels[strata == s]) for s in range(3)]
    weight = np.array([y.sum() * (1 - y).sum() for _, y in parts])
    expected = ((weight / weight.sum()) ** 2 * [delong_variance(*part) for part in parts]).sum()
    assert variance(monkeypatch, scores, labels, strata=strata) == pytest.approx(expected)


def test_it_knows_only_ranks_and_mirrors() -> None:
    rng = np.random.default_rng(4)
    labels = (rng.random(60) < 0.5).astype(float)
    scores = rng.normal(size=60) + labels
    plain, other, mirrored = auroc(scores, labels), auroc(np.exp(scores), labels), auroc(-scores, labels)
    assert (other.value, other.low, other.high) == (plain.value, plain.low, plain.high)
    assert (1 - mirrored.value, 1 - mirrored.high, 1 - mirrored.low) == pytest.approx(
        (plain.value, plain.low, plain.high)
    )
    flipped = auroc(-scores, 1 - labels)
    assert (flipped.value, flipped.low, flipped.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_copies_of_an_item_inside_its_cluster_add_nothing() -> None:
    rng = np.random.default_rng(5)
    labels = (rng.random(60) < 0.5).astype(float)
    scores = rng.normal(size=60) + labels
    once = auroc(scores, labels)
    five = auroc(*(np.repeat(x, 5) for x in (scores, labels)), clusters=np.repeat(np.arange(60), 5))
    assert (five.value, five.low, five.high) == pytest.approx((once.value, once.low, once.high))


@pytest.mark.parametrize(
    ("kind", "n_true", "n_false"),
    [("normal", 30, 30), ("normal", 20, 100), ("near one", 30, 30), ("failures", 30, 30), ("clustered", 60, 60)],
)
def test_the_interval_covers_at_least_as_often_as_it_nearly_says(kind: str, n_true: int, n_false: int) -> None:
    rng = np.random.default_rng(6)
    labels = np.repeat([1.0, 0.0], [n_true, n_false])
    clusters = np.arange(n_true + n_false)
    inside, runs = 0, 500
    for _ in range(runs):
        scores = rng.normal(size=len(labels))
        if kind == "failures":  # a true item in fifty is scored below everything
            scores, truth = np.where((labels == 1) & (rng.random(len(labels)) > 0.02), 1, labels * -1), 0.98
        elif kind == "clustered":  # three true and three false items of each of 20 problems
            clusters = np.tile(np.arange(20), 6)
            effect = rng.normal(size=(2, 20))
            scores = 0.6 * scores + 0.8 * effect[labels.astype(int), clusters] + labels
            truth = 0.7602  # Phi(1 / sqrt(2)): the two classes of a problem have effects of their own
        else:
            scores, truth = scores + labels * (3 if kind == "near one" else 1), 0.9831 if kind == "near one" else 0.7602
        found = auroc(scores, labels, clusters=clusters)
        inside += found.low <= truth <= found.high
    assert inside / runs >= 0.92


def test_at_one_the_interval_is_that_of_the_smaller_class() -> None:
    from faithprobe.scores import share_interval

    found = auroc(np.arange(60.0), np.arange(60) >= 40)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(share_interval(20, 20).low)
    # One swapped pair of 800 moves it little: no cliff beside 1.
    swapped = auroc([*range(39), 40, 39, *range(41, 60)], np.arange(60) >= 40)
    assert swapped.value == pytest.approx(1 - 1 / 800)
    assert abs(swapped.low - found.low) < 0.03
    few = auroc(np.arange(60.0), np.arange(60) >= 40, clusters=np.arange(60) % 5)
    assert few.low == pytest.approx(share_interval(5, 5).low)


def test_lone_clusters_are_not_taken_for_certainty() -> None:
    found = auroc([3.0, 1, 2, 0, 0.5, 1.5], [1, 1, 1, 0, 0, 0], clusters=["a", "a", "a", "b", "c", "d"])
    assert found.high - found.low > 0.7


@pytest.mark.parametrize(
    ("scores", "labels", "strata", "why"),
    [
        ([], [], None, "no items"),
        ([np.nan, np.nan], [1, 0], None, "none of 2 items is scored"),
        ([1.0, 2.0], [np.nan, np.nan], None, "none of 2 items has a label"),
        ([1.0, np.nan], [np.nan, 0], None, "no item is both"),
        ([1.0, 2.0, np.nan], [1, 1, 0], None, "all 2 scored items are labelled true"),
        ([1.0, 2.0], [1, 0], ["a", "b"], "no stratum"),
    ],
)
def test_nothing_to_compare_has_a_reason(scores: list, labels: list, strata: list | None, why: str) -> None:
    found = auroc(scores, labels, strata=strata, clusters=list(range(len(scores))))
    assert found.value is found.low is found.high is None
    assert why in found.undefined


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="3 scores for 2 labels"):
        auroc([1.0, 2.0, 3.0], [1, 0])
    with pytest.raises(ValueError, match="true"):
        auroc([1.0, 2.0], [1, 2])
    with pytest.raises(ValueError, match="1 strata"):
        auroc([1.0, 2.0], [1, 0], strata=["a"])
    with pytest.raises(ValueError, match="1 clusters"):
        auroc([1.0, 2.0], [1, 0], clusters=["a"])
