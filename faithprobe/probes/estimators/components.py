"""Coordinates that penalised linear fits are made in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Components:
    """Principal components of standardised features, z = (x - mean) @ map; rows have mean squared norm k."""

    z: Float[Tensor, "items k"]
    mean: Float[Tensor, " d"]
    map: Float[Tensor, "d k"]


def components(x: Float[Tensor, "items d"], most: int | None) -> Components:
    """All components that have variance, or the first; one of zeros where every feature is constant."""
    if most is not None and most < 1:
        raise ValueError(f"components={most}: at least 1, or None for all")
    x, mean = centred(x)
    scale = x.square().mean(dim=0).sqrt()
    scale = torch.where(scale > 0, scale, torch.inf)
    items, basis = in_span(x.div_(scale))
    variances, vectors = torch.linalg.eigh(items.mT @ items / len(items))
    kept = variances > 1e-10 * variances[-1]
    if most is not None:
        kept[: max(0, len(kept) - most)] = False
    variances, vectors = variances[kept], vectors[:, kept]
    if not len(variances):
        return Components(x[:, :1], mean, torch.zeros_like(x[:1].mT))
    vectors = vectors / variances.mean().sqrt()
    return Components(items @ vectors, mean, (vectors if basis is None else basis @ vectors) / scale[:, None])


def centred(x: Float[Tensor, "items d"]) -> tuple[Float[Tensor, "items d"], Float[Tensor, " d"]]:
    """Features about their mean, and the mean; 0 where a feature is constant but for rounding."""
    mean = x.mean(dim=0)
    x = x - mean
    return x.mul_(x.abs().amax(dim=0) > 1e-12 * mean.abs()), mean


def in_span(x: Float[Tensor, "items d"]) -> tuple[Float[Tensor, "items k"], Float[Tensor, "d k"] | None]:
    """Items (features about their mean) in an orthonormal basis of their span where that has fewer directions, and the
    basis. Exact: no fit with a quadratic penalty leaves the span, and none notices a rotation."""
    if x.shape[0] >= x.shape[1]:
        return x, None
    basis, items = torch.linalg.qr(x.mT)
    return items.mT.contiguous(), basis
