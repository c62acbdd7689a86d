"""Sums over items are the same in any order, batch and process; in float32 they would not be good enough."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge

from faithprobe.probes.closed_form import PENALTIES, fit
from faithprobe.probes.moments import Moments, eigh, gram

CELLS, N, D, T, FOLDS = 3, 257, 7, 4, 5


def items(seed: int = 0, *, n: int = N) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of several cells, targets, folds; some items are left out."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(CELLS, n, D)) * rng.uniform(0.1, 5, D) + rng.normal(size=D) * 20
    y = rng.normal(size=(n, T)) + x[0, :, :T]
    return torch.tensor(x), torch.tensor(y), torch.tensor(rng.integers(-1, FOLDS, n))


def moments(x: torch.Tensor, y: torch.Tensor, fold: torch.Tensor, **options: object) -> Moments:
    return Moments.of(x, y, fold, folds=FOLDS, **options)


def same(found: Moments, expected: Moments, *, within: float = 1e-12) -> None:
    for name, tensor in expected.state().items():
        assert found.state()[name].shape == tensor.shape, name
        assert (found.state()[name] - tensor).abs().max() <= within * tensor.abs().max(), name


def test_sums_are_those_of_a_loop_over_items() -> None:
    x, y, fold = items()
    found = moments(x, y, fold)
    for k in range(FOLDS):
        of_fold = [i for i in range(N) if fold[i] == k]
        assert found.n[k] == len(of_fold)
        assert torch.allclose(found.y[k], sum(y[i] for i in of_fold), rtol=1e-12)
        assert torch.allclose(found.yy[k], sum(y[i] ** 2 for i in of_fold), rtol=1e-12)
        for cell in range(CELLS):
            assert torch.allclose(found.x[cell, k], sum(x[cell, i] for i in of_fold), rtol=1e-12)
            outer = sum(torch.outer(x[cell, i], x[cell, i]) for i in of_fold)
            assert torch.allclose(found.xx[cell, k], outer, rtol=1e-12)
            assert torch.allclose(found.xy[cell, k], sum(torch.outer(x[cell, i], y[i]) for i in of_fold), rtol=1e-11)


@pytest.mark.parametrize("size", [1, 8, 64, N])
def test_batches_in_any_order_are_one_go(size: int) -> None:
    x, y, fold = items()
    order = torch.from_numpy(np.random.default_rng(size).permutation(N))
    found = Moments.zeros(cells=CELLS, folds=FOLDS, features=D, targets=T)
    for rows in order.split(size):
        found.add(x[:, rows], y[rows], fold[rows])
    same(found, moments(x, y, fold))


def test_parts_of_two_processes_add_up() -> None:
    x, y, fold = items()
    parts = [moments(x[:, rows], y[rows], fold[rows]) for rows in (slice(None, None, 2), slice(1, None, 2))]
    before = {name: tensor.clone() for name, tensor in parts[0].state().items()}
    same(parts[0] + parts[1], moments(x, y, fold))
    assert all(torch.equal(parts[0].state()[name], tensor) for name, tensor in before.items())


PROCESS = """
import sys
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from faithprobe.probes.moments import Moments
from tests.leaving import leave

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
given = load_file(f"{folder}/items.safetensors")
found = Moments.of(given["x"][:, rank::2], given["y"][rank::2], given["fold"][rank::2], folds=5)
found.all_reduce()
save_file(found.state(), f"{folder}/{rank}.safetensors")
leave()
"""


def test_two_real_processes_agree_with_one(tmp_path: Path) -> None:
    save_file(dict(zip(("x", "y", "fold"), items(), strict=True)), tmp_path / "items.safetensors")
    root = Path(__file__).resolve().parents[2]
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(tmp_path)], cwd=root) for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    whole = moments(*items())
    for rank in range(2):
        same(Moments.from_state(load_file(tmp_path / f"{rank}.safetensors")), whole)
    alone = moments(*items())
    alone.all_reduce()
    same(alone, whole, within=0)


def error_of_sums(dtype: torch.dtype) -> tuple[float, float]:
    """Relative error of the variances, and of the probe's predictions, of features whose mean is 300 spreads; batch by
    batch, against NumPy and scikit-learn on the stored array."""
    rng = np.random.default_rng(0)
    n, d = 20_000, 8
    noise = rng.normal(size=(n, d))
    x = (300 + noise).astype(np.float32)
    y = noise @ rng.normal(size=d) + rng.normal(size=n)
    fold = np.arange(n) % 5
    sums = Moments.zeros(cells=1, folds=5, features=d, targets=1, dtype=dtype)
    for begin in range(0, n, 64):
        rows = slice(begin, begin + 64)
        sums.add(torch.from_numpy(x[None, rows]), torch.from_numpy(y[rows, None]), torch.from_numpy(fold[rows]))
    stored = x.astype(np.float64)
    variance = sums.xx[0].sum(0).diagonal() / n - (sums.x[0].sum(0) / n).square()
    of_variance = np.abs(variance.double().numpy() / stored.var(axis=0) - 1).max()
    found = fit(sums, [slice(0, 1)], penalties=PENALTIES[:1], classes=False)
    z = (stored - stored.mean(axis=0)) / stored.std(axis=0)
    peer = Ridge(alpha=PENALTIES[0] * n).fit(z, y).predict(z)
    of_probe = np.abs(stored @ found.coef[:, 0].double().numpy() + float(found.intercept) - peer).max()
    return float(of_variance), float(of_probe / peer.std())


def test_float64_sums_are_exact_enough_and_float32_sums_are_not() -> None:
    """Why float64 is the default: residual streams have coordinates whose mean is hundreds of their spreads."""
    variance, probe = error_of_sums(torch.float64)
    assert variance < 1e-6
    assert probe < 1e-6
    variance, probe = error_of_sums(torch.float32)
    assert variance > 1e-3
    assert probe > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, fold: (x[:2], y, fold), "expected"),
        (lambda x, y, fold: (x[:, :, 1:], y, fold), "expected"),
        (lambda x, y, fold: (x, y[:, 1:], fold), "expected"),
        (lambda x, y, fold: (x, y[1:], fold), "expected"),
        (lambda x, y, fold: (x, y, fold[1:]), "fold numbers"),
        (lambda x, y, fold: (x, y, fold + 1), "below 5"),
        (lambda x, y, fold: (x.where(fold[:, None] != 3, torch.nan), y, fold), "not finite"),
        (lambda x, y, fold: (x, y.where(fold[:, None] != 3, torch.inf), fold), "not finite"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_added(change, message) -> None:
    x, y, fold = items()
    found = moments(x, y, fold)
    with pytest.raises(Exception, match=message) as raised:
        # The annotations say as much of batches that do not agree with each other; without jaxtyping's checks, `add`
        # says it itself.
        getattr(Moments.add, "__wrapped__", Moments.add)(found, *change(x, y, fold))
    assert isinstance(raised.value, ValueError)
    same(found, moments(x, y, fold), within=0)


def test_what_is_left_out_may_be_anything() -> None:
    x, y, fold = items()
    spoiled = x.where(fold[:, None] >= 0, torch.nan), y.where(fold[:, None] >= 0, torch.inf)
    same(moments(*spoiled, fold), moments(x, y, fold), within=0)
    empty = moments(x[:, :0], y[:0], fold[:0])
    assert all(not tensor.any() for tensor in empty.state().values())


def test_a_part_of_the_moments_is_the_moments_of_a_part() -> None:
    x, y, fold = items()
    whole = moments(x, y, fold)
    same(whole.cell(1), moments(x[1:2], y, fold))
    same(whole.block(slice(2, 5)), moments(x[:, :, 2:5], y, fold))
    weights = torch.tensor(np.random.default_rng(1).normal(size=(D, 3)))
    same(whole.mapped(weights), moments(x @ weights, y, fold), within=1e-11)
    for k in range(FOLDS):
        others = fold.where(fold != k, -1)
        same(whole.without(k), Moments.of(x, y, others - (others > k).long(), folds=FOLDS - 1))


def test_state_goes_through_a_file(tmp_path: Path) -> None:
    x, y, fold = items()
    whole = moments(x, y, fold)
    save_file(whole.state(), tmp_path / "moments.safetensors")
    back = Moments.from_state(load_file(tmp_path / "moments.safetensors"))
    same(back, whole, within=0)
    back.add(x, y, fold)
    whole.add(x, y, fold)
    same(back, whole, within=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_and_eigenvectors_are_those_of_torch(dtype: torch.dtype) -> None:
    x = items()[0][0].to(dtype)
    assert torch.allclose(gram(x), x.mT @ x)
    values, vectors = eigh(gram(x))
    assert torch.allclose(values, torch.linalg.eigvalsh(x.mT @ x), rtol=1e-4, atol=1e-6 * float(values[-1]))
    assert torch.allclose(vectors * values @ vectors.mT, gram(x), rtol=1e-3, atol=1e-3 * float(values[-1]))


@pytest.mark.cuda
def test_sums_on_a_gpu_are_those_on_a_cpu() -> None:
    x, y, fold = items()
    found = moments(x.cuda(), y, fold)
    same(Moments(**{name: tensor.cpu() for name, tensor in found.state().items()}), moments(x, y, fold))
