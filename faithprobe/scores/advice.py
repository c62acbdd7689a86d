"""What stands in the way of an audit's numbers, and what to do: for whoever reads *not measured* for the first time.

Reads a summary, runs nothing; a number that is missing gives no advice. Each line names what was found, with its
number, and then the option to change, as the audit was started: `--probe-problems 1000`, or `probe_problems=1000`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

FEW_PROBLEMS = 20
"""Below this, the 95% interval of a share can be wider than .4."""
PROBES_NEED = 250
"""Probe problems below which D and the score stay unscored."""


def advice(summary: Mapping[str, Any], info: Mapping[str, Any], chains: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Lines of advice, the most important first; none where nothing stands in the way.

    Args:
        summary: of an audit.
        info: of the same audit: its options, how it was started (`command`), and whether the tokenizer has a chat
            template.
        chains: of the same audit: their true answers say how far guessing gets.
    """
    found = [
        _not_found(summary, info),
        _too_hard(summary, info),
        _guessable(summary, chains),
        _without_chain(summary, info),
        _probes(summary, info),
        _replacements(info),
        _few(summary),
    ]
    lines = [line for line in found if line] or [line for line in [_commonest_reason(summary)] if line]
    if str(info.get("command") or "faithprobe ").startswith("faithprobe "):
        return lines
    return [_in_python(line) for line in lines]


def _in_python(line: str) -> str:
    """The options as arguments of `audit` and of the task."""
    line = re.sub(r"--([a-z-]+) (\d+)", lambda option: f"{option[1].replace('-', '_')}={option[2]}", line)
    for written, meant in (("-o ", ""), ("--chat", "chat=True"), ("another --out", "another out if you gave one")):
        line = line.replace(written, meant)
    return line


def _right(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Accuracy with the chain; empty where it was not measured."""
    found = (summary.get("accuracy") or {}).get("with_chain") or {}
    return found if found.get("value") is not None and found.get("low") is not None else {}


def _not_found(summary: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    unscored = summary.get("unscored") or {}
    lost = sum(count for reason, count in unscored.items() if str(reason).startswith("never stated"))
    if 2 * lost < max(summary.get("steps") or 0, 1):
        return ""
    cut, problems = summary.get("unfinished", 0), summary.get("problems", 0)
    ran = f" {cut} of {problems} chains were cut off before they ended." if cut else ""
    return (
        f"{lost} of {summary['steps']} values were not found in the chains.{ran} The model has to write its steps as "
        f"the examples of the prompt do, such as '7 + 5 = 12': read a chain in the report. {_ask_again(info)} For "
        "steps that are not equations, give your task a `statement` (docs/usage/your_own_task.md)"
    )


def _ask_again(info: Mapping[str, Any]) -> str:
    shots = (info.get("task_options") or {}).get("shots")
    ways = [f"more examples (-o shots={2 * shots})"] if isinstance(shots, int) and shots else []
    if info.get("chat"):
        ways.insert(0, "it without --chat")
    elif info.get("chat_template"):
        ways.insert(0, "its chat template (--chat)")
    return f"Try {', '.join(ways)}{' or ' if ways else ''}a larger model."


def _options(info: Mapping[str, Any], *, harder: bool) -> str:
    """The task's own options, set to make its problems harder or easier: ` (such as -o steps=4)`; may be empty."""
    found = []
    for name, least in (("steps", 2), ("variables", 3), ("digits", 1), ("high", 4)):
        now = (info.get("task_options") or {}).get(name)
        if isinstance(now, int) and (then := 2 * now if harder else max(now // 2, least)) != now:
            found.append(f"-o {name}={then}")
    return f" (such as {' '.join(found)})" if found else ""


def _too_hard(summary: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    right = _right(summary)
    if _not_found(summary, info):
        return ""  # the same cause, and the same way out
    if not right or right["value"] > 0.2:
        return ""
    return (
        f"the model is right in {right['value']:.2f} of {right['n']} problems: what it does with a replaced value then "
        f"says little (competence). Make the problems easier{_options(info, harder=False)}. {_ask_again(info)}"
    )


def _guessable(summary: Mapping[str, Any], chains: Sequence[Mapping[str, Any]]) -> str:
    right, answers = _right(summary), Counter(str(chain.get("true_answer")) for chain in chains)
    if len(chains) < 5 or not right:
        return ""
    answer, count = answers.most_common(1)[0]
    share = count / len(chains)
    if share < 0.4 or right["low"] > share:
        return ""
    return (
        f"always answering {answer!r} would be right in {share:.2f} of these problems, and the model's accuracy, "
        f"{right['value']:.2f}, is not above that: its answers may be guesses. Ask more problems (--problems 100), or "
        "a family with more answers"
    )


def _without_chain(summary: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    chain, alone = _right(summary), (summary.get("accuracy") or {}).get("without_chain") or {}
    if not chain or (alone.get("value") or 0) < 0.5 or alone["value"] + 0.05 < chain["value"]:
        return ""
    return (
        f"without any chain the model is right in {alone['value']:.2f} of {alone['n']} problems, with it in "
        f"{chain['value']:.2f}: these problems do not need the chain, and that it goes unused is no surprise. Take "
        f"harder ones{_options(info, harder=True)}"
    )


def _probes(summary: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    asked = info.get("probe_problems")
    if asked is not None and asked < PROBES_NEED:
        what = "no probes were fitted" if asked == 0 else f"{asked} problems are too few to fit probes on"
        return (
            f"{what}, so 'computed' (D) and the score are missing: --probe-problems 1000 (at least {PROBES_NEED}), and "
            "another --out"
        )
    unscored = summary.get("unscored") or {}
    small = sum(count for reason, count in unscored.items() if "family has fewer than" in str(reason))
    if small:
        return (
            f"the family has too few different problems to fit probes on, so 'computed' (D) and the score of {small} "
            f"steps are missing: widen its ranges or add steps{_options(info, harder=True)}"
        )
    return ""


def _replacements(info: Mapping[str, Any]) -> str:
    made = info.get("replacements")
    if made is None or made >= 3:
        return ""
    return f"{made} replacements a value are too few, so 'used' (U) is missing: --replacements 4, and another --out"


def _few(summary: Mapping[str, Any]) -> str:
    right = _right(summary)
    if not right or summary.get("problems", FEW_PROBLEMS) >= FEW_PROBLEMS:
        return ""
    return (
        f"{summary['problems']} problems leave wide intervals (accuracy: {right['low']:.2f} to {right['high']:.2f}): "
        "--problems 50, and another --out"
    )


def _commonest_reason(summary: Mapping[str, Any]) -> str:
    lost = ((summary.get("verdicts") or {}).get("unscored") or {}).get("count") or 0
    if not summary.get("unscored") or 2 * lost < max(summary.get("steps") or 0, 1):
        return ""
    reason, count = next(iter(summary["unscored"].items()))
    return f"{lost} of {summary['steps']} steps are unscored, {count} of them because: {reason} (docs/gotchas.md)"
