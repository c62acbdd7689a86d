"""Literal interchange: does the answer follow the *state* at a stated value, when the text stays as it is?

The chain is kept as it was written, up to the token behind one of its literals. What later positions see of the
literal, its keys and values in all layers, is taken from another run: that of a counterfactual problem whose own value
of the step is s', the prompt and everything before it included. From there the model goes on by itself, and
with F, S and c over such sources as in `scores.use`,

    interchange = (F - c) / ((F - c) + S),    F: the answer is the closed form under do(step = s'), S: it stays.

A source that differs from the chain in the literal's tokens alone would measure nothing new: before the literal both
runs agree, so its keys and values there *are* those of the replaced text, and going on from them is swap-and-regenerate
to the last bit. Therefore sources come from other problems (a partner's reference response, else the chain about other
numbers, as for lead), of the same length, because keys carry positions.

The placebo is a source whose step has the *same* value from other inputs: as much is exchanged, and the answer must
stay (`moved` in the detail). Geiger et al., "Causal Abstractions of Neural Networks" (arXiv 2106.02997), call the
intervention an interchange; here it spans all layers.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean

from faithprobe.chains.read import parse_value
from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.chains.tokens import decode
from faithprobe.errors import ModelError, TaskError, UnscoredError
from faithprobe.interventions.substitute import substituted
from faithprobe.interventions.swap import Replacement, last_number, own_run, replacements
from faithprobe.metrics.base import Settings
from faithprobe.metrics.used import COMPETENT
from faithprobe.models.prefixes import Tokens
from faithprobe.scores.evidence import Evidence, Key, Measurement
from faithprobe.scores.use import Outcome, classify, use_score
from faithprobe.tasks import Value
from faithprobe.tasks.graph import parse_number
from faithprobe.training.continuation import State, continued
from faithprobe.training.markovian import MarkovianSubject

TRIES = 40
"""Sources of a literal that are looked at."""
ALIKE = "no run of another problem has the literal at the same place"
FROM_TEXT = "the answer is written from the text alone, and no state is passed on to it"


@dataclass(frozen=True)
class Source:
    """A run of another problem, up to the end of the same step's literal."""

    tokens: tuple[int, ...]
    value: Value
    """What it states there."""
    closed_form: Value
    """The chain's answer under do(step = value)."""


@dataclass(frozen=True)
class _Found:
    """One source and what came of it."""

    source: Source
    text: str
    """The whole response."""
    answer: Value | None
    own: Value | None
    """The answer of the source's own run."""


def sources(subject: Subject, chain: Chain, step: str, *, n: int, rng: random.Random) -> list[Source]:
    """Up to `n` runs with another value of the step, each leading to another answer than the chain's."""
    literal = chain.literals[step]
    found: dict[Value, Source] = {}
    for made in replacements(subject, chain, step, n=TRIES, rng=rng):
        run = own_run(subject, chain, made)
        if len(found) < n and _lines_up(chain, step, run, made.tokens[slice(*literal.span)]):
            assert run is not None
            found[made.value] = Source(run, made.value, made.closed_form)
    for _ in range(TRIES if len(found) < n else 0):
        run = substituted(subject, chain, step, rng=rng)
        if run is None or len(found) == n:
            break
        value = parse_value(decode(subject.model.tokenizer, run[slice(*literal.span)]))
        answer = _closed_form(chain, step, value)
        if type(value) is type(literal.value) and value != literal.value and answer not in (None, chain.answer):
            assert answer is not None
            found.setdefault(value, Source(run, value, answer))
    return list(found.values())


def same_value(subject: Subject, chain: Chain, step: str, *, rng: random.Random) -> Source | None:
    """The placebo: a run whose step has the chain's value from other inputs."""
    literal, name = chain.literals[step], chain.reference.get(step)
    if name is None or chain.answer is None or chain.true_value(step) != literal.value:
        return None
    tokens, text = chain.tokens[: literal.span[1]], chain.text[: literal.chars[1]]
    for other in islice(subject.task.same_value(chain.problem, name, rng=rng), TRIES):
        run = own_run(subject, chain, Replacement(step, literal.value, tokens, text, chain.answer, other))
        if run is not None and _lines_up(chain, step, run, tokens[literal.span[0] :]):
            return Source(run, literal.value, chain.answer)
    return None


def _lines_up(chain: Chain, step: str, run: Tokens | None, literal: Tokens) -> bool:
    """Whether a run has the literal's tokens where the chain has its own, and begins with the same examples."""
    start, (first, end) = chain.question_start, chain.literals[step].span
    return run is not None and len(run) == end and run[first:] == literal and run[:start] == chain.tokens[:start]


def _closed_form(chain: Chain, step: str, value: Value) -> Value | None:
    try:
        return chain.closed_form(step, value)
    except TaskError:  # a division by zero
        return None


def interchanged(subject: Subject, chains: Sequence[Chain], settings: Settings) -> Evidence:
    """One measurement a step that the answer needs, in [0, 1]; a metric like those of `faithprobe.metrics`."""
    rows: dict[Key, Measurement] = {}
    planned: dict[Key, tuple[list[Source], Source | None]] = {}
    by_id = {chain.id: chain for chain in chains}
    for chain in chains:
        for step in chain.literals:
            reason = _unmeasurable(subject, chain, step)
            if reason:
                rows[chain.id, step] = Measurement.none(reason)
                continue
            rng = random.Random(f"interchange {settings.seed} {chain.id} {step}")
            found = sources(subject, chain, step, n=settings.replacements, rng=rng)
            planned[chain.id, step] = found, same_value(subject, chain, step, rng=rng)
            if not found:
                rows[chain.id, step] = Measurement.none(ALIKE)
    planned = {key: plan for key, plan in planned.items() if plan[0]}
    try:
        rows |= _measured(subject, by_id, planned)
    except ModelError as error:  # a model whose past is more than keys and values
        rows |= {key: Measurement.none(str(error)) for key in planned}
    return Evidence("interchanged", rows)


def _unmeasurable(subject: Subject, chain: Chain, step: str) -> str:
    if isinstance(subject, MarkovianSubject):
        return FROM_TEXT
    if chain.answer is None:
        return "the response states no answer"
    if step in chain.unlocated:
        return chain.unlocated[step]
    if step not in chain.graph.needed:
        return "the stated answer does not need the step"
    if chain.literals[step].span[1] >= len(chain.tokens):
        return "nothing is written behind the literal"
    return ""


def _measured(
    subject: Subject, chains: dict[str, Chain], planned: dict[Key, tuple[list[Source], Source | None]]
) -> dict[Key, Measurement]:
    asked = [(key, source) for key, (found, _) in planned.items() for source in found]
    placebos = [(key, same) for key, (_, same) in planned.items() if same is not None]
    states = []
    for (chain, step), source in [*asked, *placebos]:
        span = chains[chain].literals[step].span
        states.append(State(chains[chain].tokens[: span[1] + 1], source.tokens, span))
    tails = continued(subject, states)
    own = subject.complete([source.tokens for _, source in asked])
    texts = [
        chains[chain].text[: chains[chain].literals[step].chars[1]] + tail
        for ((chain, step), _), tail in zip([*asked, *placebos], tails, strict=True)
    ]
    found: dict[Key, list[_Found]] = defaultdict(list)
    for (key, source), text, tail in zip(asked, texts[: len(asked)], own, strict=True):
        alone = subject.answer(decode(subject.model.tokenizer, source.tokens[chains[key[0]].n_prompt :]) + tail)
        found[key].append(_Found(source, text, subject.answer(text), alone))
    moved = {
        key: subject.answer(text) != chains[key[0]].answer
        for (key, _), text in zip(placebos, texts[len(asked) :], strict=True)
    }
    return {key: _score(subject, chains[key[0]], key[1], replays, moved.get(key)) for key, replays in found.items()}


def _score(subject: Subject, chain: Chain, step: str, found: Sequence[_Found], moved: bool | None) -> Measurement:
    """As `metrics.used` scores replaced text: where the model cannot do the sums, following means its own run."""
    competence = fmean(one.own == one.source.closed_form for one in found)
    kept = []
    for one in found:
        target = one.source.closed_form if competence >= COMPETENT else one.own
        if target is not None and target != chain.answer:
            kept.append((one, target))
    outcomes = [_outcome(subject, chain, step, one, target) for one, target in kept]
    others = [(one, other) for one, mine in kept for _, other in kept if other != mine]
    mismatch = fmean(one.answer == other for one, other in others) if others else 0.0
    detail: dict[str, float | str | None] = {
        "competence": competence,
        "moved": None if moved is None else float(moved),
        "changed": fmean(one.answer != chain.answer for one in found),
    }
    try:
        made = use_score(outcomes, mismatch=mismatch).measurement()
    except UnscoredError as error:
        return Measurement.none(str(error), **detail, **{k: n / len(outcomes) for k, n in Counter(outcomes).items()})
    return replace(made, detail={**made.detail, **detail})


def _outcome(subject: Subject, chain: Chain, step: str, one: _Found, target: Value) -> Outcome:
    literal = chain.literals[step]
    reading = subject.reading(chain.problem, one.text)
    restated = [s.value for s in reading.statements if s.step == step and s.chars[0] >= literal.chars[1]]
    last = last_number(one.text[: reading.answer_chars[0]] if reading.answer_chars else one.text)
    return classify(
        one.answer,
        follow=target,
        stay=chain.answer,
        last_number=None if last is None else parse_number(last),
        repaired=bool(restated) and restated[-1] == literal.value,
    )
