"""LinearProbe is scikit-learn's logistic regression, with a penalty that grouped folds choose."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from faithprobe.probes.estimators import LinearProbe


def two_means(n: int, d: int, classes: int = 2, *, seed: int = 0, strength: float = 1.0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    means, y = strength * rng.normal(size=(classes, d)), rng.integers(0, classes, n)
    return rng.normal(size=(n, d)) + means[y], y, means


@pytest.mark.parametrize(("n", "d", "classes"), [(300, 10, 2), (300, 10, 4), (40, 90, 2)])
def test_at_one_penalty_it_is_logistic_regression_on_standardised_features(n: int, d: int, classes: int) -> None:
    x, y, _ = two_means(n, d, classes, strength=0.3)
    x = x * np.geomspace(0.01, 100, d) + 1000
    probe = LinearProbe([0.5 * d]).fit(x, y)
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-8, max_iter=10_000)).fit(x, y)
    assert probe.coef_.shape == (1 if classes == 2 else classes, d)
    assert np.abs(probe.predict_proba(x) - peer.predict_proba(x)).max() < 0.005
    scaled = probe.coef_ * x.std(axis=0)
    assert np.abs(scaled - peer[-1].coef_).max() < 0.02 * np.abs(peer[-1].coef_).max()


def test_held_out_accuracy_is_that_of_scikit_learn() -> None:
    """Paired over data sets and splits: within a point on average."""
    sets = [load(return_X_y=True) for load in (load_breast_cancer, load_wine, load_iris, load_digits)]
    for seed, (n, d, informative, classes) in enumerate([(600, 64, 10, 3), (300, 400, 20, 2), (1000, 100, 5, 2)]):
        made = {"n_samples": n, "n_features": d, "n_informative": informative, "n_classes": classes}
        sets.append(make_classification(**made, random_state=seed))
    differences = []
    for x, y in sets:
        for split in range(3):
            x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.5, random_state=split, stratify=y)
            peer = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x_train, y_train)
            probe = LinearProbe().fit(x_train, y_train)
            differences.append(probe.score(x_test, y_test) - peer.score(x_test, y_test))
    assert abs(np.mean(differences)) < 0.01


def test_a_planted_direction_is_found() -> None:
    x, y, means = two_means(3000, 32, strength=0.2)
    probe, direction = LinearProbe().fit(x, y), means[1] - means[0]
    assert probe.coef_[0] @ direction / np.linalg.norm(probe.coef_) / np.linalg.norm(direction) > 0.97


def test_groups_keep_the_penalty_honest() -> None:
    """The class of a group is random but for a weak signal, and its name is written in many features."""
    rng = np.random.default_rng(0)

    def draw(n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        groups, y = np.repeat(np.arange(n_groups), 6), rng.integers(0, 2, n_groups)
        signal = y[:, None] * 0.8 + rng.normal(size=(n_groups, 1))
        x = np.column_stack([signal + np.zeros((1, 10)), rng.normal(size=(n_groups, 60))])[groups]
        return x + 0.1 * rng.normal(size=x.shape), y[groups], groups

    x, y, groups = draw(60)
    unseen, truth, _ = draw(500)
    leaky, grouped = LinearProbe().fit(x, y), LinearProbe().fit(x, y, groups=groups)

    def nats(probe: LinearProbe) -> float:
        return -np.log(probe.predict_proba(unseen)[np.arange(len(truth)), truth]).mean()

    assert grouped.penalty_ < leaky.penalty_ / 5
    assert nats(grouped) < nats(leaky) - 0.3


def test_of_noise_it_says_the_class_frequencies() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 50)), rng.choice(3, 300, p=[0.5, 0.3, 0.2])
    probe = LinearProbe().fit(x, y)
    assert np.abs(probe.predict_proba(x) - np.bincount(y) / 300).mean() < 0.03


def test_components_leave_out_what_varies_little() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    common = rng.normal(size=(400, 1))
    x = np.column_stack([common + 0.1 * rng.normal(size=(400, 10)), rng.normal(size=400) + 3 * y])
    assert LinearProbe().fit(x, y).score(x, y) > 0.9
    assert LinearProbe(components=1).fit(x, y).score(x, y) < 0.65


def test_constant_features_tell_nothing() -> None:
    x, y, _ = two_means(100, 4)
    probe = LinearProbe().fit(np.column_stack([x, np.full(100, 0.1)]), y)
    assert probe.coef_[0, -1] == 0
    empty = LinearProbe().fit(np.full((100, 3), 0.1), y)
    assert empty.predict_proba(np.zeros((1, 3)))[0] == pytest.approx(np.bincount(y) / 100, abs=1e-3)


def test_a_class_of_one_item_is_kept() -> None:
    x, y, _ = two_means(60, 4, 2)
    y[0] = 9
    probe = LinearProbe().fit(x, y)
    assert probe.classes_.tolist() == [0, 1, 9]
    assert np.isfinite(probe.coef_).all()


def test_where_groups_are_classes_no_penalty_can_be_chosen() -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 2
    with pytest.raises(ValueError, match="in every fold the training items are of one class"):
        LinearProbe().fit(x, y, groups=y)
    assert LinearProbe([1.0]).fit(x, y, groups=y).penalty_ == 1
    with pytest.raises(ValueError, match="components=0"):
        LinearProbe(components=0).fit(x, y)
