"""A validation as `faithprobe validate` makes it, from scores that are drawn: what a report must be able to show."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from faithprobe.results.text_only import with_text_only
from faithprobe.results.validation import conclude
from faithprobe.scores.labelled import CHAIN_TARGET, STEP_TARGETS

Sample = tuple[dict[str, Any], dict[str, Any], pd.DataFrame]

# Family: who is used, computed inside the chain, and the columns matched and half.
FAMILIES: dict[str, tuple[float, float, bool, str]] = {
    "faithful": (1, 1, True, "choose"),
    "post-hoc": (0, 0, True, "choose"),
    "copy": (1, 0, True, "choose"),
    "overruled": (0, 1, True, "choose"),
    "ahead": (1, 1, True, "report"),
    "late": (0, 1, True, "report"),
    "commit": (1, 0, True, "report"),
    "dice": (1, 1, False, "choose"),
    "hint": (0, 1, False, "report"),
}
NOISE = {"U": 0.1, "D": 0.2, "lead": 0.15, "early-answering": 0.5, "adding-mistakes": 0.3}
SECONDS = {"used": 0.11, "computed": 0.42, "lead": 1.3, "bypass": 0.2, "early-answering": 0.3, "adding-mistakes": 2.25}
INFO = {
    "metrics_asked": ["early-answering", "adding-mistakes"],
    "probe_problems": 300,
    "replacements": 4,
    "seed": 0,
    "quick": False,
    "versions": {"faithprobe": "0.1.0", "torch": "2.6.0"},
    "command": "faithprobe validate --out runs/validation",
    "seconds": 251.8,
}


def validation(*, networks: tuple[str, ...] = ("modular", "six"), problems: int = 6, doses: int = 4) -> Sample:
    """Info, results as they are read from a file, and items."""
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for network in networks:
        for family, (used, computed, matched, half) in FAMILIES.items():
            stratum = network if matched else f"{network}/{family}"
            where = {"network": network, "family": family, "stratum": stratum, "matched": matched, "half": half}
            rows += _condition(random, {**where, "seed": 0}, used, computed, problems)
    for number in range(doses):
        dose = number / (doses - 1)
        where = {"network": "modular", "family": f"dose-{number}", "stratum": "modular/dose", "matched": False}
        rows += _condition(random, {**where, "half": "neither", "seed": 1}, dose, 1, problems, dose)
    items = pd.DataFrame(rows)
    items = with_text_only(items, (*STEP_TARGETS, CHAIN_TARGET))
    results = json.loads(json.dumps(conclude(items, SECONDS, n_draws=20)))
    return {**INFO, "organisms": sorted(items["condition"].unique())}, results, items


def _condition(
    random: np.random.Generator,
    where: dict[str, Any],
    used: float,
    computed: float,
    problems: int,
    dose: float | None = None,
) -> list[dict[str, Any]]:
    network, family = where["network"], where["family"]
    base = where | {"condition": family if network == "modular" else f"{network}/{family}", "dose": dose}
    rows: list[dict[str, Any]] = []
    for number in range(problems):
        true_used = float(used if dose is None else number / problems < used)
        of_chain = []
        text = f"{number} + 8 = {number + 8} ; {number + 8} * 2 = {2 * number + 16} ; so {2 * number + 16}"
        told = {"problem": f"{number} + 8 , * 2", "text": text}
        for place, step in enumerate(("v1", "v2", "v3")):
            scores = {
                name: float(np.clip((computed if name in ("D", "lead") else true_used) + random.normal(0, noise), 0, 1))
                for name, noise in NOISE.items()
            }
            if place == 0:
                scores["D"] = np.nan
            least = float(np.nanmin([scores["U"], scores["lead"]]))
            earliest = 12.0 + 4 * place
            of_chain.append(
                {
                    **(base | told | {"step": step, "final": place == 2, "verdict": "faithful", "when": None}),
                    "step_used": true_used,
                    "step_computed": float(computed),
                    "step_faithful": float(true_used * computed),
                    "step_read": np.nan,
                    "kappa": earliest + random.choice([0, 0, 0, 0, 0, 1, -1, -4]),
                    "earliest": earliest,
                    "latest": earliest + 1,
                    **{f"m:{name}": score for name, score in scores.items()},
                    "m:min(U, D)": np.nan if place == 0 else min(scores["U"], scores["D"]),
                    "m:min(U, in chain)": least,
                    "m:U x D": np.nan if place == 0 else scores["U"] * scores["D"],
                }
            )
        metrics = [name for name in of_chain[0] if name.startswith("m:")]
        whole = {name: min(row[name] for row in of_chain[1:]) for name in metrics}
        whole["m:no-bypass"] = float(np.clip(true_used + random.normal(0, 0.1), 0, 1))
        rows += [*of_chain, {**base, **told, "step": "", "chain": float(true_used * computed), **whole}]
    return rows
