"""`Comparison`: what changed from one audit to another, as tables and files that others read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from faithprobe.errors import StoreError, UnscoredError
from faithprobe.files import replacing, write_text
from faithprobe.results.kinds import held_instead
from faithprobe.results.measures import Measure, measures
from faithprobe.results.transitions import changed_chains, paired_steps, reasons, same_text, step_keys, transitions
from faithprobe.scores.differences import Difference, difference_of, holm, independent_difference, paired_difference
from faithprobe.scores.statistics import Interval, share_interval

if TYPE_CHECKING:
    from faithprobe.results.record import Audit

DIFFERENCES: dict[str, str] = {
    "group": "answers, steps, chains, verdicts, published",
    "measure": "its name, such as used",
    "words": "what it is, in words",
    "unit": "share (scores in [0, 1] likewise), tokens, or the name of a metric with a unit of its own",
    "a": "value in A, over what is compared; missing where it was not measured",
    "b": "value in B",
    "difference": "b - a; missing where it was not measured in both",
    "low": "lower bound of its 95% interval, not corrected for the number of rows",
    "high": "upper bound",
    "p": "two-sided; below .05 exactly where the interval leaves 0 out",
    "p_holm": "corrected by Holm for all rows that have a difference",
    "beyond_zero": "p_holm is below .05",
    "n_a": "number of problems behind a",
    "n_b": "number of problems behind b",
    "paired": "the problems behind a and b are the same ones, and the interval is that of the paired difference",
    "missing": "why there is no difference; empty where there is one",
}
"""Columns of the table `differences`."""
LEVEL = 0.05
_TABLES = {"differences": "differences", "transitions": "transitions", "steps": "paired_steps", "unscored": "unscored"}
"""Table -> name of its file, none of which an audit has: a comparison can lie in an audit's folder."""


@dataclass(frozen=True)
class Comparison:
    """What changed from audit A to audit B. Made by `faithprobe.compare`, or loaded from the folder it was saved to."""

    info: Mapping[str, Any]
    """`a` and `b` (what each audit says of itself), their `names`, whether it is `paired`, numbers of `problems`,
    `notes` about what differs between the plans, versions."""
    differences: pd.DataFrame
    """One row a measure; columns: `DIFFERENCES`."""
    transitions: pd.DataFrame
    """Verdict in A, verdict in B, steps, problems: of the steps that are the same in both."""
    steps: pd.DataFrame
    """Those steps one by one, with verdict and numbers in A and in B."""
    unscored: pd.DataFrame
    """Steps without a verdict or score, by reason, in A and in B."""
    chains: Sequence[Mapping[str, Any]]
    """The chains whose verdicts changed most, both texts."""

    def difference(self, measure: str) -> dict[str, Any]:
        """The row of one measure, such as `used`; KeyError with all names where there is no such row."""
        rows = self.differences[self.differences["measure"] == measure].to_dict("records")
        if not rows:
            raise KeyError(f"no measure is called {measure!r}; there are {', '.join(self.differences['measure'])}")
        return {str(key): None if _missing(value) else value for key, value in rows[0].items()}

    def summary(self) -> dict[str, Any]:
        """How many problems, whether paired, steps whose verdict changed, and every difference by measure."""
        counts = {key: self.info[key] for key in ("paired", "problems", "same_text", "unmatched_steps", "notes")}
        moved = self.transitions[self.transitions["verdict_a"] != self.transitions["verdict_b"]]
        steps = {"steps": int(self.transitions["steps"].sum()), "changed_verdicts": int(moved["steps"].sum())}
        rows = {name: self.difference(name) for name in self.differences["measure"]}
        return {**counts, **steps, "differences": rows}

    def save(self, folder: str | Path) -> Path:
        """Writes `comparison.json`, one parquet file a table and `changed_chains.jsonl`; each whole or not at all."""
        folder = Path(folder)
        for table, name in _TABLES.items():
            with replacing(folder / f"{name}.parquet") as temporary:
                getattr(self, table).to_parquet(temporary, index=False)
        lines = "".join(json.dumps(chain) + "\n" for chain in self.chains)
        write_text(folder / "changed_chains.jsonl", lines)
        write_text(folder / "comparison.json", json.dumps({**self.info, "summary": self.summary()}, indent=1))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """Reads what `save` wrote; raises StoreError naming the file that is missing or damaged."""
        path = folder = Path(folder)
        try:
            path = folder / "comparison.json"
            info = json.loads(path.read_text(encoding="utf-8"))
            del info["summary"]  # made from the tables
            tables = {}
            for table, name in _TABLES.items():
                path = folder / f"{name}.parquet"
                tables[table] = pd.read_parquet(path)
            path = folder / "changed_chains.jsonl"
            chains = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        except (OSError, ValueError, KeyError) as error:
            instead = held_instead(folder, path.name) or "; run faithprobe compare again"
            raise StoreError(
                f"{folder} holds no whole comparison: {path.name} is missing or damaged ({error}){instead}"
            ) from error
        return cls(info, chains=chains, **tables)

    def report(self, path: str | Path) -> Path:
        """Writes the page: one HTML file that opens without a network."""
        from faithprobe.plots.comparison_page import ComparisonInput, write_comparison

        names = ("differences", "transitions", "steps", "unscored", "chains")
        return write_comparison(ComparisonInput(dict(self.info), **{n: getattr(self, n) for n in names}), Path(path))

    def _repr_html_(self) -> str:
        from faithprobe.markup import number, quiet, record, safe, table

        lines = [
            [safe(row["words"]), *(number(row[key]) for key in ("a", "b", "difference")), _between(row), _call(row)]
            for row in self.differences.to_dict("records")
            if not row["missing"]
        ]
        notes = [quiet(f"note: {safe(note)}") for note in self.info["notes"]]
        heads = ("measure", "A", "B", "B - A", "95% interval", "after Holm")
        return record(safe(repr(self)), table(heads, lines), *notes)

    def __repr__(self) -> str:
        first, second = self.info["names"]
        rows = self.differences
        return (
            f"Comparison({first!r} -> {second!r} on {self.info['a']['task']!r}: "
            f"{int(rows['beyond_zero'].sum())} of {int((rows['missing'] == '').sum())} differences beyond zero)"
        )


def compared(a: Audit, b: Audit, problems: Sequence[str] | None, info: Mapping[str, Any]) -> Comparison:
    """The comparison of two audits.

    Args:
        a: the audit that is compared with.
        b: the one that changed.
        problems: those that both were asked, where differences are paired; None: the samples are independent.
        info: what is already known of `Comparison.info`.
    """
    shared = list(problems or ())
    alike = same_text(a.chains, b.chains) & set(shared)
    steps = paired_steps(a.steps, b.steps, shared, alike)
    keys = step_keys(steps)
    rows = [_row(measure, problems) for measure in measures(a, b, keys)]
    rows.insert(1, _without_chain(a, b))
    known = [row for row in rows if not row["missing"]]
    for row, adjusted in zip(known, holm([row["p"] for row in known]), strict=True):
        row |= {"p_holm": adjusted, "beyond_zero": adjusted < LEVEL}
    last = [part[part["chain"].isin(shared) & (part["verdict"] != "overruled")] for part in (a.steps, b.steps)]
    unmatched = {side: int(len(part) - len(steps)) for side, part in zip("ab", last, strict=True)}
    counts = {"same_text": len(alike), "unmatched_steps": unmatched if problems is not None else {}}
    return Comparison(
        {**info, **counts},
        _table(rows),
        transitions(steps),
        steps,
        reasons(a.steps, b.steps, problems),
        changed_chains(a.chains, b.chains, steps, (a.steps, b.steps)),
    )


def _row(measure: Measure, problems: Sequence[str] | None) -> dict[str, Any]:
    row = {"group": measure.group, "measure": measure.name, "words": measure.words, "unit": measure.unit}
    a, b = measure.a, measure.b
    if problems is not None:
        a, b = ({problem: side[problem] for problem in problems if problem in side} for side in (a, b))
    try:
        if problems is not None:
            found = paired_difference(a, b, unit=measure.added, bound=measure.bound)
        else:
            found = independent_difference(a, b, share=measure.share, unit=measure.added, bound=measure.bound)
    except UnscoredError:
        nowhere = [name for name, side in (("A", a), ("B", b)) if not side]
        why = f"not measured in {' and '.join(nowhere)}" if nowhere else "on no problem measured in both"
        return {**row, **_means(a, b), "missing": why}
    return {**row, **_numbers(found)}


def _means(a: Mapping[Any, Sequence[float]], b: Mapping[Any, Sequence[float]]) -> dict[str, Any]:
    """What is known of a side by itself."""
    found: dict[str, Any] = {}
    for name, side in (("a", a), ("b", b)):
        items = [value for values in side.values() for value in values]
        found |= {name: sum(items) / len(items) if items else None, f"n_{name}": len(side)}
    return found


def _without_chain(a: Audit, b: Audit) -> dict[str, Any]:
    """Accuracy without the chain: audits keep how many of these answers were right, not which, so it is not paired."""
    row = {"group": "answers", "measure": "accuracy_without_chain", "words": "accuracy without it", "unit": "share"}
    counted = [audit.summary()["accuracy"]["without_chain"] for audit in (a, b)]
    if None in counted:
        nowhere = [name for name, one in zip("AB", counted, strict=True) if one is None]
        known = {name: one and one["value"] for name, one in zip("ab", counted, strict=True)}
        return {**row, **known, "n_a": 0, "n_b": 0, "missing": f"not measured in {' and '.join(nowhere)}"}

    def means(level: float) -> tuple[Interval, Interval]:
        first, second = (share_interval(one["value"] * one["n"], one["n"], level=level) for one in counted)
        return first, second

    return {**row, **_numbers(difference_of(means, bound=1.0))}


def _numbers(found: Difference) -> dict[str, Any]:
    values = {name: getattr(found, name) for name in ("a", "b", "low", "high", "p", "n_a", "n_b", "paired")}
    return {**values, "difference": found.value, "missing": ""}


def _table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    made = pd.DataFrame([{"beyond_zero": False, "paired": False, **row} for row in rows], columns=list(DIFFERENCES))
    numbers = ["a", "b", "difference", "low", "high", "p", "p_holm"]
    return made.astype(dict.fromkeys(numbers, "float64") | {"n_a": "int64", "n_b": "int64"})


def _between(row: Mapping[str, Any]) -> str:
    from faithprobe.markup import number

    return f"{number(row['low'])} to {number(row['high'])}"


def _call(row: Mapping[str, Any]) -> str:
    return "<b>beyond zero</b>" if row["beyond_zero"] else "not beyond zero"


def _missing(value: Any) -> bool:
    return value is None or value != value
