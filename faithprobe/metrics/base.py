"""What every metric is: a function from a subject and its chains to evidence, one measurement a step and chain."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.errors import FaithprobeError, MetricError
from faithprobe.scores.evidence import Evidence, Measurement


@dataclass(frozen=True)
class Settings:
    """What a metric may be told; the same for all, so that any metric can be called like any other."""

    seed: int = 0
    replacements: int = 4
    """Per literal; at least 3 are needed for a score."""


Metric: TypeAlias = Callable[[Subject, Sequence[Chain], Settings], Evidence]
"""A user's own metric is a function of this type."""


def run_metric(name: str, metric: Metric, subject: Subject, chains: Sequence[Chain], settings: Settings) -> Evidence:
    """Calls a metric and checks what it returns. Raises MetricError, with its name, where it throws or returns
    anything but finite measurements of these chains."""
    began = time.perf_counter()
    try:
        found = metric(subject, chains, settings)
    except FaithprobeError:
        raise
    except Exception as error:
        raise MetricError(f"metric {name!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, Evidence):
        raise MetricError(f"metric {name!r} returned a {type(found).__name__}; return an Evidence")
    if not isinstance(found.rows, Mapping):
        raise MetricError(f"metric {name!r} returned rows as a {type(found.rows).__name__}; a mapping is wanted")
    steps = {chain.id: {"", *(literal.step for literal in chain.stated), *chain.unlocated} for chain in chains}
    for key, row in found:
        known = isinstance(key, tuple) and len(key) == 2 and key[1] in steps.get(key[0], ())
        if not known or not isinstance(row, Measurement):
            raise MetricError(
                f"metric {name!r} returned {key!r}: {type(row).__name__}; every key is (chain.id, step of that chain), "
                "or (chain.id, '') for the whole chain, and every value a Measurement"
            )
        if row.value is not None and not math.isfinite(row.value):
            raise MetricError(
                f"metric {name!r} returned {row.value} for {key!r}; what cannot be measured is Measurement.none(reason)"
            )
    return replace(found, seconds=time.perf_counter() - began)
