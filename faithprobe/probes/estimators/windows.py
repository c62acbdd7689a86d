"""Windows of positions, of one length or ragged: (items, window, d_model) with a mask, or rows of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from faithprobe.probes.estimators.arrays import any_features, as_numpy, features


def flat(X: Any, window: int | None) -> tuple[Any, int]:
    """X as rows (items, window * d_model), and the window."""
    if window is not None and (int(window) != window or window < 1):
        raise ValueError(f"window={window!r}: a number of positions, at least 1, or None")
    shape = _shape(X)
    if len(shape) != 3:
        return X, int(window or 1)
    if window is not None and window != shape[1]:
        raise ValueError(f"window={window}, and X (items, window, d_model) is {shape}; leave out window, or set it so")
    rows = X if isinstance(X, Tensor) else np.asarray(X)
    return rows.reshape(shape[0], shape[1] * shape[2]), shape[1]


def blank(rows: Any, window: int, mask: Any) -> tuple[Any, np.ndarray | Tensor | None]:
    """Rows with zeros where `mask` has no position, whatever stood there; and the mask, where the rows are."""
    if mask is None:
        return rows, None
    rows = rows if isinstance(rows, Tensor) else np.asarray(rows)
    n, d = rows.shape
    mask = np.asarray(as_numpy(mask))
    if mask.shape != (n, window):
        raise ValueError(f"a mask of shape {mask.shape}, and X has {n} items of {window} positions")
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("a mask is True where there is a position and False where there is none")
    mask = mask.astype(bool)
    empty = np.flatnonzero(~mask.any(axis=1))
    if len(empty):
        raise ValueError(
            f"{len(empty)} items have no position in the mask, the first is item {empty[0]}; leave them out"
        )
    wide = np.repeat(mask, _width(d, window), axis=1)
    if isinstance(rows, Tensor):
        return torch.where(torch.as_tensor(wide, device=rows.device), rows, 0), mask
    return np.where(wide, rows, 0), mask


def positions_of(x: Float[Tensor, "items features"], window: int) -> Float[Tensor, "items window d"]:
    """Rows as positions."""
    return x.unflatten(1, (window, _width(x.shape[1], window)))


def real_positions(x: Float[Tensor, "items window d"], mask: np.ndarray | None) -> Bool[Tensor, "items window"]:
    """Where there is a position: everywhere, without a mask."""
    if mask is None:
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    return torch.as_tensor(mask, device=x.device)


def positions(probe: Any, X: Any, mask: Any) -> tuple[Float[Tensor, "items window d"], Bool[Tensor, "items window"]]:
    """What a fitted probe predicts from. A three-dimensional X may have another window than at the fit."""
    three = len(_shape(X)) == 3
    fitted = getattr(probe, "window_", None)
    rows, window = flat(X, None if three else fitted)
    rows, mask = blank(rows, window, mask)
    if not three or window == fitted:
        x = features(probe, rows)
    else:
        x = any_features(probe, rows)
    x = positions_of(x, window)
    if x.shape[2] != probe.d_model_:
        raise ValueError(f"positions of {x.shape[2]} features, and the probe was fitted to {probe.d_model_}")
    return x, real_positions(x, mask)


def _shape(X: Any) -> tuple[int, ...]:
    return tuple(X.shape) if hasattr(X, "shape") else np.asarray(X).shape


def _width(n_features: int, window: int) -> int:
    """Of a position."""
    if n_features % window:
        raise ValueError(f"window={window} does not divide the {n_features} features of X")
    return n_features // window
