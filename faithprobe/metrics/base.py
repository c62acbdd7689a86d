"""What every metric is: a function from a subject and its chains to evidence, one measurement a step and chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.scores.evidence import Evidence


@dataclass(frozen=True)
class Settings:
    """What a metric may be told; the same for all, so that any metric can be called like any other."""

    seed: int = 0
    replacements: int = 4
    """Per literal; at least 3 are needed for a score."""


Metric: TypeAlias = Callable[[Subject, Sequence[Chain], Settings], Evidence]
"""A user's own metric is a function of this type."""
