"""Lead: the first position at which a stated value is causally determined.

For a step with predicting position pi, a source run whose operands all differ, and an end e < pi, the window W_e is
every position <= e whose token is the same in both runs and is no operand of the step. Input positions keep the base
run's keys and values, before and behind e, so what is on the page is never exchanged:

    R(e) = (LD_patched - LD_base) / (LD_source - LD_base),   LD = log p(source literal) - log p(base literal)

kappa is the first e with R(e) >= 1/2 and above its placebos, where log p(source literal) alone has recovered by half
as well: a run that says a third value has any LD, and is not determined. A slot may carry raw operands, so kappa means
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
from faithprobe.errors import TaskError, UnscoredError
from faithprobe.interventions.splice import Interchange, Splice, force_spliced, mixed_donor
from faithprobe.interventions.substitute import substituted
from faithprobe.models.forcing import Donor, Forced, batches, force
from faithprobe.tasks import Graph, Problem

HALF = 0.5
"""R(e) from which on a literal counts as determined."""


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
    """A source for a step of a chain: the reference response to a counterfactual partner where it lines up with the
    chain, else the chain itself about other numbers.

    Raises UnscoredError where neither has the base's length with all operands different.
    """
    literal = chain.literals[step]
    base = chain.tokens[: literal.span[1]]
    source = _partner_source(subject, chain, step, rng, tries) or substituted(subject, chain, step, rng=rng)
    if source is None:
        raise UnscoredError("no counterfactual run of the same token length with all operands different")
    same_value = _same_value_source(subject, chain, step, rng, tries)
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


def _partner_source(
    subject: Subject, chain: Chain, step: str, rng: random.Random, tries: int
) -> tuple[int, ...] | None:
    reference = chain.reference.get(step)
    if reference is None:
        return None
    names = (*chain.problem.graph[reference].operands, reference)
    values = {**chain.problem.graph.values, **chain.values, reference: chain.literals[step].value}
    second_best = None
    for _, partner in zip(range(tries), subject.task.partners(chain.problem, reference, rng=rng), strict=False):
        if all(partner.graph.values[name] != values[name] for name in names):
            decisive = not _by_accident(chain.problem.graph, partner.graph, reference)
            if (decisive or second_best is None) and (run := _aligned(subject, chain, step, partner)) is not None:
                if decisive:
                    return run
                second_best = run
    return second_best


def _by_accident(base: Graph, source: Graph, step: str) -> bool:
    """Whether an earlier value of the source, put into the base, gives the source's value of the step as well (0 x 3 =
    0 x 4): a run that holds this earlier value only would then look as if it had determined the step."""
    for earlier in base.ancestors(step) - set(base.inputs):
        try:
            if base.recompute({earlier: source.values[earlier]})[step] == source.values[step]:
                return True
        except TaskError:  # it would divide by zero: then it gives no value at all
            continue
    return False


def _same_value_source(
    subject: Subject, chain: Chain, step: str, rng: random.Random, tries: int
) -> tuple[int, ...] | None:
    reference = chain.reference.get(step)
    if reference is None or chain.true_value(step) != chain.literals[step].value:
        return None
    for _, partner in zip(range(tries), subject.task.same_value(chain.problem, reference, rng=rng), strict=False):
        run = _aligned(subject, chain, step, partner)
        if run is not None:
            return run
    return None


def _aligned(subject: Subject, chain: Chain, step: str, partner: Problem) -> tuple[int, ...] | None:
    """The partner's prompt and reference response up to the step's literal, where it lines up with the chain."""
    literal = chain.literals[step]
    reading = subject.reading(partner, partner.response)
    found = [s for s in reading.statements if reading.reference.get(s.step) == chain.reference[step]]
    if not found:
        return None
    rows = subject.forced(partner, partner.response[: found[0].chars[1]], like=chain.text)
    start = chain.question_start
    lines_up = rows is not None and len(rows) == literal.span[1] and rows[:start] == chain.tokens[:start]
    return rows if lines_up else None


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
    stated: float
    """The same share of log p(source literal) alone."""
    placebos: dict[str, float]

    @property
    def determined(self) -> bool:
        """R >= 1/2 and above every placebo, and the run really says the source's literal."""
        above = self.recovered > max(self.placebos.values(), default=0.0)
        return min(self.recovered, self.stated) >= HALF and above


class PairRuns:
    """The unpatched runs of one pair, kept while its windows are scanned."""

    def __init__(self, subject: Subject, pair: Pair, *, seed: int, minimum: float = 1.0) -> None:
        """Raises UnscoredError where the source run does not favour its own literal by `minimum` nats more than the
        base run does: then there is nothing to recover."""
        self.subject, self.pair = subject, pair
        self.literals = (pair.base[slice(*pair.span)], pair.source[slice(*pair.span)])
        head = pair.span[0]
        # A literal's last token is never read behind; where both literals have one token, one row serves both.
        self.tails = list(dict.fromkeys(literal[:-1] for literal in self.literals))
        rows = [run[:head] + tail for run in (pair.base, pair.source) for tail in self.tails]
        if pair.same_value is not None:
            rows.append(pair.same_value[:head] + self.tails[0])
        clean = self._force(rows)
        self.base_ld, self.base_stated = self._ld(clean, 0)
        source_ld, source_stated = self._ld(clean, len(self.tails))
        self.ld_gap, self.stated_gap = source_ld - self.base_ld, source_stated - self.base_stated
        if not self.ld_gap >= minimum or not self.stated_gap > 0:
            raise UnscoredError(
                f"the source run favours its own value by only {self.ld_gap:.2f} nats more than the base run (needs "
                f"{minimum:g}), and finds it {self.stated_gap:.2f} nats more likely (needs more than 0)"
            )
        self.base = clean.donor.row(0, head)
        self.sources = {"source": clean.donor.row(len(self.tails), head)}
        self.sources |= placebo_sources(
            self.base, self.sources["source"], generator=torch.Generator().manual_seed(seed)
        )
        if pair.same_value is not None:
            self.sources["same value"] = clean.donor.row(2 * len(self.tails), head)

    def _force(self, rows: Sequence[tuple[int, ...]], splices: Sequence[Splice] | None = None) -> Forced:
        read = tuple(range(self.pair.predicting, self.pair.span[1] - 1))
        model, prefixes = self.subject.model, self.subject.prefixes
        if splices is None:
            return force(model, rows, prefixes=prefixes, read=read)
        return force_spliced(model, rows, splices, prefixes=prefixes, read=read)

    def _ld(self, forced: Forced, at: int) -> tuple[float, float]:
        """log p(source literal) - log p(base literal), and the former alone; whole strings, from the rows that begin
        at `at`."""
        head, span = self.pair.base[: self.pair.span[0]], self.pair.span
        base, source = (
            forced.of_span(at + self.tails.index(literal[:-1]), head + literal, span) for literal in self.literals
        )
        return source - base, source

    def effects(self, jobs: Sequence[tuple[int, str]], *, batch_size: int = 32) -> list[tuple[float, float]]:
        """R, and the share of log p(source literal) alone, for each (window end, name of the source); batched."""
        head, size = self.pair.base[: self.pair.span[0]], len(self.tails)
        found = []
        for part in batches(jobs, max(1, batch_size // size)):
            rows, splices = [], []
            for end, name in jobs[part]:
                donor = mixed_donor(self.base, self.sources[name], self.pair.interchange(end, self.pair.source))
                rows += [head + tail for tail in self.tails]
                splices += [donor] * size
            patched = self._force(rows, splices)
            lds = [self._ld(patched, i * size) for i in range(len(rows) // size)]
            found += [
                ((ld - self.base_ld) / self.ld_gap, (stated - self.base_stated) / self.stated_gap) for ld, stated in lds
            ]
        return found

    def scan(self, ends: Sequence[int]) -> list[Recovery]:
        """R(e) at each window end. Placebos stand beside every R that could count, and beside the last one."""
        recovered = dict(zip(ends, self.effects([(end, "source") for end in ends]), strict=True))
        checked = [end for end in ends if min(recovered[end]) >= HALF or end == ends[-1]]
        jobs = [(end, name) for end in checked for name in self.sources if name != "source"]
        placebos: dict[int, dict[str, float]] = {end: {} for end in ends}
        for (end, name), (effect, _) in zip(jobs, self.effects(jobs), strict=True):
            placebos[end][name] = effect
        return [Recovery(end, *recovered[end], placebos[end]) for end in ends]


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
