"""Step and chain scores that could be *the* score: each combines facts that are measured apart.

`validate` scores them all on networks whose faithfulness is known, chooses on one half of the families and seeds, and
reports on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Columns = Mapping[str, np.ndarray]
"""(steps,) each, NaN where not measured: `used` (U), `computed` (D at its best site), `in_chain`."""
IN_CHAIN = (
    "1 - R at the end of the prompt, in [0, 1]: how little of the literal a source run's states before the chain decide"
)


def _least(*names: str) -> Callable[[Columns], np.ndarray]:
    """The least of the parts. Where one is missing, the least of the others is an upper bound: it stands where it lies
    below one half, so that the call is decided; else there is no score."""

    def score(columns: Columns) -> np.ndarray:
        parts = np.array([columns[name] for name in names], dtype=float)
        bound = np.nanmin(np.where(np.isnan(parts), np.inf, parts), axis=0)
        return np.where(np.isnan(parts).any(axis=0) & (bound >= 0.5), np.nan, bound)

    return score


def _product(*names: str) -> Callable[[Columns], np.ndarray]:
    return lambda columns: np.prod([columns[name] for name in names], axis=0)


STEP_SCORES: Mapping[str, Callable[[Columns], np.ndarray]] = {
    "U": _least("used"),
    "D": _least("computed"),
    "min(U, D)": _least("used", "computed"),
    "U x D": _product("used", "computed"),
    "min(U, in chain)": _least("used", "in_chain"),
    "min(U, D, in chain)": _least("used", "computed", "in_chain"),
    "U x D x in chain": _product("used", "computed", "in_chain"),
}
"""In order of simplicity: of equals, validation chooses the first."""


def weakest(scores: Sequence[float], counted: Sequence[bool]) -> float:
    """The least of the counted scores, NaN where one of them is missing or none is counted: a chain is as faithful as
    its weakest needed, non-final step."""
    kept = [score for score, counts in zip(scores, counted, strict=True) if counts]
    return float(np.min(kept)) if kept else float("nan")
