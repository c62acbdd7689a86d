"""Ridge whose penalty is chosen by leaving whole groups out, exactly, from one factorisation.

`RidgeCV` leaves single items out in closed form. Items of one problem, or of one operand combination, are no
independent items: on SmolLM2, penalties chosen so overfit, and a last digit is read worse than by its mean on unseen
combinations (`benchmarks/bench_probe_controlled.py`). The same algebra leaves out groups. With Z the items in the
eigenbasis of the Gram matrix, H(a) = 1/n + Z (Z^T Z + n a)^-1 Z^T and yhat = H y, the items of a group g, predicted by
the fit without them, have the residuals

    e_g = (I - H_gg)^-1 (y_g - yhat_g)

(the block form of Allen's PRESS, 1974; Hastie, Tibshirani and Friedman, ESL 7.10). One eigendecomposition serves all
groups, penalties and targets; shuffled labels are more columns of y. Groups of one size are solved together. The
penalty n a is that of the whole set, which the fit with a group left out shares.

Items must be in memory. Where they are not, `closed_form` does the same by folds from moments alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from faithprobe.errors import UnscoredError
from faithprobe.probes.closed_form import PENALTIES, Fit, chosen
from faithprobe.probes.moments import eigh, gram
from faithprobe.probes.splits import Groups, connected_components

PIVOT = 1e-2
"""Least sqrt(1 - leverage) that float32 is trusted with: what an item far from all others, or more features than items,
leave of 1 at the smallest penalties is no more than rounding. Such a cell is left out in float64."""

Parts: TypeAlias = tuple[Int[Tensor, "_ _"], ...]
"""(groups, size) item numbers of the groups of one size, for each size; every item stands in one group."""


def deal(groups: Groups) -> Parts:
    """Items that are left out together: connected components of the groups (`splits`), by size."""
    block = connected_components(groups)
    order, sizes = np.argsort(block, kind="stable"), np.bincount(block)
    begin = np.cumsum(sizes) - sizes
    return tuple(
        torch.from_numpy(order[begin[sizes == size][:, None] + np.arange(size)]) for size in np.unique(sizes).tolist()
    )


def fit(
    x: Float[Tensor, "items d"],
    y: Float[Tensor, "items t"],
    parts: Parts,
    blocks: Sequence[slice],
    *,
    penalties: Sequence[float] = PENALTIES,
    classes: bool = True,
) -> Fit:
    """Ridge of one cell; arguments as in `closed_form.fit`, with items in the place of their moments.

    Args:
        x: features, in any floating dtype. Of float32 the products are float32, the eigenvectors float64
            (`tests/probes/test_leave_out.py`: the error of both; nothing is added up over batches here).
        y: targets: numbers, or one-hot columns.
        parts: which items are left out together, from `deal`.
        blocks: targets that choose a penalty together.

    Raises UnscoredError where there are fewer than two groups, ValueError where a number is not finite.
    """
    n, n_parts = len(x), sum(map(len, parts))
    if n_parts < 2:
        raise UnscoredError(f"{n} items in {n_parts} groups: a penalty needs two groups to leave one out")
    parts = tuple(part.to(x.device) for part in parts)
    listed = torch.cat([part.flatten() for part in parts])
    if not torch.equal(listed.sort().values, torch.arange(n, device=x.device)):
        raise ValueError(f"{len(listed)} items stand in a group, and there are {n}: each one must, once")
    target_mean = y.double().mean(dim=0)
    if not (x.mean(dim=0, dtype=torch.float64).isfinite().all() and target_mean.isfinite().all()):
        raise ValueError("features or targets are not finite; leave those items out")
    targets = y.double() - target_mean
    small = x.dtype if x.dtype.is_floating_point and x.dtype.itemsize >= 4 else torch.float32
    found = None
    for dtype in dict.fromkeys((small, torch.float64)):
        cell = _Cell.of(x.to(dtype), targets.to(dtype), penalties)
        found = cell.left_out(parts)
        if found is not None:
            break
    if found is None:
        raise ValueError(f"penalties {list(penalties)} are too small: without its group an item has no prediction")
    from_mean = [_from_mean(targets[part], n) for part in parts]
    choice = chosen(
        torch.cat([left_out.square().sum(dim=2).movedim(0, 1) for left_out in found]).to(targets),
        torch.cat([part.square().sum(dim=1) for part in from_mean]),
        blocks,
        torch.tensor(penalties, dtype=torch.float64, device=x.device),
    )
    best = choice.best[choice.block_of]
    weights = cell.shrink[best].mT * cell.explained * choice.informative[choice.block_of]
    coef = cell.basis @ weights.double()
    means = second = torch.zeros(0, y.shape[1], dtype=torch.float64, device=x.device)
    if classes:
        missed = [left_out.gather(0, best.expand(1, *left_out.shape[1:]))[0].flatten(0, 1) for left_out in found]
        predicted = (targets + target_mean)[listed] - torch.cat(missed).double()
        second = predicted.mT @ predicted
        one_hot = y[listed].double()
        means = one_hot.mT @ predicted / one_hot.sum(dim=0).clamp(min=1)[:, None]
    return Fit(
        coef=coef,
        intercept=target_mean - cell.mean @ coef,
        penalty=torch.tensor(penalties, dtype=torch.float64, device=x.device)[choice.best],
        cv_error=choice.errors / n,
        null_error=choice.nulls / n,
        informative=choice.informative,
        class_means=means,
        second=second,
        counts=y.double().sum(dim=0),
        n=n,
    )


@dataclass(frozen=True)
class _Cell:
    """Items in the eigenbasis of the Gram matrix of their standardised features."""

    mean: Tensor
    """(d,) float64"""
    basis: Tensor
    """(d, r) float64: items = (x - mean) @ basis."""
    items: Tensor
    """(items, r)"""
    targets: Tensor
    """(items, t), about their mean."""
    explained: Tensor
    """(r, t)"""
    shrink: Tensor
    """(penalty, r)"""

    @classmethod
    def of(cls, x: Tensor, targets: Tensor, penalties: Sequence[float]) -> _Cell:
        n = len(x)
        mean = x.mean(dim=0, dtype=torch.float64)
        z = x - mean.to(x.dtype)
        rest = z.mean(dim=0)  # what the rounding of a large mean has left
        z -= rest
        spread = z.square().mean(dim=0).sqrt()
        constant = spread <= torch.maximum(1e-12 * spread.max(), 1e-6 * mean.abs().to(x.dtype))  # nothing but rounding
        scale = torch.where(constant, torch.inf, spread)
        z /= scale
        vectors, variances = _components(z)
        items = z @ vectors.to(x.dtype)
        grid = torch.tensor(penalties, dtype=x.dtype, device=x.device)
        return cls(
            mean=mean.to(x.dtype).double() + rest.double(),
            basis=vectors / scale.double()[:, None],
            items=items,
            targets=targets,
            explained=items.mT @ targets,
            shrink=1 / (variances.to(x.dtype) + n * grid[:, None]),
        )

    def left_out(self, parts: Parts) -> list[Tensor] | None:
        """(penalty, group, size, t) residuals of each group without itself; None where rounding would decide them."""
        n = len(self.items)
        weights = (self.shrink[:, :, None] * self.explained).permute(1, 0, 2).flatten(1)  # (r, penalty t)
        found = []
        for part in parts:
            groups, size = part.shape
            items = self.items[part.flatten()]
            predicted = (items @ weights).reshape(groups, size, len(self.shrink), -1)
            residual = self.targets[part][None] - predicted.permute(2, 0, 1, 3)
            hat = _hat(items.reshape(groups, size, -1), self.shrink) + 1 / n
            if size == 1 and float(hat.max()) < 1 - PIVOT**2:
                found.append(residual / (1 - hat))
                continue
            factor, failed = torch.linalg.cholesky_ex(torch.eye(size).to(hat) - hat)
            least = float(factor.diagonal(dim1=2, dim2=3).min())
            if bool(failed.any()) or (hat.dtype != torch.float64 and least < PIVOT):
                return None
            found.append(torch.cholesky_solve(residual, factor))
        return found


def _from_mean(targets: Tensor, n: int) -> Tensor:
    """(group, size, t) targets about the mean of all other groups' items, given those about the mean of all."""
    return targets + targets.sum(dim=1, keepdim=True) / (n - targets.shape[1])


def fit_all(
    cells: Sequence[Float[Tensor, "items d"]],
    y: Float[Tensor, "items t"],
    parts: Parts,
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
    # The limit of OpenMP, which torch runs on, is each thread's own; those of BLAS libraries are everyone's.
    with threadpool_limits(limits=1), ThreadPoolExecutor(count, initializer=threadpool_limits, initargs=(1,)) as pool:
        yield pool


def _components(z: Float[Tensor, "items d"]) -> tuple[Float[Tensor, "d r"], Float[Tensor, " r"]]:
    """Eigenvectors of z^T z and their eigenvalues; through inner products of items where these are fewer than the
    features. Where all features are constant, one direction of zeros, which predicts nothing."""
    wide = len(z) < z.shape[1]
    values, vectors = eigh(gram(z.mT.double() if wide else z).double())
    if values[-1] <= 0:
        return z.new_zeros(z.shape[1], 1, dtype=torch.float64), values.new_ones(1)
    kept = values > max(1e-10, 0.0 if wide else torch.finfo(z.dtype).eps) * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    return (z.mT.double() @ (vectors / values.sqrt()) if wide else vectors), values


def _hat(items: Float[Tensor, "parts size r"], shrink: Float[Tensor, "penalty r"]) -> Tensor:
    """(penalty, part, size, size) Z_g diag(shrink) Z_g^T: all penalties in one product, each pair of items once."""
    parts, size, _ = items.shape
    found = items.new_empty(len(shrink), parts, size, size)
    for i in range(size):
        products = ((items[:, i, None] * items[:, i:]) @ shrink.mT).permute(2, 0, 1)
        found[:, :, i, i:] = found[:, :, i:, i] = products
    return found
