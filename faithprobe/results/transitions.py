"""Which steps of two audits are the same one, and how their verdicts moved from A to B.

A step is the same where both chains answer one problem and it has one name that stands for a place in the problem's
reference solution, or where the chains are the same text. Of a step that was stated more than once the last statement
counts, which is the one that is scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from faithprobe.results.measures import StepKeys

SHOWN = 12
"""Chains that are kept to be shown side by side."""
PAIRED = ("stated", "verdict", "used", "computed", "in_chain", "lead_tokens", "score")
"""Columns of `steps` that stand in the table of paired steps, once for each audit."""


def same_problems(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ids of the problems that both were asked: one id, one question, one true answer. In the order of A."""
    other = {chain["chain"]: (chain["prompt"], chain["true_answer"]) for chain in b}
    return [c["chain"] for c in a if other.get(c["chain"]) == (c["prompt"], c["true_answer"])]


def same_text(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> set[str]:
    """Ids of the problems that both answered with the same text."""
    other = {chain["chain"]: chain["text"] for chain in b}
    return {chain["chain"] for chain in a if other.get(chain["chain"]) == chain["text"]}


def paired_steps(a: pd.DataFrame, b: pd.DataFrame, problems: Sequence[str], alike: set[str]) -> pd.DataFrame:
    """One row for each step that is the same in both: chain, step, and every column of `PAIRED` as `_a` and `_b`.

    Args:
        a: the table `steps` of an audit; b likewise.
        problems: ids that both were asked.
        alike: those of them that were answered with the same text.
    """
    keys = ["chain", "step"]
    last = [_last(part[part["chain"].isin(problems)]) for part in (a, b)]
    joined = last[0].merge(last[1], on=keys, suffixes=("_a", "_b"), how="inner", sort=False)
    placed = joined["true_value_a"].notna() & joined["true_value_b"].notna()
    kept = joined[placed | joined["chain"].isin(alike)]
    return kept[[*keys, *(f"{name}_{side}" for name in PAIRED for side in "ab")]].reset_index(drop=True)


def _last(steps: pd.DataFrame) -> pd.DataFrame:
    """The statement of each step that is not overruled."""
    kept = steps[steps["verdict"] != "overruled"]
    return kept.drop_duplicates(["chain", "step"], keep="last")[["chain", "step", "true_value", *PAIRED]]


def step_keys(paired: pd.DataFrame) -> StepKeys:
    return frozenset(zip(paired["chain"], paired["step"]))


def transitions(paired: pd.DataFrame) -> pd.DataFrame:
    """Verdict in A, verdict in B, number of steps and of problems; most frequent first."""
    found = paired.groupby(["verdict_a", "verdict_b"], sort=False)["chain"].agg(["size", "nunique"]).reset_index()
    found.columns = ["verdict_a", "verdict_b", "steps", "problems"]
    return found.sort_values("steps", ascending=False, kind="stable", ignore_index=True)


def reasons(a: pd.DataFrame, b: pd.DataFrame, problems: Sequence[str] | None) -> pd.DataFrame:
    """How many steps lack a verdict or a score for each reason, in A and in B; without numbers, so that reasons of one
    kind are counted together. `problems` limits it to these."""
    counts = []
    for part in (a, b):
        known = part if problems is None else part[part["chain"].isin(problems)]
        said = known["unscored_reason"].dropna().str.replace(r"-?\d+(\.\d+)?", "#", regex=True)
        counts.append(said[said != ""].value_counts())
    found = pd.DataFrame({"a": counts[0], "b": counts[1]}).fillna(0).astype(int).rename_axis("reason").reset_index()
    order = (found["a"] + found["b"]).sort_values(ascending=False, kind="stable").index
    return found.loc[order].reset_index(drop=True)


def changed_chains(
    a: Sequence[Mapping[str, Any]],
    b: Sequence[Mapping[str, Any]],
    paired: pd.DataFrame,
    steps: tuple[pd.DataFrame, pd.DataFrame],
    most: int = SHOWN,
) -> list[dict[str, Any]]:
    """The chains whose verdicts changed most, both texts with the verdict of each step.

    First those in which most steps have a verdict in both audits and not the same one, then those in which most changed
    at all, then those whose use and score moved furthest.
    """
    moved = paired[paired["verdict_a"] != paired["verdict_b"]]
    known = moved[(moved["verdict_a"] != "unscored") & (moved["verdict_b"] != "unscored")]
    both, any_ = known["chain"].value_counts(), moved["chain"].value_counts()
    far = sum((paired[f"{name}_b"] - paired[f"{name}_a"]).abs().fillna(0.0) for name in ("used", "score"))
    distance = pd.Series(far, index=paired.index, dtype=float).groupby(paired["chain"]).sum()
    ranked = sorted(any_.index, key=lambda id_: (-both.get(id_, 0), -any_[id_], -distance[id_], id_))[:most]
    texts = [{chain["chain"]: chain for chain in side} for side in (a, b)]
    shown = []
    for id_ in ranked:
        rows = moved[moved["chain"] == id_].to_dict("records")
        sides = {side: _side(chains[id_], table) for side, chains, table in zip("ab", texts, steps, strict=True)}
        head = {"chain": id_, "prompt": texts[0][id_]["prompt"], "true_answer": texts[0][id_]["true_answer"]}
        shown.append({**head, **sides, "changed": [row["step"] for row in rows]})
    return shown


def _side(chain: Mapping[str, Any], steps: pd.DataFrame) -> dict[str, Any]:
    own = steps[steps["chain"] == chain["chain"]]
    columns = ["step", "position", "stated", "verdict", "used", "computed", "score"]
    rows = own[columns].astype(object).where(own[columns].notna(), None).to_dict("records")
    return {**{key: chain[key] for key in ("text", "answer", "correct", "finished", "values")}, "steps": rows}
