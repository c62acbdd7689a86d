"""Two audits made by hand and their comparison: what the page of a comparison is tested with."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pandas as pd

from faithprobe import Audit, Comparison, compare
from faithprobe.plots.report import ReportInput
from faithprobe.results.verdicts import frame
from tests.plots.sample import HOSTILE, hostile_input, report_input


def as_audit(view: ReportInput, **info: Any) -> Audit:
    """A report's material as an audit."""
    steps = view.steps.astype(object).where(view.steps.notna(), None).to_dict("records")
    evidence = [
        {"metric": metric, "chain": chain["chain"], "step": "", "value": value, "n": 1, "unscored": "", "detail": "{}"}
        for metric, value in (("bypass", 0.25), ("early-answering", 0.5), ("my own, in bits", 2.5))
        for chain in view.chains
    ]
    tables = {
        "steps": frame("steps", steps),
        **{name: getattr(view, name) for name in ("decodability", "lead", "bypass", "outcomes")},
        "mediation": frame("mediation", []),
        "evidence": frame("evidence", evidence),
    }
    chains = [{"unlocated": {}, "finished": True, **chain} for chain in view.chains]
    settings = {"fingerprint": "f00d", "replacements": 4, "probe_problems": 1000, "temperature": 0.0, "chat": False}
    return Audit({**settings, **view.info, **info}, dict(view.summary), tables, chains)


def before_training(view: ReportInput) -> ReportInput:
    """The same chains, of which every step before the last one that is used was idle."""
    steps = view.steps.copy()
    idle = (steps["used"].fillna(0.0).astype(float) >= 0.5) & ~steps["final"].astype(bool)
    steps.loc[idle, ["verdict", "used", "score"]] = ["idle", 0.05, 0.05]
    return dataclasses.replace(view, steps=steps)


def after_training(view: ReportInput) -> ReportInput:
    """Two chains fewer are right."""
    chains = [{**chain, "correct": chain["correct"] and k not in (2, 5)} for k, chain in enumerate(view.chains)]
    return dataclasses.replace(view, chains=chains)


def comparison(**info: Any) -> Comparison:
    """Before and after; `info` goes to the audit after."""
    view = report_input()
    before, after = as_audit(before_training(view)), as_audit(after_training(view), **{"fingerprint": "beef", **info})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return compare(before, after, names=("before", "after"))


def hostile_comparison() -> Comparison:
    """Names, problems, texts, steps, verdicts, reasons and metrics that try to get out of their place."""
    view = hostile_input()
    other = dataclasses.replace(view, steps=view.steps.assign(verdict="faithful"))
    first, second = as_audit(view), as_audit(other, replacements=HOSTILE[0])
    evidence = first.tables["evidence"].assign(metric=HOSTILE[0])
    audits = [dataclasses.replace(audit, tables={**audit.tables, "evidence": evidence}) for audit in (first, second)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return compare(audits[0], audits[1], names=(HOSTILE[0], HOSTILE[1]))


def without_anything() -> Comparison:
    """Nothing was measured in both."""
    found = comparison()
    empty = found.differences.assign(missing="not measured in A", difference=float("nan"), beyond_zero=False)
    none = found.transitions.iloc[:0]
    nothing = pd.DataFrame(columns=found.unscored.columns)
    return dataclasses.replace(found, differences=empty, transitions=none, unscored=nothing, chains=[])
