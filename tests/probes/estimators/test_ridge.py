"""RidgeProbe is scikit-learn's Ridge, with a penalty that grouped folds choose."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold

from faithprobe.probes.estimators import RidgeProbe
from faithprobe.probes.splits import grouped_folds


def planted(n: int, d: int, targets: int, *, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Features of unequal variance with a mean, values that are linear in them, and the weights."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.geomspace(0.3, 3, d) + rng.normal(size=d) * 5
    w = rng.normal(size=(targets, d))
    return x, x @ w.T + noise * np.arange(1, targets + 1) * rng.normal(size=(n, targets)) + 7, w


@pytest.mark.parametrize(("n", "d"), [(200, 30), (60, 200)], ids=["n > d", "n < d"])
def test_coefficients_are_those_of_scikit_learn_at_the_same_penalties(n: int, d: int) -> None:
    x, y, _ = planted(n, d, 3, noise=5)
    probe = RidgeProbe().fit(x, y)
    peer = Ridge(alpha=probe.alpha_).fit(x, y)
    assert probe.coef_.shape == (3, d)
    assert np.abs(probe.coef_ - peer.coef_).max() < 1e-8
    assert np.abs(probe.predict(x) - peer.predict(x)).max() < 1e-8
    assert probe.score(x, y) == pytest.approx(peer.score(x, y))
    alone = RidgeProbe().fit(x, y[:, 1])
    assert isinstance(alone.alpha_, float)
    assert alone.alpha_ == pytest.approx(probe.alpha_[1])
    assert alone.coef_ == pytest.approx(probe.coef_[1])


@pytest.mark.parametrize(("n", "d"), [(200, 30), (60, 200)], ids=["n > d", "n < d"])
def test_penalties_are_those_that_a_grid_search_over_grouped_folds_finds(n: int, d: int) -> None:
    """Each target its own: from one that is all signal to one that is all noise."""
    x, y, _ = planted(n, d, 4, noise=8)
    y[:, 3] = np.random.default_rng(1).normal(size=n)
    groups = np.arange(n) // 4
    relative = np.logspace(-3, 5, 17)
    probe = RidgeProbe(relative, cv=GroupKFold(5)).fit(x, y, groups=groups)
    grid = {"alpha": relative * x.var(axis=0).mean()}
    found = []
    for target in y.T:
        search = GridSearchCV(Ridge(), grid, cv=GroupKFold(5), scoring="neg_mean_squared_error")
        found.append(search.fit(x, target, groups=groups).best_params_["alpha"])
    assert probe.alpha_ == pytest.approx(found)
    assert len(set(found)) > 2


def test_a_number_of_folds_is_grouped_folds() -> None:
    x, y, _ = planted(120, 30, 1, noise=20)
    groups = (np.arange(120) // 3, np.arange(120) % 30)
    groups = (groups[0], groups[0] // 2)
    seed = int(np.random.default_rng(0).integers(2**31))
    pairs = [(fold.train, fold.test) for fold in grouped_folds(groups, n_folds=5, seed=seed)]
    relative = np.logspace(-2, 5, 40)
    by_number = RidgeProbe(relative).fit(x, y, groups=groups)
    assert by_number.alpha_ == RidgeProbe(relative, cv=pairs).fit(x, y).alpha_


def test_folds_may_leave_training_items_out() -> None:
    x, y, _ = planted(90, 12, 1, noise=10)
    pairs = [(np.arange(0, 40), np.arange(60, 90)), (np.arange(45, 90), np.arange(0, 30))]
    relative = np.logspace(-3, 5, 30)
    probe = RidgeProbe(relative, cv=pairs).fit(x, y[:, 0])
    grid = {"alpha": relative * x.var(axis=0).mean()}
    search = GridSearchCV(Ridge(), grid, cv=pairs, scoring="neg_mean_squared_error").fit(x, y[:, 0])
    assert probe.alpha_ == pytest.approx(search.best_params_["alpha"])


def test_groups_keep_the_penalty_honest() -> None:
    """Items of a group share a name, written in many features, and a value that is random: random folds recite it."""
    rng = np.random.default_rng(0)

    def draw(n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        groups = np.repeat(np.arange(n_groups), 6)
        signal = rng.normal(size=len(groups))
        x = np.column_stack([signal[:, None] + np.zeros((1, 5)), rng.normal(size=(n_groups, 80))[groups]])
        return x + 0.1 * rng.normal(size=x.shape), 0.7 * signal + rng.normal(size=n_groups)[groups], groups

    x, y, groups = draw(60)
    unseen, truth, _ = draw(300)
    leaky, grouped = RidgeProbe().fit(x, y), RidgeProbe().fit(x, y, groups=groups)
    assert grouped.alpha_ > 10 * leaky.alpha_
    assert grouped.score(unseen, truth) > leaky.score(unseen, truth) + 0.2


def test_a_planted_direction_is_found() -> None:
    rng = np.random.default_rng(0)
    x, direction = rng.normal(size=(2000, 64)), rng.normal(size=64)
    probe = RidgeProbe().fit(x, x @ direction + 4 * rng.normal(size=2000))
    assert probe.coef_ @ direction / np.linalg.norm(probe.coef_) / np.linalg.norm(direction) > 0.97


def test_of_noise_next_to_nothing_is_learned() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 100)), rng.normal(size=300)
    assert RidgeProbe().fit(x, y).score(rng.normal(size=(5000, 100)), rng.normal(size=5000)) > -0.03


def test_constant_features_tell_nothing() -> None:
    x, y, _ = planted(80, 6, 1)
    wide = np.column_stack([x, np.full((80, 2), 0.1)])
    probe = RidgeProbe().fit(wide, y)
    assert (probe.coef_[:, -2:] == 0).all()
    empty = RidgeProbe().fit(np.full((80, 3), 0.1), y)
    assert (empty.coef_ == 0).all()
    assert empty.predict(np.zeros((2, 3))) == pytest.approx(np.tile(y.mean(axis=0), (2, 1)))


def test_what_cannot_be_fitted_is_said() -> None:
    x, y, _ = planted(40, 3, 1)
    with pytest.raises(ValueError, match="alphas"):
        RidgeProbe(alphas=[0.0, 1.0]).fit(x, y)
    with pytest.raises(ValueError, match=r"no folds.*one penalty"):
        RidgeProbe().fit(x, y, groups=np.zeros(40))
    with pytest.raises(ValueError, match="groups of 39 items, and there are 40"):
        RidgeProbe().fit(x, y, groups=np.arange(39))
    with pytest.raises(ValueError, match="cv=1"):
        RidgeProbe(cv=1).fit(x, y)
    RidgeProbe(alphas=[1.0]).fit(x, y, groups=np.zeros(40))  # nothing to choose
