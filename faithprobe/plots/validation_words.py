"""What the names in a validation mean, what each metric claims, and the sentences at the head of its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from faithprobe.plots.prepare import plain
from faithprobe.plots.wording import decimal, number
from faithprobe.scores.auroc import auroc
from faithprobe.scores.labelled import CHAIN_TARGET, SITES_OF_D, TEXT_ONLY, labelled, metric_names

TARGETS: Mapping[str, str] = {
    "step_faithful": "step faithful",
    CHAIN_TARGET: "chain faithful",
    "step_used": "step used",
    "step_computed": "step computed",
}
"""The labels of the table, in its order."""
CAVEAT = "On organisms, not on your model: 1.0 here means wired correctly, not yet sensitive."

PUBLISHED = frozenset({"early-answering", "adding-mistakes", "filler-tokens"})
"""Lanham et al. 2023."""
CLAIMS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("U", "U_read", "adding-mistakes", "early-answering"), ("step_used",)),
    **dict.fromkeys(("D", *SITES_OF_D, "not known early", "lead", "agreement"), ("step_computed",)),
    TEXT_ONLY: (),
}
"""The labels that a metric is about; of one that is not here, faithful."""
MEANINGS: Mapping[str, str] = {
    "U": "the stated value is replaced and the rest generated again: does the answer follow?",
    "U_read": "does the next step that depends on the value restate the replacement?",
    "D": "information about the value in the activations, beyond everything that can be read on the page",
    ", ".join(SITES_OF_D): "the same at each of its three sites",
    "not known early": "one minus the same information before the chain begins",
    "agreement": "after an error upstream, what the state holds: the local value (1), neither (.5), the stated one (0)",
    "lead, in chain": "how little of the value is decided by a source run's states before the chain begins",
    "min, x": "the least of several parts, or their product; of a chain, the least of its needed, non-final steps",
    "no-bypass": "prompt of one problem, chain of another: how rarely the answer follows the prompt",
    "mediation": "the prompt's effect on the answer that goes through the chain",
    "score of the audit": "what `faithprobe audit` writes as the score",
    "early-answering, adding-mistakes, filler-tokens": "Lanham et al. 2023 (arXiv 2307.13702)",
    TEXT_ONLY: "a classifier of the text: where texts are matched it must be at .5",
}


def claims(name: str) -> tuple[str, ...]:
    """The targets that a metric is meant for."""
    return CLAIMS.get(name, ("step_faithful", CHAIN_TARGET))


def area(value: Any) -> str:
    """`.824` as `.82`, `.998` as `.998`, a missing one as a dash."""
    return "–" if number(value) is None else decimal(value).replace("0.", ".", 1)


def interval(found: Mapping[str, Any]) -> str:
    """`.71 to .93`; empty where it is not known."""
    if number(found.get("low")) is None or number(found.get("high")) is None:
        return ""
    return f"{area(found['low'])} to {area(found['high'])}"


def told(found: Mapping[str, Any]) -> str:
    """`.82 (95% interval .71 to .93, n = 96)`."""
    between = f"95% interval {interval(found)}, " if interval(found) else ""
    return f"{area(found.get('auroc'))} ({between}n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{int(found.get('n') or 0):,})"


def beside(info: Mapping[str, Any], items: pd.DataFrame) -> list[str]:
    """The metrics that ours are compared with: published ones, and the user's own."""
    asked = [str(name) for name in info.get("metrics_asked") or ()]
    return [name for name in metric_names(items) if name in asked or name in PUBLISHED]


def asked(info: Mapping[str, Any], results: Mapping[str, Any], items: pd.DataFrame) -> str:
    """What was asked."""
    counts = [int(count) for count in (results.get("problems") or {}).values()]
    many = f"{min(counts)} to {max(counts)}" if len(set(counts)) > 1 else str(max(counts, default=0))
    networks, seeds = (items[name].nunique() if name in items else 0 for name in ("network", "seed"))
    steps = int((items["step"] != "").sum()) if "step" in items else 0
    return (
        f"{_many(len(info.get('organisms') or ()), 'organism')} (networks whose faithfulness is known by construction; "
        f"{_many(networks, 'network')}, {_many(seeds, 'seed')}) were asked {many} problems each and "
        f"audited like any model: {steps:,} steps and {len(items) - steps:,} chains, each beside what is true of it."
    )


def headline(info: Mapping[str, Any], results: Mapping[str, Any], items: pd.DataFrame) -> str:
    """The chosen score on the half that had no say, and the best other metric on the same items."""
    chosen = results.get("chosen") or {}
    name = chosen.get("step")
    if not name:
        return f"No score was chosen: {chosen.get('why') or 'nothing was scored'}."
    halves = chosen.get("halves") or {}
    for half, words in (
        ("report", "on the families and seeds that had no say in the choice"),
        ("choose", "on the very organisms that it was chosen on, since none of the others was run"),
    ):
        found = halves.get(half, {}).get(name, {}).get("step_faithful") or {}
        if number(found.get("auroc")) is not None:
            told_chosen = f"The chosen score, {name}, tells faithful steps with AUROC {told(found)} {words}"
            return f"{told_chosen}; {_best_beside(info, items, name, half)}."
    return f"The chosen score is {name}; no half holds scored steps of both labels, so its AUROC is not known."


def _best_beside(info: Mapping[str, Any], items: pd.DataFrame, chosen: str, half: str) -> str:
    names = beside(info, items)
    found: list[tuple[str, dict[str, Any]]] = []
    part = items[items["half"] == half]
    part = part[part[f"m:{chosen}"].notna()] if f"m:{chosen}" in part else part.iloc[:0]
    for name in names:
        rows = labelled(part, name, "step_faithful")
        area = auroc(rows["score"], rows["label"], strata=rows["stratum"].tolist(), clusters=rows["problem"].tolist())
        if area.value is not None:
            found.append((name, {"auroc": area.value, "low": area.low, "high": area.high, "n": area.n}))
    kind = "published" if set(names) <= PUBLISHED else "other"
    if not found:
        return f"no {kind} metric scored the same steps"
    name, best = max(found, key=lambda pair: pair[1]["auroc"])
    return f"the best {kind} metric on the same steps, {name}, has {told(best)}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def why_undefined(strata: Mapping[str, Any], target: str) -> dict[str, str]:
    """Per stratum without an AUROC for any metric, the first reason; strata that no metric names are not there."""
    reasons: dict[str, str] = {}
    defined = set()
    for found in strata.values():
        for stratum, row in (found.get(target) or {}).items():
            if plain(row.get("auroc")) is not None:
                defined.add(stratum)
            reasons.setdefault(stratum, str(row.get("undefined") or "nothing to compare"))
    return {stratum: reason for stratum, reason in reasons.items() if stratum not in defined}
