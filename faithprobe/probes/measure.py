"""The engine behind `information`: every feature source through every fold, then bits, controls and the table."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.probes.estimator import Projection, Reading, fit_predict, loss_bits, null_predictor, read
from faithprobe.probes.inputs import MOST_UNSEEN, Pair, check_features, inner_folds
from faithprobe.probes.splits import Fold, Groups, as_groupings, connected_components, largest_share, select
from faithprobe.scores.statistics import Interval, clustered_mean

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


class _Source:
    """Held-out losses of one feature source (activations or a control) at each of its layers."""

    def __init__(self, n_eval: int) -> None:
        self.n_eval = n_eval
        self.loss: dict[Hashable, np.ndarray] = {}
        self.right: dict[Hashable, np.ndarray] = {}
        self.chosen_loss = np.full(n_eval, np.nan)
        self.chosen_right = np.full(n_eval, np.nan)

    def add(self, readings: Mapping[Hashable, Reading], y: np.ndarray, rows: np.ndarray) -> Hashable:
        """Stores a fold; the layer with the smallest inner loss is the one that is read."""
        for layer, reading in readings.items():
            loss, right = (part.setdefault(layer, np.full(self.n_eval, np.nan)) for part in (self.loss, self.right))
            loss[rows] = loss_bits(reading.probabilities, y)
            right[rows] = reading.probabilities.argmax(axis=1) == y
        best = min(readings, key=lambda layer: readings[layer].inner_loss)
        self.chosen_loss[rows], self.chosen_right[rows] = self.loss[best][rows], self.right[best][rows]
        return best


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
    rng = np.random.default_rng(seed)
    shuffled_labels = [_shuffle(y, groups, rng) for _ in range(shuffles)]
    activations = _Source(len(y_eval))
    others = {name: _Source(len(y_eval)) for name in (*controls, *([TEXT_LINEAR] if "text" in controls else []))}
    surprisal = np.full(len(y_eval), np.nan)
    guess = np.full(len(y_eval), np.nan)
    chosen: list[Hashable] = []
    shuffled: list[float] = []
    unseen = 0
    for number, fold in enumerate(folds):
        # A class that the fold's training items lack cannot be predicted by anything: such items are not scored.
        known = np.isin(y_eval[fold.test], np.unique(y[fold.train]))
        unseen += int((~known).sum())
        train, test = fold.train, fold.test[known]
        if not len(test):
            continue
        y_train, y_test = y[train], y_eval[test]
        null = null_predictor(y_train, n_classes)
        surprisal[test] = loss_bits(null, y_test)
        guess[test] = null.argmax() == y_test
        inner = inner_folds(groups, train, y_train, seed=seed)

        def fitted(z: np.ndarray, z_eval: np.ndarray) -> Reading:
            return read(z, y_train, z_eval, inner=inner, n_classes=n_classes)  # noqa: B023  (called in this turn)

        projected = {layer: _project(pair, train, test) for layer, pair in layers.items()}
        readings = {layer: fitted(*z) for layer, z in projected.items()}
        chosen.append(activations.add(readings, y_test, test))
        for name, pairs in controls.items():
            inputs = {layer: _project(pair, train, test) for layer, pair in pairs.items()}
            others[name].add({layer: fitted(*z) for layer, z in inputs.items()}, y_test, test)
            if name == "text":
                linear = _linear_part(projected, next(iter(inputs.values())))
                others[TEXT_LINEAR].add({layer: fitted(*z) for layer, z in linear.items()}, y_test, test)
        z, z_eval = projected[chosen[-1]]
        for other in shuffled_labels[number :: len(folds)]:
            p = fit_predict(z, other[train], z_eval, n_classes=n_classes, penalty=readings[chosen[-1]].penalty)
            # Within one set of items the evaluated ones are shuffled too; others keep their labels, any will do.
            target = other[test] if y is y_eval else y_test
            shuffled.append(
                float((loss_bits(null_predictor(other[train], n_classes), target) - loss_bits(p, target)).mean())
            )
    if unseen > MOST_UNSEEN * (y_eval >= 0).sum():
        raise UnscoredError(f"{unseen} of {int((y_eval >= 0).sum())} items have a class that training items lack")

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
        layers=tuple(chosen),
        table=table,
        n_train=n_train,
        n_eval=int((~np.isnan(bits)).sum()),
    )


def _project(pair: Pair, train: np.ndarray, test: np.ndarray) -> Pair:
    projection = Projection.fit(pair[0][train])
    return projection(pair[0][train]), projection(pair[1][test])


def _linear_part(activations: Mapping[Hashable, Pair], text: Pair) -> dict[Hashable, Pair]:
    """What of the projected activations is linear in the projected text, by least squares on training items."""
    found = {}
    for layer, (z, _) in activations.items():
        weights = np.linalg.lstsq(text[0], z, rcond=1e-6)[0]
        found[layer] = (text[0] @ weights, text[1] @ weights)
    return found


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
