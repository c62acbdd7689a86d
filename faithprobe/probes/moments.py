"""What linear probes need of their items: sums that add up over items, batches and processes.

Of features x (d), targets y (t) and folds k, the sufficient statistics of every least-squares fit are

    n_k,   sum x,   sum x x^T,   sum y,   sum y^2,   sum x y^T        over the items of fold k.

Their size does not depend on the number of items, so probes can be fitted while a model generates and nothing is kept.
A fold can be left out by subtraction: one pass serves the fit, its cross-validation, and any number of targets, with
shuffled labels and random control tasks among them, as further columns of y (`closed_form`).

Sums are float64. In float32 the rounding error of a variance grows with (mean / spread)^2, and residual streams have
coordinates whose mean is hundreds of their spreads: `tests/probes/test_moments.py` shows the error of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class Moments:
    """Sums over items by fold, for several cells (layers) that share items and targets."""

    n: Float[Tensor, " fold"]
    x: Float[Tensor, "cell fold d"]
    xx: Float[Tensor, "cell fold d d"]
    y: Float[Tensor, "fold t"]
    yy: Float[Tensor, "fold t"]
    xy: Float[Tensor, "cell fold d t"]

    @classmethod
    def zeros(
        cls,
        *,
        cells: int,
        folds: int,
        features: int,
        targets: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Moments:
        """Of no items. `dtype` is that of the sums; float32 is there to show why it is not the default."""

        def zero(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        return cls(
            n=zero(folds),
            x=zero(cells, folds, features),
            xx=zero(cells, folds, features, features),
            y=zero(folds, targets),
            yy=zero(folds, targets),
            xy=zero(cells, folds, features, targets),
        )

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "cell items d"],
        y: Float[Tensor, "items t"],
        fold: Int[Tensor, " items"],
        *,
        folds: int,
        dtype: torch.dtype = torch.float64,
    ) -> Moments:
        """Of items that are in memory."""
        found = cls.zeros(
            cells=x.shape[0],
            folds=folds,
            features=x.shape[2],
            targets=y.shape[1],
            device=x.device,
            dtype=dtype,
        )
        found.add(x, y, fold)
        return found

    def add(
        self,
        x: Float[Tensor, "cell items d"],
        y: Float[Tensor, "items t"],
        fold: Int[Tensor, " items"],
    ) -> None:
        """Adds items; `fold` is negative for those that are to be left out.

        Raises ValueError where shapes do not go together or a number is not finite: one NaN would spoil every probe.
        """
        cells, _, d = self.x.shape
        if x.ndim != 3 or (x.shape[0], x.shape[2]) != (cells, d) or y.shape != (x.shape[1], self.y.shape[1]):
            raise ValueError(
                f"features {list(x.shape)} and targets {list(y.shape)}; expected [{cells}, items, {d}] and "
                f"[items, {self.y.shape[1]}]"
            )
        if len(fold) != x.shape[1] or (len(fold) and int(fold.max()) >= len(self.n)):
            raise ValueError(f"{len(fold)} fold numbers for {x.shape[1]} items; each one below {len(self.n)}")
        fold, y = fold.to(self.n.device), y.to(self.n)
        finite = x.isfinite().all(dim=2).all(dim=0).to(y.device) & y.isfinite().all(dim=1)
        bad = (~finite & (fold >= 0)).nonzero()[:, 0].tolist()
        if bad:  # before anything is added: the sums stay what they were
            raise ValueError(f"features or targets of items {bad[:5]} are not finite; leave them out (fold -1)")
        for k in fold.unique().tolist():
            if k < 0:
                continue
            rows = fold == k
            some, target = x[:, rows.to(x.device)].to(self.n), y[rows]
            self.n[k] += rows.sum()
            self.y[k] += target.sum(dim=0)
            self.yy[k] += target.square().sum(dim=0)
            self.x[:, k] += some.sum(dim=1)
            self.xy[:, k] += some.mT @ target
            for cell, features in enumerate(some):
                self.xx[cell, k] += gram(features)

    def all_reduce(self) -> None:
        """Sums over the processes of `torch.distributed`, in place; with one process, nothing happens."""
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for tensor in self.state().values():
                dist.all_reduce(tensor)

    def state(self) -> dict[str, Tensor]:
        """By name, as safetensors takes them; not copied."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Moments:
        return cls(**{field.name: state[field.name] for field in fields(cls)})

    def __add__(self, other: Moments) -> Moments:
        theirs = other.state()
        return Moments(**{name: tensor + theirs[name] for name, tensor in self.state().items()})

    def without(self, fold: int) -> Moments:
        """All folds but one."""
        kept = [k for k in range(len(self.n)) if k != fold]
        axis = {"n": 0, "y": 0, "yy": 0}
        return Moments(
            **{name: tensor.index_select(axis.get(name, 1), torch.tensor(kept, device=tensor.device))
               for name, tensor in self.state().items()}
        )  # fmt: skip

    def cell(self, number: int) -> Moments:
        """One cell."""
        one = slice(number, number + 1)
        return Moments(self.n, self.x[one], self.xx[one], self.y, self.yy, self.xy[one])

    def block(self, features: slice) -> Moments:
        """Some of the features."""
        return Moments(
            self.n, self.x[:, :, features], self.xx[:, :, features, features], self.y, self.yy, self.xy[:, :, features]
        )

    def mapped(self, weights: Float[Tensor, "d k"]) -> Moments:
        """Of the features x @ weights."""
        return Moments(self.n, self.x @ weights, weights.mT @ self.xx @ weights, self.y, self.yy, weights.mT @ self.xy)


def gram(x: Float[Tensor, "items d"]) -> Float[Tensor, "d d"]:
    """x^T x. On a CPU through NumPy, which knows that the result is symmetric, and does half of the work."""
    if x.device.type != "cpu":
        return x.mT @ x
    array = x.numpy()
    return torch.from_numpy(np.matmul(array.T, array))


def eigh(symmetric: Float[Tensor, "d d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Eigenvalues, ascending, and eigenvectors. In float64 on a CPU through NumPy: its LAPACK is a sixth faster there
    than torch's, and twice as slow in float32."""
    if symmetric.device.type == "cpu" and symmetric.dtype == torch.float64:
        values, vectors = np.linalg.eigh(symmetric.numpy())
        return torch.from_numpy(values), torch.from_numpy(vectors)
    return tuple(torch.linalg.eigh(symmetric))
