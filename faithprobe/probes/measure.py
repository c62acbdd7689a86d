"""The engine behind `information`: every feature source through every fold, then bits, controls and the table."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.probes.conditional import conditional_bits, linear_parts
from faithprobe.probes.control_task import selectivity
from faithprobe.probes.estimator import Problem, fit_predict, loss_bits, null_predictor
from faithprobe.probes.ignorance import informed
from faithprobe.probes.inputs import MOST_UNSEEN, Pair, check_features
from faithprobe.probes.permutation import exchangeable, permuted
from faithprobe.probes.record import Information
from faithprobe.probes.sources import (
    Coordinates,
    Labelled,
    Part,
    Source,
    clusters_of,
    gathered,
    parts_of,
    projected,
)
from faithprobe.probes.splits import Fold, as_groupings
from faithprobe.scores.auroc import auroc
from faithprobe.scores.statistics import Interval, clustered_mean

TEXT_LINEAR = "text-linear"
"""Name of the control that is the linear part of the activations in the text."""


def measure(
    layers: Mapping[Hashable, Pair],
    controls: Mapping[str, Mapping[Hashable, Pair]],
    train: Labelled,
    evaluated: Labelled,
    folds: Sequence[Fold],
    n_classes: int,
    *,
    shuffles: int,
    control_tasks: int,
    conditional: bool,
    fewest: int,
    seed: int,
) -> Information:
    """What `cross_fitted` and `transfer` share; `train` and `evaluated` are one object within one set of items."""
    if not layers:
        raise UnscoredError("no layers to read")
    if conditional and "text" not in controls:
        raise ValueError(f"conditional on the text needs a control called 'text'; there are {sorted(controls)}")
    n_eval, labelled = len(evaluated.y), int((evaluated.y >= 0).sum())
    check_features({"activations": layers, **controls}, len(train.y), n_eval)
    n_train = min(len(fold.train) for fold in folds)
    if n_train < fewest:
        raise UnscoredError(
            f"{n_train} training items are left in a fold (of {int((train.y >= 0).sum())} items, without those that "
            f"share a group with evaluated ones), at least {fewest} are needed"
        )
    parts = parts_of(folds, train, evaluated, n_classes=n_classes, seed=seed)
    unseen = sum(len(fold.test) for fold in folds) - sum(len(part.test) for part in parts)
    if unseen > MOST_UNSEEN * labelled:
        raise UnscoredError(f"{unseen} of {labelled} items have a class that training items lack")

    activations, others = _sources(layers, controls, parts, n_eval, n_classes)
    surprisal = gathered(parts, [loss_bits(part.null, part.y_test) for part in parts], n_eval)
    clusters = clusters_of(evaluated.groups)
    own = clusters if train is evaluated else clusters_of(train.groups)
    bits, probabilities, is_informed = _settled(activations, surprisal, own)
    by_control = {name: _settled(source, surprisal, own)[0] for name, source in others.items()}
    means = {name: float(np.nanmean(values)) for name, values in by_control.items()}
    shuffled = (0.0,) * shuffles  # ignorance does not look at what is shuffled either
    if is_informed:
        shuffled = _shuffled(activations, train, evaluated, shuffles, len(folds), n_classes=n_classes, seed=seed)
    if shuffled:
        means["shuffled"] = float(np.mean(shuffled))
        by_control["shuffled"] = np.where(np.isnan(surprisal), np.nan, means["shuffled"])
    control, control_bits, item_control = _largest(means, by_control, surprisal)

    problems = as_groupings(evaluated.groups)[0]
    guess = gathered(parts, [part.null.argmax() == part.y_test for part in parts], n_eval)
    hits = [p.argmax(axis=1) == part.y_test for part, p in zip(parts, probabilities, strict=True)]
    right = gathered(parts, hits, n_eval)
    chosen = activations.chosen
    beyond = None
    if conditional:
        simpler = [surprisal, *(surprisal - by_control[name] for name in ("text", TEXT_LINEAR))]
        sides = (activations, others["text"], others[TEXT_LINEAR])
        added = conditional_bits(*sides, simpler, own, n_classes=n_classes)
        beyond = clustered_mean(added, clusters, share=False)
    selective = None
    if train.types is not None and control_tasks:
        selective = selectivity(
            *(parts, chosen, train, evaluated),
            clusters=clusters,
            n_classes=n_classes,
            draws=control_tasks,
            seed=seed,
        )
    return Information(
        bits=float(np.nanmean(bits)),
        control_bits=control_bits,
        control=control,
        entropy=float(np.nanmean(surprisal)),
        gain=clustered_mean(bits - item_control, clusters, share=False),
        accuracy=float(np.nanmean(right)),
        chance=float(np.nanmean(guess)),
        item_bits=bits,
        item_control_bits=item_control,
        item_surprisal=surprisal,
        controls=means,
        shuffled=shuffled,
        layers=tuple(best.layer for best in chosen),
        table=tuple(_row(layer, activations, others, surprisal, clusters, problems) for layer in layers),
        n_train=n_train,
        n_eval=int((~np.isnan(bits)).sum()),
        informed=is_informed,
        accuracy_interval=clustered_mean(right, clusters, share=True),
        auroc=_auroc(parts, probabilities, clusters),
        conditional=beyond,
        selectivity=selective.interval if selective else None,
        control_accuracies=selective.accuracies if selective else (),
    )


def _sources(
    layers: Mapping[Hashable, Pair],
    controls: Mapping[str, Mapping[Hashable, Pair]],
    parts: Sequence[Part],
    n_eval: int,
    n_classes: int,
) -> tuple[Source, dict[str, Source]]:
    """Activations and controls.

    One source at one layer at a time: its coordinates in all folds are what is held, and those chosen so far.
    """

    def add(source: Source, layer: Hashable, coordinates: Sequence[Coordinates]) -> None:
        source.add(layer, source.read(coordinates, n_classes=n_classes), coordinates)

    names = (*controls, *([TEXT_LINEAR] if "text" in controls else []))
    others = {name: Source(parts, n_eval) for name in names}
    text: Sequence[Coordinates] = ()
    for name, pairs in controls.items():
        for layer, pair in pairs.items():
            coordinates = projected(pair, parts)
            add(others[name], layer, coordinates)
            if name == "text":
                text = text or coordinates
    activations = Source(parts, n_eval)
    for layer, pair in layers.items():
        coordinates = projected(pair, parts)
        add(activations, layer, coordinates)
        if text:
            add(others[TEXT_LINEAR], layer, linear_parts(parts, coordinates, text))
    return activations, others


def _settled(source: Source, surprisal: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], bool]:
    """(items,) pvi and, by fold, probabilities at the chosen layers; those of ignorance where the source is no better,
    and whether it is."""
    probabilities = [best.reading.probabilities for best in source.chosen]
    if informed(source, clusters):
        return surprisal - source.chosen_loss, probabilities, True
    null = [np.broadcast_to(part.null, p.shape) for part, p in zip(source.parts, probabilities, strict=True)]
    return np.where(np.isnan(surprisal), np.nan, 0.0), null, False


def _shuffled(
    source: Source,
    train: Labelled,
    evaluated: Labelled,
    shuffles: int,
    n_folds: int,
    *,
    n_classes: int,
    seed: int,
) -> tuple[float, ...]:
    """Bits of each label shuffle; every fold reads some of them."""
    rng = np.random.default_rng(seed)
    units = exchangeable(train.y, train.groups)
    labels = [permuted(train.y, units, rng) for _ in range(shuffles)]
    turns = [
        (part, best, other)
        for part, best in zip(source.parts, source.chosen, strict=True)
        for other in labels[part.number :: n_folds]
    ]
    if not turns:
        return ()
    refits = [Problem(best.coordinates[0], other[part.train], best.coordinates[1]) for part, best, other in turns]
    penalties = [best.reading.penalty for _, best, _ in turns]
    found = []
    for (part, _, other), p in zip(turns, fit_predict(refits, n_classes=n_classes, penalties=penalties), strict=True):
        # Within one set of items the evaluated ones are shuffled too; others keep their labels, any will do.
        target = other[part.test] if train is evaluated else part.y_test
        null = null_predictor(other[part.train], n_classes)
        found.append(float((loss_bits(null, target) - loss_bits(p, target)).mean()))
    return tuple(found)


def _largest(
    means: Mapping[str, float], by_control: Mapping[str, np.ndarray], surprisal: np.ndarray
) -> tuple[str, float, np.ndarray]:
    name = max(means, key=lambda name: means[name], default="none")
    if name == "none" or means[name] <= 0:
        return "none", 0.0, np.where(np.isnan(surprisal), np.nan, 0.0)
    return name, means[name], by_control[name]


def _auroc(parts: Sequence[Part], probabilities: Sequence[np.ndarray], clusters: np.ndarray) -> Interval | None:
    """Each class against the rest, within folds: probes of different folds are on different scales."""
    n_classes = probabilities[0].shape[1]
    classes = range(n_classes) if n_classes > 2 else (1,)  # of two, the one ranks as the other does
    pieces = [
        (p[:, c], part.y_test == c, np.full(len(part.test), part.number * n_classes + c), clusters[part.test])
        for part, p in zip(parts, probabilities, strict=True)
        for c in classes
    ]
    scores, labels, strata, groups = (np.concatenate(column) for column in zip(*pieces, strict=True))
    found = auroc(scores, labels, strata=strata, clusters=groups)
    if found.value is None or found.low is None or found.high is None:
        return None
    return Interval(found.value, found.low, found.high, found.n_clusters)


def _row(
    layer: Hashable,
    activations: Source,
    others: Mapping[str, Source],
    surprisal: np.ndarray,
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
