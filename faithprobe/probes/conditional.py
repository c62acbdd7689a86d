"""Conditional usable information: what activations add to the text, with both in one fit.

    I_V(X -> Y | T) = H_V(Y | T, X_T) - H_V(Y | T, X)        (Hewitt, Ethayarajh, Liang and Manning, EMNLP 2021,
                                                              arXiv 2109.09234; there X_T is a constant)

X are the activations, T the text by slot, and X_T the part of X that is a linear function of T (least squares on
training items).

Why X_T and not T alone: a regularised probe reads a number better from a direction in which it varies much than from
forty one-hot columns in which it varies little. An activation that merely copies the page in such a direction would
lower the loss, and the difference to T alone would credit a copy. X_T gives the baseline the same copy, at the same
scale and in as many columns. Where X is linear in T, X = X_T and the two sides are one.

Each side is an infimum over V, so it is the best of what can be made of its inputs, chosen by inner loss in each fold:

    H_V(Y | T, X_T):   nothing; T;   X_T;   T and X_T in one fit
    H_V(Y | T, X):     all of these;  X;  T and X in one fit

The first side is a control: of its members the best on the *held-out* items counts, since one below chance (XOR on
unseen combinations) would add credit. What is on the second side alone counts, as in `ignorance`, where it beats the
first side by one standard error on training items; else both sides are the same, and the information is exactly 0.

Unlike the gain beyond the largest control, this counts what only text and state *together* tell, and subtracts only
what both know: it can exceed I(X) - I(T), and is below it where the text tells what the state does. It costs two more
feature sources, at the chosen layer only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from faithprobe.probes.ignorance import inner_losses, null_losses, surpasses
from faithprobe.probes.sources import Coordinates, Part, Source


def linear_parts(
    parts: Sequence[Part], activations: Sequence[Coordinates], text: Sequence[Coordinates]
) -> list[Coordinates]:
    """In every fold: what of the projected activations is linear in the projected text, by least squares.

    A training item's part comes from the inner folds that leave the item out. In-sample, some of each item's own
    activation would pass into it, and with the activation the label: inner losses would look better than they are, the
    penalty would be too weak, and the control too easy to beat (.4 bits instead of 1.4 for a state that holds one of
    five ordered classes of a sum; `tests/probes/test_conditional.py`).
    """
    found = []
    for part, (x, _), (page, page_eval) in zip(parts, activations, text, strict=True):
        linear = np.empty_like(x)
        for fold in part.inner:
            linear[fold.test] = page[fold.test] @ _least_squares(page[fold.train], x[fold.train])
        found.append((linear, page_eval @ _least_squares(page, x)))
    return found


def _least_squares(page: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(page, x, rcond=1e-6)[0]


def conditional_bits(
    activations: Source,
    text: Source,
    text_linear: Source,
    simpler: Sequence[np.ndarray],
    clusters: np.ndarray,
    *,
    n_classes: int,
) -> np.ndarray:
    """(evaluated items,) bits that activations save beside the text, NaN where not scored.

    Args:
        activations: at all their layers.
        text: the control.
        text_linear: the linear part of the activations in the text, at all layers.
        simpler: (evaluated items,) bits each of the null predictor and of whatever else the text alone gives; where the
            joint fit of the first side is worse than one of them, that one is the first side.
        clusters: (training items,)
        n_classes: of all labels.
    """
    parts, n_eval = activations.parts, activations.n_eval
    pages = [best.coordinates for best in text.chosen]
    states = [best.coordinates for best in activations.chosen]
    base, full = Source(parts, n_eval), Source(parts, n_eval)
    for name, source, sides in (
        ("text", text, (base, full)),
        ("text-linear", text_linear, (base, full)),
        ("activations", activations, (full,)),
    ):
        for side in sides:
            side.add(name, [best.reading for best in source.chosen], [best.coordinates for best in source.chosen])
    joint = _joint(linear_parts(parts, states, pages), pages)
    readings = base.read(joint, n_classes=n_classes)
    for side in (base, full):
        side.add("text and text-linear", readings, joint)
    joint = _joint(states, pages)
    full.add("text and activations", full.read(joint, n_classes=n_classes), joint)

    of_base, of_full = (inner_losses(side, len(clusters)) for side in (base, full))
    nothing = null_losses(parts, len(clusters))
    if not surpasses(of_base, nothing, clusters, candidates=len(base.loss)):
        of_base = nothing
    without = min(*simpler, base.chosen_loss, key=np.nanmean)
    if not surpasses(of_full, of_base, clusters, candidates=len(full.loss)):
        return without * 0
    return without - full.chosen_loss


def _joint(states: Sequence[Coordinates], pages: Sequence[Coordinates]) -> list[Coordinates]:
    return [
        (np.hstack([state[0], page[0]]), np.hstack([state[1], page[1]]))
        for state, page in zip(states, pages, strict=True)
    ]
