"""Usable information about a target that activations give beyond the largest control, in bits.

For a family V of predictors (`estimator`), with all losses held out,

    I_V(X -> Y) = H_V(Y) - H_V(Y | X),    pvi(x, y) = -log2 p_null(y) + log2 p(y | x)

(Xu et al., ICLR 2020, arXiv 2002.10689; pointwise: Ethayarajh et al., ICML 2022, arXiv 2110.08420). H_V(Y) is the loss
of the training items' label frequencies. A number here is no evidence that the model *uses* what is read.

**Beyond the control** is I(activation) - max over controls of I(control), each alone, never below 0 for a control; not
the conditional information (`conditional`). A joint fit may use the activation as a better-conditioned
copy of the text: a regularised probe then reads a sum from a *number* that the state carries better than from the
one-hot operands that the control has, and a linear function of the page earns credit. The price: where the text tells
part of a target, the difference can reach H - I(text) only, and what text and state tell apart is not added up. Ask for
targets of which an additive reader knows nothing (`targets`), and the price is nothing.

The same copy could beat one-hot text alone. So wherever a control is called `text`, a further one is made of the same
rank as the measurement: `text-linear`, the part of the activations that is a linear function of the text (least squares
on training items), in the same components, at every layer. An activation that is linear in what is visible equals
it, and earns exactly nothing, however the caller encoded the text.

Controls that come by layer (a random twin) choose their own layer, as the activations do. `shuffled` is the mean over
label shuffles, one cheap fit each (chosen layer and penalty, one fold). Where a group decides the label, whole
groups are shuffled. A control below 0 is no control (probes on unseen combinations of an XOR are systematically
below chance): then `none` is the largest, with 0 bits.

Probes that do not beat ignorance by one standard error on training items give way to ignorance, with exactly 0 bits
(`ignorance`); else fits to noise, truly a little worse than ignorance, would have intervals wholly below 0. Every
interval is about the probes that were fitted.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence

import numpy as np

from faithprobe.errors import UnscoredError
from faithprobe.probes.inputs import FEWEST_TRAINING, MOST_UNSEEN, Controls, Layers, check_labels, encode, paired
from faithprobe.probes.measure import TEXT_LINEAR, measure
from faithprobe.probes.record import Information
from faithprobe.probes.sources import Labelled
from faithprobe.probes.splits import Fold, Groups, grouped_folds, select, shares_group

__all__ = ["TEXT_LINEAR", "Controls", "Information", "Layers", "cross_fitted", "transfer"]


def cross_fitted(
    layers: Layers,
    labels: Sequence[str] | np.ndarray,
    *,
    groups: Groups,
    controls: Controls | None = None,
    types: Sequence[Hashable] | np.ndarray | None = None,
    n_folds: int = 5,
    shuffles: int = 20,
    control_tasks: int = 10,
    conditional: bool = False,
    fewest: int = FEWEST_TRAINING,
    seed: int = 0,
) -> Information:
    """Information within one set of items: every item is read by a probe that saw none of its groups.

    Args:
        layers: layer to (items, features): arrays, or `Features`, which are read a chunk of items at a time.
        labels: (items,) classes as text; `MISSING` is left out.
        groups: (items,) or a tuple of several, the problem first, then the operand combination.
        controls: name to (items, features), or to one source per layer; see the module's docstring.
        types: (items,) what a control task is about: the last visible literal (`control_task`). Without types there is
            no selectivity, and no cost.
        n_folds: outer folds. Layer and penalty are chosen by inner folds of the training items, grouped alike.
        shuffles: label shuffles.
        control_tasks: draws of a control task, one refit of each fold a draw.
        conditional: measure also what activations add to the control called `text` in one fit with it; costs as much as
            two more feature sources.
        fewest: training items that every fold must have.
        seed: of folds and shuffles.

    Raises UnscoredError, with the number, where there are too few items, classes or groups, or where features are not
    finite.
    """
    y, names = encode(labels)
    rows = np.flatnonzero(y >= 0)
    check_labels(y[rows], names)
    inside = select(groups, rows)
    outer = grouped_folds(inside, n_folds=n_folds, labels=y[rows], seed=seed)
    folds = [Fold(rows[fold.train], rows[fold.test]) for fold in outer]
    pairs = {layer: (x, x) for layer, x in layers.items()}
    control_pairs = {name: paired(x, x) for name, x in (controls or {}).items()}
    items = Labelled(y, groups, _checked(types, len(y)))
    return measure(
        *(pairs, control_pairs, items, items, folds, len(names)),
        shuffles=shuffles,
        control_tasks=control_tasks,
        conditional=conditional,
        fewest=fewest,
        seed=seed,
    )


def transfer(
    layers: Layers,
    labels: Sequence[str] | np.ndarray,
    eval_layers: Layers,
    eval_labels: Sequence[str] | np.ndarray,
    *,
    groups: Groups,
    eval_groups: Groups,
    controls: Controls | None = None,
    eval_controls: Controls | None = None,
    types: Sequence[Hashable] | np.ndarray | None = None,
    eval_types: Sequence[Hashable] | np.ndarray | None = None,
    n_folds: int = 5,
    shuffles: int = 20,
    control_tasks: int = 10,
    conditional: bool = False,
    fewest: int = FEWEST_TRAINING,
    seed: int = 0,
) -> Information:
    """Information about evaluated items (the model's own chains) of probes fitted on others (probe problems).

    Arguments are as in `cross_fitted`, for both sides. Training items that share a group with an evaluated item are
    removed. Where that would cost more than a quarter of them, the evaluated items are split into `n_folds`, and each
    fold is read by a probe that lost only what *it* shares: few combinations must not mean no training items.

    Raises UnscoredError as `cross_fitted` does.
    """
    if (types is None) != (eval_types is None):
        raise ValueError("training and evaluated items need types, or neither")
    if set(layers) != set(eval_layers) or set(controls or {}) != set(eval_controls or {}):
        raise ValueError("training and evaluated items need the same layers and controls")
    y, names = encode(labels)
    check_labels(y[y >= 0], names)
    y_eval, _ = encode(eval_labels, names)
    scored = np.flatnonzero(y_eval >= 0)
    labelled = int((encode(eval_labels)[0] >= 0).sum())
    if not len(scored):
        raise UnscoredError(f"none of {len(y_eval)} evaluated items has a label that training items have")

    if labelled - len(scored) > MOST_UNSEEN * labelled:
        raise UnscoredError(
            f"{labelled - len(scored)} of {labelled} evaluated items have a class that no training item has"
        )

    def fold(test: np.ndarray) -> Fold:
        return Fold(np.flatnonzero((y >= 0) & ~shares_group(groups, select(eval_groups, test))), test)

    folds = [fold(scored)]
    if len(folds[0].train) < 0.75 * (y >= 0).sum():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its training sides are not used, so what it drops does not matter
                parts = grouped_folds(select(eval_groups, scored), n_folds=n_folds, seed=seed)
            folds = [fold(scored[part.test]) for part in parts]
        except UnscoredError:
            pass  # one group: one fold is all there is
    pairs = {layer: (x, eval_layers[layer]) for layer, x in layers.items()}
    control_pairs = {name: paired(x, (eval_controls or {})[name]) for name, x in (controls or {}).items()}
    return measure(
        pairs,
        control_pairs,
        Labelled(y, groups, _checked(types, len(y))),
        Labelled(y_eval, eval_groups, _checked(eval_types, len(y_eval))),
        folds,
        len(names),
        shuffles=shuffles,
        control_tasks=control_tasks,
        conditional=conditional,
        fewest=fewest,
        seed=seed,
    )


def _checked(types: Sequence[Hashable] | np.ndarray | None, n: int) -> Sequence[Hashable] | None:
    if types is None:
        return None
    found: list[Hashable] = list(types)
    if len(found) != n:
        raise ValueError(f"{len(found)} types for {n} items: one type per item")
    return found
