"""The engine behind `information`: every feature source through every fold, then bits, controls and the table."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.probes.estimator import Problem, Reading, fit_predict, loss_bits, null_predictor, read
from faithprobe.probes.inputs import MOST_UNSEEN, Pair, check_features, inner_folds
from faithprobe.probes.projection import fit_projections, project
from faithprobe.probes.splits import Fold, Groups, as_groupings, connected_components, largest_share, select
from faithprobe.scores.statistics import Interval, clustered_mean

Coordinates: TypeAlias = tuple[np.ndarray, np.ndarray]
"""(training items, k), (evaluated items, k) of one fold, projected."""
TEXT_LINEAR = "text-linear"
"""Name of the control that is the linear part of the activations in the text."""


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
    """By layer, in the columns of `scores.tables.DECODABILITY`: descriptive, nothing is selected by it."""
    n_train: int
    """Training items of the smallest fold."""
    n_eval: int
    """Items scored."""

    @property
    def fraction(self) -> float:
        """(bits - control_bits) / entropy, clipped to [0, 1]."""
        return float(np.clip((self.bits - self.control_bits) / self.entropy, 0, 1))

    @property
    def pointwise(self) -> np.ndarray:
        """(items,) D of each instance: (pvi - pvi of the control) / H, clipped to [0, 1]; NaN where not scored.

        An item on which the control is confidently wrong owes it nothing: its pvi counts from 0.
        """
        return np.clip((self.item_bits - np.maximum(self.item_control_bits, 0)) / self.entropy, 0, 1)


@dataclass(frozen=True)
class _Part:
    """One fold, ready to be fitted."""

    number: int
    train: np.ndarray
    test: np.ndarray
    """Without items of a class that the training items lack: nothing could predict it."""
    y_train: np.ndarray
    y_test: np.ndarray
    inner: tuple[Fold, ...]


class _Source:
    """Held-out losses of one feature source (activations or a control) at each of its layers."""

    def __init__(self, parts: Sequence[_Part], n_eval: int) -> None:
        self.parts, self.n_eval = parts, n_eval
        self.loss: dict[Hashable, np.ndarray] = {}
        self.right: dict[Hashable, np.ndarray] = {}
        self.chosen: list[tuple[Hashable, Reading] | None] = [None] * len(parts)
        """Of each fold: the layer with the smallest inner loss so far, and its reading."""

    def add(self, layer: Hashable, readings: Sequence[Reading]) -> list[int]:
        """Stores a layer; returns the folds in which it is the best so far."""
        loss = self.loss[layer] = np.full(self.n_eval, np.nan)
        right = self.right[layer] = np.full(self.n_eval, np.nan)
        better = []
        for k, (part, reading) in enumerate(zip(self.parts, readings, strict=True)):
            loss[part.test] = loss_bits(reading.probabilities, part.y_test)
            right[part.test] = reading.probabilities.argmax(axis=1) == part.y_test
            best = self.chosen[k]
            if best is None or reading.inner_loss < best[1].inner_loss:
                self.chosen[k] = layer, reading
                better.append(k)
        return better

    @property
    def layers(self) -> tuple[Hashable, ...]:
        return tuple(best[0] for best in self.chosen if best)

    @property
    def penalties(self) -> tuple[float, ...]:
        return tuple(best[1].penalty for best in self.chosen if best)

    @property
    def chosen_loss(self) -> np.ndarray:
        return self._at_chosen(self.loss)

    @property
    def chosen_right(self) -> np.ndarray:
        return self._at_chosen(self.right)

    def _at_chosen(self, by_layer: Mapping[Hashable, np.ndarray]) -> np.ndarray:
        found = np.full(self.n_eval, np.nan)
        for part, layer in zip(self.parts, self.layers, strict=True):
            found[part.test] = by_layer[layer][part.test]
        return found


def measure(
    layers: Mapping[Hashable, Pair],
    controls: Mapping[str, Mapping[Hashable, Pair]],
    y: np.ndarray,
    y_eval: np.ndarray,
    folds: Sequence[Fold],
    groups: Groups,
    eval_groups: Groups,
    n_classes: int,
    *,
    shuffles: int,
    fewest: int,
    seed: int,
) -> Information:
    if not layers:
        raise UnscoredError("no layers to read")
    check_features({"activations": layers, **controls}, len(y), len(y_eval))
    n_train = min(len(fold.train) for fold in folds)
    if n_train < fewest:
        raise UnscoredError(
            f"{n_train} training items are left in a fold (of {int((y >= 0).sum())} items, without those that share a "
            f"group with evaluated ones), at least {fewest} are needed"
        )
    parts = _parts(folds, y, y_eval, groups, seed)
    unseen = sum(len(fold.test) for fold in folds) - sum(len(part.test) for part in parts)
    if unseen > MOST_UNSEEN * (y_eval >= 0).sum():
        raise UnscoredError(f"{unseen} of {int((y_eval >= 0).sum())} items have a class that training items lack")
    surprisal = np.full(len(y_eval), np.nan)
    guess = np.full(len(y_eval), np.nan)
    for part in parts:
        null = null_predictor(part.y_train, n_classes)
        surprisal[part.test] = loss_bits(null, part.y_test)
        guess[part.test] = null.argmax() == part.y_test

    def fitted(coordinates: Sequence[Coordinates]) -> list[Reading]:
        return read(
            [
                Problem(z, part.y_train, z_eval, part.inner)
                for part, (z, z_eval) in zip(parts, coordinates, strict=True)
            ],
            n_classes=n_classes,
        )

    # One source at one layer at a time: its coordinates in all folds are what is held, and those chosen so far.
    names = (*controls, *([TEXT_LINEAR] if "text" in controls else []))
    others = {name: _Source(parts, len(y_eval)) for name in names}
    text: list[Coordinates] = []
    for name, pairs in controls.items():
        for layer, pair in pairs.items():
            coordinates = _project(pair, parts)
            others[name].add(layer, fitted(coordinates))
            if name == "text":
                text = text or coordinates
    activations = _Source(parts, len(y_eval))
    kept: dict[int, Coordinates] = {}
    for layer, pair in layers.items():
        coordinates = _project(pair, parts)
        kept |= {k: coordinates[k] for k in activations.add(layer, fitted(coordinates))}
        if text:
            linear = [_linear_part(own, page) for own, page in zip(coordinates, text, strict=True)]
            others[TEXT_LINEAR].add(layer, fitted(linear))

    rng = np.random.default_rng(seed)
    shuffled_labels = [_shuffle(y, groups, rng) for _ in range(shuffles)]
    # Every fold reads some of the shuffles.
    turns = [(k, other) for k, part in enumerate(parts) for other in shuffled_labels[part.number :: len(folds)]]
    refits = [Problem(kept[k][0], other[parts[k].train], kept[k][1]) for k, other in turns]
    penalties = [activations.penalties[k] for k, _ in turns]
    shuffled: list[float] = []
    if turns:
        for (k, other), p in zip(turns, fit_predict(refits, n_classes=n_classes, penalties=penalties), strict=True):
            # Within one set of items the evaluated ones are shuffled too; others keep their labels, any will do.
            target = other[parts[k].test] if y is y_eval else parts[k].y_test
            null = null_predictor(other[parts[k].train], n_classes)
            shuffled.append(float((loss_bits(null, target) - loss_bits(p, target)).mean()))

    bits = surprisal - activations.chosen_loss
    by_control = {name: surprisal - source.chosen_loss for name, source in others.items()}
    means = {name: float(np.nanmean(values)) for name, values in by_control.items()}
    if shuffled:
        means["shuffled"] = float(np.mean(shuffled))
        by_control["shuffled"] = np.where(np.isnan(surprisal), np.nan, means["shuffled"])
    control, control_bits, item_control = _largest(means, by_control, surprisal)
    clusters = _clusters(eval_groups)
    problems = as_groupings(eval_groups)[0]
    table = tuple(_row(layer, activations, others, surprisal, clusters=clusters, problems=problems) for layer in layers)
    return Information(
        bits=float(np.nanmean(bits)),
        control_bits=control_bits,
        control=control,
        entropy=float(np.nanmean(surprisal)),
        gain=clustered_mean(bits - item_control, clusters, share=False),
        accuracy=float(np.nanmean(activations.chosen_right)),
        chance=float(np.nanmean(guess)),
        item_bits=bits,
        item_control_bits=item_control,
        item_surprisal=surprisal,
        controls=means,
        shuffled=tuple(shuffled),
        layers=activations.layers,
        table=table,
        n_train=n_train,
        n_eval=int((~np.isnan(bits)).sum()),
    )


def _parts(folds: Sequence[Fold], y: np.ndarray, y_eval: np.ndarray, groups: Groups, seed: int) -> list[_Part]:
    """Folds that have something to evaluate."""
    found = []
    for number, (train, test) in enumerate((fold.train, fold.test) for fold in folds):
        test = test[np.isin(y_eval[test], np.unique(y[train]))]
        if len(test):
            inner = inner_folds(groups, train, y[train], seed=seed)
            found.append(_Part(number, train, test, y[train], y_eval[test], inner))
    return found


def _project(pair: Pair, parts: Sequence[_Part]) -> list[Coordinates]:
    trains = [part.train for part in parts]
    projections = fit_projections(pair[0], trains)
    tests = [part.test for part in parts]
    if pair[0] is pair[1]:  # one pass for both
        both = project(pair[0], (*projections, *projections), [*trains, *tests])
        return list(zip(both[: len(parts)], both[len(parts) :], strict=True))
    return list(zip(project(pair[0], projections, trains), project(pair[1], projections, tests), strict=True))


def _linear_part(activations: Coordinates, text: Coordinates) -> Coordinates:
    """What of the projected activations is linear in the projected text, by least squares on training items."""
    weights = np.linalg.lstsq(text[0], activations[0], rcond=1e-6)[0]
    return text[0] @ weights, text[1] @ weights


def _largest(
    means: Mapping[str, float], by_control: Mapping[str, np.ndarray], surprisal: np.ndarray
) -> tuple[str, float, np.ndarray]:
    name = max(means, key=lambda name: means[name], default="none")
    if name == "none" or means[name] <= 0:
        return "none", 0.0, np.where(np.isnan(surprisal), np.nan, 0.0)
    return name, means[name], by_control[name]


def _row(
    layer: Hashable,
    activations: _Source,
    others: Mapping[str, _Source],
    surprisal: np.ndarray,
    *,
    clusters: np.ndarray,
    problems: np.ndarray,
) -> dict[str, object]:
    bits = surprisal - activations.loss[layer]
    # A control without this layer (text, embedding: one array) is the same at every layer.
    by_control = {name: surprisal - source.loss.get(layer, source.chosen_loss) for name, source in others.items()}
    means = {name: float(np.nanmean(values)) for name, values in by_control.items()}
    control, control_bits, item_control = _largest(means, by_control, surprisal)
    gain = clustered_mean(bits - item_control, clusters, share=False)
    return {
        "layer": layer,
        "bits": float(np.nanmean(bits)),
        "control_bits": control_bits,
        "control": control,
        "low": gain.low,
        "high": gain.high,
        "entropy": float(np.nanmean(surprisal)),
        "accuracy": float(np.nanmean(activations.right[layer])),
        "n": len(np.unique(problems[~np.isnan(bits)])),
    }


def _clusters(groups: Groups) -> np.ndarray:
    """Components, because items of one combination share their fate; problems alone where all is one component."""
    blocks = connected_components(groups)
    return blocks if largest_share(blocks) <= 0.5 else as_groupings(groups)[0]


def _shuffle(y: np.ndarray, groups: Groups, rng: np.random.Generator) -> np.ndarray:
    """Labels permuted over items; over whole components where each has one label."""
    labelled = np.flatnonzero(y >= 0)
    blocks = connected_components(select(groups, labelled))
    first = np.zeros(blocks.max() + 1, dtype=np.int64)
    first[blocks] = y[labelled]
    out = y.copy()
    if len(first) > 1 and (first[blocks] == y[labelled]).all():
        out[labelled] = first[rng.permutation(len(first))][blocks]
    else:
        out[labelled] = rng.permutation(y[labelled])
    return out
