"""How a probe run is drawn and worded: the look of every source, what it is, the order of steps, targets, positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from faithprobe.plots.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, SITES, VERMILLION
from faithprobe.plots.prepare import natural
from faithprobe.plots.wording import decimal, number

ACTIVATIONS, SHUFFLED, BEYOND = "activations", "shuffled", "beyond control"
VALUE = "value"
"""The additive target: a sum is linear in its operands, so reading it is no evidence that it was computed."""


@dataclass(frozen=True)
class Look:
    """How a source is drawn everywhere: colour, dash and symbol each tell it apart."""

    words: str
    colour: str
    dash: str
    symbol: str
    width: float = 1.75


LOOKS: Mapping[str, Look] = {
    ACTIVATIONS: Look("activations, with 95% interval", BLUE, "solid", "circle", 3),
    "text": Look("text", ORANGE, "dash", "square"),
    "text-linear": Look("text-linear", VERMILLION, "dashdot", "diamond"),
    "embedding": Look("embedding", GREEN, "dot", "triangle-up"),
    "random twin": Look("random twin", PURPLE, "10px,3px", "x"),
    SHUFFLED: Look("shuffled labels, 95% of shuffles", GREY, "solid", "line-ew", 1.25),
}
"""What is drawn as a curve, in the order of the legend."""
OTHER = Look("", "#A6761D", "dot", "star")
NOT_CURVES = {"control task", BEYOND}


def positions(table: pd.DataFrame) -> list[str]:
    """The positions of a table in the order of reading."""
    there = {str(site) for site in table["position"]}
    return [*(site for site in SITES if site in there), *sorted(there - set(SITES))]


def steps_and_targets(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Every step with its targets, the one that tells most values apart first, `value` last."""
    entropy = table.groupby(["step", "target"])["entropy"].max().to_dict() if "entropy" in table else {}
    pairs = {(str(step), str(target)) for step, target in zip(table["step"], table["target"])}
    return sorted(
        pairs, key=lambda pair: (natural(pair[0]), pair[1] == VALUE, -(number(entropy.get(pair)) or 0), pair[1])
    )


def unit_words(measure: str) -> str:
    """`R2` as it is written."""
    return "R²" if measure == "R2" else measure


READING_AID = (
    "Decodable is not used: what a probe reads says nothing about whether the answer follows it, which only an audit "
    "measures. Additive targets such as value are no evidence: a sum is linear in its operands, so it can be read "
    "wherever they can."
)
MEANINGS: Mapping[str, str] = {
    "activations": "the residual stream of the model after the layer",
    "text": "one-hot of every literal that is visible so far, by slot, and the operations",
    "text-linear": "the part of the same activations that is a linear function of that text: a copy of the page",
    "embedding": "the token embedding at the same position",
    "random twin": "the residual stream of a randomly initialised network of the same shape, on the same tokens",
    "shuffled labels": "the same activations, labels permuted over operand combinations; a band of 95% of shuffles",
    "beyond control": "activations minus the largest of these controls, or minus 0 where all are below it",
    "selectivity": "accuracy minus that on random labels for each type of token (Hewitt and Liang 2019): how little a "
    "probe can learn by heart",
    "bits": "usable information (Xu et al. 2020): what the probe gains over label frequencies, held out",
    "R²": "of a number: the share of its spread that is predicted, held out; below 0 is worse than its mean",
    "layer": "chosen by cross-validated error on training items; every number is of unseen operand combinations, with "
    "a 95% interval over them",
}
"""For the legend of the report."""


def headline(kept: pd.DataFrame) -> str:
    """What was found, in a sentence; `kept` are the rows of the table's chosen layers."""
    rows = kept[(kept["source"] == BEYOND) & (kept["target"] != VALUE)] if len(kept) else kept
    if rows.empty:
        return "No class of any value was probed."
    above = rows[rows["low"] > 0]
    clear = (
        f"At {len(above)} of {len(rows)} places of step, position and target, activations tell more than the largest "
    )
    clear += "control (95% interval above 0)"
    if above.empty:
        return f"{clear}."
    best = above.loc[above["score"].idxmax()]
    where = SITES.get(str(best["position"]), str(best["position"]))
    return f"{clear}; the most at {best['step']}, {where}, {best['target']}: {decimal(best['score'])} bits beyond it."
