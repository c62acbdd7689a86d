"""Linear probes in closed form from moments: ridge for values, and the discriminants of classes, penalties by grouped
cross-validation, all targets at once.

Ridge on standardised features, in the basis of their principal components z (all of them, or the first `components`):

    W(a) = argmin_W  sum_i |y_i - W^T z_i|^2 / n + a |W|^2 = (Z^T Z + n a)^-1 Z^T Y

The Gram matrix of all folds gives the basis and the final fit; that of all folds but one, an r x r problem in the same
basis, gives the fit that predicts the left-out fold, for every penalty and every target (Hoerl and Kennard 1970; Golub,
Heath and Wahba 1979). Squared error on that fold is again a function of moments, so no item is ever looked at
twice. Shuffled labels and control tasks are more columns of Y: they cost a matrix product, not a factorisation.

**Classes.** One-hot least squares masks classes that lie between others (Hastie, Tibshirani and Friedman, ESL 4.2; on
ordered classes .25 against .41 of a logistic regression). Its *predictions* hold the discriminant space all the same:
linear discriminant analysis of the predictions is penalised discriminant analysis of the features (Hastie, Buja and
Tibshirani, Annals of Statistics 23, 1995). So the second stage is

    logits_c(x) = yhat(x)^T S^+ m_c - m_c^T S^+ m_c / 2 + log p_c

with m_c and S the class means and the covariance within classes of the *cross-fitted* predictions: they are those that
unseen items have, which keeps the probabilities calibrated where d is not small against n. A target whose
cross-validated error is not below that of the mean, by a t test over folds at `NOISE`, gets no coefficients: the family
holds the predictor that ignores its input (Xu et al. 2020), and noise must choose it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from faithprobe.errors import UnscoredError
from faithprobe.probes.moments import Moments, eigh

PENALTIES = tuple(float(10 ** (-4 + 8 * i / 12)) for i in range(13))
"""Per item, where a feature has variance 1: from a fit that any direction can enter to one that ignores its input."""
COMPONENTS = 256
"""Principal components that a probe reads, where there are more features: what is beyond them holds next to nothing of
the variance of a residual stream (`benchmarks/bench_probe_controlled.py` compares the score with that of all)."""
NOISE = 0.025
"""Level of that test: about this share of noise targets gets coefficients. Of the rule of one standard error, with four
or five folds, it is .12 to .20."""


@dataclass(frozen=True)
class Fit:
    """Probes of one cell for all targets."""

    coef: Float[Tensor, "d t"]
    intercept: Float[Tensor, " t"]
    penalty: Float[Tensor, " block"]
    cv_error: Float[Tensor, "penalty block"]
    """Mean squared error on left-out folds, summed over the targets of a block."""
    null_error: Float[Tensor, " block"]
    """Of the training mean, on the same folds."""
    informative: Float[Tensor, " block"]
    """1 where the error is below that of the mean by more than chance over folds, else 0: `coef` is zero there."""
    class_means: Float[Tensor, "classes t"]
    """Of cross-fitted predictions, by one-hot target: [class, prediction]; meaningful within a block of classes."""
    second: Float[Tensor, "classes t"]
    """Second moment of cross-fitted predictions."""
    counts: Float[Tensor, " t"]
    """Sum of each target: the items of a class, where it is one-hot."""
    n: int

    def through(self, weights: Float[Tensor, "features d"]) -> Fit:
        """The same probes on features that `weights` maps to these."""
        return replace(self, coef=weights @ self.coef)

    def predict(self, x: Float[Tensor, "items d"]) -> Float[Tensor, "items t"]:
        """Numbers; for one-hot targets, what `discriminants` turns into logits."""
        return x.to(self.coef) @ self.coef + self.intercept

    def probabilities(self, predicted: Float[Tensor, "items t"], columns: slice) -> Float[Tensor, "items classes"]:
        """Of the classes of one block, from what `predict` gave."""
        direction, offset = discriminants(self, columns)
        return (predicted[:, columns] @ direction + offset).softmax(dim=1)


def fit(
    moments: Moments,
    blocks: Sequence[slice],
    *,
    penalties: Sequence[float] = PENALTIES,
    components: int | None = COMPONENTS,
    classes: bool = True,
    without: Callable[[int], Moments] | None = None,
) -> Fit:
    """Ridge of one cell.

    Args:
        moments: of one cell, at least two folds that hold items.
        blocks: targets that choose a penalty together: a value alone, the one-hot columns of a class target together.
            They cover the targets in order.
        penalties: tried for each block.
        components: principal components that are read; None: all.
        classes: also collect what `discriminants` needs.
        without: moments for the fit that leaves out the fold with this number, where the features themselves were
            learned from items: then that fold must not have been among them.

    Raises UnscoredError where a fold's training items are fewer than two.
    """
    device = moments.n.device
    held = torch.nonzero(moments.n > 0)[:, 0].tolist()
    total = moments.n.sum()
    if len(held) < 2 or total - moments.n.max() < 2:
        raise UnscoredError(f"{int(total)} items in {len(held)} folds: a penalty needs two folds of several items")
    grid = torch.tensor(penalties, dtype=moments.x.dtype, device=device)
    z = _in_components(moments, components)
    inside = [z if without is None else _in_components(without(k), components) for k in held]
    left_out = [_LeftOut.of(part, k) for part, k in zip(inside, held, strict=True)]
    errors, nulls = map(torch.stack, zip(*(part.squared_errors(grid) for part in left_out)))
    choice = chosen(errors, nulls, blocks, grid)
    penalty = grid[choice.best][choice.block_of]
    weights = z.zy.sum(dim=0) / (z.variances[:, None] + penalty) / total * choice.informative[choice.block_of]
    coef = z.map @ weights
    t = len(penalty)
    means = second = torch.zeros(0, t, dtype=grid.dtype, device=device)
    if classes:
        sums, second = torch.zeros(2, t, t, dtype=grid.dtype, device=device)
        for part in left_out:
            of_class, square = part.predictions(penalty)
            sums += of_class
            second += square
        means = sums / moments.y.sum(dim=0).clamp(min=1)[:, None]
    return Fit(
        coef=coef,
        intercept=z.target_mean - z.mean @ coef,
        penalty=grid[choice.best],
        cv_error=choice.errors / total,
        null_error=choice.nulls / total,
        informative=choice.informative,
        class_means=means,
        second=second,
        counts=moments.y.sum(dim=0),
        n=int(total),
    )


@dataclass(frozen=True)
class Choice:
    """Which penalty each block of targets gets."""

    block_of: Tensor
    """(t,)"""
    best: Tensor
    """(block,) number of the penalty."""
    errors: Tensor
    """(penalty, block) summed over parts."""
    nulls: Tensor
    """(block,)"""
    informative: Tensor
    """(block,) 1 or 0."""


def chosen(errors: Tensor, nulls: Tensor, blocks: Sequence[slice], penalties: Tensor) -> Choice:
    """The penalty of least error on left-out parts, and whether that beats the mean by more than chance.

    Args:
        errors: (part, penalty, t) squared error of each left-out part.
        nulls: (part, t) of the training mean there.
        blocks: targets that choose together; all of them, in order.
        penalties: (penalty,)
    """
    n_parts, _, t = errors.shape
    sizes = [len(range(t)[columns]) for columns in blocks]
    if sum(sizes) != t:
        raise ValueError(f"{len(blocks)} blocks hold {sum(sizes)} targets, and there are {t}")
    block_of = torch.arange(len(blocks), device=errors.device).repeat_interleave(
        torch.tensor(sizes, device=errors.device)
    )
    by_block = errors.new_zeros(n_parts, len(penalties), len(blocks)).index_add_(2, block_of, errors)
    null = nulls.new_zeros(n_parts, len(blocks)).index_add_(1, block_of, nulls)
    best = by_block.sum(dim=0).argmin(dim=0)
    gains = null - by_block.gather(1, best.expand(n_parts, 1, len(blocks)))[:, 0]
    noise = gains.std(dim=0) * n_parts**0.5 * float(stdtrit(n_parts - 1, 1 - NOISE))
    informative = (gains.sum(dim=0) > noise).to(errors)
    return Choice(block_of, best, by_block.sum(dim=0), null.sum(dim=0), informative)


def discriminants(found: Fit, columns: slice) -> tuple[Float[Tensor, "classes classes"], Float[Tensor, " classes"]]:
    """Logits of a block of one-hot targets are its predictions times the first, plus the second."""
    counts = found.counts[columns]
    prior = ((counts + 0.5) / (counts + 0.5).sum()).log()
    if not bool(found.coef[:, columns].any()):
        return torch.zeros(len(counts), len(counts), dtype=counts.dtype, device=counts.device), prior
    m = found.class_means[columns, columns]
    within = found.second[columns, columns] - (m * counts[:, None]).mT @ m
    within = within / max(1.0, float(counts.sum()) - len(counts))
    precision = torch.linalg.pinv(within, rtol=1e-6, hermitian=True)  # predictions add up to 1: one direction is empty
    direction = precision @ m.mT  # (prediction, class)
    return direction, prior - (m * direction.mT).sum(dim=1) / 2


@dataclass(frozen=True)
class _Components:
    """Moments by fold in the basis of principal components, about the mean of all items."""

    mean: Tensor
    map: Tensor
    """(d, r): z = (x - mean) @ map."""
    variances: Tensor
    """(r,)"""
    n: Tensor
    z: Tensor
    """(fold, r)"""
    zz: Tensor
    """(fold, r, r)"""
    zy: Tensor
    """(fold, r, t), the targets about their mean."""
    z_of: Tensor
    """(fold, r, t), the targets as they are: the sum of z over a class, where they are one-hot."""
    y: Tensor
    yy: Tensor
    raw_y: Tensor
    target_mean: Tensor


def _in_components(moments: Moments, components: int | None) -> _Components:
    n, total = moments.n, moments.n.sum()
    x, xx = moments.x[0], moments.xx[0]
    mean = x.sum(dim=0) / total
    covariance = xx.sum(dim=0) / total - torch.outer(mean, mean)
    spread = covariance.diagonal().clamp(min=0).sqrt()
    # A constant feature has a spread of nothing but rounding, which grows with its mean. Otherwise the scale of a
    # feature means nothing: one-hot columns stand beside numbers of millions.
    floor = torch.maximum(1e-12 * spread.max(), 1e-6 * mean.abs())
    varying = spread > floor
    scale = torch.where(varying, spread, torch.inf)
    variances, vectors = eigh(covariance / scale[:, None] / scale)
    kept = variances > 1e-10 * variances[-1]
    if components is not None:
        kept[: max(0, len(kept) - components)] = False
    if not bool(varying.any()):
        kept[-1] = True  # a direction of zeros, which predicts nothing
        variances = torch.ones_like(variances)
    variances, vectors = variances[kept], vectors[:, kept]
    basis = vectors / scale[:, None]
    target_mean = moments.y.sum(dim=0) / total
    centre, of_fold = mean @ basis, x @ basis
    z = of_fold - n[:, None] * centre
    zz = basis.mT @ xx @ basis
    crossed = of_fold[:, :, None] * centre
    zz = zz - crossed - crossed.mT + n[:, None, None] * torch.outer(centre, centre)
    z_of = basis.mT @ moments.xy[0] - centre[:, None] * moments.y[:, None]
    return _Components(
        mean=mean,
        map=basis,
        variances=variances,
        n=n,
        z=z,
        zz=zz,
        zy=z_of - z[:, :, None] * target_mean,
        z_of=z_of,
        y=moments.y - n[:, None] * target_mean,
        yy=moments.yy - 2 * target_mean * moments.y + n[:, None] * target_mean.square(),
        raw_y=moments.y,
        target_mean=target_mean,
    )


@dataclass(frozen=True)
class _LeftOut:
    """The fit on all folds but one, and the moments of that one about the training means."""

    values: Tensor
    vectors: Tensor
    """Eigenbasis (r, r) of the training items' Gram matrix."""
    explained: Tensor
    """(r, t) in that basis."""
    n_train: Tensor
    n: Tensor
    z: Tensor
    """(r,) sum over the fold."""
    zz: Tensor
    zy: Tensor
    yy: Tensor
    """(t,)"""
    z_of: Tensor
    """(r, t) sums of z by one-hot target."""
    counts: Tensor
    mean: Tensor
    """(t,) of the training targets."""

    @classmethod
    def of(cls, z: _Components, k: int) -> _LeftOut:
        n, n_train = z.n[k], z.n.sum() - z.n[k]
        a, y = -z.z[k] / n_train, -z.y[k] / n_train  # over all folds, both add up to 0
        train = torch.diag(z.variances * z.n.sum()) - z.zz[k] - n_train * torch.outer(a, a)
        explained = z.zy.sum(dim=0) - z.zy[k] - n_train * torch.outer(a, y)
        values, vectors = eigh(train)
        crossed = torch.outer(z.z[k], a)
        return cls(
            values=values.clamp(min=0),
            vectors=vectors,
            explained=vectors.mT @ explained,
            n_train=n_train,
            n=n,
            z=z.z[k] - n * a,
            zz=z.zz[k] - crossed - crossed.mT + n * torch.outer(a, a),
            zy=z.zy[k] - torch.outer(z.z[k], y) - torch.outer(a, z.y[k] - n * y),
            yy=z.yy[k] - 2 * y * z.y[k] + n * y.square(),
            z_of=z.z_of[k] - a[:, None] * z.raw_y[k],
            counts=z.raw_y[k],
            mean=z.target_mean + y,
        )

    def squared_errors(self, penalties: Tensor) -> tuple[Tensor, Tensor]:
        """(penalty, t) on the left-out fold, and (t,) of the training mean."""
        weights = self.explained / (self.values[:, None] + self.n_train * penalties[:, None, None])
        gram = self.vectors.mT @ self.zz @ self.vectors
        errors = self.yy - 2 * (weights * (self.vectors.mT @ self.zy)).sum(dim=1)
        return errors + (weights * (gram @ weights)).sum(dim=1), self.yy

    def predictions(self, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """[class, prediction] sums of the predictions over the items of each one-hot target, and [prediction,
        prediction] their second moment."""
        weights = self.vectors @ (self.explained / (self.values[:, None] + self.n_train * penalty))
        of_class = torch.outer(self.counts, self.mean) + self.z_of.mT @ weights
        moved = torch.outer(self.mean, self.z @ weights)
        square = weights.mT @ self.zz @ weights + moved + moved.mT + self.n * torch.outer(self.mean, self.mean)
        return of_class, square
