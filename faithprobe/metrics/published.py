"""Published faithfulness metrics that ours is compared with, by the names that the command line knows.

In all of them higher means more faithful, as their papers mean it: what each claims stands in `ABOUT`, what it cannot
tell in its own docstring and in `docs/usage/published_metrics.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from faithprobe.errors import UnknownNameError
from faithprobe.metrics.adding_mistakes import adding_mistakes
from faithprobe.metrics.base import Metric
from faithprobe.metrics.biased_hint import biased_hint
from faithprobe.metrics.early_answering import early_answering
from faithprobe.metrics.filler_tokens import filler_tokens
from faithprobe.metrics.nldd import nldd
from faithprobe.metrics.paraphrase import paraphrase
from faithprobe.metrics.resampling import resampling
from faithprobe.metrics.simulation import counterfactual_simulation
from faithprobe.metrics.true_thinking import true_thinking

PUBLISHED: Mapping[str, Metric] = {
    "early-answering": early_answering,
    "adding-mistakes": adding_mistakes,
    "filler-tokens": filler_tokens,
    "paraphrase": paraphrase(),
    "biased-hint": biased_hint,
    "counterfactual-simulation": counterfactual_simulation,
    "nldd": nldd,
    "true-thinking": true_thinking,
    "resampling": resampling,
}
"""Passed as `audit(..., metrics=published(names))`; `faithprobe audit --battery` runs all of them."""
VALIDATED = ("early-answering", "adding-mistakes", "filler-tokens")
"""What `validate` scores unless it is asked for others: the cheap ones that can tell the organisms apart."""


@dataclass(frozen=True)
class About:
    """What a reader needs beside the number of one metric."""

    claim: str
    """What a high value says."""
    measure: str
    """What the number of a whole chain is."""
    paper: str
    arxiv: str
    control: str = ""
    """What its control is; empty where it has none."""
    share: bool = True
    """Values lie in [0, 1]."""
    also: tuple[str, str] | None = None
    """A key of `detail` whose mean stands beside the value, unscored chains included, and what it is."""


_LANHAM = "Lanham et al. 2023", "2307.13702"
ABOUT: Mapping[str, About] = {
    "early-answering": About(
        "The answer waits for the chain.",
        "area over the curve of the same answer, against the share of the chain that was given",
        *_LANHAM,
    ),
    "adding-mistakes": About(
        "A mistake in the chain reaches the answer.",
        "share of answers that change when a stated value is wrong, weighed by tokens",
        *_LANHAM,
        control="the value replaced by itself",
    ),
    "filler-tokens": About(
        "The chain's words are needed, not only their number.",
        "share of answers that change when filler stands for the chain",
        *_LANHAM,
    ),
    "paraphrase": About(
        "Nothing is encoded in the wording.",
        "share of beginnings of the chain that lead to the same answer in other words",
        *_LANHAM,
        control="the answer is the same without the chain",
    ),
    "biased-hint": About(
        "What moved the answer is named.",
        "share of followed hints that the chain mentions, over alpha",
        "Turpin et al. 2023; Chen et al. 2025",
        "2305.04388, 2505.05410",
        control="the answer is the hinted one under another hint",
        also=("followed", "hints followed"),
    ),
    "counterfactual-simulation": About(
        "The chain foretells the answers to other problems.",
        "share of answers to counterfactual problems that its equations predict",
        "Chen et al. 2023",
        "2307.08678",
        control="the answer is the one predicted of another problem",
        also=("generality", "generality"),
    ),
    "nldd": About(
        "A corrupted step costs the answer its margin.",
        "share of the answer's log-probability margin that is lost, mean over steps",
        "Ye et al. 2026",
        "2602.11201",
        control="the same cut without the corruption",
        share=False,
    ),
    "true-thinking": About(
        "The steps are necessary or sufficient for the answer.",
        "change of the answer's probability when a step is perturbed, mean over steps",
        "Zhao et al. 2025",
        "2510.24941",
        control="the same between two perturbed versions",
    ),
    "resampling": About(
        "The answer hangs on what a step says.",
        "divergence of the answers when a step says something else, in nats, mean over steps",
        "Bogdan et al. 2025",
        "2506.19143",
        control="divergence of one half of the same rollouts from the other",
        share=False,
    ),
}
"""By name, what each metric claims; the report's table is made from it."""


def published(names: Iterable[str]) -> dict[str, Metric]:
    """The metrics of these names. Raises UnknownNameError for one that is not in `PUBLISHED`."""
    chosen = dict.fromkeys(names)
    for name in chosen:
        if name not in PUBLISHED:
            raise UnknownNameError("published metric", name, list(PUBLISHED))
    return {name: PUBLISHED[name] for name in chosen}
