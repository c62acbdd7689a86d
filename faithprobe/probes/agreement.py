"""A: where the chain states something else than its own operands give, which of the two does the state hold?

Probes are fitted where stated = local, so that they cannot tell them apart, and read where the classes differ. A model
that prints a value other than the one it computed holds *local*; one that has already settled on what it will print
holds *stated*. At the predicting position every model holds what it is about to print: read the sites before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.probes.estimator import Problem, null_predictor, read
from faithprobe.probes.inputs import FEWEST_TRAINING, Layers, check_features, check_labels, encode, inner_folds
from faithprobe.probes.projection import fit_projections, project
from faithprobe.probes.splits import Groups, select, shares_group
from faithprobe.probes.targets import MISSING
from faithprobe.scores.statistics import Interval, clustered_mean

FEWEST_READ = 5
"""Items in which the classes of stated and local differ, below which nothing is said."""


@dataclass(frozen=True)
class Agreement:
    """What the state says where stated and local differ."""

    local: Interval
    """Share of items, clustered by the first grouping."""
    stated: Interval
    neither: Interval
    items: tuple[str, ...] = field(repr=False)
    """(items,) local, stated, neither; empty where the classes do not differ or one is unknown."""
    layer: object
    """Chosen on the training items."""
    fitted: bool
    """The probe beats the label frequencies on its own inner folds; without that, shares say nothing."""
    n_train: int


def agreement(
    layers: Layers,
    labels: Sequence[str] | np.ndarray,
    eval_layers: Layers,
    local: Sequence[str] | np.ndarray,
    stated: Sequence[str] | np.ndarray,
    *,
    groups: Groups,
    eval_groups: Groups,
    fewest: int = FEWEST_TRAINING,
    fewest_read: int = FEWEST_READ,
    seed: int = 0,
) -> Agreement:
    """Fits on items with stated = local, reads the others.

    Args:
        layers: layer to (training items, features); all of them with stated = local.
        labels: (training items,) their class; `MISSING` is left out.
        eval_layers: layer to (evaluated items, features).
        local: (evaluated items,) class of the expression on its operands as stated.
        stated: (evaluated items,) class of what was stated.
        groups: of the training items, the problem first, then the operand combination.
        eval_groups: of the evaluated items. Training items that share a group with an item that is read are removed.
        fewest: training items needed.
        fewest_read: items needed in which the two classes differ.
        seed: of the inner folds.

    Raises UnscoredError, with the number, where there are too few of either, or the probe has nothing to be fitted on.
    """
    y, names = encode(labels)
    check_labels(y[y >= 0], names)
    of_local, of_stated = np.asarray(local).astype(str), np.asarray(stated).astype(str)
    differ = (of_local != of_stated) & (of_local != MISSING) & (of_stated != MISSING)
    # A class that the probe never saw cannot be named by it: the other one would win by default.
    differ &= np.isin(of_local, names) & np.isin(of_stated, names)
    test = np.flatnonzero(differ)
    if len(test) < fewest_read:
        raise UnscoredError(f"stated and local differ in class in {len(test)} items, at least {fewest_read} are needed")
    pairs = {layer: (x, eval_layers[layer]) for layer, x in layers.items()}
    check_features({"activations": pairs}, len(y), len(of_local))
    train = np.flatnonzero((y >= 0) & ~shares_group(groups, select(eval_groups, test)))
    if len(train) < fewest:
        raise UnscoredError(f"{len(train)} training items share no group with those read, at least {fewest} are needed")
    inner = inner_folds(groups, train, y[train], seed=seed)
    readings = {}
    for layer, (x, x_eval) in pairs.items():
        projections = fit_projections(x, [train])
        (z,), (z_eval,) = project(x, projections, [train]), project(x_eval, projections, [test])
        (readings[layer],) = read([Problem(z, y[train], z_eval, inner)], n_classes=len(names))
    best = min(readings, key=lambda layer: readings[layer].inner_loss)
    predicted = names[readings[best].probabilities.argmax(axis=1)]
    found = np.where(predicted == of_local[test], "local", np.where(predicted == of_stated[test], "stated", "neither"))
    items = np.full(len(of_local), "", dtype=object)
    items[test] = found
    (problems, *_) = select(eval_groups, test)
    null = null_predictor(y[train], len(names))
    shares = {name: clustered_mean(found == name, problems, share=True) for name in ("local", "stated", "neither")}
    return Agreement(
        local=shares["local"],
        stated=shares["stated"],
        neither=shares["neither"],
        items=tuple(items.tolist()),
        layer=best,
        fitted=readings[best].inner_loss < 0.98 * float(-(null * np.log2(null)).sum()),
        n_train=len(train),
    )
