"""Is the score still honest? Held-out problems, and evidence that the loss does not train on.

A loss that trains on a measurement raises that measurement, whether or not it raises what was to be measured
(Goodhart's law). So three kinds of evidence about the same greedily written chains are kept apart:

    swap         U: a literal is replaced in the text, and what follows is regenerated      (`metrics.used`)
    interchange  the text stays, the literal's state is taken from another problem's run    (`training.interchanged`)
    exchange     1 - bypass: the prompt of another problem, the answer follows the chain     (`metrics.bypass`)

What an objective trains on (`TRAINED_ON`) gives the *trained-on score*, the best of it; the rest gives the *held-out
causal score*, the least of it, because a model that is faithful passes every kind. All lie in [0, 1].

    Goodhart gap = trained-on score - held-out causal score

Scores are means over items (steps, or chains for the exchange) with 95% intervals clustered by problem
(`scores.statistics`), which have width at 0 and at 1. The gap's interval is made of theirs, by MOVER (Zou and Donner,
*Statistics in Medicine* 27, 2008): with scores t in [t1, t2] and h in [h1, h2],

    low = t - h - sqrt((t - t1)^2 + (h2 - h)^2),    high = t - h + sqrt((t2 - t)^2 + (h - h1)^2)

as if both were independent. They come from the same problems, and rise and fall together: the true interval is
narrower, so that a stop by this one errs on the side of going on.

The step that the answer reads out counts as little here as in the score of a chain: an answer that copies the last
value follows it, whatever led there. It stands in `by_step` all the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import hypot
from typing import Any

from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.errors import TaskError
from faithprobe.metrics.base import Settings
from faithprobe.metrics.bypass import bypass
from faithprobe.metrics.used import used
from faithprobe.models.hooks import evaluating
from faithprobe.scores.evidence import Evidence, Measurement
from faithprobe.scores.statistics import clustered_mean
from faithprobe.tasks import Problem
from faithprobe.training.interchanged import interchanged
from faithprobe.training.objectives import get_objective

KINDS = ("swap", "interchange", "exchange")
TRAINED_ON: Mapping[str, tuple[str, ...]] = {
    "counterfactual": ("swap",),
    "self-consistency": ("swap",),
    "frodo": ("swap",),
    "csr": ("swap",),
    "interchange": ("interchange",),
    "markovian": ("exchange",),
}
"""By objective. One that is not named trains on none of them: its gap is that of the swap, and says how far the kinds
of evidence lie apart when nothing pulls at them."""
ONLY_READOUT = "no step stands before the one that the answer reads out"
PLACEBOS = {"swap": "placebo", "interchange": "moved"}
"""What stands in a measurement's detail: answers that changed with nothing replaced, or with the same value put in."""


@dataclass(frozen=True)
class Score:
    """A mean with its 95% interval, or why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    """Problems behind it."""
    items: int = 0
    """Steps, or chains, behind it."""
    unscored: Mapping[str, int] = field(default_factory=dict)
    """Items that could not be measured, by reason."""

    def __str__(self) -> str:
        """`0.98 [0.91, 1.00], n = 40`, or the reason that there is no value."""
        if self.value is None or self.low is None or self.high is None:
            return f"unscored: {'; '.join(self.unscored) or 'nothing was measured'}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}], n = {self.n}"

    @classmethod
    def of(cls, values: Sequence[float], groups: Sequence[str], unscored: Mapping[str, int]) -> Score:
        """Of values in [0, 1], clustered by problem."""
        if not len(values):
            return cls(None, unscored=dict(unscored))
        found = clustered_mean(list(values), list(groups), share=True)
        return cls(found.value, found.low, found.high, found.n, len(values), dict(unscored))


def difference(first: Score, second: Score) -> Score:
    """`first` minus `second`, with the interval of the module's docstring."""
    bounds = (first.value, first.low, first.high, second.value, second.low, second.high)
    known = [bound for bound in bounds if bound is not None]
    if len(known) < len(bounds):
        return Score(None, unscored={**first.unscored, **second.unscored} or {"one of the two has no value": 1})
    a, a_low, a_high, b, b_low, b_high = known
    low, high = a - b - hypot(a - a_low, b_high - b), a - b + hypot(a_high - a, b - b_low)
    return Score(a - b, max(-1.0, low), min(1.0, high), min(first.n, second.n), min(first.items, second.items))


@dataclass(frozen=True)
class Evaluation:
    """What a model that is being trained does on held-out problems."""

    accuracy: Score
    evidence: Mapping[str, Score]
    """By kind, over steps before readout."""
    by_step: Mapping[str, Mapping[str, Score]]
    """By kind and by the step's name in the reference graph; the exchange is about whole chains, and has none."""
    placebos: Mapping[str, Score]
    """By kind: how often the answer changed where nothing was meant to change it; it should be 0."""
    trained_on: tuple[str, ...]
    """Kinds."""
    seconds: float = 0.0

    @property
    def trained_on_score(self) -> Score:
        """The best of what the loss trains on."""
        return _extreme([self.evidence[kind] for kind in self.trained_on], best=True)

    @property
    def held_out_score(self) -> Score:
        """The least of what it does not train on."""
        return _extreme([score for kind, score in self.evidence.items() if kind not in self.trained_on], best=False)

    @property
    def goodhart_gap(self) -> Score:
        return difference(self.trained_on_score, self.held_out_score)

    def headline(self) -> dict[str, Score]:
        """The four numbers that are logged, by the names they are logged under."""
        names = ("accuracy", "trained_on_score", "held_out_score", "goodhart_gap")
        return {name: getattr(self, name) for name in names}

    def logs(self) -> dict[str, float]:
        """The headline as numbers, each with `_low` and `_high`; what has no value is left out."""
        found = {}
        for name, score in self.headline().items():
            for suffix, number in (("", score.value), ("_low", score.low), ("_high", score.high)):
                if number is not None:
                    found[name + suffix] = number
        return found

    def record(self) -> dict[str, Any]:
        """As JSON holds it: `logs`, with None for what has no value, and all that is behind it."""
        flat = {f"{name}{suffix}": None for name in self.headline() for suffix in ("", "_low", "_high")}
        return {**flat, **self.logs(), "seconds": round(self.seconds, 3), "evaluation": asdict(self)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Evaluation:
        held = record["evaluation"]
        return cls(
            accuracy=Score(**held["accuracy"]),
            evidence={kind: Score(**score) for kind, score in held["evidence"].items()},
            by_step={
                kind: {step: Score(**score) for step, score in steps.items()} for kind, steps in held["by_step"].items()
            },
            placebos={kind: Score(**score) for kind, score in held["placebos"].items()},
            trained_on=tuple(held["trained_on"]),
            seconds=held["seconds"],
        )


def _extreme(scores: Sequence[Score], *, best: bool) -> Score:
    known = [score for score in scores if score.value is not None]
    if not known:
        reasons: Counter[str] = Counter()
        for score in scores:
            reasons.update(score.unscored)
        return Score(None, unscored=dict(reasons))
    return (max if best else min)(known, key=lambda score: score.value or 0.0)


def evaluate_training(
    subject: Subject,
    problems: Sequence[Problem],
    *,
    trained_on: str | Collection[str] = "counterfactual",
    seed: int = 0,
    replacements: int = 3,
    readout: bool = False,
) -> Evaluation:
    """Measures the model as it is now, on problems that it is not trained on. It is left as it was found: its mode,
    gradients, and everybody's random numbers.

    Args:
        subject: the model that is trained, its task, and how it is asked; asked greedily here, whatever it says.
        problems: held out, of different ids; 30 or more for intervals that can decide anything.
        trained_on: the objective of the loss, or the kinds of evidence that it trains on.
        seed: draws replacements, sources and partners.
        replacements: values put in for every literal; at least 3 for a score.
        readout: also count the step that the answer reads out.

    Raises:
        UnknownNameError: no such objective. ValueError: no such kind, or none that is held out.
        TaskError: no problem, or two of one id.
    """
    began = time.perf_counter()
    kinds = trained_kinds(trained_on)
    if not problems or len({problem.id for problem in problems}) < len(problems):
        raise TaskError(f"{len(problems)} held-out problems: at least one is needed, each with an id of its own")
    # A subject of its own: the caller's holds keys and values of prompts that an earlier state of the weights made.
    asked = replace(subject, temperature=0.0, seed=seed)
    settings = Settings(seed=seed, replacements=replacements)
    with evaluating(asked.model):
        answered = {chain.id: chain for chain, _ in asked.respond(problems)}
        chains = [answered[problem.id] for problem in problems]
        swap = used(asked, chains, settings)
        interchange = interchanged(asked, chains, settings)
        exchange = bypass(asked, chains, settings)
    stepwise = {"swap": swap, "interchange": interchange}
    return Evaluation(
        accuracy=Score.of([float(chain.correct) for chain in chains], [chain.group for chain in chains], {}),
        evidence={
            **{kind: _over_steps(found, chains, readout=readout) for kind, found in stepwise.items()},
            "exchange": _over_chains(exchange, chains),
        },
        by_step={kind: _by_step(found, chains) for kind, found in stepwise.items()},
        placebos={
            **{kind: _placebo(found, chains, PLACEBOS[kind]) for kind, found in stepwise.items()},
            "exchange": _placebo(exchange, chains, "moved"),
        },
        trained_on=kinds,
        seconds=time.perf_counter() - began,
    )


def trained_kinds(trained_on: str | Collection[str]) -> tuple[str, ...]:
    """The kinds of evidence that stand for an objective's own. Errors: `evaluate_training`."""
    if isinstance(trained_on, str):
        return TRAINED_ON.get(get_objective(trained_on).name, ("swap",))
    unknown = sorted(set(trained_on) - set(KINDS))
    if unknown or not trained_on or set(trained_on) == set(KINDS):
        raise ValueError(f"trained_on names an objective, or one or two of {', '.join(KINDS)}; not {trained_on!r}")
    return tuple(kind for kind in KINDS if kind in trained_on)


Item = tuple[Chain, str, Measurement]


def _items(found: Evidence, chains: Sequence[Chain]) -> Iterator[Item]:
    """Every step that the answer needs, of every chain, also those that were not stated or could not be placed."""
    for chain in chains:
        for step in dict.fromkeys([*chain.literals, *chain.unlocated]):
            needed = step in chain.graph.needed or step in chain.problem.graph.needed
            if step in chain.unlocated and (needed or step in chain.literals):
                yield chain, step, Measurement.none(chain.unlocated[step])
            elif step in chain.graph.needed:
                yield chain, step, found.get(chain.id, step)


def _over_steps(found: Evidence, chains: Sequence[Chain], *, readout: bool) -> Score:
    items = list(_items(found, chains))
    counted = [item for item in items if readout or item[1] not in (item[0].final_step, item[0].problem.graph.answer)]
    left = {chain.id for chain, _, _ in counted}
    short: list[Item] = [(chain, "", Measurement.none(ONLY_READOUT)) for chain in chains if chain.id not in left]
    return _score([*counted, *short])


def _by_step(found: Evidence, chains: Sequence[Chain]) -> dict[str, Score]:
    steps: dict[str, list[Item]] = {}
    for chain, step, row in _items(found, chains):
        steps.setdefault(chain.reference.get(step, step), []).append((chain, step, row))
    return {step: _score(items) for step, items in sorted(steps.items())}


def _over_chains(found: Evidence, chains: Sequence[Chain]) -> Score:
    """1 - bypass."""
    rows = [(chain, found.get(chain.id, "")) for chain in chains]
    turned = [(c, row if row.value is None else replace(row, value=1.0 - row.value)) for c, row in rows]
    return _score([(chain, "", row) for chain, row in turned])


def _placebo(found: Evidence, chains: Sequence[Chain], name: str) -> Score:
    groups = {chain.id: chain.group for chain in chains}
    values = [(row.detail.get(name), groups[chain]) for (chain, _), row in found]
    known = [(float(value), group) for value, group in values if isinstance(value, float | int)]
    return Score.of([value for value, _ in known], [group for _, group in known], {})


def _score(items: Sequence[Item]) -> Score:
    scored = [(row.value, chain.group) for chain, _, row in items if row.value is not None]
    reasons = Counter(row.unscored for _, _, row in items if row.value is None)
    return Score.of([value for value, _ in scored], [group for _, group in scored], reasons)
