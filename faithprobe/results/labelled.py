"""From audits of organisms to items: what every metric said of a step or a chain, beside what is true of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from faithprobe.chains.capture import PLACES
from faithprobe.results.record import Audit
from faithprobe.scores.candidates import STEP_SCORES, weakest
from faithprobe.scores.labelled import CHAIN_TARGET, SITES_OF_D
from faithprobe.scores.verdict import WHEN

COMPLEMENTS = {"bypass": "no-bypass"}
"""Metrics whose high values mean unfaithful, and the name of one minus them."""


@dataclass(frozen=True)
class StepTruth:
    """What is true of one step of one problem; None where the construction decides neither."""

    used: bool | None
    computed: bool | None
    """Inside the chain: neither before it nor never."""
    faithful: bool | None
    read: bool | None
    """A later step reads the written value."""
    window: tuple[int, int] | None
    """Positions between which kappa must lie."""
    position: int
    """That predicts the literal."""


@dataclass(frozen=True)
class Truth:
    """What is true of one problem's chain."""

    steps: Mapping[str, StepTruth]
    faithful: bool | None
    dose: float | None = None
    """Share of problems of this network whose answer comes through the chain; None outside the graded family."""


def labelled_items(audit: Audit, truths: Mapping[str, Truth], **condition: object) -> pd.DataFrame:
    """One row a step (of those that the answer needs) and one a chain (step ""), with columns:

    the condition's (organism, seed, stratum, ...); problem, step, final, text; the targets' labels as 1, 0 or missing;
    kappa, earliest, latest (positions); dose; and one column `m:NAME` for every metric, higher meaning faithful.
    """
    evidence = audit.tables["evidence"]
    by_key: dict[tuple[str, str], dict[str, Any]] = {}
    for row in evidence.to_dict("records"):
        by_key.setdefault((row["chain"], row["step"]), {})[row["metric"]] = row
    rows = []
    for chain in audit.chains:
        id_ = chain["chain"]
        truth = truths[id_]
        stated = audit.steps[(audit.steps["chain"] == id_) & audit.steps["needed"]]
        of_chain: list[dict[str, Any]] = []
        for step in stated.to_dict("records"):
            name = step["step"]
            if name in truth.steps:
                found = by_key.get((id_, name), {})
                row = _step_row(step, found, truth.steps[name])
                of_chain.append(row | {"problem": id_, "step": name, "text": chain["text"], "dose": truth.dose})
        rows += of_chain
        whole = _chain_row(by_key.get((id_, ""), {}), of_chain)
        label = {CHAIN_TARGET: _flag(truth.faithful)}
        rows.append(label | whole | {"problem": id_, "step": "", "text": chain["text"], "dose": truth.dose})
    return pd.DataFrame([condition | row for row in rows])


def _step_row(step: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], truth: StepTruth) -> dict[str, Any]:
    detail = {name: json.loads(row["detail"]) for name, row in found.items()}
    computed = detail.get("computed", {})
    ahead = _number(step["lead_tokens"])
    columns = {
        "used": _number(step["used"]),
        "computed": _number(step["computed"]),
        "in_chain": _number(step["in_chain"]),
    }
    scores = {name: float(score({k: np.array(v) for k, v in columns.items()})) for name, score in STEP_SCORES.items()}
    agreement = {"local": 1.0, "neither": 0.5, "stated": 0.0}.get(str(computed.get("agreement")), np.nan)
    known_early = _number(computed.get("before"))
    own = {name: _number(row["value"]) for name, row in found.items() if name not in ("used", "computed", "lead")}
    window = truth.window or (np.nan, np.nan)
    return {
        "final": bool(step["final"]),
        "verdict": step["verdict"],
        "when": step["when"] if step["when"] in WHEN else None,
        "step_used": _flag(truth.used),
        "step_computed": _flag(truth.computed),
        "step_faithful": _flag(truth.faithful),
        "step_read": _flag(truth.read),
        "kappa": truth.position - ahead,
        "earliest": window[0],
        "latest": window[1],
        "m:U_read": _number(detail.get("used", {}).get("used_read")),
        "m:D": columns["computed"],
        **{f"m:{name}": _number(computed.get(place)) for name, place in zip(SITES_OF_D, PLACES, strict=True)},
        "m:not known early": 1 - known_early,
        "m:agreement": agreement,
        "m:lead": columns["in_chain"],
        "m:score of the audit": _number(step["score"]),
        **{f"m:{name}": value for name, value in scores.items()},
        **{f"m:{name}": value for name, value in own.items()},
    }


def _chain_row(found: Mapping[str, Mapping[str, Any]], steps: list[dict[str, Any]]) -> dict[str, Any]:
    counted = [not row["final"] for row in steps]
    row: dict[str, Any] = {}
    for name in (*STEP_SCORES, "score of the audit"):
        least = weakest([step[f"m:{name}"] for step in steps], counted)
        row[f"m:{name}"] = least if steps else 0.0  # no value was stated: incomplete
    for name, measurement in found.items():
        value = _number(measurement["value"])
        row[f"m:{COMPLEMENTS.get(name, name)}"] = 1 - value if name in COMPLEMENTS else value
    if "m:no-bypass" in row:
        for name in ("min(U, D)", "min(U, D, in chain)"):
            row[f"m:{name}, no bypass"] = float(np.min([row[f"m:{name}"], row["m:no-bypass"]]))
    return row


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan


def _flag(value: bool | None) -> float:
    return np.nan if value is None else float(value)
