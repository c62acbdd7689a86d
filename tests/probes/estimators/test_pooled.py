"""Probes of a window find what stands at another position in every item."""

from typing import Any

import numpy as np
import pytest
import torch

from faithprobe.probes.estimators import AttentionPooledProbe, LinearProbe, MaxPooledProbe

PROBES = [AttentionPooledProbe, MaxPooledProbe]
N, WINDOW, D = 300, 12, 16


def wandering(seed: int, n: int = N, classes: int = 2, window: int = WINDOW) -> tuple[np.ndarray, ...]:
    """At one position of each item stands a mark, and the class beside it; at the others, neither."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).normal(size=(D, D)))[0]
    y, place = rng.integers(0, classes, n), rng.integers(0, window, n)
    x = rng.normal(size=(n, window, D))
    x[np.arange(n), place] += 6 * basis[0] + 6 * basis[1 + y]
    return x, y, place


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("probe", PROBES)
def test_a_signal_that_wanders_is_found_where_one_position_knows_nothing(probe: type, classes: int) -> None:
    x, y, _ = wandering(0, classes=classes)
    unseen, truth, place = wandering(1, classes=classes)
    fitted = probe().fit(x, y)
    assert fitted.coef_.shape == (1 if classes == 2 else classes, D)
    assert fitted.score(unseen, truth) > 0.95
    single = [LinearProbe().fit(x[:, p], y).score(unseen[:, p], truth) for p in (0, WINDOW - 1)]
    assert max(single) < 1 / classes + 0.15  # the signal is there in one item of twelve
    logits = fitted.position_logits(unseen)
    where = logits if classes == 2 else logits[np.arange(N), :, truth]
    of_second = truth == 1 if classes == 2 else np.ones(N, dtype=bool)
    assert (where.argmax(axis=1) == place)[of_second].mean() > 0.95


@pytest.mark.parametrize("queries", ["shared", "per class"])
def test_attention_points_at_the_position(queries: str) -> None:
    x, y, _ = wandering(0, classes=3)
    unseen, _, place = wandering(1, classes=3)
    probe = AttentionPooledProbe(queries=queries).fit(x, y)
    weights = probe.attention(unseen)
    assert weights.shape == ((N, WINDOW) if queries == "shared" else (N, WINDOW, 3))
    assert weights.sum(axis=1) == pytest.approx(np.ones_like(weights.sum(axis=1)))
    assert probe.query_.shape == ((1, D) if queries == "shared" else (3, D))
    if queries == "shared":
        assert (weights.argmax(axis=1) == place).mean() > 0.9
        by_hand = np.exp(unseen @ probe.query_[0] / np.sqrt(D))
        by_hand /= by_hand.sum(axis=1, keepdims=True)
        assert by_hand == pytest.approx(weights)
        pooled = (weights[:, :, None] * unseen).sum(axis=1)
        assert pooled @ probe.coef_.T + probe.intercept_ == pytest.approx(probe.decision_function(unseen))


def test_the_maximum_is_over_positions_and_finds_the_planted_direction() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=D) / np.sqrt(D)
    y = rng.integers(0, 2, 1000)
    x = rng.normal(size=(1000, WINDOW, D))
    x[np.arange(1000), rng.integers(0, WINDOW, 1000)] += 5 * y[:, None] * direction
    probe = MaxPooledProbe().fit(x, y)
    assert probe.coef_[0] @ direction / np.linalg.norm(probe.coef_) / np.linalg.norm(direction) > 0.95
    assert (x @ probe.coef_[0] + probe.intercept_).max(axis=1) == pytest.approx(probe.decision_function(x))


@pytest.mark.parametrize("queries", ["shared", "per class"])
def test_attention_is_fitted_to_a_stationary_point_of_its_objective(queries: str) -> None:
    x, y, _ = wandering(0, classes=3)
    x = (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))
    probe = AttentionPooledProbe(queries=queries, penalties=[3.0]).fit(x, y)
    h, classes = torch.tensor(x), torch.tensor(y)

    def gradient(share: float) -> float:
        w, b, q = (
            torch.tensor(some * share, requires_grad=True) for some in (probe.coef_, probe.intercept_, probe.query_)
        )
        attention = torch.softmax(torch.einsum("npd,cd->npc", h, q) / D**0.5, dim=1)
        logits = (attention * torch.einsum("npd,cd->npc", h, w)).sum(dim=1) + b
        penalty = D / (2 * 3.0 * N) * (w.square().sum() + q.square().sum() / D)
        (torch.nn.functional.cross_entropy(logits, classes) + penalty).backward()
        return float(sum(some.grad.square().sum() for some in (w, b)) + D * q.grad.square().sum()) ** 0.5

    assert gradient(1.0) < 0.01
    assert gradient(0.8) > 0.03


@pytest.mark.parametrize("probe", PROBES)
def test_of_one_position_both_are_logistic_regression(probe: type) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = rng.normal(size=(300, 8)) * np.geomspace(0.1, 10, 8) + rng.normal(size=(3, 8))[y]
    found, expected = (kind([5.0]) if kind is LinearProbe else kind(penalties=[5.0]) for kind in (probe, LinearProbe))
    p = expected.fit(x, y).predict_proba(x)
    assert np.abs(found.fit(x, y).predict_proba(x) - p).max() < 0.005
    padded, mask = np.zeros((300, 3, 8)), np.zeros((300, 3), dtype=bool)
    padded[:, 1], mask[:, 1] = x, True
    assert np.abs(found.fit(padded, y, mask=mask).predict_proba(padded, mask) - p).max() < 0.005


@pytest.mark.parametrize("probe", PROBES)
def test_the_order_of_positions_changes_nothing(probe: type) -> None:
    x, y, _ = wandering(0)
    shuffled = np.random.default_rng(2).permuted(np.arange(WINDOW)[None].repeat(N, axis=0), axis=1)
    other = np.take_along_axis(x, shuffled[:, :, None], axis=1)
    fitted, refitted = probe().fit(x, y), probe().fit(other, y)
    assert fitted.predict_proba(other) == pytest.approx(fitted.predict_proba(x))
    assert np.abs(refitted.predict_proba(x) - fitted.predict_proba(x)).max() < 0.02


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("padding", [0.0, 1e6, np.nan])
def test_padding_under_the_mask_changes_nothing(probe: type, padding: float) -> None:
    x, y, _ = wandering(0)
    longer = np.concatenate([x, np.full((N, 5, D), padding)], axis=1)
    order = np.random.default_rng(3).permuted(np.arange(WINDOW + 5)[None].repeat(N, axis=0), axis=1)
    longer = np.take_along_axis(longer, order[:, :, None], axis=1)
    mask = order < WINDOW
    plain, padded = probe(penalties=[100.0]).fit(x, y), probe(penalties=[100.0]).fit(longer, y, mask=mask)
    assert np.abs(padded.predict_proba(longer, mask) - plain.predict_proba(x)).max() < 0.02
    assert padded.predict_proba(x) == pytest.approx(padded.predict_proba(longer, mask))  # and another window
    assert padded.score(longer, y, mask=mask) == padded.score(x, y)
    rows = longer.reshape(N, -1)
    flat = probe(penalties=[100.0], window=WINDOW + 5).fit(rows, y, mask=mask)
    assert flat.predict_proba(rows, mask) == pytest.approx(padded.predict_proba(longer, mask))
    if probe is AttentionPooledProbe:
        assert (padded.attention(longer, mask)[~mask] == 0).all()
    assert (padded.position_logits(longer, mask)[~mask] == -np.inf).all()


@pytest.mark.parametrize("probe", PROBES)
def test_groups_keep_the_penalty_honest(probe: type) -> None:
    """Items of a group are almost copies and share a class that nothing tells: random folds recite it."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    x = rng.normal(size=(40, 3, 30))[groups] + 0.1 * rng.normal(size=(200, 3, 30))
    y = rng.integers(0, 2, 40)[groups]
    assert probe().fit(x, y, groups=groups).penalty_ < probe().fit(x, y).penalty_ / 5


@pytest.mark.parametrize("probe", PROBES)
def test_fits_are_the_same_every_time_and_touch_no_global_state(probe: type, untouched_randomness: object) -> None:
    x, y, _ = wandering(0, n=100)
    assert (probe().fit(x, y).coef_ == probe().fit(x, y).coef_).all()


@pytest.mark.parametrize("probe", PROBES)
def test_constant_features_tell_nothing(probe: type) -> None:
    y = np.random.default_rng(0).integers(0, 2, 100)
    fitted = probe().fit(np.full((100, 4, 3), 0.1), y)
    assert (fitted.coef_ == 0).all()
    assert fitted.predict_proba(np.zeros((1, 4, 3)))[0] == pytest.approx(np.bincount(y) / 100, abs=1e-3)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    ("options", "shape", "mask", "message"),
    [
        ({"window": 4}, (40, 10), None, "window=4 does not divide the 10 features"),
        ({"window": 0}, (40, 10), None, "window=0"),
        ({"window": 2}, (40, 5, 3), None, r"window=2, and X .* is \(40, 5, 3\)"),
        ({}, (40, 5, 3), np.ones((40, 4), dtype=bool), r"a mask of shape \(40, 4\), and X has 40 items of 5"),
        (
            {},
            (40, 5, 3),
            np.arange(200).reshape(40, 5) > 4,
            "1 items have no position in the mask, the first is item 0",
        ),
        ({}, (40, 5, 3), np.full((40, 5), 0.5), "a mask is True"),
        ({"components": 0}, (40, 5, 3), None, "components=0"),
        ({"penalties": []}, (40, 5, 3), None, "penalties"),
    ],
)
def test_what_cannot_be_fitted_is_said(
    probe: type, options: dict[str, Any], shape: Any, mask: Any, message: str
) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=message):
        probe(**options).fit(rng.normal(size=shape), np.arange(40) % 2, mask=mask)


def test_what_cannot_be_predicted_is_said() -> None:
    x, y, _ = wandering(0, n=60)
    probe = AttentionPooledProbe(penalties=[1.0]).fit(x, y)
    with pytest.raises(ValueError, match="positions of 5 features, and the probe was fitted to 16"):
        probe.predict(np.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match=f"expecting {WINDOW * D} features"):
        probe.predict(np.zeros((3, D)))
    with pytest.raises(ValueError, match="NaN"):
        probe.predict(np.full((3, 4, D), np.nan))
    with pytest.raises(ValueError, match="queries='both'"):
        AttentionPooledProbe(queries="both").fit(x, y)
