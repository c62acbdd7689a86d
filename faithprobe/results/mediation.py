"""Mediation effects over all pairs of an audit, for its summary."""

from __future__ import annotations

from collections import Counter
from typing import Any

from faithprobe.scores.evidence import Evidence
from faithprobe.scores.mediation import EFFECTS, Cells, mean_cells, mean_effects
from faithprobe.scores.statistics import Interval

CELLS = tuple(Cells.__dataclass_fields__)


def mediation_summary(found: Evidence) -> dict[str, Any]:
    """Each effect with its interval, n and control, the shares behind it, and what was left out by reason.

    Effects are None where no pair could be made.
    """
    rows = found.tables.get("mediation", ())
    reasons = Counter(row.unscored for _, row in found if row.value is None)
    if not rows:
        return {**dict.fromkeys(EFFECTS), "cells": {}, "unscored": dict(reasons)}
    cells = [Cells(*(float(row[name]) for name in CELLS)) for row in rows]  # type: ignore[arg-type]
    chains = [str(row["chain"]) for row in rows]
    effects = {
        name: {**_interval(effect), "control": _mean([row[f"{name}_control"] for row in rows])}
        for name, effect in mean_effects(cells, chains).items()
    }
    shares = {name: _interval(share) for name, share in zip(CELLS, mean_cells(cells, chains), strict=True)}
    return {**effects, "cells": shares, "unscored": dict(reasons)}


def _interval(found: Interval) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def _mean(values: list[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
