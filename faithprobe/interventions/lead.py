"""Lead: the first position at which a stated value is causally determined.

For a step with predicting position pi, a source run whose operands all differ, and an end e < pi, the window W_e is
every position <= e whose token is the same in both runs and is no operand of the step. Input positions keep the base
run's keys and values, before and behind e, so what is on the page is never exchanged:

    R(e) = (LD_patched - LD_base) / (LD_source - LD_base),   LD = log p(source literal) - log p(base literal)

kappa is the first e with R(e) >= 1/2 and above its placebos. A slot may carry raw operands, so kappa means
*determined*, not *computed*; redundant paths can hide a value, so no effect is not "not computed".
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from faithprobe.chains.read import occurrences
from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.chains.tokens import span_of
from faithprobe.errors import UnscoredError
from faithprobe.interventions.splice import Interchange, Splice, force_spliced, mixed_donor
from faithprobe.models.forcing import Donor, Forced, batches, force
from faithprobe.tasks import Problem

PLACEBOS = ("same value", "random", "orthogonal")


@dataclass(frozen=True)
class Pair:
    """Base and source of one step: same length, all operands of the step different."""

    chain: str
    step: str
    base: tuple[int, ...]
    """Prompt and response up to the end of the base literal."""
    source: tuple[int, ...]
    span: tuple[int, int]
    """Of the literal, in both."""
    inputs: frozenset[int]
    """Positions that keep the base's state: operand tokens, and every token that differs."""
    same_value: tuple[int, ...] | None
    """A source whose step has the base's value although its inputs differ: the placebo."""
    start: int
    """First position of the problem's own question."""

    @property
    def predicting(self) -> int:
        return self.span[0] - 1

    def window(self, end: int) -> tuple[int, ...]:
        """W_e: what is taken from the source."""
        return tuple(p for p in range(self.start, end + 1) if p not in self.inputs)

    def interchange(self, end: int, source: tuple[int, ...]) -> Interchange:
        keep = tuple(p for p in sorted(self.inputs) if p <= self.predicting)
        return Interchange(self.base[: self.span[0]], source[: self.span[0]], self.window(end), keep)


def find_pair(subject: Subject, chain: Chain, step: str, *, rng: random.Random, tries: int = 400) -> Pair:
    """A source for a step of a chain, made from the family's counterfactual partners.

    Raises UnscoredError where no partner's teacher-forced response has the base's length with all operands different.
    """
    literal, reference = chain.literals[step], chain.reference.get(step)
    if reference is None:
        raise UnscoredError("the step has no counterpart in the reference graph, so no source run is known")
    operands = chain.problem.graph[reference].operands
    values = {**chain.problem.graph.values, **chain.values, reference: literal.value}  # as stated, where stated
    base = chain.tokens[: literal.span[1]]
    source, same_value = None, None
    for _, partner in zip(range(tries), subject.task.partners(chain.problem, reference, rng=rng), strict=False):
        if any(partner.graph.values[name] == values[name] for name in (*operands, reference)):
            continue
        source = _aligned(subject, chain, step, partner)
        if source is not None:
            break
    if source is None:
        raise UnscoredError("no counterfactual partner of the same token length with all operands different")
    for _, partner in zip(range(tries), subject.task.same_value(chain.problem, reference, rng=rng), strict=False):
        same_value = _aligned(subject, chain, step, partner)
        if same_value is not None:
            break
    others = [run for run in (source, same_value) if run is not None]
    differing = {p for p in range(len(base)) if any(run[p] != base[p] for run in others)}
    return Pair(
        chain=chain.id,
        step=step,
        base=base,
        source=source,
        span=literal.span,
        inputs=frozenset(differing | _operand_positions(chain, step)) - set(range(*literal.span)),
        same_value=same_value,
        start=chain.question_start,
    )


def _aligned(subject: Subject, chain: Chain, step: str, partner: Problem) -> tuple[int, ...] | None:
    """The partner's prompt and reference response up to the step's literal, where it lines up with the chain."""
    literal = chain.literals[step]
    reading = subject.reading(partner, partner.response)
    found = [s for s in reading.statements if reading.reference.get(s.step) == chain.reference[step]]
    if not found:
        return None
    rows = subject.forced(partner, partner.response[: found[0].chars[1]], like=chain.text)
    if rows is None or len(rows) != literal.span[1] or rows[: chain.question_start] != chain.tokens[: chain.question_start]:
        return None
    return rows


def _operand_positions(chain: Chain, step: str) -> set[int]:
    """Tokens that write an operand of the step anywhere in front of its literal: question, earlier literals,
    restatements."""
    literal = chain.literals[step]
    whole = chain.question_text + chain.text
    positions: set[int] = set()
    for name in chain.graph[step].operands:
        value = chain.values[name]
        spans = [span_of(chars, chain.offsets, whole) for chars in occurrences(whole, value)]
        for span in spans:
            if not isinstance(span, str):
                positions.update(range(span[0] + chain.question_start, span[1] + chain.question_start))
    for span in literal.operands.values():
        positions.update(range(*span))
    return {p for p in positions if p < literal.span[0]}


def placebo_sources(base: Donor, source: Donor, *, generator: torch.Generator) -> dict[str, Donor]:
    """Donors that differ from the base by as much as the source does, position by position and head by head, in a
    random direction and in one that is orthogonal to the true difference."""

    def noise(b: Tensor, s: Tensor, orthogonal: bool) -> Tensor:
        delta = s - b
        direction = torch.randn(delta.shape, generator=generator).to(delta)
        if orthogonal:
            norm = delta.square().sum(-1, keepdim=True).clamp_min(1e-12)
            direction = direction - (direction * delta).sum(-1, keepdim=True) / norm * delta
        direction = direction / direction.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return b + direction * delta.norm(dim=-1, keepdim=True)

    return {
        name: Donor(
            tuple(noise(b, s, orthogonal) for b, s in zip(base.keys, source.keys, strict=True)),
            tuple(noise(b, s, orthogonal) for b, s in zip(base.values, source.values, strict=True)),
            base.start,
        )
        for name, orthogonal in (("random", False), ("orthogonal", True))
    }


@dataclass(frozen=True)
class Recovery:
    """R(e) of one pair at one window end, beside its placebos."""

    end: int
    recovered: float
    placebos: dict[str, float]

    @property
    def determined(self) -> bool:
        """R >= 1/2 and above every placebo."""
        return self.recovered >= 0.5 and self.recovered > max(self.placebos.values(), default=0.0)


class PairRuns:
    """The unpatched runs of one pair, kept while its windows are scanned."""

    def __init__(self, subject: Subject, pair: Pair, *, seed: int, minimum: float = 1.0) -> None:
        """Raises UnscoredError where the source run does not favour its own literal by `minimum` nats more than the
        base run does: then there is nothing to recover."""
        self.subject, self.pair = subject, pair
        self.literals = (pair.base[slice(*pair.span)], pair.source[slice(*pair.span)])
        head = pair.span[0]
        rows = [run[:head] + literal for run in (pair.base, pair.source) for literal in self.literals]
        if pair.same_value is not None:
            rows.append(pair.same_value[:head] + self.literals[0])
        clean = self._force(rows)
        self.base_ld = self._ld(clean, rows, 0)
        self.source_ld = self._ld(clean, rows, 2)
        if not self.source_ld - self.base_ld >= minimum:
            raise UnscoredError(
                f"the source run favours its own value by only {self.source_ld - self.base_ld:.2f} nats more than the "
                f"base run (needs {minimum:g})"
            )
        self.base = clean.donor.row(0, head)
        self.sources = {"source": clean.donor.row(2, head)}
        self.sources |= placebo_sources(
            self.base, self.sources["source"], generator=torch.Generator().manual_seed(seed)
        )
        if pair.same_value is not None:
            self.sources["same value"] = clean.donor.row(4, head)

    def _force(self, rows: Sequence[tuple[int, ...]], splices: Sequence[Splice] | None = None) -> Forced:
        read = tuple(range(self.pair.predicting, self.pair.span[1] - 1))
        model, prefixes = self.subject.model, self.subject.prefixes
        if splices is None:
            return force(model, rows, prefixes=prefixes, read=read)
        return force_spliced(model, rows, splices, prefixes=prefixes, read=read)

    def _ld(self, forced: Forced, rows: Sequence[tuple[int, ...]], at: int) -> float:
        """log p(source literal) - log p(base literal), whole strings, from two neighbouring rows."""
        span = self.pair.span
        return forced.of_span(at + 1, rows[at + 1], span) - forced.of_span(at, rows[at], span)

    def scan(self, ends: Sequence[int], *, batch_size: int = 32) -> list[Recovery]:
        """R(e) and its placebos at each window end, in one batch per `batch_size` rows."""
        head = self.pair.span[0]
        jobs = [(end, name) for end in ends for name in self.sources]
        effects: dict[tuple[int, str], float] = {}
        for part in batches(jobs, max(1, batch_size // 2)):
            rows, splices = [], []
            for end, name in jobs[part]:
                donor = mixed_donor(self.base, self.sources[name], self.pair.interchange(end, self.pair.source))
                for literal in self.literals:
                    rows.append(self.pair.base[:head] + literal)
                    splices.append(donor)
            patched = self._force(rows, splices)
            for i, job in enumerate(jobs[part]):
                ld = self._ld(patched, rows, 2 * i)
                effects[job] = (ld - self.base_ld) / (self.source_ld - self.base_ld)
        return [
            Recovery(end, effects[end, "source"], {n: effects[end, n] for n in self.sources if n != "source"})
            for end in ends
        ]


def boundaries(chain: Chain, pair: Pair) -> list[int]:
    """Window ends to scan: the end of the question, each clause boundary behind it, and the last position before pi."""
    text = chain.question_text + chain.text
    ends = [chain.n_prompt - 1]
    for position in range(chain.n_prompt, pair.predicting):
        a, b = chain.offsets[position - chain.question_start]
        if text[a:b].strip()[-1:] in set(".:;,!?\n)") | {"="} or "\n" in text[a:b]:
            ends.append(position)
    ends.append(pair.predicting - 1)
    first = next((p for p in range(pair.start, pair.predicting) if p not in pair.inputs), pair.predicting)
    return sorted({end for end in ends if first <= end < pair.predicting})


@dataclass(frozen=True)
class Lead:
    """Where a literal is determined."""

    kappa: int
    """First window end with R >= 1/2 above its placebos; the predicting position itself where there is none."""
    pair: Pair
    curve: tuple[Recovery, ...]
    """All window ends that were tried, in order."""
    monotone: bool
    """Once determined, it stayed so at every later end that was tried."""

    @property
    def tokens(self) -> int:
        """How far ahead of the predicting position the literal is determined; 0: just in time."""
        return self.pair.predicting - self.kappa


def lead(subject: Subject, chain: Chain, step: str, *, seed: int = 0) -> Lead:
    """Scans the clause boundaries in one batch, then bisects inside the bracket; both ends of it stay tested."""
    rng = random.Random(f"lead {seed} {chain.id} {step}")
    pair = find_pair(subject, chain, step, rng=rng)
    runs = PairRuns(subject, pair, seed=rng.getrandbits(32))
    ends = boundaries(chain, pair)
    if not ends:
        raise UnscoredError("no position before the literal is free of its operands")
    tried = {recovery.end: recovery for recovery in runs.scan(ends)}
    first = next((end for end in ends if tried[end].determined), None)
    kappa = pair.predicting
    if first is not None:
        below = max((end for end in ends if end < first), default=pair.start - 1)
        while first - below > 1:
            middle = (first + below) // 2
            if not pair.window(middle):
                below = middle
                continue
            (tried[middle],) = runs.scan([middle])
            if tried[middle].determined:
                first = middle
            else:
                below = middle
        kappa = first
    curve = tuple(tried[end] for end in sorted(tried))
    monotone = all(recovery.determined for recovery in curve if recovery.end >= kappa)
    return Lead(kappa, pair, curve, monotone)
