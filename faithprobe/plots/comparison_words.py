"""What the page of a comparison says in sentences, composed from its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from faithprobe.plots.prepare import rows
from faithprobe.plots.wording import decimal, number

METHOD_PAIRED = (
    "Both audits asked the same problems, so differences are paired by problem: what both owe to a problem that is "
    "easy cancels, and the interval is that of the paired difference, clustered by problem. A measure is compared over "
    "the problems that have it in both; of a problem, over the steps that both chains state and that were measured in "
    "both, or over all of its measured steps where the chains share none. So A and B may differ a little from their "
    "own reports. Two problems are added, one without a difference and one with the largest that was seen (1 where "
    "none was), half up and half down: else an interval would have no width where all problems agree."
)
METHOD_INDEPENDENT = (
    "The audits asked other problems, so they are compared as two independent samples: each mean has its own interval, "
    "clustered by problem, and the bounds are combined as squares. No step and no verdict has a counterpart, so there "
    "are no transitions and no chains side by side. Audits with the same seed would give narrower intervals."
)
METHOD_ROWS = (
    "An interval is that of its own row and is not corrected. Whether a difference is called beyond zero is: the "
    "p-values of all rows with a difference are corrected by Holm, at .05. Rows that measure the same thing twice "
    "(use, score, verdicts) move together; the correction holds all the same. A difference that is not beyond zero is "
    "not thereby zero: its interval says how large it can be."
)
WITHOUT_CHAIN = (
    "Accuracy without the chain is not paired even where the problems are the same: an audit keeps how many of these "
    "answers were right, not which."
)


def signed(value: Any) -> str:
    """`+.36`, `−1`; `0` where it rounds to that."""
    found = number(value)
    if found is None:
        return decimal(value)
    shown = decimal(abs(found))
    if shown in ("0", ".00", "0.00") or abs(found) < 0.005:
        return "0"
    return ("+" if found > 0 else "\N{MINUS SIGN}") + shown


def isolated(name: Any) -> str:
    """A name within a sentence: letters that run from right to left do not turn what stands around them."""
    text = str(name)
    return text if text.isascii() else f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}"


def change(row: Mapping[str, Any]) -> str:
    """`−.36 (95% interval −.52 to −.20)`."""
    return f"{signed(row['difference'])} (95% interval {signed(row['low'])} to {signed(row['high'])})"


def asked(info: Mapping[str, Any]) -> str:
    """What stands against what, and on which problems."""
    first, second = map(isolated, info["names"])
    counts = info["problems"]
    task = isolated(info["a"].get("task") or "unknown")
    beside = f"B is {second}, A is {first}. Every difference is B \N{MINUS SIGN} A."
    if not info["paired"]:
        return (
            f"{beside} They were asked different problems of the task {task}, {counts['a']:,} and {counts['b']:,}, and "
            "are compared as independent samples."
        )
    both = f"{beside} Both were asked the same {counts['both']:,} problems of the task {task}"
    left = [
        f"{counts[side] - counts['both']:,} more of {side.upper()}" for side in "ab" if counts[side] > counts["both"]
    ]
    return both + (f" ({' and '.join(left)} are left out)." if left else ".")


def text_sentence(info: Mapping[str, Any]) -> str:
    """How often both wrote the same: a difference in what is inside cannot come from the text then."""
    many, alike = info["problems"]["both"], info["same_text"]
    if not info["paired"] or not many:
        return ""
    if alike == many:
        return "They wrote the same text every time: no reader of the chains could tell them apart."
    return f"They wrote the same text for {alike:,} of {many:,} problems."


def found(differences: pd.DataFrame) -> str:
    """How many differences are beyond zero, and the largest of them."""
    known = [row for row in rows(differences) if not row["missing"]]
    if not known:
        return "Nothing was measured in both, so there is no difference to tell."
    beyond = [row for row in known if row["beyond_zero"]]
    if not beyond:
        return (
            f"Of {len(known)} differences none is beyond zero after the correction for their number. That does not say "
            "that there is none: the intervals say how large it can be."
        )
    verb = "is" if len(beyond) == 1 else "are"
    told = "; ".join(f"{row['words']} {change(row)}" for row in _largest(beyond))
    return (
        f"Of {len(known)} differences {len(beyond)} {verb} beyond zero after the correction for their number: {told}."
    )


def _largest(beyond: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The three that are told: shares before other units, verdicts only where there is nothing else."""
    first = [row for row in beyond if row["group"] != "verdicts"] or beyond
    return sorted(first, key=lambda row: (row["unit"] != "share", -abs(row["difference"])))[:3]


def accuracy(differences: pd.DataFrame) -> str:
    """Accuracy with the chain, where it is not told among the largest differences."""
    known = [row for row in rows(differences) if not row["missing"]]
    told = _largest([row for row in known if row["beyond_zero"]])
    row = next((row for row in known if row["measure"] == "accuracy"), None)
    if row is None or row in told:
        return ""
    return f"Answers with the chain are right in {decimal(row['a'])} (A) and {decimal(row['b'])} (B): {change(row)}."


def verdicts(transitions: pd.DataFrame, info: Mapping[str, Any]) -> str:
    """How many verdicts changed, and most often from what to what."""
    every = rows(transitions)
    total = sum(row["steps"] for row in every)
    if not info["paired"] or not total:
        return ""
    moved = [row for row in every if row["verdict_a"] != row["verdict_b"]]
    if not moved:
        return f"No verdict changed, of {total:,} steps that both chains state."
    count, most = sum(row["steps"] for row in moved), moved[0]
    where = f"{count:,} of the {total:,} steps that both chains state"
    often = f"most often from {most['verdict_a']} to {most['verdict_b']} ({most['steps']:,})"
    return f"The verdict changed in {where}, {often}."


def unmatched(info: Mapping[str, Any]) -> str:
    """Steps that only one of the chains states."""
    counts = info.get("unmatched_steps") or {}
    told = [f"{count:,} of {side.upper()}" for side, count in counts.items() if count]
    if not told:
        return ""
    return f"Steps that have no counterpart in the other chain are not in this table: {' and '.join(told)}."
