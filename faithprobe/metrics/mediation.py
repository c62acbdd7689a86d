"""Mediation: what of the prompt's effect on the answer goes around the chain, through it, and needs both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.interventions.mediation import Crossing, run_crossings
from faithprobe.metrics.base import Settings
from faithprobe.scores.evidence import Evidence, Key, Measurement
from faithprobe.scores.mediation import EFFECTS
from faithprobe.tasks.graph import show_value


def mediation(subject: Subject, chains: Sequence[Chain], settings: Settings) -> Evidence:
    """One measurement a chain: the natural indirect effect, which goes through the chain; the others are its detail.

    The control is the same effect on an answer that no prompt and no chain is about.
    """
    crossings, reasons = run_crossings(subject, chains, seed=settings.seed)
    rows: dict[Key, Measurement] = {(chain, ""): Measurement.none(reason) for chain, reason in reasons.items()}
    table = tuple(map(_row, crossings))
    for row in table:
        detail = {name: row[name] for name in (*EFFECTS, "partner")}
        rows[row["chain"], ""] = Measurement(row["indirect"], control=row["indirect_control"], n=1, detail=detail)
    return Evidence("mediation", rows, {"mediation": table})


def _row(found: Crossing) -> dict[str, Any]:
    pair, answers = found.pair, vars(found.answers)
    own, partners = pair.chain.answer, pair.partner_chain.answer
    control = dict.fromkeys(EFFECTS) if found.control is None else found.control.effects
    return {
        "chain": pair.problem.id,
        "partner": pair.partner.id,
        "answer": show_value(own),
        "partner_answer": show_value(partners),
        **{name: value == 1 for name, value in vars(found.cells).items()},
        "neither": sum(answer not in (own, partners) for answer in answers.values()) / len(answers),
        **found.cells.effects,
        **{f"{name}_control": value for name, value in control.items()},
    }
