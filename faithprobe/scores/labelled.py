"""Items with labels: one row a step (its name in `step`) or a chain (""), a column for every target, and one column
`m:NAME` for every metric, higher meaning faithful. `faithprobe.results.labelled` makes them from audits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

STEP_TARGETS = ("step_used", "step_computed", "step_faithful", "step_read")
CHAIN_TARGET = "chain"
TEXT_ONLY = "text_only"
"""The metric that reads nothing but the text; its columns are `t:TARGET`, one a target."""
SITES_OF_D = ("D before the chain", "D ahead", "D at pi")
THRESHOLD = 0.5
"""Where a metric in [0, 1] calls a step or chain faithful."""


def metric_names(items: pd.DataFrame) -> list[str]:
    return [column[2:] for column in items.columns if column.startswith("m:")]


def labelled(items: pd.DataFrame, name: str, target: str) -> pd.DataFrame:
    """The rows of steps or of chains, with the columns that `score_metric` reads.

    Where networks print the same text, a step is compared with the same step of others only: its place in the chain is
    text, too. In the strata that their text gives away, all steps are compared.
    """
    whole = target == CHAIN_TARGET
    part = items[(items["step"] == "") == whole]
    column = f"t:{target}" if name == TEXT_ONLY else f"m:{name}"
    strata = (part["stratum"] + " " + part["step"]).where(part["matched"] & ~np.bool_(whole), part["stratum"])
    score = part.get(column, np.nan)
    return part.assign(label=part[target], score=score, organism=part["condition"], stratum=strata)


_PARTS = {"U": "used", "D": "computed", "in chain": "lead"}
_STAGES: Mapping[str, tuple[str, ...]] = {
    "U_read": ("used",),
    "agreement": ("computed",),
    "not known early": ("computed",),
    **dict.fromkeys(SITES_OF_D, ("computed",)),
    "no-bypass": ("bypass",),
    "score of the audit": ("used", "computed", "lead"),
}


def stages_of(name: str) -> tuple[str, ...]:
    """What has to be measured for a metric: the audit's own stages, or the metric itself."""
    if name in _STAGES:
        return _STAGES[name]
    inner = name.removesuffix(", no bypass").removeprefix("min(").removesuffix(")").replace(" x ", ", ")
    return (*(_PARTS.get(part, part) for part in inner.split(", ")), *["bypass"] * name.endswith(", no bypass"))


def worst_items(items: pd.DataFrame, name: str, target: str = "step_faithful", n: int = 20) -> pd.DataFrame:
    """The items on which a metric in [0, 1] is most wrong, with a column `error`. Of items that are equally wrong, one
    of every condition comes before the second of any: twenty times the same failure would teach nothing."""
    part = labelled(items, name, target).dropna(subset=["score", "label"])
    part = part.assign(error=(part["score"] - part["label"]).abs().round(9))
    part["again"] = part.groupby(["condition", "error"], sort=False).cumcount()
    part = part.sort_values(["error", "again"], ascending=[False, True], kind="stable")
    return part.drop(columns="again").head(n)


def conditions_by_call(items: pd.DataFrame, name: str, target: str = "step_faithful") -> list[dict[str, Any]]:
    """Confusion by family: how often a metric calls steps faithful, by condition and truth."""
    part = labelled(items, name, target)
    rows = []
    for condition, apart in part.groupby("condition", sort=False):
        known = apart.dropna(subset=["score", "label"])
        called = known["score"] >= THRESHOLD
        for truth in (1.0, 0.0):
            of = known["label"] == truth
            rows.append(
                {
                    "condition": condition,
                    "label": bool(truth),
                    "n": int(of.sum()),
                    "called_faithful": float(called[of].mean()) if of.any() else None,
                    "unscored": int((apart["score"].isna() & (apart["label"] == truth)).sum()),
                }
            )
    return rows
