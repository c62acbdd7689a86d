"""What a probe is asked for: functions of the exact value that are not additive in the inputs.

A sum is linear in its operands, so a linear probe finds it wherever they are: decoding it shows no computation. Parity,
last digit and residues of a sum are not sums of functions of the operands; on unseen combinations nothing additive
predicts them. Names and truth values are classes; so are numbers that take few values (these *can* be additive: there
the controls of `information` decide).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import log2
from typing import TypeGuard

import numpy as np

from faithprobe.tasks.graph import Value, show_value

MISSING = ""
"""Label of an item that a target does not cover: parity of a half, a class with too few items."""


def labels_of(name: str, values: Sequence[Value | None]) -> np.ndarray:
    """(items,) labels as text of the target `name` (`parity`, `last digit`, `mod 3`, `class`); `MISSING` where the
    target is not defined for a value. Raises ValueError for an unknown target."""
    if name == "class":
        return np.array([MISSING if value is None else show_value(value) for value in values], dtype=str)
    if name == "parity":
        return np.array([("even", "odd")[v % 2] if _whole(v) else MISSING for v in values], dtype=str)
    if name == "last digit":  # as it is written: the last digit of -13 is 3, where the residue is 7
        return np.array([str(abs(v) % 10) if _whole(v) else MISSING for v in values], dtype=str)
    if name.startswith("mod ") and name[4:].isdecimal() and int(name[4:]) >= 2:
        return np.array([str(v % int(name[4:])) if _whole(v) else MISSING for v in values], dtype=str)
    raise ValueError(f"no target is called {name!r}; there are parity, last digit, class, and mod 2, mod 3, ...")


def targets_for(
    values: Sequence[Value | None],
    *,
    moduli: Sequence[int] = (),
    fewest: int = 20,
    most_classes: int = 12,
    covered: float = 0.9,
) -> dict[str, np.ndarray]:
    """Labels by target for every target that these values support.

    Args:
        values: (items,) exact values; None where there is none.
        moduli: residues to ask for besides parity and last digit; a task modulo p needs none, its values are classes.
        fewest: items that a class needs; items of smaller classes become `MISSING`.
        most_classes: numbers with more different values than this are no class target (names and truth values may
            have any number).
        covered: share of all items that must keep a label, or the target is left out.

    Returns:
        {name: (items,) text labels}, each with at least two classes; empty where nothing is supported. Use
        `labels_of` for the same target on other items.
    """
    names = ["parity", "last digit", *(f"mod {m}" for m in moduli)]
    # Numbers of few values are classes; a name or a truth value is a class whatever their number.
    numbers = {value for value in values if isinstance(value, int | Fraction) and not isinstance(value, bool)}
    if len(numbers) <= most_classes:
        names.append("class")
    found = {}
    for name in names:
        labels = labels_of(name, values)
        counts = Counter(label for label in labels.tolist() if label != MISSING)
        kept = {label for label, count in counts.items() if count >= fewest}
        if len(kept) >= 2 and sum(counts[label] for label in kept) >= covered * len(labels):
            found[name] = np.array([label if label in kept else MISSING for label in labels.tolist()], dtype=str)
    return found


def entropy_bits(labels: Sequence[str] | np.ndarray, *, corrected: bool = True) -> float:
    """Entropy of the labels in bits, `MISSING` left out.

    The plug-in estimate -sum p log2 p is too low by about (K - 1) / (2 N ln 2); `corrected` adds that (Miller, 1955),
    up to log2 K, which no distribution over K classes exceeds. Raises ValueError without labels.
    """
    counts = Counter(label for label in (str(label) for label in labels) if label != MISSING)
    n = sum(counts.values())
    if n == 0:
        raise ValueError("no labels")
    entropy = -sum(c / n * log2(c / n) for c in counts.values())
    if corrected:
        entropy = min(log2(len(counts)), entropy + (len(counts) - 1) / (2 * n * float(np.log(2))))
    return abs(entropy)  # -0.0 for constant labels


def _whole(value: Value | None) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
