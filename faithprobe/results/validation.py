"""`Validation`: how well every metric tells what is true of networks that are known by construction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from faithprobe.errors import StoreError, UnscoredError
from faithprobe.files import replacing, write_text
from faithprobe.results.kinds import held_instead
from faithprobe.scores.auroc import auroc
from faithprobe.scores.candidates import STEP_SCORES
from faithprobe.scores.graded import dose_response, timing
from faithprobe.scores.labelled import (
    CHAIN_TARGET,
    STEP_TARGETS,
    TEXT_ONLY,
    THRESHOLD,
    labelled,
    metric_names,
    stages_of,
)
from faithprobe.scores.metric_score import plain, score_metric
from faithprobe.scores.rater_agreement import ac1

_CALLS = ("U", "D", "lead", "min(U, D)", "min(U, D, in chain)", "early-answering", "adding-mistakes")


@dataclass(frozen=True)
class Validation:
    """Made by `faithprobe.validate`, or loaded from the folder that it was saved to."""

    info: Mapping[str, Any]
    """Organisms, seeds, problems, versions, the command that runs it again."""
    results: Mapping[str, Any]
    """The contract of `validation.json`: `metrics`, `strata`, `chosen`, and what stands beside them."""
    items: pd.DataFrame
    """One row a step or chain, see `results.labelled`."""

    def save(self, folder: str | Path) -> Path:
        """Writes `validation.json` and `validation.parquet`, each whole or not at all."""
        folder = Path(folder)
        with replacing(folder / "validation.parquet") as temporary:
            self.items.to_parquet(temporary, index=False)
        write_text(folder / "validation.json", json.dumps({**self.info, **self.results}, indent=1))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Validation:
        """Reads what `save` wrote; raises StoreError naming the file that is missing or damaged."""
        path = Path(folder) / "validation.json"
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            held.setdefault("masked", [])  # older ones ran no real model
            results = {name: held.pop(name) for name in RESULTS}
            path = Path(folder) / "validation.parquet"
            return cls(held, results, pd.read_parquet(path))
        except (OSError, ValueError, KeyError) as error:
            what = f"{path.name} is missing or damaged ({error}){held_instead(path.parent, 'validation.json')}"
            raise StoreError(f"{folder} holds no whole validation: {what}; run the same command again") from error

    def report(self, path: str | Path) -> Path:
        """Writes the report: one HTML file that opens without a network."""
        from faithprobe.plots.validation_report import write_validation

        return write_validation(self.info, self.results, self.items, Path(path))

    def table(self, target: str = "step_faithful") -> pd.DataFrame:
        """Every metric against one label within text-matched strata: AUROC, interval, number of items; best first."""
        rows = [
            {"metric": name, **{key: found[target][key] for key in ("auroc", "low", "high", "n")}}
            for name, found in self.results["metrics"].items()
            if target in found
        ]
        made = pd.DataFrame(rows, columns=["metric", "auroc", "low", "high", "n"])
        return made.sort_values("auroc", ascending=False, ignore_index=True)

    def _repr_html_(self) -> str:
        from faithprobe.plots.records import validation_html

        return validation_html(repr(self), self.results)

    def __repr__(self) -> str:
        return f"Validation({len(self.items)} items, chosen: {self.results['chosen']['step']!r})"


RESULTS = ("metrics", "strata", "chosen", "dose", "timing", "agreement", "seconds_per_chain", "problems", "masked")


def conclude(
    items: pd.DataFrame,
    seconds: Mapping[str, float],
    *,
    masked: Sequence[Mapping[str, Any]] = (),
    n_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores every metric against every label. `seconds` is per chain and stage of the audit; `masked` stands
    beside it."""
    metrics: dict[str, dict[str, Any]] = {}
    strata: dict[str, dict[str, Any]] = {}
    matched = items[items["matched"]]
    for name in (*metric_names(items), TEXT_ONLY):
        for target in (*STEP_TARGETS, CHAIN_TARGET):
            found = _score(matched, name, target, n_draws, seed)
            if found is not None:
                metrics.setdefault(name, {})[target] = found
            for stratum, apart in items.groupby("stratum", sort=False):
                small = _area(apart, name, target)
                if small is not None:
                    strata.setdefault(name, {}).setdefault(target, {})[str(stratum)] = small
    dose = _dose(items, n_draws, seed)
    for name, found in dose.items():
        if CHAIN_TARGET in metrics.get(name, {}):
            metrics[name][CHAIN_TARGET]["dose_spearman"] = (found.get("spearman") or {}).get("value")
    return {
        "metrics": metrics,
        "strata": strata,
        "chosen": choose(items),
        "dose": dose,
        "timing": _timing(items),
        "agreement": _agreement(matched),
        "seconds_per_chain": _seconds(metrics, seconds),
        "problems": _problems(items),
        "masked": list(masked),
    }


def _score(items: pd.DataFrame, name: str, target: str, n_draws: int, seed: int) -> dict[str, Any] | None:
    part = labelled(items, name, target)
    if not len(part) or part["score"].isna().all() or part["label"].isna().all():
        return None
    unit = bool(part["score"].dropna().between(0, 1).all())
    return score_metric(
        part, metric=name, target=target, threshold=THRESHOLD if unit else None, n_draws=n_draws, seed=seed
    ).to_dict()


def _area(items: pd.DataFrame, name: str, target: str) -> dict[str, Any] | None:
    part = labelled(items, name, target)
    part = part[part["score"].notna() & part["label"].notna()]
    if not len(part):
        return None
    found = auroc(part["score"], part["label"], strata=part["stratum"].tolist(), clusters=part["problem"].tolist())
    called = (part["score"] < THRESHOLD).mean() if part["score"].between(0, 1).all() else None
    return plain(
        {
            **{key: getattr(found, key) for key in ("low", "high", "n", "undefined")},
            "auroc": found.value,
            "called_unfaithful": called,
            "truly_unfaithful": 1 - part["label"].mean(),
        }
    )


def choose(items: pd.DataFrame) -> dict[str, Any]:
    """The step score with the best AUROC against *faithful* on the half that is chosen on, pooled over all strata; of
    those within .002 of it the one that calls most steps right, then the simplest. And how it does on the other half,
    which had no say.

    For the choice alone, a step that a score declines counts as one half (`auroc_all`), and is not called right
    (`right`): what declines exactly where it would be wrong is not the better score.
    """
    halves: dict[str, dict[str, Any]] = {}
    for half in ("choose", "report"):
        part = items[items["half"] == half]
        for name in STEP_SCORES:
            for target in ("step_faithful", CHAIN_TARGET):
                found = _area(part, name, target)
                if found is not None:
                    every = _area(part.fillna({f"m:{name}": 0.5}), name, target) or {}
                    right = _called_right(part, name, target)
                    held = found | {"auroc_all": every.get("auroc"), "n_all": every.get("n"), "right": right}
                    halves.setdefault(half, {}).setdefault(name, {})[target] = held
    on = {name: found.get("step_faithful", {}).get("auroc_all") for name, found in halves.get("choose", {}).items()}
    known = {name: value for name, value in on.items() if value is not None}
    if not known:
        return {"step": None, "why": "no organism of the half that is chosen on was run", "halves": halves}
    best = max(known.values())
    equals = [name for name in STEP_SCORES if known.get(name, -1.0) >= best - 0.002]
    chosen = max(equals, key=lambda name: halves["choose"][name]["step_faithful"]["right"])
    return {"step": chosen, "chain": f"least {chosen} of the needed, non-final steps", "halves": halves}


def _called_right(items: pd.DataFrame, name: str, target: str) -> float:
    """Share of labelled items that lie on their label's side of the threshold."""
    part = labelled(items, name, target).dropna(subset=["label"])
    called = (part["score"] >= THRESHOLD).astype(float)
    return float(((called == part["label"]) & part["score"].notna()).mean())


def _dose(items: pd.DataFrame, n_draws: int, seed: int) -> dict[str, Any]:
    part = items[items["dose"].notna() & (items["step"] == "")]
    found = {}
    for name in metric_names(items):
        try:
            scores = part[f"m:{name}"].to_numpy(dtype=float)
            if np.isnan(scores).all():
                continue
            doses = part["dose"].to_numpy(dtype=float)
            problems, seeds = part["problem"].tolist(), part["seed"].tolist()
            curve = dose_response(scores, doses, problems=problems, seeds=seeds, n_draws=n_draws, seed=seed)
            found[name] = plain(curve)
        except UnscoredError as error:
            found[name] = {"undefined": str(error)}
    return found


def _timing(items: pd.DataFrame) -> dict[str, Any]:
    part = items[(items["step"] != "") & items["earliest"].notna()]
    found: dict[str, Any] = {}
    for stratum, apart in [("all", part), *part.groupby("stratum", sort=False)]:
        try:
            columns = (apart[name].to_numpy(dtype=float) for name in ("kappa", "earliest", "latest"))
            found[str(stratum)] = plain(timing(*columns, tolerance=1, clusters=apart["problem"].tolist()))
        except UnscoredError as error:
            found[str(stratum)] = {"undefined": str(error)}
    return found


def _agreement(items: pd.DataFrame) -> list[dict[str, Any]]:
    """Gwet's AC1 between the calls of two metrics on the same steps."""
    steps = items[items["step"] != ""]
    present = [name for name in _CALLS if f"m:{name}" in steps and steps[f"m:{name}"].notna().any()]
    rows = []
    for i, first in enumerate(present):
        for second in present[i + 1 :]:
            both = steps[steps[f"m:{first}"].notna() & steps[f"m:{second}"].notna()]
            if len(both):
                calls = (both[f"m:{name}"].to_numpy(dtype=float) >= THRESHOLD for name in (first, second))
                found = ac1(*calls, clusters=both["problem"].tolist())
                rows.append({"first": first, "second": second, **plain(found)})
    return rows


def _seconds(metrics: Mapping[str, Any], stages: Mapping[str, float]) -> dict[str, float]:
    """Per chain, of everything that a metric needs; without those of which a part was not timed."""
    needed = {name: stages_of(name) for name in metrics}
    return {name: sum(stages[s] for s in parts) for name, parts in needed.items() if set(parts) <= set(stages)}


def _problems(items: pd.DataFrame) -> dict[str, int]:
    by_network = items.groupby(["condition", "seed"], sort=False)
    return {f"{name} @{seed}": int(part["problem"].nunique()) for (name, seed), part in by_network}
