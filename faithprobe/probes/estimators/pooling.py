"""Pooled logits, and their fit: one problem for each penalty, over the same items (`pooled` says what for)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithprobe.probes.estimators.penalty import nats
from faithprobe.probes.logistic import minimise
from faithprobe.probes.splits import Fold


def pooled(
    projected: Float[Tensor, "items window problems rows"], real: Bool[Tensor, "items window"], queries: int
) -> Float[Tensor, "items problems readers"]:
    """Logits but for the intercept, from each position's products with the read-outs and the queries."""
    readers = projected.shape[3] - queries
    values, scores = projected.split([readers, queries], dim=3)
    padding = ~real[:, :, None, None]
    if not queries:
        return values.masked_fill(padding, -torch.inf).amax(dim=1)
    return (scores.masked_fill(padding, -torch.inf).softmax(dim=1) * values).sum(dim=1)


@dataclass(frozen=True)
class Task:
    """One fit for each penalty, in the form that the batched L-BFGS minimises.

    Parameters of a problem: read-outs and queries (readers + queries, k), then intercepts (readers,).
    """

    z: Float[Tensor, "items window k"]
    real: Bool[Tensor, "items window"]
    y: Int[Tensor, " items"]
    penalties: Float[Tensor, " problems"]
    prior: Float[Tensor, " readers"]
    """Intercepts to start from: those of the class frequencies."""
    queries: int
    variances: Float[Tensor, " k"]

    def only(self, chosen: Tensor) -> Task:
        """Some of the problems."""
        return replace(self, penalties=self.penalties[chosen])

    def items(self, rows: Int[Tensor, " some"]) -> Task:
        """Some of the items."""
        return replace(self, z=self.z[rows], real=self.real[rows], y=self.y[rows])

    def solve(self) -> tuple[Float[Tensor, "problems rows k"], Float[Tensor, "problems readers"]]:
        """Read-outs with queries, and intercepts."""
        unit = self._unit()
        u = torch.cat([torch.zeros_like(unit[:, : -len(self.prior)]), self.prior / unit[:, -len(self.prior) :]], dim=1)
        with torch.no_grad():
            return self._parts(minimise(self, u) * unit)

    def loss(self, u: Float[Tensor, "problems p"]) -> tuple[Float[Tensor, " problems"], Float[Tensor, "problems p"]]:
        """Nats per item with the penalty, and its gradient, by scaled parameters."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            theta, intercept = self._parts(u * self._unit())
            logits = self.logits(theta, intercept)
            if len(self.prior) == 1:
                signs = 1 - 2 * self.y.to(logits)
                value = torch.nn.functional.softplus(logits[:, :, 0] * signs[:, None]).mean(dim=0)
            else:
                value = -logits.log_softmax(dim=2)[torch.arange(len(self.y), device=u.device), :, self.y].mean(dim=0)
            value = value + theta.square().sum(dim=(1, 2)) * self._ridge / 2
            (gradient,) = torch.autograd.grad(value.sum(), u)  # problems are independent
        return value.detach(), gradient

    def logits(self, theta: Tensor, intercept: Tensor) -> Float[Tensor, "items problems readers"]:
        projected = self.z @ theta.flatten(0, 1).mT
        return pooled(projected.unflatten(2, theta.shape[:2]), self.real, self.queries) + intercept

    @property
    def _ridge(self) -> Float[Tensor, " problems"]:
        return self.z.shape[2] / (self.penalties * len(self.y))

    def _unit(self) -> Float[Tensor, "problems p"]:
        """Parameters for one unit of scaled ones: less where the loss is more curved."""
        curvature = (self.variances / 4 + self._ridge[:, None]).repeat(1, len(self.prior) + self.queries)
        return torch.cat([curvature, torch.full_like(curvature[:, : len(self.prior)], 0.25)], dim=1).rsqrt()

    def _parts(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        readers = len(self.prior)
        theta = parameters[:, :-readers].unflatten(1, (readers + self.queries, self.z.shape[2]))
        return theta, parameters[:, -readers:]


def held_out_losses(task: Task, splits: Sequence[Fold]) -> np.ndarray:
    """(penalties,) nats per test item."""
    losses, tested = torch.zeros_like(task.penalties), 0
    for fold in splits:
        train, test = (task.items(torch.as_tensor(rows, device=task.z.device)) for rows in (fold.train, fold.test))
        logits = test.logits(*train.solve()).transpose(0, 1)
        if logits.shape[2] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=2)
        losses += nats(logits.softmax(dim=2), test.y)
        tested += len(test.y)
    return (losses / tested).cpu().numpy()
