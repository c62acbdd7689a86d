"""`Information`: what was read at one site about one target, with its controls."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np

from faithprobe.scores.statistics import Interval


@dataclass(frozen=True)
class Information:
    """What was read from activations at one site about one target."""

    bits: float
    """Usable information of the activations, held out; not clipped."""
    control_bits: float
    """Of the largest control, at least 0."""
    control: str
    """Its name; `none` where no control has any."""
    entropy: float
    """H_V(Y), bits."""
    gain: Interval
    """Of bits - control_bits, over clusters that share neither problem nor operand combination. Folds share training
    items; that dependence is not in it."""
    accuracy: float
    chance: float
    """Accuracy of the null predictor."""
    item_bits: np.ndarray = field(repr=False)
    """(items,) pvi of the activations; NaN where the item could not be scored."""
    item_control_bits: np.ndarray = field(repr=False)
    """(items,) pvi of the largest control."""
    item_surprisal: np.ndarray = field(repr=False)
    """(items,) -log2 of the null predictor: the most that pvi can be."""
    controls: Mapping[str, float]
    """Bits of every control, not clipped."""
    shuffled: tuple[float, ...]
    """Bits of every label shuffle, not clipped: their spread is what chance does."""
    layers: tuple[Hashable, ...]
    """Chosen on the training items of each fold."""
    table: tuple[Mapping[str, object], ...]
    """By layer, in the columns of `scores.tables.DECODABILITY`: every layer's own probe as it was fitted, never
    ignorance in its place. Descriptive, nothing is selected by it."""
    n_train: int
    """Training items of the smallest fold."""
    n_eval: int
    """Items scored."""
    informed: bool = True
    """The probes beat ignorance on training items (`ignorance`). Where they do not, ignorance is what is read: every
    item has 0 bits."""
    accuracy_interval: Interval | None = None
    """Of the accuracy, clustered as `gain` is."""
    auroc: Interval | None = None
    """Area under the ROC curve, each class against the rest and only within a fold, weighted by pairs; clustered as
    `gain` is. n is the number of clusters. None where no fold holds two classes."""
    conditional: Interval | None = None
    """Bits of activations *and* text beyond the text and what of the activations is linear in it (`conditional`), not
    clipped; where it was asked for."""
    selectivity: Interval | None = None
    """Accuracy minus that on control tasks (`control_task`), where types were given."""
    control_accuracies: tuple[float, ...] = ()
    """Accuracy on every control task: their spread is that of the random labels."""

    @property
    def fraction(self) -> float:
        """(bits - control_bits) / entropy, clipped to [0, 1]."""
        return float(np.clip((self.bits - self.control_bits) / self.entropy, 0, 1))

    @property
    def credit(self) -> Interval:
        """`gain` clipped to [0, inf): the family holds the predictor that ignores its input, so information is never
        negative; what is below 0 is the error of a fit."""
        value, low, high = (max(0.0, x) for x in (self.gain.value, self.gain.low, self.gain.high))
        return Interval(value, low, high, self.gain.n)

    @property
    def conditional_fraction(self) -> float | None:
        """`conditional` over entropy, clipped to [0, 1]."""
        return None if self.conditional is None else float(np.clip(self.conditional.value / self.entropy, 0, 1))

    @property
    def pointwise(self) -> np.ndarray:
        """(items,) D of each instance: (pvi - pvi of the control) / H, clipped to [0, 1]; NaN where not scored.

        An item on which the control is confidently wrong owes it nothing: its pvi counts from 0.
        """
        return np.clip((self.item_bits - np.maximum(self.item_control_bits, 0)) / self.entropy, 0, 1)
