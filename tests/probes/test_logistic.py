"""Many small logistic regressions at once are those that scikit-learn fits one by one."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from faithprobe.probes.estimator import MIXED, PENALTIES, Problem, fit_predict, null_predictor, read
from faithprobe.probes.logistic import GAP, Batch
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


def objective(
    z: np.ndarray, y: np.ndarray, coef: torch.Tensor, intercept: torch.Tensor, penalty: float
) -> torch.Tensor:
    """As the module's docstring has it, by autograd's own functions."""
    nats = torch.nn.functional.cross_entropy(torch.from_numpy(z) @ coef.T + intercept, torch.from_numpy(y))
    return nats + z.shape[1] / (2 * len(z) * penalty) * coef.square().sum()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_gradient_vanishes_where_the_solver_stops(penalty: float) -> None:
    given = [data(200, 20, 4, seed=1), data(150, 12, 4, seed=2, signal=0.2)]
    batch = Batch([z for z, _ in given], [y for _, y in given], 4)
    batch.solve([penalty] * 2)
    assert batch.coef.shape == (2, 4, 20)
    assert batch.intercept.shape == (2, 4)
    assert not batch.coef[1, :, 12:].any()
    for k, (z, y) in enumerate(given):
        coef, intercept = (
            torch.from_numpy(part).requires_grad_()
            for part in (batch.coef[k, :, : z.shape[1]].copy(), batch.intercept[k].copy())
        )
        found = objective(z, y, coef, intercept, penalty)
        slopes = torch.autograd.grad(found, (coef, intercept))
        assert max(slope.abs().max().item() for slope in slopes) < 2e-3
        nothing = [torch.zeros_like(part, requires_grad=True) for part in (coef, intercept)]
        steepest = torch.autograd.grad(objective(z, y, *nothing, penalty), nothing)
        assert max(slope.abs().max().item() for slope in steepest) > 0.02
        # Newton's method on the same objective ends no lower
        lowest = torch.optim.LBFGS(nothing, lr=1, max_iter=1000, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def closure(z=z, y=y, nothing=nothing, lowest=lowest) -> torch.Tensor:
            lowest.zero_grad()
            value = objective(z, y, *nothing, penalty)
            value.backward()
            return value

        lowest.step(closure)
        assert found.item() - objective(z, y, *nothing, penalty).item() < 10 * GAP


def test_coefficients_are_those_that_predict() -> None:
    given = [data(90, 6, 3, seed=4), data(80, 9, 3, seed=5)]
    batch = Batch([z for z, _ in given], [y for _, y in given], 3)
    batch.solve([30, 1])
    for found, (z, _), coef, intercept in zip(
        batch.probabilities([z for z, _ in given]), given, batch.coef, batch.intercept, strict=True
    ):
        odds = np.exp(z @ coef[:, : z.shape[1]].T + intercept)
        assert found == pytest.approx(odds / odds.sum(axis=1, keepdims=True))


def solved(given: list[tuple[np.ndarray, np.ndarray]], classes: int, device: str, dtype: torch.dtype) -> Batch:
    """By tensors, along the path of penalties."""
    z = [torch.from_numpy(z).to(device, dtype) for z, _ in given]
    batch = Batch(z, [torch.from_numpy(y).to(device) for _, y in given], classes)
    for penalty in (1, 30):
        batch.solve([penalty] * len(given))
    return batch


def test_tensors_are_solved_as_arrays_are(device: str) -> None:
    """Of different sizes, one without a class, one with two."""
    given = [data(120, 15, 4, seed=6), data(90, 8, 3, seed=7), data(100, 10, 2, seed=8)]
    batch = Batch([z for z, _ in given], [y for _, y in given], 4)
    for penalty in (1, 30):
        batch.solve([penalty] * 3)
    tensors = solved(given, 4, device, torch.float64)
    for ours, theirs in ((batch.coef, tensors.coef), (batch.intercept, tensors.intercept)):
        assert theirs.device.type == device
        assert np.abs(ours - theirs.cpu().numpy()).max() < 1e-5
    assert (batch.present == tensors.present.cpu().numpy()).all()
    unseen = [z[:20] for z, _ in given]
    for ours, theirs in zip(
        batch.probabilities(unseen),
        tensors.probabilities([torch.from_numpy(z).to(device) for z in unseen]),
        strict=True,
    ):
        assert np.abs(ours - theirs.cpu().numpy()).max() < 1e-5


def test_float32_is_computed_in_float64_on_a_cpu_and_as_it_is_elsewhere(device: str) -> None:
    given = [data(150, 20, 5, seed=9), data(150, 20, 5, seed=10, signal=0.1)]
    rounded = [(z.astype(np.float32).astype(float), y) for z, y in given]
    single = solved(rounded, 5, device, torch.float32)
    double = solved(rounded, 5, device, torch.float64)
    assert single.coef.dtype == (torch.float64 if device == "cpu" else torch.float32)
    assert (single.coef - double.coef).abs().max() < (1e-12 if device == "cpu" else 0.02)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_float32_can_be_asked_for_and_finds_the_same_probabilities(penalty: float) -> None:
    given = [data(300, 40, 6, seed=11), data(200, 40, 6, seed=12, signal=0.2)]
    found = []
    for dtype in ("float32", "float64"):
        batch = Batch([z for z, _ in given], [y for _, y in given], 6, dtype=dtype)
        batch.solve([penalty] * 2)
        assert batch.coef.dtype == dtype
        found.append(batch.probabilities([z for z, _ in given]))
    assert max(np.abs(a - b).max() for a, b in zip(*found, strict=True)) < 0.01


def test_a_start_near_the_solution_ends_there() -> None:
    given = [data(120, 15, 4, seed=13), data(90, 8, 3, seed=14)]
    cold, warm = (Batch([z for z, _ in given], [y for _, y in given], 4) for _ in range(2))
    cold.solve([30, 30])
    rng = np.random.default_rng(0)
    warm.start([coef + rng.normal(0, 0.3, coef.shape) for coef in cold.coef])
    assert np.abs(warm.coef - cold.coef).max() > 0.3
    assert not warm.coef[1, 3].any()  # a class that the problem lacks
    warm.solve([30, 30])
    unseen = [z for z, _ in given]
    for a, b in zip(cold.probabilities(unseen), warm.probabilities(unseen), strict=True):
        assert np.abs(a - b).max() < 0.01


def test_reading_takes_tensors_and_gives_arrays(device: str) -> None:
    given = [data(200, 12, 3, seed=15 + k, signal=0.5) for k in range(2)]
    inner = [Fold(np.setdiff1d(range(150), test), test) for test in np.array_split(np.arange(150), 3)]
    arrays = [Problem(z[:150], y[:150], z[150:], inner) for z, y in given]
    tensors = [
        Problem(torch.from_numpy(p.z).to(device), p.y, torch.from_numpy(p.z_eval).to(device), inner) for p in arrays
    ]
    for ours, theirs in zip(read(arrays, n_classes=3), read(tensors, n_classes=3), strict=True):
        assert isinstance(theirs.probabilities, np.ndarray)
        assert ours.penalty == theirs.penalty
        assert ours.inner_loss == pytest.approx(theirs.inner_loss, abs=1e-6)
        assert np.abs(ours.probabilities - theirs.probabilities).max() < 1e-5


def test_the_refit_from_the_folds_weights_is_the_fit_of_all_items() -> None:
    given = [data(200, 12, 3, seed=17 + k, signal=0.5) for k in range(2)]
    inner = [Fold(np.setdiff1d(range(150), test), test) for test in np.array_split(np.arange(150), 3)]
    problems = [Problem(z[:150], y[:150], z[150:], inner) for z, y in given]
    readings = read(problems, n_classes=3)
    cold = fit_predict(problems, n_classes=3, penalties=[reading.penalty for reading in readings])
    for reading, expected in zip(readings, cold, strict=True):
        assert np.abs(reading.probabilities - expected).max() < 0.005
