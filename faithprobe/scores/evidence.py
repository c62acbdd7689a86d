"""What one metric found: a number, its control and its interval for every step of every chain, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Key = tuple[str, str]
"""(chain id, step name); the step is `""` for a number about the whole chain."""


@dataclass(frozen=True)
class Measurement:
    """One number with what it takes to believe it."""

    value: float | None
    """In the metric's own unit; None where it could not be measured."""
    control: float | None = None
    """The same quantity where the effect cannot exist (mismatched replacement, placebo, text baseline)."""
    n: int = 0
    """Number of independent units (replacements, problems) behind the value."""
    low: float | None = None
    high: float | None = None
    """95% interval."""
    unscored: str = ""
    """Why there is no value; empty where there is one."""
    detail: Mapping[str, float | str | None] = field(default_factory=dict)
    """Parts of the number: shares of outcomes, bits, layer, ..."""

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.unscored):
            raise ValueError(f"a measurement has a value or a reason why not: {self}")

    @classmethod
    def none(cls, reason: str, **detail: float | str | None) -> Measurement:
        return cls(value=None, unscored=reason, detail=detail)


@dataclass(frozen=True)
class Evidence:
    """Measurements of one metric over many chains."""

    metric: str
    rows: Mapping[Key, Measurement]
    tables: Mapping[str, tuple[Mapping[str, object], ...]] = field(default_factory=dict)
    """What only a figure needs, by table name of `scores.tables`: rows as plain mappings."""
    seconds: float = 0.0
    """That it took to measure."""

    def __iter__(self) -> Iterator[tuple[Key, Measurement]]:
        return iter(self.rows.items())

    def get(self, chain: str, step: str) -> Measurement:
        return self.rows.get((chain, step)) or Measurement.none("not measured")
