"""Ridge whose penalty is chosen by leaving whole groups out, exactly, from one factorisation.

`RidgeCV` leaves single items out in closed form. Items of one problem, or of one operand combination, are no
independent items: on SmolLM2, penalties chosen so overfit by up to .3 R2 on unseen combinations
(`benchmarks/bench_probe_controlled.py`). The same algebra leaves out groups. With Z the items in the eigenbasis of the
Gram matrix, H(a) = 1/n + Z (Z^T Z + n a)^-1 Z^T and yhat = H y, the items of a group g, predicted by the fit without
them, have the residuals

    e_g = (I - H_gg)^-1 (y_g - yhat_g)

(the block form of Allen's PRESS, 1974; Hastie, Tibshirani and Friedman, ESL 7.10). One eigendecomposition serves all
groups, penalties and targets; shuffled labels are more columns of y. Groups are dealt into small parts, so that the
blocks stay small. The penalty n a is that of the whole set, which the fit with a group left out shares.

Items must be in memory. Where they are not, `closed_form` does the same by folds from moments alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from faithprobe.errors import UnscoredError
from faithprobe.probes.closed_form import PENALTIES, Fit, chosen
from faithprobe.probes.moments import eigh, gram
from faithprobe.probes.splits import Groups, connected_components, grouped_folds

SIZE = 4
"""Items that are left out together, where groups are smaller: blocks of about this size are the cheapest."""
PIVOT = 1e-2
"""Least sqrt(1 - leverage) that float32 is trusted with: what an item far from all others, or more features than items,
leave of 1 at the smallest penalties is no more than rounding. Such a cell is fitted in float64."""


def deal(groups: Groups, *, size: int = SIZE, seed: int = 0) -> Tensor:
    """(parts, size) item numbers, -1 where a part is smaller: whole groups, in parts of about one size.

    That is `size`, or the size of the largest group: many small parts beside a large one would be mostly padding.
    """
    n = len(groups[0] if isinstance(groups, tuple) else groups)
    largest = int(np.bincount(connected_components(groups)).max())
    tests = [fold.test for fold in grouped_folds(groups, n_folds=max(2, n // max(size, largest)), seed=seed)]
    parts = torch.full((len(tests), max(map(len, tests))), -1)
    for row, test in zip(parts, tests, strict=True):
        row[: len(test)] = torch.from_numpy(np.asarray(test))
    return parts


def fit(
    x: Float[Tensor, "items d"],
    y: Float[Tensor, "items t"],
    parts: Tensor,
    blocks: Sequence[slice],
    *,
    penalties: Sequence[float] = PENALTIES,
    classes: bool = True,
) -> Fit:
    """Ridge of one cell; arguments as in `closed_form.fit`, with items in the place of their moments.

    Args:
        x: features, in any floating dtype. The Gram matrix and its eigenvectors are float64; what follows is float32
            where `x` is (`tests/probes/test_leave_out.py`: the error of both).
        y: targets: numbers, or one-hot columns.
        parts: (parts, size) which items are left out together, from `deal`; every item stands in one part.
        blocks: targets that choose a penalty together.

    Raises UnscoredError where there are fewer than two parts, ValueError where a number is not finite.
    """
    n = len(x)
    if len(parts) < 2:
        raise UnscoredError(f"{n} items in {len(parts)} groups: a penalty needs two groups to leave one out")
    parts = parts.to(x.device)
    inside = parts >= 0
    if not torch.equal(parts[inside].sort().values, torch.arange(n, device=x.device)):
        raise ValueError(f"{int(inside.sum())} items stand in a part, and there are {n}: each one must, once")
    small = x.dtype if x.dtype.is_floating_point and x.dtype.itemsize >= 4 else torch.float32
    mean, target_mean = x.double().mean(dim=0), y.double().mean(dim=0)
    if not (mean.isfinite().all() and target_mean.isfinite().all()):
        raise ValueError("features or targets are not finite; leave those items out")
    centred = x.to(torch.float64, copy=True).sub_(mean)
    basis, variances = _basis(centred, mean)
    items = centred.to(small) @ basis.to(small)
    targets = (y.double() - target_mean).to(small)
    explained = items.mT @ targets
    grid = torch.tensor(penalties, dtype=small, device=x.device)
    shrink = 1 / (variances.to(small) + n * grid[:, None])

    order, rows = parts[inside], torch.nonzero(inside.reshape(-1))[:, 0]
    by_part = _padded(items[order], rows, parts.shape)
    true_by_part = _padded(targets[order], rows, parts.shape)
    eye = torch.eye(parts.shape[1], dtype=small, device=x.device)
    both = inside[:, :, None] & inside[:, None, :]
    weights = (shrink[:, :, None] * explained).permute(1, 0, 2)  # (d, penalty, t)
    predicted = by_part.flatten(0, 1) @ weights.flatten(1)
    residual = true_by_part[None] - predicted.unflatten(0, parts.shape).unflatten(2, weights.shape[1:]).permute(
        2, 0, 1, 3
    )
    hat = _hat(by_part, shrink) + both.to(small) / n  # a bool over an int would be float32
    factor, failed = torch.linalg.cholesky_ex(eye - hat)
    if bool(failed.any()) or float(factor.diagonal(dim1=2, dim2=3).min()) < PIVOT:
        if small == torch.float64 and bool(failed.any()):
            raise ValueError(f"penalties {list(penalties)} are too small: without its part an item has no prediction")
        if small != torch.float64:
            return fit(x.double(), y, parts, blocks, penalties=penalties, classes=classes)
    left_out = torch.cholesky_solve(residual, factor) * inside[:, :, None]
    others = (n - inside.sum(dim=1))[:, None, None]
    from_mean = (true_by_part + true_by_part.sum(dim=1, keepdim=True) / others) * inside[:, :, None]
    choice = chosen(left_out.square().sum(dim=2).movedim(0, 1), from_mean.square().sum(dim=1), blocks, grid)
    weights = shrink[choice.best[choice.block_of]].mT * explained * choice.informative[choice.block_of]
    coef = basis @ weights.double()
    means = second = torch.zeros(0, y.shape[1], dtype=torch.float64, device=x.device)
    if classes:
        choice_of = choice.best[choice.block_of].expand(1, *true_by_part.shape)
        predicted = ((true_by_part - left_out.gather(0, choice_of)[0]).double() + target_mean)[inside]
        second = predicted.mT @ predicted
        one_hot = y[order].double()
        means = one_hot.mT @ predicted / one_hot.sum(dim=0).clamp(min=1)[:, None]
    return Fit(
        coef=coef,
        intercept=target_mean - mean @ coef,
        penalty=grid[choice.best].double(),
        cv_error=choice.errors.double() / n,
        null_error=choice.nulls.double() / n,
        informative=choice.informative.double(),
        class_means=means,
        second=second,
        counts=y.double().sum(dim=0),
        n=n,
    )


def fit_all(
    cells: Sequence[Float[Tensor, "items d"]],
    y: Float[Tensor, "items t"],
    parts: Tensor,
    blocks: Sequence[slice],
    *,
    penalties: Sequence[float] = PENALTIES,
    classes: bool = True,
    workers: int | None = None,
) -> list[Fit]:
    """`fit` of many layers or positions of the same items, `workers` at once; default: as many as torch has threads."""
    with threads(workers) as pool:
        return list(pool.map(lambda x: fit(x, y, parts, blocks, penalties=penalties, classes=classes), cells))


@contextmanager
def threads(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that each fit one cell: its matrices are too small to be shared out within one product."""
    count = workers or torch.get_num_threads()
    with threadpool_limits(limits=1), ThreadPoolExecutor(count) as pool:
        yield pool


def _basis(
    centred: Float[Tensor, "items d"], mean: Float[Tensor, " d"]
) -> tuple[Float[Tensor, "d r"], Float[Tensor, " r"]]:
    """Principal components of the standardised features, as a map from centred ones, with their eigenvalues; through
    inner products of items where these are fewer than the features."""
    n, d = centred.shape
    wide = n < d
    products = None if wide else gram(centred)
    spread = ((centred.square().sum(dim=0) if products is None else products.diagonal()) / n).sqrt()
    constant = spread <= torch.maximum(1e-12 * spread.max(), 1e-6 * mean.abs())  # its spread is but rounding
    if bool(constant.all()):  # one direction of zeros, which predicts nothing
        return centred.new_zeros(d, 1), centred.new_ones(1)
    scale = torch.where(constant, torch.inf, spread)
    if products is None:
        z = centred / scale
        values, vectors = eigh(gram(z.mT))
    else:
        values, vectors = eigh(products / scale[:, None] / scale)
    kept = values > 1e-10 * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    if wide:
        vectors = z.mT @ (vectors / values.sqrt())
    return vectors / scale[:, None], values


def _hat(items: Float[Tensor, "parts size r"], shrink: Float[Tensor, "penalty r"]) -> Tensor:
    """(penalty, part, size, size) Z_g diag(shrink) Z_g^T: all penalties in one product, each pair of items once."""
    parts, size, _ = items.shape
    found = items.new_empty(len(shrink), parts, size, size)
    for i in range(size):
        products = ((items[:, i, None] * items[:, i:]) @ shrink.mT).permute(2, 0, 1)
        found[:, :, i, i:] = found[:, :, i:, i] = products
    return found


def _padded(rows: Float[Tensor, "items k"], at: Tensor, shape: torch.Size) -> Float[Tensor, "parts size k"]:
    """Items in their places of the parts; zeros elsewhere."""
    found = rows.new_zeros(shape.numel(), rows.shape[1])
    found[at] = rows
    return found.reshape(*shape, -1)
