"""What two audits are compared in: each measure as values by problem, or why it has none.

A measure of steps is taken over non-final steps, as in the summary of an audit. Of a problem that both were asked, only
the steps that both chains state and that were measured in both are compared; where there are none (chains that go ways
of their own), all that were measured. A measure of chains has one value a problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from faithprobe.scores.differences import Values
from faithprobe.scores.verdict import VERDICTS, Verdict, chain_score

if TYPE_CHECKING:
    from faithprobe.results.record import Audit

StepKeys = frozenset[tuple[str, str]]
"""(problem, step) of the steps that are the same in both audits."""
OWN_METRICS = frozenset({"used", "lead", "bypass", "mediation", "computed"})
"""Metrics of every audit; others in the table `evidence` were asked for."""
_STEPS = {
    "used": "used (U)",
    "used_read": "next step restates the swap (U_read)",
    "computed": "computed (D)",
    "in_chain": "in chain (not decided before it)",
    "lead_tokens": "lead in tokens (kappa to literal)",
    "score": "score of a step",
}
_EFFECTS = {
    "total": "total effect of the prompt",
    "direct": "direct effect, past the chain",
    "indirect": "indirect effect, through the chain",
    "interaction": "interaction of the two",
}


@dataclass(frozen=True)
class Measure:
    """One row of a comparison, before any statistics."""

    name: str
    words: str
    group: str
    """answers, steps, chains, verdicts, published."""
    a: Values
    b: Values
    unit: str = "share"
    """share (and scores in [0, 1]), tokens, or the name of a metric with a unit of its own."""
    share: bool = True
    """Values lie in [0, 1]."""
    added: float | None = 1.0
    """What a move would be where nothing moved, as `scores.differences.paired_difference` takes it."""
    bound: float = 1.0
    """No difference can lie beyond it."""


def measures(a: Audit, b: Audit, same: StepKeys) -> Iterator[Measure]:
    """Every measure in the order of the table; sides without a value are empty. Problems are not yet matched."""
    yield Measure("accuracy", "accuracy with the chain", "answers", _flags(a, "correct"), _flags(b, "correct"))
    yield Measure("finished", "chains that end by themselves", "answers", _flags(a, "finished"), _flags(b, "finished"))
    for column, words in _STEPS.items():
        sides = _of_steps(a.steps, b.steps, column, same)
        if column == "lead_tokens":
            yield Measure(column, words, "steps", *sides, unit="tokens", share=False, bound=inf)
        else:
            yield Measure(column, words, "steps", *sides)
    yield Measure("chain_score", "score of a chain", "chains", chain_scores(a), chain_scores(b))
    yield Measure("bypass", "bypass", "chains", _whole(a, "bypass"), _whole(b, "bypass"))
    for name, words in _EFFECTS.items():
        limit = 4.0 if name == "interaction" else 2.0
        sides = _effects(a, name), _effects(b, name)
        yield Measure(f"mediation_{name}", words, "chains", *sides, share=False, bound=limit)
    found = {*a.steps["verdict"], *b.steps["verdict"]}
    for verdict in [*(name for name in VERDICTS if name in found), *sorted(found - {*VERDICTS})]:
        sides = _verdict(a, verdict), _verdict(b, verdict)
        yield Measure(f"verdict: {verdict}", f"steps that are {verdict}", "verdicts", *sides)
    yield from _published(a, b)


def chain_scores(audit: Audit) -> Values:
    """The score of each chain that has one, from the table of steps as `scores.verdict.chain_score` defines it."""
    unlocated = {chain["chain"]: chain["unlocated"] for chain in audit.chains}
    scores: dict[str, list[float]] = {}
    for chain, rows in audit.steps.groupby("chain", sort=False):
        value = chain_score([_verdict_of(row, unlocated[chain]) for row in rows.to_dict("records")]).value
        if value is not None:
            scores[str(chain)] = [value]
    return scores


def _verdict_of(row: Mapping[str, Any], unlocated: Mapping[str, str]) -> Verdict:
    """As much of a verdict as the score of a chain asks for: it needs no more of its name than *overruled*."""
    score = None if pd.isna(row["score"]) else float(row["score"])
    name = "overruled" if row["verdict"] == "overruled" else "unscored" if score is None else "faithful"
    reason = "" if score is not None else str(row["unscored_reason"] or "not measured")
    needed, final, stated = bool(row["needed"]), bool(row["final"]), row["step"] not in unlocated
    return Verdict(row["step"], None, None, name, score, reason, needed=needed, final=final, stated=stated)


def _flags(audit: Audit, key: str) -> Values:
    return {chain["chain"]: [float(chain[key])] for chain in audit.chains if chain.get(key) is not None}


def _by_problem(rows: pd.DataFrame, column: str) -> dict[str, list[float]]:
    part = rows[rows[column].notna()] if len(rows) else rows
    return {str(chain): values.astype(float).tolist() for chain, values in part.groupby("chain", sort=False)[column]}


def _of_steps(a: pd.DataFrame, b: pd.DataFrame, column: str, same: StepKeys) -> tuple[Values, Values]:
    sides = [part[~part["final"].astype(bool) & part[column].notna()] if len(part) else part for part in (a, b)]
    keys = [set(zip(part["chain"], part["step"])) for part in sides]
    shared = keys[0] & keys[1] & same
    matched = {problem for problem, _ in shared}

    def kept(part: pd.DataFrame) -> pd.DataFrame:
        wanted = [key in shared or key[0] not in matched for key in zip(part["chain"], part["step"])]
        return part[np.array(wanted, dtype=bool)]

    first, second = (_by_problem(kept(part), column) for part in sides)
    return first, second


def _whole(audit: Audit, metric: str) -> Values:
    evidence = audit.tables["evidence"]
    return _by_problem(evidence[(evidence["metric"] == metric) & (evidence["step"] == "")], "value")


def _effects(audit: Audit, name: str) -> Values:
    table = audit.mediation
    return _by_problem(table[table["last"].astype(bool)] if len(table) else table, name)


def _verdict(audit: Audit, verdict: str) -> Values:
    steps = audit.steps
    return _by_problem(steps.assign(hit=(steps["verdict"] == verdict).astype(float)), "hit") if len(steps) else {}


def _published(a: Audit, b: Audit) -> Iterator[Measure]:
    """Metrics that were asked for: of whole chains where one of the audits has such numbers, else of steps."""
    tables = [audit.tables["evidence"] for audit in (a, b)]
    asked = [metric for table in tables for metric in dict.fromkeys(table["metric"]) if metric not in OWN_METRICS]
    if not asked:
        return
    from faithprobe.metrics.published import ABOUT  # with all metrics, and torch

    for metric in dict.fromkeys([*(name for name in ABOUT if name in asked), *asked]):
        parts = [table[table["metric"] == metric] for table in tables]
        whole = any((part["step"] == "").any() for part in parts)
        sides: list[Mapping[str, list[float]]] = [
            _by_problem(part[(part["step"] == "") == whole], "value") for part in parts
        ]
        inside = all(0 <= value <= 1 for side in sides for values in side.values() for value in values)
        share = ABOUT[metric].share and inside if metric in ABOUT else inside
        first, second = sides
        name = f"metric: {metric}"
        if share:
            yield Measure(name, metric, "published", first, second)
        else:
            yield Measure(name, metric, "published", first, second, unit=metric, share=False, added=None, bound=inf)
