"""What streamed probes know about items that none of them was fitted on: bits, R2, accuracy, beside every control.

Held-out items are those of unseen operand combinations (`columns`). Class targets are judged by usable information,
I = H_V(Y) - H_V(Y | X) in bits (Xu et al. 2020; H_V is the loss of the training label frequencies); `value`, a number,
by R2 = 1 - sum of squared errors / that of the training mean. Either is compared with the largest control at the same
layer, never below 0; the interval is of the difference, clustered by combination. One layer is marked as chosen: that
of the smallest cross-validated error on training items, so that what is reported there was selected on other items.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from faithprobe.errors import UnscoredError
from faithprobe.probes.closed_form import Fit
from faithprobe.probes.columns import CONTROL_TASK, REAL, SHUFFLED, Block, Columns, Target
from faithprobe.probes.estimator import MIXED
from faithprobe.probes.stream import ACTIVATIONS, EMBEDDING, TEXT, TEXT_LINEAR, TWIN, Batch, Fitted
from faithprobe.scores.statistics import Interval, clustered_mean

CONTROLS = (TEXT, TEXT_LINEAR, EMBEDDING, TWIN)
DUST = 1e-9
"""Below this, rounding: a control that says the label frequencies and nothing else."""
FEWEST = 8
"""Held-out combinations below which nothing is scored."""


@dataclass(frozen=True)
class HeldOut:
    """Items of the held-out fold of one step at one place."""

    batch: Batch
    labels: np.ndarray
    """(items, blocks) from `Columns.labels`."""
    combinations: Sequence[Hashable]

    @property
    def clusters(self) -> np.ndarray:
        codes: dict[Hashable, int] = {}
        return np.array([codes.setdefault(combination, len(codes)) for combination in self.combinations], dtype=int)


@dataclass(frozen=True)
class Gains:
    """Of one source about one block: what each item gains over knowing label frequencies alone."""

    gain: np.ndarray
    """(items,) bits for classes. For numbers, the items' parts of R2, linearised as a ratio of two sums: their mean is
    R2, and their spread over clusters is that of R2."""
    right: np.ndarray
    """(items,) the most likely class is the true one; NaN for numbers."""

    @classmethod
    def of(cls, gain: np.ndarray, right: np.ndarray) -> Gains:
        """Without dust: an interval of rounding errors, all of one sign, would lie above 0."""
        return cls(np.where(np.abs(gain) < DUST, 0.0, gain), right)


@dataclass(frozen=True)
class Reading:
    """One target at one layer: every source, and the comparison with the largest control."""

    target: Target
    layer: int
    sources: Mapping[str, Gains]
    shuffled: np.ndarray
    """(shuffles,) mean gain about shuffled labels."""
    control: str
    """The largest control, `none` where none is above 0."""
    control_gain: np.ndarray
    """(items,) of that control."""
    beyond: Interval
    """Of activations - control, clustered by combination."""
    surprisal: np.ndarray
    """(items,) -log2 of the training label frequency; NaN for numbers."""
    chance: float
    """Accuracy of the most frequent training class."""
    selectivity: Interval | None
    """Accuracy minus that of control tasks; None for numbers."""
    cv: float
    """Cross-validated error on training items over that of the mean: what the layer is chosen by."""

    @property
    def pointwise(self) -> np.ndarray:
        """(items,) D of each: gain beyond the control over the entropy, in [0, 1]; NaN for numbers."""
        return np.clip(
            (self.sources[ACTIVATIONS].gain - np.maximum(self.control_gain, 0)) / self.surprisal.mean(), 0, 1
        )


def readings(fitted: Fitted, columns: Columns, items: HeldOut) -> list[Reading]:
    """Every target at every layer.

    Raises UnscoredError, with the number, where there are fewer than `FEWEST` combinations.
    """
    clusters = items.clusters
    if len(np.unique(clusters)) < FEWEST:
        raise UnscoredError(
            f"{len(np.unique(clusters))} held-out operand combinations, at least {FEWEST} are needed; ask for more "
            "problems or a family with more operands"
        )
    layers = len(fitted.sources[ACTIVATIONS])
    shared = {
        source: _gains(fits[0], columns, items, source, 0)
        for source, fits in fitted.sources.items()
        if source in (TEXT, EMBEDDING)
    }
    found = []
    for layer in range(layers):
        by_source = shared | {
            source: _gains(fits[layer], columns, items, source, layer)
            for source, fits in fitted.sources.items()
            if source not in shared
        }
        for target in columns.targets:
            found.append(_reading(target, layer, by_source, fitted, columns, items.labels, clusters))
    return found


def chosen(found: Sequence[Reading]) -> dict[str, int]:
    """Layer of each target, by cross-validated error on training items."""
    best: dict[str, Reading] = {}
    for reading in found:
        name = reading.target.name
        if name not in best or reading.cv < best[name].cv:
            best[name] = reading
    return {name: reading.layer for name, reading in best.items()}


def _gains(fit: Fit, columns: Columns, items: HeldOut, source: str, layer: int) -> dict[int, Gains]:
    predicted = fit.predict(items.batch.of(source, layer).to(fit.coef.device))
    found = {}
    for k, block in enumerate(columns.blocks):
        if source != ACTIVATIONS and block.kind != REAL:
            continue  # a control needs no control
        labels = items.labels[:, k]
        null = _null(fit, block)
        if not block.target.classes:
            loss = (predicted[:, block.columns.start].cpu().numpy() - labels) ** 2
            base = (null[0] - labels) ** 2
            r2 = 1 - loss.sum() / base.sum()
            found[k] = Gains.of(r2 + (base - loss - r2 * base) / base.mean(), np.full(len(labels), np.nan))
            continue
        given = fit.probabilities(predicted, block.columns).cpu().numpy()
        given = (1 - MIXED) * given + MIXED * null
        rows, true = np.arange(len(labels)), labels.astype(np.int64)
        gain = np.log2(given[rows, true]) - np.log2(null[true])
        found[k] = Gains.of(gain, (given.argmax(axis=1) == true).astype(float))
    return found


def _null(fit: Fit, block: Block) -> np.ndarray:
    """(classes,) label frequencies of the training items, half an item added to each; or their mean."""
    counts = fit.counts[block.columns].cpu().numpy()
    return (counts + 0.5) / (counts + 0.5).sum() if block.target.classes else counts / fit.n


def _reading(
    target: Target,
    layer: int,
    by_source: Mapping[str, Mapping[int, Gains]],
    fitted: Fitted,
    columns: Columns,
    labels: np.ndarray,
    clusters: np.ndarray,
) -> Reading:
    of_target = [(k, block) for k, block in enumerate(columns.blocks) if block.target == target]
    k_real, real = next((k, block) for k, block in of_target if block.kind == REAL)
    sources = {name: blocks[k_real] for name, blocks in by_source.items()}
    own = by_source[ACTIVATIONS]
    shuffled = np.array([own[k].gain.mean() for k, block in of_target if block.kind == SHUFFLED])
    means = {name: float(sources[name].gain.mean()) for name in CONTROLS if name in sources}
    if len(shuffled):
        means[SHUFFLED] = float(shuffled.mean())
    control = max(means, key=lambda name: means[name], default="none")
    if means.get(control, 0) <= DUST:
        control, control_gain = "none", np.zeros(len(labels))
    elif control == SHUFFLED:
        control_gain = np.full(len(labels), means[SHUFFLED])
    else:
        control_gain = sources[control].gain
    fit = fitted.sources[ACTIVATIONS][layer]
    null = _null(fit, real)
    surprisal, chance, selectivity = np.full(len(labels), np.nan), np.nan, None
    if target.classes:
        true = labels[:, k_real].astype(np.int64)
        surprisal, chance = -np.log2(null[true]), float((true == null.argmax()).mean())
        tasks = [own[k].right for k, block in of_target if block.kind == CONTROL_TASK]
        if tasks:
            selectivity = clustered_mean(sources[ACTIVATIONS].right - np.mean(tasks, axis=0), clusters, share=False)
    return Reading(
        target=target,
        layer=layer,
        sources=sources,
        shuffled=shuffled,
        control=control,
        control_gain=control_gain,
        beyond=clustered_mean(sources[ACTIVATIONS].gain - control_gain, clusters, share=False),
        surprisal=surprisal,
        chance=chance,
        selectivity=selectivity,
        cv=float(fit.cv_error[:, k_real].min() / fit.null_error[k_real].clamp(min=torch.finfo(torch.float64).tiny)),
    )
