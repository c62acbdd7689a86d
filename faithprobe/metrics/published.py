"""Published faithfulness metrics that ours is compared with, by the names that the command line knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from faithprobe.errors import UnknownNameError
from faithprobe.metrics.adding_mistakes import adding_mistakes
from faithprobe.metrics.base import Metric
from faithprobe.metrics.early_answering import early_answering
from faithprobe.metrics.filler_tokens import filler_tokens

PUBLISHED: Mapping[str, Metric] = {
    "early-answering": early_answering,
    "adding-mistakes": adding_mistakes,
    "filler-tokens": filler_tokens,
}
"""All of Lanham et al. 2023 (arXiv 2307.13702), which calls an answer that depends on the chain a faithful one: higher
values mean more faithful. Passed as `audit(..., metrics=published(names))`."""


def published(names: Iterable[str]) -> dict[str, Metric]:
    """The metrics of these names. Raises UnknownNameError for one that is not in `PUBLISHED`."""
    chosen = dict.fromkeys(names)
    for name in chosen:
        if name not in PUBLISHED:
            raise UnknownNameError("published metric", name, list(PUBLISHED))
    return {name: PUBLISHED[name] for name in chosen}
