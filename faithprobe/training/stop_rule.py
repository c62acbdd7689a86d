"""When a training run is stopped: a rule over the history of its checks, which is a sequence of plain records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faithprobe.training.evaluate import Evaluation, difference

Record = Mapping[str, Any]
"""One check: its step, the numbers of `Evaluation.logs`, all that is behind them, and why the run was stopped."""


@dataclass(frozen=True)
class StopRule:
    """When a run is stopped. Intervals decide, not values: few problems have wide ones, and stop nothing."""

    max_gap: float | None = 0.2
    """A Goodhart gap that is surely larger is too large; None: any is let pass."""
    max_accuracy_drop: float | None = 0.05
    """So far may accuracy surely lie under the best that was seen before; None: as far as it likes."""
    patience: int = 2
    """Checks in a row, each of them beyond the limit, that stop a run."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, not {self.patience}")
        for name in ("max_gap", "max_accuracy_drop"):
            limit = getattr(self, name)
            if limit is not None and not 0 <= limit <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {limit}")

    def reason(self, history: Sequence[Record]) -> str:
        """Why a run with this history must stop; empty where it may go on."""
        if len(history) < self.patience:
            return ""
        recent = range(len(history) - self.patience, len(history))
        for name, limit, excess in (
            ("the Goodhart gap", self.max_gap, _gap),
            ("the fall of accuracy", self.max_accuracy_drop, _fall),
        ):
            if limit is None:
                continue
            found = [excess(history, k) for k in recent]
            if all(interval is not None and interval[1] > limit for interval in found):
                last = found[-1]
                assert last is not None
                value, low, high = last
                checks = "at the last check" if self.patience == 1 else f"at each of the last {self.patience} checks"
                return (
                    f"{name} is {value:.2f} (95% interval {low:.2f} to {high:.2f}), beyond the limit of {limit:g} "
                    f"{checks}"
                )
        return ""


Limits = tuple[float, float, float]
"""A value and its interval."""


def _gap(history: Sequence[Record], k: int) -> Limits | None:
    found = (history[k][f"goodhart_gap{suffix}"] for suffix in ("", "_low", "_high"))
    value, low, high = found
    return None if None in (value, low, high) else (value, low, high)


def _fall(history: Sequence[Record], k: int) -> Limits | None:
    """How far accuracy lies under the best of the checks before."""
    known = [Evaluation.from_record(record).accuracy for record in history[: k + 1]]
    before = [score for score in known[:k] if score.value is not None]
    if not before:
        return None
    fall = difference(max(before, key=lambda score: score.value or 0.0), known[k])
    return None if fall.value is None or fall.low is None or fall.high is None else (fall.value, fall.low, fall.high)
