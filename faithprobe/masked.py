"""Real models under a mask: what every metric says of chains about which the mask makes something true.

Each item (`organisms.masked_items`) is one chain, written and measured under its mask. A *case* is what one metric says
about one label of it: a number in [0, 1] for how much the label's property holds, called at one half, or why there is
none. Only labels that follow from the mask are compared, so nearly all are negative, and what always says no would
agree as well: there is no AUROC, and the same chains as they are, about which nothing is known, stand beside them.

The one positive label, *only the literal*, comes from a witness. Replacing the literal is the very computation that the
witness was found by, and what U compares with (the model's own run on another problem) is made the same computation by
the mask. Agreement there would be no evidence of sensitivity, and is left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from faithprobe.errors import FaithprobeError, StoreError
from faithprobe.files import write_text
from faithprobe.metrics.base import Metric, Settings, run_metric
from faithprobe.metrics.bypass import bypass
from faithprobe.metrics.lead import lead
from faithprobe.metrics.used import used
from faithprobe.models import LanguageModel
from faithprobe.models.hooks import evaluating
from faithprobe.organisms.masked_items import (
    AS_IT_IS,
    BLIND_TO_LITERAL,
    BLIND_TO_QUESTION,
    ONLY_LITERAL,
    MaskedItem,
    masked_items,
)
from faithprobe.progress import Progress
from faithprobe.results.parts import claim_folder
from faithprobe.scores.evidence import Evidence, Measurement
from faithprobe.scores.labelled import THRESHOLD
from faithprobe.scores.statistics import clustered_mean
from faithprobe.tasks import Task

Case = Mapping[str, Any]
"""model, family, metric, label, truth (None: not known), problem, step, value in [0, 1] or None, and then why."""

ON_CHAINS = ("lead", "bypass", "early-answering", "filler-tokens")
"""Metrics that are run on chains blind to the question; the others, a user's own among them, on steps."""
WITHOUT_CHAIN = "without_chain"
"""The answer is the same without the chain. No mask says so, nor the contrary: behind a hidden question it may be a
constant, which comes neither from the question nor from the chain."""
NO_LABEL = "no label: the mask does not say whether the answer needs the chain"
NO_EVIDENCE = "agrees by construction: the label's witness and the metric run the same computation"


def masked_table(
    model: LanguageModel,
    task: Task,
    *,
    metrics: Mapping[str, Metric],
    work: Path,
    problems: int = 4,
    seed: int = 0,
    replacements: int = 4,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Runs the metrics on every masked item of a model, and counts by family, metric and label who is right.

    Args:
        metrics: published ones, or a user's own, beside `used`, `lead` and `bypass`.
        work: a folder for what is finished; an interrupted run goes on there.
        problems: that the model answers; each gives about four items.

    Raises:
        ModelError: a model that takes no mask. StoreError: `work` holds a run with other settings.
    """
    own_folder = re.sub(r"[^\w.-]+", "-", model.name)
    folder = work / f"{own_folder}-{model.fingerprint[:8]}"
    every = {"used": used, "lead": lead, "bypass": bypass, **metrics}
    about = {"fingerprint": model.fingerprint, "task": task.name, "task_options": task.options(), "problems": problems}
    claim_folder(folder, about | {"seed": seed, "replacements": replacements, "metrics": list(every)})
    finished = folder / "cases.json"
    if finished.exists():
        return counted(_read(finished))
    progress = progress or Progress(False)
    stage = progress.stage(f"{model.name} under masks: minutes", problems)
    settings = Settings(seed=seed, replacements=replacements)
    cases: list[Case] = []
    seen: dict[str, None] = {}
    with evaluating(model):
        for k, item in enumerate(masked_items(model, task, problems=problems, seed=seed)):
            if item.chain.id not in seen and seen:
                stage.advance()
            seen[item.chain.id] = None
            if item.labels or item.family == AS_IT_IS:
                progress.say(f"{item.family} {item.step}".strip())
                cases += _kept(folder / f"item-{k:04d}.json", item, every, settings, model.name)
    write_text(finished, json.dumps(cases))
    stage.advance(problems - stage.done)
    return counted(cases)


def _kept(
    path: Path, item: MaskedItem, metrics: Mapping[str, Metric], settings: Settings, model: str
) -> Sequence[Case]:
    """The cases of one item; measured where they are not on disk."""
    about = [item.family, item.chain.id, item.step, list(item.chain.tokens)]
    if path.exists():
        held = _read(path)
        if held["about"] == about:
            return held["cases"]
    cases = [{"model": model, **case} for case in cases_of(item, evidence_of(item, metrics, settings))]
    write_text(path, json.dumps({"about": about, "cases": cases}))
    return cases


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}); delete it, and the same command measures it again") from error


def evidence_of(item: MaskedItem, metrics: Mapping[str, Metric], settings: Settings) -> dict[str, Evidence]:
    """What those metrics find under the mask that say something about the item's labels; as it is, all."""
    wanted = [
        name for name in metrics if item.family == AS_IT_IS or (name in ON_CHAINS) == (item.family == BLIND_TO_QUESTION)
    ]
    with item.open() as subject:
        return {name: run_metric(name, metrics[name], subject, [item.chain], settings) for name in wanted}


def cases_of(item: MaskedItem, evidence: Mapping[str, Evidence]) -> Iterator[dict[str, Any]]:
    """Every label of an item beside what each metric says of it; of a chain as it is, what each metric says."""
    known = item.family != AS_IT_IS
    steps = [item.step] if item.step else list(item.chain.literals)
    for metric, label, step, found in _said(item, evidence, steps):
        if not known or label in item.labels or label == WITHOUT_CHAIN:
            case = {"family": item.family, "metric": metric, "label": label, "truth": item.labels.get(label)}
            yield case | {"problem": item.chain.id, "step": step, "value": found.value, "unscored": found.unscored}


def _said(
    item: MaskedItem, evidence: Mapping[str, Evidence], steps: Sequence[str]
) -> Iterator[tuple[str, str, str, Measurement]]:
    """Metric, the label that it speaks about, step, and its number turned to mean that the label holds."""
    id_ = item.chain.id
    for name, found in evidence.items():
        whole = found.get(id_, "")
        if name == "used":
            for step in steps:
                row = found.get(id_, step)
                read = row.detail.get("used_read")
                reason = row.unscored or "no later step reads it"
                yield "U", "answer_use", step, row
                yield "U_read", "step_use", step, Measurement.none(reason) if read is None else _number(read)
        elif name == "lead":
            for step in item.chain.literals:
                row = found.get(id_, step)
                early = row if row.value is None else _number(row.detail["origin"] == "before")
                yield "lead", "before", step, early
        elif name == "bypass":
            yield "bypass", "bypass", "", whole
            kept = [row for row in found.tables["bypass"] if row["readout"]]
            none = "no counterfactual partner on which the model answers differently"
            yield "readout", "readout", "", _number(kept[0]["prompt"]) if kept else Measurement.none(none)
        elif name == "early-answering":
            same = whole if whole.value is None else _number(whole.detail["same_without_chain"])
            yield name, WITHOUT_CHAIN, "", same
        elif name == "filler-tokens":
            yield name, WITHOUT_CHAIN, "", whole if whole.value is None else _number(1 - whole.value)
        else:
            for step in steps:
                row = found.get(id_, step)
                if row.value is not None and not 0 <= row.value <= 1:
                    row = Measurement.none("its number is not in [0, 1], so nothing says where it calls a step used")
                yield name, "answer_use", step, row


def _number(value: object) -> Measurement:
    return Measurement(float(value))  # type: ignore[arg-type]


def counted(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """One row for each model, family, metric and label:

    `truth`, None where it is not known; `n`, the items (a chain counts once for every step that is measured); `scored`;
    `mean`, of the metric's number for *the label holds*; `agree`, how many lie on the label's side of one half, and
    their share `value` with its interval `low`, `high`, clustered by problem, all None where agreement is no evidence
    or nothing is known (`note` says why); `problems`, of what was scored; `unscored`, reasons and how often.
    """
    groups: dict[tuple[Any, ...], list[Case]] = {}
    for case in cases:
        key = tuple(case[name] for name in ("model", "family", "metric", "label", "truth"))
        groups.setdefault(key, []).append(case)
    order = {name: i for i, name in enumerate((BLIND_TO_LITERAL, BLIND_TO_QUESTION, ONLY_LITERAL, AS_IT_IS))}
    return [
        dict(zip(("model", "family", "metric", "label", "truth"), key, strict=True))
        | _count(key[1], key[4], groups[key])
        for key in sorted(groups, key=lambda key: order[key[1]])
    ]


def _count(family: str, truth: bool | None, cases: Sequence[Case]) -> dict[str, Any]:
    scored = [case for case in cases if case["value"] is not None]
    right = [(case["value"] >= THRESHOLD) == truth for case in scored]
    row: dict[str, Any] = {
        "n": len(cases),
        "scored": len(scored),
        "mean": sum(case["value"] for case in scored) / len(scored) if scored else None,
        **dict.fromkeys(("agree", "value", "low", "high")),
        "problems": len({case["problem"] for case in scored}),
        "unscored": dict(Counter(case["unscored"] for case in cases if case["value"] is None).most_common()),
        "note": "",
    }
    if family == ONLY_LITERAL:
        row["note"] = NO_EVIDENCE
    elif truth is None:
        row["note"] = "" if family == AS_IT_IS else NO_LABEL
    elif scored:
        share = clustered_mean(
            [float(is_right) for is_right in right], [case["problem"] for case in scored], share=True
        )
        row |= {"agree": sum(right), "value": share.value, "low": share.low, "high": share.high}
    return row


def check_models(models: object, problems: int) -> None:
    """Raises FaithprobeError for what cannot be meant."""
    if isinstance(models, str):
        raise FaithprobeError(f"masked is a list of models, such as [{models!r}]")
    if problems < 1:
        raise FaithprobeError(f"masked_problems must be at least 1, not {problems}")
