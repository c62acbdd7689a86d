"""Many small logistic regressions at once are those that scikit-learn fits one by one."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from faithprobe.probes.estimator import MIXED, PENALTIES, Problem, fit_predict, null_predictor, read
from faithprobe.probes.logistic import Batch
from faithprobe.probes.splits import Fold


def data(n: int, k: int, classes: int, *, seed: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Items whose classes differ in their means, and classes that are not all equally frequent."""
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, n, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    return rng.normal(size=(n, k)) + signal * rng.normal(size=(classes, k))[y], y


@pytest.mark.parametrize("penalty", PENALTIES)
def test_each_problem_of_a_batch_is_solved_as_scikit_learn_solves_it(penalty: float) -> None:
    sizes = [(200, 40, 5, 0.0), (160, 12, 5, 1.0), (90, 3, 2, 0.3), (120, 30, 5, 0.3)]
    given = [data(n, k, classes, seed=i, signal=signal) for i, (n, k, classes, signal) in enumerate(sizes)]
    batch = Batch([z for z, _ in given], [y for _, y in given], 5)
    batch.solve([penalty] * len(given))
    for found, (z, y) in zip(batch.probabilities([z for z, _ in given]), given, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            peer = LogisticRegression(C=penalty / z.shape[1], tol=1e-8, max_iter=10_000).fit(z, y)
        expected = np.zeros((len(z), 5))
        expected[:, peer.classes_] = peer.predict_proba(z)
        assert found.sum(axis=1) == pytest.approx(1)
        assert np.abs(found - expected).max() < 0.01
        assert (found[:, np.setdiff1d(range(5), y)] == 0).all()


def test_a_problem_does_not_depend_on_the_others_in_its_batch() -> None:
    given = [data(150 + 30 * i, 10 + 5 * i, 3, seed=i) for i in range(4)]
    problems = [Problem(z[:100], y[:100], z[100:]) for z, y in given]
    together = fit_predict(problems, n_classes=3, penalties=[0.01, 1, 30, 1000])
    for problem, penalty, found in zip(problems, [0.01, 1, 30, 1000], together, strict=True):
        (alone,) = fit_predict([problem], n_classes=3, penalties=[penalty])
        assert np.abs(found - alone).max() < 1e-3


def test_the_strongest_penalty_is_ignorance() -> None:
    z, y = data(300, 40, 3, seed=0, signal=0)
    (found,) = fit_predict([Problem(z, y, z)], n_classes=3, penalties=PENALTIES[:1])
    assert np.abs(found - null_predictor(y, 3)).max() < 0.05


def test_of_one_class_the_null_predictor_is_all_there_is() -> None:
    z, _ = data(50, 4, 2, seed=0)
    y = np.zeros(50, dtype=int)
    (found,) = fit_predict([Problem(z, y, z)], n_classes=3, penalties=[1000])
    assert found == pytest.approx(np.tile(null_predictor(y, 3), (50, 1)))
    assert found[:, 1:].min() > 0 < MIXED


def test_a_value_in_a_direction_of_little_variance_is_found_after_overfitting_the_rest() -> None:
    """The loss rises before it falls: weaker penalties must still be tried."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 240)
    z = rng.normal(size=(240, 40))
    z[:, 20] = (2 * y - 1) * 0.05
    inner = [Fold(np.setdiff1d(range(240), test), test) for test in np.array_split(np.arange(240), 3)]
    (found,) = read([Problem(z, y, z, inner)], n_classes=2)
    (stopped,) = read([Problem(z, y, z, inner)], n_classes=2, penalties=PENALTIES[:3])
    (ignorant,) = read([Problem(z, y, z, inner)], n_classes=2, penalties=PENALTIES[:1])
    assert stopped.penalty == PENALTIES[0]
    assert found.penalty == PENALTIES[-1]
    assert found.inner_loss < 0.7 * ignorant.inner_loss


def test_nothing_to_read_is_the_label_frequencies_at_any_penalty() -> None:
    _, y = data(90, 1, 3, seed=2)
    inner = [Fold(np.arange(60), np.arange(60, 90)), Fold(np.arange(30, 90), np.arange(30))]
    (found,) = read([Problem(np.zeros((90, 1)), y, np.zeros((5, 1)), inner)], n_classes=3)
    assert found.penalty == PENALTIES[0]
    frequencies = (1 - MIXED) * np.bincount(y, minlength=3) / 90 + MIXED * null_predictor(y, 3)
    assert found.probabilities == pytest.approx(np.tile(frequencies, (5, 1)))
