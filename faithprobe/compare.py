"""Comparing two audits: what changed from A to B, with intervals. Two models on the same problems, or one before and
after training."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from faithprobe.errors import FaithprobeError, StoreError
from faithprobe.results.comparison import Comparison, compared
from faithprobe.results.record import Audit
from faithprobe.results.transitions import same_problems
from faithprobe.results.versions import versions

__all__ = ["Comparison", "compare"]

_MATTERS = {
    "replacements": "U is a share of that many replays",
    "probe_problems": "D is read by probes that were fitted on so many",
    "chat": "one was asked through the chat template",
    "temperature": "one of them samples differently",
}
"""Settings of an audit that its numbers depend on, and how."""


def compare(
    a: str | Path | Audit,
    b: str | Path | Audit,
    *,
    names: tuple[str, str] | None = None,
    out: str | Path | None = None,
    command: str = "",
) -> Comparison:
    """Compares two audits of one task: every difference is B - A.

    Where both asked the same problems (same task, options and seed), differences are paired by problem; else they are
    those of two independent samples. Settings that differ are warned about and stand in `info["notes"]`.

    Args:
        a: an audit, or the folder that holds one: what is compared with, such as the model before training.
        b: likewise: what changed.
        names: what to call them; default: their models, with their folders where these are equal.
        out: a folder to save the result to.
        command: how this was started; default: the Python call.

    Raises:
        StoreError: a folder that holds no audit.
        FaithprobeError: the same folder twice, another task or other options, no problem in common although task,
            options and seed say so.
    """
    started = time.monotonic()
    if isinstance(a, str | Path) and isinstance(b, str | Path) and Path(a).resolve() == Path(b).resolve():
        raise FaithprobeError(f"A and B are the same folder, {a}; name the folders of two audits")
    first, second = _opened(a), _opened(b)
    _check(first.info, second.info)
    notes = _notes(first.info, second.info)
    paired = first.info.get("seed") == second.info.get("seed")
    problems = same_problems(first.chains, second.chains)
    if paired and not problems:
        raise FaithprobeError(
            f"no common problem: both audits asked the task {first.info['task']!r} with seed {first.info['seed']}, but "
            f"none of their {len(first.chains)} and {len(second.chains)} problems is the same (other data, or another "
            "version of the task?); audit both models again with one version"
        )
    if not paired:
        notes.insert(0, _independent(first.info, second.info, len(problems)))
    for note in notes:
        warnings.warn(note, stacklevel=2)
    info = {
        "names": list(names or _names(first.info, second.info, (a, b))),
        "a": dict(first.info),
        "b": dict(second.info),
        "folders": [None if isinstance(given, Audit) else str(given) for given in (a, b)],
        "paired": paired,
        "problems": {"both": len(problems), "a": len(first.chains), "b": len(second.chains)},
        "same_weights": _same(first.info, second.info, "fingerprint"),
        "notes": notes,
        "versions": versions(),
        "command": command or "faithprobe.compare(a, b)",
    }
    found = compared(first, second, problems if paired else None, info)
    found = replace(found, info={**found.info, "seconds": round(time.monotonic() - started, 2)})
    if out is not None:
        found.save(out)
    return found


def _opened(given: str | Path | Audit) -> Audit:
    if isinstance(given, Audit):
        return given
    if not (Path(given) / "audit.json").is_file():
        what = "has no audit.json" if Path(given).is_dir() else "is no folder"
        raise StoreError(f"{given} holds no audit: it {what}; name a folder that `faithprobe audit --out` wrote")
    return Audit.load(given)


def _check(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises FaithprobeError where the audits are not about the same kind of problem."""
    if a["task"] != b["task"]:
        raise FaithprobeError(
            f"A is about the task {a['task']!r}, B about {b['task']!r}: their numbers cannot be compared; audit one of "
            "the models on the other's task"
        )
    options = [dict(info.get("task_options") or {}) for info in (a, b)]
    differing = [
        f"{key}: {options[0].get(key)!r} in A, {options[1].get(key)!r} in B"
        for key in sorted({*options[0], *options[1]})
        if options[0].get(key) != options[1].get(key)
    ]
    if differing:
        raise FaithprobeError(
            f"the audits are about other problems of the task {a['task']!r} ({'; '.join(differing)}); audit both with "
            "the same options (-o name=value)"
        )


def _same(a: Mapping[str, Any], b: Mapping[str, Any], key: str) -> bool:
    return key in a and key in b and a[key] == b[key]


def _notes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What differs between the plans and makes a difference of its own."""
    notes = [
        f"{name} differs ({a[name]!r} in A, {b[name]!r} in B): {why}, so a difference may come from there"
        for name, why in _MATTERS.items()
        if name in a and name in b and a[name] != b[name]
    ]
    made = [(info.get("versions") or {}).get("faithprobe") for info in (a, b)]
    if made[0] != made[1]:
        notes.append(f"the audits were made by different versions of faithprobe ({made[0]} and {made[1]})")
    return notes


def _independent(a: Mapping[str, Any], b: Mapping[str, Any], shared: int) -> str:
    note = (
        f"seed differs ({a['seed']} in A, {b['seed']} in B): other problems were asked, so the audits are compared as "
        "independent samples, with wider intervals"
    )
    return f"{note}; {shared} problems happen to be in both" if shared else note


def _names(a: Mapping[str, Any], b: Mapping[str, Any], given: tuple[Any, Any]) -> tuple[str, str]:
    models = str(a.get("model")), str(b.get("model"))
    if models[0] != models[1]:
        return models
    folders = [None if isinstance(one, Audit) else Path(one).resolve().name for one in given]
    told = [f"{model} ({folder or side})" for model, folder, side in zip(models, folders, "AB", strict=True)]
    return (told[0], told[1]) if told[0] != told[1] else (f"{models[0]} (A)", f"{models[1]} (B)")
