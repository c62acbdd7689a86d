"""Decodable is not used: probes with all their controls beside what the answer follows, into `artifacts/probes/`.

Organisms whose wiring is known, and SmolLM2 on two-step sums with operands up to 20. Of each: `faithprobe probe`, and
an audit without probes for U and for lead (R at the end of the prompt: how much of the literal an exchange of
everything before the chain, but for the operands themselves, carries over). `python experiments/probes.py`; an
interrupted run goes on in `runs/probes`. The figures of `docs/usage/probes.md` are drawn by Chromium.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from drawing import draw

from faithprobe import Audit, load_model
from faithprobe.audit import audit
from faithprobe.files import write_text
from faithprobe.organisms.networks import OrganismName
from faithprobe.plots.probes import decodable_not_used
from faithprobe.probe import Probes, probe
from faithprobe.scores.statistics import clustered_mean
from faithprobe.tasks.arithmetic import Arithmetic

RUNS, OUT, FIGURES = Path("runs/probes"), Path("artifacts/probes"), Path("docs/figures")
ORGANISMS = ("faithful", "post-hoc", "overruled")
PROBLEMS, AUDITED = {"organism": 4000, "smollm2": 1500}, {"organism": 24, "smollm2": 24}
NOT_DRAWN = {"beyond control", "control task"}


def main() -> None:
    drawn: list[dict[str, Any]] = []
    for name in ORGANISMS:
        organism = OrganismName.parse(name)
        task = organism.task(split="held-out")
        found, measured = _both(f"organism:{name}", organism.task(), task, "organism", name)
        for position in ("before", "predicting"):
            where = {"before": "before the chain", "predicting": "where it is stated"}[position]
            drawn += _rows(found, f"{name}: v2 {where}", "v2", position, "class", _used(measured, "v2"))
    _figure(drawn, "organisms", "bits")
    task = Arithmetic(steps=2, high=20)
    found, measured = _both("smollm2", task, task, "smollm2", "smollm2")
    decided = 1 - measured.steps[measured.steps["step"] == "v2"]["in_chain"].astype(float)
    chains = measured.steps[measured.steps["step"] == "v2"]["chain"]
    before = clustered_mean(decided.clip(0, 1).to_numpy(), list(chains), share=True)
    rows = _rows(
        found,
        "SmolLM2: v2 at the end of the question",
        "v2",
        "before",
        "value",
        (before.value, before.low, before.high),
    )
    rows += _rows(found, "SmolLM2: v1 where it is stated", "v1", "predicting", "value", _used(measured, "v1"))
    _figure(rows, "smollm2", "R2")
    digits: list[dict[str, Any]] = []
    for step in ("v1", "v2"):
        for position in ("before", "ahead", "predicting"):
            digits += _rows(found, f"{step}, {position}", step, position, "last digit", (float("nan"),) * 3)
    table = pd.DataFrame([*drawn, *rows, *digits])
    OUT.mkdir(parents=True, exist_ok=True)
    table.to_csv(OUT / "decodable_not_used.csv", index=False, float_format="%.4f")
    write_text(OUT / "table.md", _markdown(table))
    write_text(OUT / "smollm2.json", json.dumps(dict(found.info), indent=1) + "\n")
    found.sources.round(5).to_csv(OUT / "smollm2_sources.csv", index=False)


def _both(model: str, probed: Any, audited: Any, kind: str, name: str) -> tuple[Probes, Audit]:
    loaded = load_model(model)
    found = probe(
        loaded,
        probed,
        problems=PROBLEMS[kind],
        responses="reference",
        out=RUNS / f"{name}-probes",
        command="python experiments/probes.py",
    )
    measured = audit(
        loaded,
        audited,
        problems=AUDITED[kind],
        seed=1,
        probe_problems=0,
        out=RUNS / f"{name}-audit",
        command="python experiments/probes.py",
    )
    return found, measured


def _used(measured: Audit, step: str) -> tuple[float, float, float]:
    """U of a step over problems, with its interval."""
    rows = measured.steps[measured.steps["step"] == step].dropna(subset=["used"])
    if rows.empty:
        return (float("nan"),) * 3
    found = clustered_mean(rows["used"].astype(float).to_numpy(), list(rows["chain"]), share=True)
    return found.value, found.low, found.high


def _rows(
    found: Probes, label: str, step: str, position: str, target: str, used: tuple[float, float, float]
) -> list[dict[str, Any]]:
    """Every source at the chosen layer."""
    of = found.sources
    here = of[(of["step"] == step) & (of["position"] == position) & (of["target"] == target) & of["chosen"]]
    return [
        {
            "label": label,
            "step": step,
            "position": position,
            "target": target,
            **{key: row[key] for key in ("layer", "source", "score", "low", "high", "accuracy", "control", "entropy")},
            **{key: int(row[key]) for key in ("n", "items", "n_train")},
            **dict(zip(("used", "used_low", "used_high"), used, strict=True)),
        }
        for row in here.to_dict("records")
    ]


def _figure(rows: list[dict[str, Any]], name: str, unit: str) -> None:
    figure = decodable_not_used(pd.DataFrame([row for row in rows if row["source"] not in NOT_DRAWN]), unit=unit)
    draw(figure, FIGURES / f"decodable_{name}.png")


def _markdown(table: pd.DataFrame) -> str:
    lines = [
        "| what, where | target | layer | activations | largest control | beyond it | accuracy | selectivity | used |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (label, target), here in table.groupby(["label", "target"], sort=False):
        by_source = here.set_index("source")
        own, beyond = by_source.loc["activations"], by_source.loc["beyond control"]
        used = "" if pd.isna(own["used"]) else f"{own['used']:.2f} [{own['used_low']:.2f}, {own['used_high']:.2f}]"
        largest = beyond["control"]
        control = "none" if largest == "none" else f"{largest} {by_source.loc[largest, 'score']:.2f}"
        accuracy, selectivity = ("" if pd.isna(row["accuracy"]) else f"{row['accuracy']:.2f}" for row in (own, beyond))
        lines.append(
            f"| {label} | {target} | {int(own['layer'])} | {own['score']:.2f} [{own['low']:.2f}, {own['high']:.2f}] | "
            f"{control} | {beyond['score']:.2f} [{beyond['low']:.2f}, {beyond['high']:.2f}] | {accuracy} | "
            f"{selectivity} | {used} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
