"""Probes and their controls for one step at one place, fitted while items stream by: nothing but moments is kept.

Every source of features goes through the same family (`closed_form`), with as many principal components:

* `activations`, and `random twin`: the residual stream of each layer, of the model and of a randomly initialised one;
* `embedding` of the same position;
* `text`: one-hot of every visible literal by slot, and the operations;
* `text-linear`: the part of each layer's activations that is a linear function of the text, B = (T^T T)^+ T^T X. What
  is linear in the page is a copy of it, however well conditioned, and earns nothing beyond this control.

The last one needs no items either: with text and activations in one Gram matrix, the moments of T B follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from faithprobe.probes.closed_form import COMPONENTS, PENALTIES, Fit, fit
from faithprobe.probes.columns import HELD_OUT, Columns
from faithprobe.probes.moments import Moments

ACTIVATIONS, TWIN, EMBEDDING, TEXT, TEXT_LINEAR = "activations", "random twin", "embedding", "text", "text-linear"


@dataclass(frozen=True)
class Batch:
    """Features of some items of one step at one place."""

    activations: Float[Tensor, "layer items d"]
    twin: Float[Tensor, "layer items d"] | None = None
    embedding: Float[Tensor, "items d"] | None = None
    text: Float[Tensor, "items slots"] | None = None

    def of(self, source: str, layer: int) -> Float[Tensor, "items features"]:
        """Features of a source at the layer with this number; text and embedding have no layers."""
        by_layer = {ACTIVATIONS: self.activations, TWIN: self.twin}
        if source in by_layer:
            return _given(by_layer[source], source)[layer]
        return _given(self.embedding if source == EMBEDDING else self.text, source)

    def rows(self, chosen: np.ndarray) -> Batch:
        """Some of the items."""
        at = torch.from_numpy(chosen)
        return Batch(
            self.activations[:, at],
            None if self.twin is None else self.twin[:, at],
            None if self.embedding is None else self.embedding[at],
            None if self.text is None else self.text[at],
        )


def _given(features: Tensor | None, source: str) -> Tensor:
    if features is None:
        raise ValueError(f"this batch came without {source}")
    return features


@dataclass(frozen=True)
class Fitted:
    """Probes of every source: one a layer, or one where the source has no layers."""

    sources: Mapping[str, tuple[Fit, ...]]

    def at(self, source: str, layer: int) -> Fit:
        fits = self.sources[source]
        return fits[layer] if len(fits) > 1 else fits[0]


class Stream:
    """Takes items of one step at one place, batch by batch, and fits probes whenever it is asked to."""

    def __init__(
        self, columns: Columns, *, layers: int, d_model: int, slots: int, device: torch.device | str = "cpu"
    ) -> None:
        self.columns, self.d_model = columns, d_model

        def moments(cells: int, features: int) -> Moments:
            return Moments.zeros(
                cells=cells, folds=columns.folds, features=features, targets=columns.width, device=device
            )

        self.moments = {
            ACTIVATIONS: moments(layers, d_model + slots),
            TWIN: moments(layers, d_model),
            EMBEDDING: moments(1, d_model),
        }

    def add(self, batch: Batch, labels: np.ndarray, fold: np.ndarray) -> None:
        """Adds items of the training folds; those of the held-out fold are passed over.

        Args:
            labels: (items, blocks) from `Columns.labels`.
            fold: (items,) from `Columns.fold`; negative for an item that is to be left out.
        """
        train = np.flatnonzero(fold > HELD_OUT)
        if not len(train):
            return
        y = torch.from_numpy(self.columns.matrix(labels[train]))
        of_item, rows = torch.from_numpy(fold[train]), torch.from_numpy(train)
        text = batch.of(TEXT, 0)[rows].expand(len(batch.activations), -1, -1)
        joint = torch.cat([batch.activations[:, rows].double(), text.to(batch.activations.device).double()], dim=2)
        self.moments[ACTIVATIONS].add(joint, y, of_item)
        self.moments[TWIN].add(_given(batch.twin, TWIN)[:, rows], y, of_item)
        self.moments[EMBEDDING].add(batch.of(EMBEDDING, 0)[None, rows], y, of_item)

    @property
    def n(self) -> int:
        """Training items so far."""
        return int(self.moments[EMBEDDING].n.sum())

    def all_reduce(self) -> None:
        """Adds up what all processes have seen."""
        for moments in self.moments.values():
            moments.all_reduce()

    def state(self) -> dict[str, Tensor]:
        """Everything that a run needs to go on, by name."""
        return {
            f"{source}.{name}": tensor
            for source, moments in self.moments.items()
            for name, tensor in moments.state().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` gave."""
        for source, moments in self.moments.items():
            for name, tensor in moments.state().items():
                tensor.copy_(state[f"{source}.{name}"])

    def fit(self, *, components: int | None = COMPONENTS) -> Fitted:
        """Probes of every source and layer, for all columns.

        Raises UnscoredError where too few items or folds have been seen, or features are constant.
        """
        d = self.d_model
        blocks = [block.columns for block in self.columns.blocks]
        joint = self.moments[ACTIVATIONS]

        def fitted(moments: Moments, without: Callable[[int], Moments] | None = None) -> Fit:
            return fit(moments, blocks, penalties=PENALTIES, components=components, without=without)

        own, linear = [], []
        for layer in range(len(joint.x)):
            cell = joint.cell(layer)
            own.append(fitted(cell.block(slice(0, d))))
            linear.append(_text_linear(cell, d, fitted))
        return Fitted(
            {
                ACTIVATIONS: tuple(own),
                TEXT_LINEAR: tuple(linear),
                TWIN: tuple(fitted(self.moments[TWIN].cell(layer)) for layer in range(len(joint.x))),
                EMBEDDING: (fitted(self.moments[EMBEDDING]),),
                TEXT: (fitted(joint.cell(0).block(slice(d, None))),),
            }
        )


def _text_linear(joint: Moments, d: int, fitted: Callable[..., Fit]) -> Fit:
    """Probes of the part of the activations that is linear in the text, as probes of the text.

    A left-out fold is predicted through weights that it had no part in: else the state of its own items, which knows
    their labels, would leak into the features, and too weak a penalty would be chosen for this control.
    """
    text = joint.block(slice(d, None))

    def without(fold: int) -> Moments:
        return text.mapped(_linear_in_text(joint.without(fold), d))

    weights = _linear_in_text(joint, d)
    return fitted(text.mapped(weights), without).through(weights)


def _linear_in_text(joint: Moments, d: int) -> Float[Tensor, "slots d"]:
    """Least squares of the activations on the text, both about their means; slots that say the same share it."""
    n, total = joint.n.sum(), joint.xx[0].sum(dim=0)
    mean = joint.x[0].sum(dim=0) / n
    covariance = total / n - torch.outer(mean, mean)
    # On slots of unit variance: beside a number of millions, one-hot columns would be taken for rounding.
    spread = covariance.diagonal()[d:].clamp(min=0).sqrt()
    scale = torch.where(spread > 1e-6 * mean[d:].abs(), spread, torch.inf)
    correlation = covariance[d:, d:] / scale[:, None] / scale
    inverse = torch.linalg.pinv(correlation, rtol=1e-9, hermitian=True)
    return inverse @ (covariance[d:, :d] / scale[:, None]) / scale[:, None]
