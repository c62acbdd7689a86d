"""Numbers and sentences as the report writes them; what is missing is called *not measured*."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faithprobe.markup import number as short
from faithprobe.plots.palette import VERDICTS
from faithprobe.plots.prepare import plain

MISSING = "not measured"


def number(value: Any) -> float | None:
    """A finite number, or None."""
    found = plain(value)
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def percent(value: Any) -> str:
    """`.824` as `82%`; a share that rounds to 0 or 100 without being it keeps one digit."""
    share = number(value)
    if share is None:
        return MISSING
    rounded = f"{100 * share:.0f}%"
    return f"{100 * share:.1f}%" if rounded in ("0%", "100%") and share not in (0.0, 1.0) else rounded


def decimal(value: Any) -> str:
    """`.824` as `.82`, `1` as `1`."""
    found = number(value)
    return MISSING if found is None else short(found)


def spread(measured: Mapping[str, Any] | None, show: Any = percent) -> str:
    """`82% (95% interval 74% to 88%, n = 48)`, as much of it as is known."""
    if not measured:
        return MISSING
    value = measured.get("value", measured.get("share"))
    if number(value) is None:
        return MISSING
    parts = []
    if number(measured.get("low")) is not None and number(measured.get("high")) is not None:
        parts.append(f"95% interval {show(measured['low'])} to {show(measured['high'])}")
    if number(measured.get("n")) is not None:
        parts.append(f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{int(measured['n']):,}")
    return show(value) + (f" ({', '.join(parts)})" if parts else "")


def duration(seconds: Any) -> str:
    """`251.8` as `4 min 12 s`."""
    total = number(seconds)
    if total is None:
        return MISSING
    whole = round(total)
    if whole < 60:
        return f"{total:.3g} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def findings(info: Mapping[str, Any], summary: Mapping[str, Any], counts: Mapping[str, int]) -> list[str]:
    """What was asked and found, in three sentences: the audit's own, or composed here from its numbers.

    `counts` are the verdicts of all steps.
    """
    given = [str(sentence) for sentence in summary.get("findings") or ()]
    return given or [_asked(info, summary), _verdicts(summary, counts), _scores(summary, counts)]


def _asked(info: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    accuracy = summary.get("accuracy") or {}
    problems = number(info.get("n_problems"))
    many = "problems" if problems is None else f"{int(problems):,} problems"
    asked = f"{info.get('model') or 'The model'} was asked {many} of the task {info.get('task') or 'unknown'}"
    with_chain, without = spread(accuracy.get("with_chain")), spread(accuracy.get("without_chain"))
    if MISSING in (with_chain, without):
        return f"{asked}; answers that are right with the chain: {with_chain}, without it: {without}."
    return f"{asked}: its answer is right for {with_chain} of them with its chain written, without it for {without}."


def _verdicts(summary: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    shares = verdict_shares(summary, counts)
    if not shares:
        return "No step has a verdict."
    total = sum(counts.values())
    largest = max(shares, key=lambda name: shares[name].get("share") or 0)
    others = [name for name in sorted(shares, key=lambda name: -(shares[name].get("share") or 0)) if name != largest][
        :2
    ]
    of_steps = f"Of its {total:,} steps" if total else "Of its steps"
    meaning = VERDICTS[largest].meaning.rstrip(".") if largest in VERDICTS else ""
    told = f" ({meaning[0].lower()}{meaning[1:]})" if meaning else ""
    rest = "; next " + " and ".join(f"{percent(shares[name].get('share'))} {name}" for name in others) if others else ""
    return f"{of_steps}, most often the verdict is {largest}{told}: {spread(shares[largest])}{rest}."


def _scores(summary: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    score = summary.get("chain_score") or {}
    null = decimal(score.get("null"))
    beside = f", beside a length-matched null of {null}" if null != MISSING else ""
    unscored = sum((summary.get("unscored") or {}).values()) or counts.get("unscored", 0)
    gap = f"{unscored:,} steps could not be scored" if unscored != 1 else "1 step could not be scored"
    if spread(score, decimal) == MISSING:
        return f"Chains have no score: it was {MISSING}; {gap}."
    return f"The mean score of a chain (0 to 1) is {spread(score, decimal)}{beside}; {gap}."


def last_stated(summary: Mapping[str, Any]) -> str:
    """How often the answer is the last value that the chain stated: what copying alone would explain."""
    share = spread(summary.get("answer_is_last_stated"))
    if share == MISSING:
        return f"How often the answer is the last value stated was {MISSING}."
    return f"The answer is the last value stated in {share} of the chains, which copying alone could explain."


def left_out(summary: Mapping[str, Any]) -> str:
    """How many pairs of problems the mediation effects are without, and why; empty where there are none."""
    reasons = (summary.get("mediation") or {}).get("unscored") or {}
    listed = "; ".join(f"{reason} ({count:,})" for reason, count in sorted(reasons.items(), key=lambda r: -r[1]))
    return f"Left out: {listed}." if listed else ""


def verdict_shares(summary: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Shares of the verdicts as summarised, else as counted, in the order of the legend; zero shares are left out."""
    total = sum(counts.values())
    given = summary.get("verdicts") or {name: {"share": n / total} for name, n in counts.items() if total}
    known = [name for name in VERDICTS if name in given] + [name for name in given if name not in VERDICTS]
    return {name: dict(given[name]) for name in known if (number(given[name].get("share")) or 0) > 0}
