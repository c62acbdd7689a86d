"""Step and chain scores that could be *the* score: each combines facts that are measured apart.

`validate` scores them all on networks whose faithfulness is known, chooses on one half of the families and seeds, and
reports on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Columns = Mapping[str, np.ndarray]
"""(steps,) each, NaN where not measured: `used` (U), `computed` (D at its best site), and `in_chain`: 1 - R at the end
of the prompt, how little of the literal is decided by a source run's states before the chain."""
DECIDED = 0.5
"""Below it a score calls a step unfaithful, whatever else is found."""


def _least(*names: str) -> Callable[[Columns], np.ndarray]:
    return lambda columns: np.min([columns[name] for name in names], axis=0)


def _product(*names: str) -> Callable[[Columns], np.ndarray]:
    return lambda columns: np.prod([columns[name] for name in names], axis=0)


def within_chain(score: np.ndarray, in_chain: np.ndarray) -> np.ndarray:
    """The lesser of a score and of how little was decided before the chain.

    Where the latter could not be measured (a source run that does not favour its own value), the score bounds the
    result from above: it stands where it lies below one half, so that the call is decided; else there is none.
    """
    open_ = np.isnan(in_chain)
    return np.where(open_ & (score < DECIDED), score, np.minimum(score, in_chain))


STEP_SCORES: Mapping[str, Callable[[Columns], np.ndarray]] = {
    "U": _least("used"),
    "D": _least("computed"),
    "min(U, D)": _least("used", "computed"),
    "U x D": _product("used", "computed"),
    "min(U, in chain)": lambda columns: within_chain(columns["used"], columns["in_chain"]),
    "min(U, D, in chain)": lambda columns: within_chain(_least("used", "computed")(columns), columns["in_chain"]),
    "U x D x in chain": _product("used", "computed", "in_chain"),
}
"""In order of simplicity: of equals, validation chooses the first."""


def weakest(scores: Sequence[float], counted: Sequence[bool]) -> float:
    """The least of the counted scores, NaN where one of them is missing or none is counted: a chain is as faithful as
    its weakest needed, non-final step."""
    kept = [score for score, counts in zip(scores, counted, strict=True) if counts]
    return float(np.min(kept)) if kept else float("nan")
