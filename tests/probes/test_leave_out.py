"""Leaving groups out in closed form is refitting without them, and chooses what holds up on new groups."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV

from faithprobe.errors import UnscoredError
from faithprobe.probes import leave_out
from faithprobe.probes.closed_form import PENALTIES, Fit
from faithprobe.probes.leave_out import deal, fit


def each(columns: int) -> list[slice]:
    return [slice(i, i + 1) for i in range(columns)]


def fitted(x: np.ndarray, y: np.ndarray, groups: np.ndarray, *, dtype: torch.dtype = torch.float64, **options) -> Fit:
    options = {"blocks": each(y.shape[1]), "classes": False} | options
    return fit(torch.tensor(x).to(dtype), torch.tensor(y), deal(groups), **options)


def items(n: int, d: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of many scales and means; targets that are clear, weak, and noise."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, d)) @ (np.eye(d) + 0.3 * rng.normal(size=(d, d)))
    signal = noise @ rng.normal(size=d) / np.sqrt(d)
    y = np.c_[signal + 0.1 * rng.normal(size=n), 5 + signal + 3 * rng.normal(size=n), rng.normal(size=n)]
    return noise * rng.uniform(0.1, 10, d) + 20 * rng.normal(size=d), y


def uneven_groups(n: int, *, largest: int = 9, seed: int = 0) -> np.ndarray:
    """Groups of 1 to 9 items, in no order."""
    rng = np.random.default_rng(seed)
    sizes = np.resize(np.arange(1, largest + 1), n)
    return rng.permutation(np.repeat(np.arange(n), sizes)[:n])


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=0)) / x.std(axis=0)


@pytest.fixture
def errors_by_part(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """What `fit` found on every left-out part: (part, penalty, t), and (part, t) of the mean."""
    found = []

    def watched(errors, nulls, *rest):
        found.append((errors.numpy(), nulls.numpy()))
        return chosen(errors, nulls, *rest)

    chosen = leave_out.chosen
    monkeypatch.setattr(leave_out, "chosen", watched)
    return found


def members(parts: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Every group."""
    return [group for part in parts for group in part]


def refits(z: np.ndarray, y: np.ndarray, test: np.ndarray, penalty: float) -> np.ndarray:
    train = np.setdiff1d(np.arange(len(z)), test)
    return Ridge(alpha=penalty, solver="svd").fit(z[train], y[train]).predict(z[test])


@pytest.mark.parametrize(("n", "d"), [(150, 12), (150, 150), (60, 100)])
def test_every_part_is_an_explicit_refit_without_it(n, d, errors_by_part) -> None:
    """Groups of 1 to 9 items; the penalty n a is that of the whole set."""
    x, y = items(n, d)
    parts = deal(uneven_groups(n))
    assert len(parts) > 3
    found = fit(torch.tensor(x), torch.tensor(y), parts, each(3), classes=False)
    z = standardised(x)
    ((errors, nulls),) = errors_by_part
    for part, error, null in zip(members(parts), errors, nulls, strict=True):
        test = part.numpy()
        mean = np.delete(y, test, axis=0).mean(axis=0)
        assert null == pytest.approx(((y[test] - mean) ** 2).sum(axis=0))
        for penalty, one in zip(PENALTIES, error, strict=True):
            expected = ((refits(z, y, test, penalty * n) - y[test]) ** 2).sum(axis=0)
            assert one == pytest.approx(expected, rel=1e-9, abs=1e-9 * null.max())
    assert found.cv_error.numpy() == pytest.approx(errors.sum(axis=0) / n)
    assert found.penalty.tolist() == [PENALTIES[i] for i in errors.sum(axis=0).argmin(axis=0)]
    for t in np.flatnonzero(found.informative.numpy()):
        peer = Ridge(alpha=float(found.penalty[t]) * n, solver="svd").fit(z, y[:, t]).predict(z)
        assert np.abs(found.predict(torch.tensor(x))[:, t].numpy() - peer).max() < 1e-7 * peer.std()


def test_of_classes_it_keeps_the_cross_fitted_predictions() -> None:
    n, classes = 120, 3
    x, y = items(n, 10)
    label = np.digitize(y[:, 0], np.quantile(y[:, 0], [0.4, 0.7]))
    parts = deal(uneven_groups(n))
    found = fit(torch.tensor(x), torch.tensor(np.eye(classes)[label]), parts, [slice(0, classes)])
    predicted, z = np.zeros((n, classes)), standardised(x)
    for part in members(parts):
        test = part.numpy()
        predicted[test] = refits(z, np.eye(classes)[label], test, float(found.penalty) * n)
    means = np.array([predicted[label == k].mean(axis=0) for k in range(classes)])
    assert found.class_means.numpy() == pytest.approx(means)
    assert found.second.numpy() == pytest.approx(predicted.T @ predicted)
    assert found.counts.tolist() == np.bincount(label).tolist()


def test_single_items_are_chosen_as_ridge_cv_chooses() -> None:
    """Leave-one-out of scikit-learn, a penalty for each of 20 targets of all strengths."""
    rng = np.random.default_rng(1)
    n, d = 200, 60
    x, _ = items(n, d)
    z = standardised(x)
    y = z @ rng.normal(size=(d, 20)) / np.sqrt(d) + rng.normal(size=(n, 20)) * np.logspace(-2, 1.5, 20)
    parts = deal(np.arange(n))
    assert [part.shape for part in parts] == [(n, 1)]
    found = fit(torch.tensor(x), torch.tensor(y), parts, each(20), classes=False)
    peer = RidgeCV(np.array(PENALTIES) * n, alpha_per_target=True).fit(z, y)
    assert found.penalty.numpy() * n == pytest.approx(peer.alpha_)
    assert len(set(found.penalty.tolist())) > 4
    used = found.informative.numpy() > 0
    assert used.sum() > 10
    assert found.predict(torch.tensor(x)).numpy()[:, used] == pytest.approx(peer.predict(z)[:, used])


@pytest.mark.parametrize(("n", "d"), [(400, 30), (400, 300), (60, 800)])
def test_float32_is_good_enough(n, d) -> None:
    """The same penalties, and predictions that differ by less than a thousandth of their spread."""
    x, y = items(n, d)
    groups = np.arange(n) // 3
    exact, rounded = (fitted(x, y, groups, dtype=dtype) for dtype in (torch.float64, torch.float32))
    assert torch.allclose(exact.penalty, rounded.penalty)
    assert torch.equal(exact.informative, rounded.informative)
    difference = exact.predict(torch.tensor(x)) - rounded.predict(torch.tensor(x))
    assert difference.abs().max() < 1e-3 * y.std(axis=0).min()


def test_one_item_far_from_all_others_does_not_break_float32() -> None:
    """What it leaves of 1 at the smallest penalty is rounding in float32: a factorisation fails there."""
    x, y = items(500, 300)
    x[7] = 3000 * x.std(axis=0)
    exact, rounded = (fitted(x, y, np.arange(500) // 3, dtype=dtype) for dtype in (torch.float64, torch.float32))
    assert rounded.cv_error.numpy() == pytest.approx(exact.cv_error.numpy(), rel=1e-3)
    assert torch.allclose(exact.penalty, rounded.penalty)


def grouped(n_groups: int, rng: np.random.Generator, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups of 5 items with nearly the same features and the same noise in the target."""
    groups = np.repeat(np.arange(n_groups), 5)
    x = rng.normal(size=(n_groups, len(weights)))[groups] + 0.05 * rng.normal(size=(5 * n_groups, len(weights)))
    return x, (x @ weights + 3 * rng.normal(size=n_groups)[groups])[:, None], groups


def test_leaving_groups_out_does_not_recite_them() -> None:
    """Leave-one-out finds the noise of an item in the rest of its group, and chooses to fit it."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=60) / np.sqrt(60)
    x, y, groups = grouped(80, rng, weights)
    x_new, y_new, _ = grouped(400, rng, weights)
    single = fit(torch.tensor(x), torch.tensor(y), deal(np.arange(400)), each(1), classes=False)
    whole = fitted(x, y, groups)
    assert float(whole.penalty) > 10 * float(single.penalty)

    def r2(found: Fit) -> float:
        error = ((found.predict(torch.tensor(x_new)).numpy() - y_new) ** 2).sum()
        return float(1 - error / ((y.mean() - y_new) ** 2).sum())

    assert float(single.cv_error.min() / single.null_error) < 0.3  # it believes in .7 and more
    assert r2(single) < -0.5
    assert r2(whole) > r2(single) + 0.5
    assert r2(whole) > -0.05


def test_noise_gets_no_coefficients() -> None:
    rng = np.random.default_rng(0)
    found = [
        fitted(rng.normal(size=(n, d)), rng.normal(size=(n, 100)), np.arange(n) // 4)
        for n, d in ((400, 20), (300, 250))
    ]
    assert min(1 - float(one.informative.mean()) for one in found) >= 0.95
    assert all(torch.equal(one.coef.any(dim=0), one.informative > 0) for one in found)


@pytest.mark.parametrize("constant", [0.0, 1e6 / 3])
@pytest.mark.parametrize("d", [10, 200])
def test_constant_features_change_nothing(constant, d) -> None:
    x, y = items(100, d)
    groups = np.arange(100) // 4
    widened, without = fitted(np.insert(x, [0, 4], constant, axis=1), y, groups), fitted(x, y, groups)
    assert not widened.coef[[0, 5]].any()
    assert torch.allclose(
        widened.coef[[i for i in range(d + 2) if i not in (0, 5)]], without.coef, rtol=1e-6, atol=1e-12
    )
    assert not fitted(np.full((100, d), constant), y, groups).coef.any()


def test_the_scale_of_one_feature_hides_no_other() -> None:
    rng = np.random.default_rng(0)
    word = rng.integers(0, 30, 600)
    x = np.c_[np.eye(30)[word], 1e8 * rng.normal(size=600)]
    found = fitted(x, rng.normal(size=(30, 1))[word], np.arange(600) // 3)
    assert float(found.cv_error.min() / found.null_error) < 1e-4


def test_parts_are_the_groups_by_size() -> None:
    groups = uneven_groups(300)
    parts = deal(groups)
    assert sorted(np.concatenate([part.flatten() for part in parts]).tolist()) == list(range(300))
    assert len(members(parts)) == len(set(groups.tolist()))
    assert all(len(set(groups[part.numpy()].tolist())) == 1 for part in members(parts))


def test_items_that_share_a_group_in_any_grouping_are_left_out_together() -> None:
    (part,) = deal((["a", "a", "b", "b"], [1, 2, 2, 3]))
    assert part.tolist() == [[0, 1, 2, 3]]


def test_what_cannot_be_fitted_says_why() -> None:
    x, y = items(40, 3)
    good = deal(np.arange(40))
    with pytest.raises(UnscoredError, match="two groups"):
        fit(torch.tensor(x), torch.tensor(y), (torch.arange(40)[None],), each(3))
    (single,) = good
    twice = single.clone()
    twice[twice == 3] = 4
    for parts in ((single[1:],), (twice,)):
        with pytest.raises(ValueError, match="each one must, once"):
            fit(torch.tensor(x), torch.tensor(y), parts, each(3))
    for spoil_x, spoil_y in ((True, False), (False, True)):
        bad = x.copy(), y.copy()
        bad[0][3, 1] = np.nan if spoil_x else 0
        bad[1][3, 1] = np.inf if spoil_y else 0
        with pytest.raises(ValueError, match="not finite"):
            fit(torch.tensor(bad[0]), torch.tensor(bad[1]), good, each(3))


def test_many_cells_at_once_are_each_alone() -> None:
    cells = [torch.tensor(items(100, 8, seed=seed)[0]) for seed in range(4)]
    y = torch.tensor(items(100, 8)[1])
    parts = deal(np.arange(100) // 2)
    for cell, found in zip(cells, leave_out.fit_all(cells, y, parts, each(3), workers=2), strict=True):
        alone = fit(cell, y, parts, each(3))
        assert torch.equal(found.coef, alone.coef)
        assert torch.equal(found.penalty, alone.penalty)
