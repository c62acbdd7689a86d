"""Tensors in, tensors out, and the same numbers as from arrays; and what is refused of any estimator."""

from typing import Any

import numpy as np
import pytest
import torch

from faithprobe.probes.estimators import (
    AttentionPooledProbe,
    DifferenceOfMeans,
    LinearProbe,
    MaxPooledProbe,
    RidgeProbe,
)

CLASSIFIERS = [LinearProbe, DifferenceOfMeans, AttentionPooledProbe, MaxPooledProbe]


def items(classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, 120)
    x = (rng.normal(size=(120, 6)) + 2 * rng.normal(size=(classes, 6))[y]).astype(np.float32)  # exact in both
    return x, y


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("probe", CLASSIFIERS)
def test_classifiers_do_with_tensors_what_they_do_with_arrays(
    probe: type, dtype: torch.dtype, classes: int, device: str
) -> None:
    x, y = items(classes)
    tensor, labels = torch.tensor(x, dtype=dtype, device=device), torch.tensor(y, device=device)
    of_arrays, of_tensors = probe().fit(x, y), probe().fit(tensor, labels)
    for method in ("predict_proba", "decision_function"):
        found, expected = getattr(of_tensors, method)(tensor), getattr(of_arrays, method)(x)
        assert isinstance(found, torch.Tensor)
        assert (found.device, found.dtype) == (tensor.device, torch.float64)
        assert isinstance(expected, np.ndarray)
        assert np.abs(found.cpu().numpy() - expected).max() < 1e-3 * np.abs(expected).max()
    assert isinstance(of_tensors.coef_, np.ndarray)
    assert isinstance(of_tensors.intercept_, np.ndarray)
    predicted = of_tensors.predict(tensor)
    assert (predicted.device, predicted.dtype) == (tensor.device, torch.int64)
    assert (predicted.cpu().numpy() == of_arrays.predict(x)).all()
    assert of_tensors.score(tensor, labels) == of_tensors.score(x, y) == of_arrays.score(x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("targets", [(), (2,)])
def test_ridge_does_with_tensors_what_it_does_with_arrays(dtype: torch.dtype, targets: Any, device: str) -> None:
    x, _ = items()
    y = np.random.default_rng(1).normal(size=(120, *targets)) + x[:, :1].reshape(120, *[1 for _ in targets])
    tensor, values = torch.tensor(x, dtype=dtype, device=device), torch.tensor(y, device=device)
    of_arrays, of_tensors = RidgeProbe().fit(x, y), RidgeProbe().fit(tensor, values)
    found = of_tensors.predict(tensor)
    assert found.device == tensor.device
    assert np.abs(found.cpu().numpy() - of_arrays.predict(x)).max() < 1e-9
    assert np.abs(of_tensors.alpha_ - of_arrays.alpha_).max() < 1e-9
    assert of_tensors.score(tensor, values) == pytest.approx(of_arrays.score(x, y))


@pytest.mark.parametrize("probe", [AttentionPooledProbe, MaxPooledProbe])
def test_windows_of_tensors_with_a_mask(probe: type, device: str) -> None:
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, 2, 80), rng.normal(size=(80, 5, 4))
    x[:, 2] += 3 * y[:, None]
    mask = rng.random((80, 5)) < 0.7
    mask[:, 2] = True
    x[~mask] = np.nan
    tensor, real = torch.tensor(x, device=device), torch.tensor(mask, device=device)
    of_arrays, of_tensors = probe().fit(x, y, mask=mask), probe().fit(tensor, y, mask=real)
    found = of_tensors.predict_proba(tensor, real)
    assert found.device == tensor.device
    assert np.abs(found.cpu().numpy() - of_arrays.predict_proba(x, mask)).max() < 1e-3


def test_tensors_of_half_precision_and_with_a_gradient() -> None:
    x, y = items()
    half = torch.tensor(x).bfloat16()
    short, long = (LinearProbe().fit(some, y).predict_proba(some) for some in (half, half.double()))
    assert short.dtype == torch.float64
    assert torch.equal(short, long)
    learning = torch.tensor(x, requires_grad=True)
    assert not DifferenceOfMeans().fit(learning, y).predict_proba(learning).requires_grad
    values = torch.tensor(x[:, 0]).bfloat16()
    assert RidgeProbe().fit(half, values).score(half, values) > 0.99


@pytest.mark.parametrize("kind", [str, bool, np.uint16, np.float32])
def test_labels_come_back_as_they_were(kind: type) -> None:
    x, y = items(2)
    names = y.astype(kind)
    probe = DifferenceOfMeans().fit(torch.tensor(x), names)
    found = probe.predict(torch.tensor(x))
    assert isinstance(found, np.ndarray if kind is str else torch.Tensor)
    assert np.mean(np.asarray(found) == names) > 0.9
    assert probe.score(torch.tensor(x), names) > 0.9
    assert probe.predict(x).dtype == names.dtype


@pytest.mark.parametrize("as_tensor", [False, True], ids=["array", "tensor"])
@pytest.mark.parametrize("probe", [*CLASSIFIERS, RidgeProbe])
def test_what_is_refused(probe: type, as_tensor: bool) -> None:
    x, y = items()

    def given(some: np.ndarray) -> Any:
        return torch.tensor(some) if as_tensor else some

    for bad in (np.nan, np.inf):
        broken = x.copy()
        broken[3, 2] = bad
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            probe().fit(given(broken), y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        probe().fit(given(x), y[:-1])
    fitted = probe().fit(given(x), y)
    with pytest.raises(ValueError, match="expecting 6 features"):
        fitted.predict(given(x[:, :5]))
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        fitted.predict(given(np.full((2, 6), np.nan)))
    with pytest.raises(ValueError, match=r"[Cc]omplex"):
        probe().fit(given(x + 1j), y)


@pytest.mark.parametrize("probe", CLASSIFIERS)
def test_labels_that_cannot_be_fitted(probe: type) -> None:
    x, y = items()
    with pytest.raises(ValueError, match=r"needs 2 classes, and the 120 items have 1 class, 0"):
        probe().fit(x, np.zeros_like(y))
    with pytest.raises(ValueError, match="5 items of 5 classes: there must be more items than classes"):
        probe().fit(x[:5], np.arange(5))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        probe().fit(x, x[:, 0])


def test_groups_of_tensors_and_of_several_groupings() -> None:
    x, y = items()
    one, two = np.arange(120) // 4, np.arange(120) // 8
    expected = LinearProbe().fit(x, y, groups=(one, two)).penalty_
    assert LinearProbe().fit(x, y, groups=(torch.tensor(one), torch.tensor(two))).penalty_ == expected
    assert LinearProbe().fit(x, y, groups=([f"g{g}" for g in one], two)).penalty_ == expected
