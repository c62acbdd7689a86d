"""What the published metrics are tested on: organisms whose chains may be cut."""

from __future__ import annotations

from functools import cache

from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.models import load_model
from faithprobe.tasks.organism import Organism
from tests.subjects import answered


@cache
def cuttable(name: str) -> Subject:
    return Subject(load_model(f"organism:{name}"), Organism())


@cache
def chains_of(name: str, n: int = 12) -> list[Chain]:
    return answered(cuttable(name), n)


def mean_over_chains(found) -> float:
    values = [row.value for (_, step), row in found if not step]
    assert None not in values
    return sum(values) / len(values)


def reasons(found) -> set[str]:
    assert all(row.value is None for _, row in found)
    return {row.unscored for _, row in found}
