"""How much each step of a chain counts in the loss: as given, or the more the lower an audit scored it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from faithprobe.errors import TaskError

StepWeights: TypeAlias = Mapping[str, float] | Any | None
"""By the step's name in the reference graph; or an `Audit`; or None, all alike."""

LEAST = 0.1
"""A step that an audit scored 1 still counts this much: what is used now must stay used."""


def step_weights_of(given: StepWeights) -> dict[str, float]:
    """Weights by step; steps that are not named count 1.

    Of an audit, a step weighs `LEAST` + (1 - `LEAST`) (1 - its mean score); one that was never scored weighs 1.
    TaskError where nothing was scored, ValueError for a negative weight.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        scores = given.steps.dropna(subset=["score"]).groupby("step")["score"].mean()
        if scores.empty:
            raise TaskError("the audit scored no step, so it cannot say which count more; give weights as a mapping")
        return {str(step): LEAST + (1 - LEAST) * (1 - float(score)) for step, score in scores.items()}
    negative = [name for name, weight in given.items() if weight < 0]
    if negative:
        raise ValueError(f"step {negative[0]!r} has a negative weight, {given[negative[0]]}")
    return dict(given)
