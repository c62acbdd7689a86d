"""Two prompts crossed with two chains: what a mediation analysis of the prompt's effect on the answer is made from.

The model answers q and a partner q' in its own words. Each chain is cut behind its last stated value before the answer,
put behind each of the two prompts, and the rest is regenerated: all four cells are made in the same way, also those
whose answer was already given. The definitions are those of `scores.mediation`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice

from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.errors import UnscoredError
from faithprobe.scores.mediation import Cells
from faithprobe.tasks import Problem, Value

TRIES = 40
"""Partners of a problem that are looked at."""


@dataclass(frozen=True)
class Mediator:
    """A chain as it was written, up to and with the last value that it states before its answer."""

    tokens: tuple[int, ...]
    """Without the prompt."""
    text: str
    answer: Value
    """What the model itself answered after it."""


@dataclass(frozen=True)
class Pair:
    """Two problems with the model's own chains on them."""

    problem: Problem
    partner: Problem
    chain: Mediator
    """On the problem."""
    partner_chain: Mediator
    bystander: Value | None
    """The answer to a third problem, which no prompt and no chain here is about. None: there is none."""

    def crossed(self) -> Iterator[tuple[Problem, Mediator]]:
        """Prompt and chain of each cell, in the order of `Cells`."""
        return (
            (problem, chain) for chain in (self.chain, self.partner_chain) for problem in (self.problem, self.partner)
        )


@dataclass(frozen=True)
class Answers:
    """The answers in the four cells, named as in `Cells`; None where none can be read."""

    baseline: Value | None
    prompt_only: Value | None
    chain_only: Value | None
    both: Value | None

    def equal(self, value: Value) -> Cells:
        """Which of them are `value`. An answer that cannot be read is none."""
        return Cells(*(float(answer is not None and answer == value) for answer in astuple(self)))


@dataclass(frozen=True)
class Crossing:
    """A pair and what the model answers to prompts and chains of both."""

    pair: Pair
    answers: Answers

    @property
    def cells(self) -> Cells:
        """Y of every cell: the answer is the model's own answer to the partner."""
        return self.answers.equal(self.pair.partner_chain.answer)

    @property
    def control(self) -> Cells | None:
        """The same about the bystander's answer: what coincidence alone gives."""
        return None if self.pair.bystander is None else self.answers.equal(self.pair.bystander)


def mediator(subject: Subject, chain: Chain) -> Mediator:
    """Cuts a chain behind its last stated value. UnscoredError where that cannot be done, or where what is kept reads
    as an answer already: the answer would not be generated but quoted."""
    if chain.answer is None or chain.answer_chars is None:
        raise UnscoredError("the response states no answer")
    for step in chain.unplaced:
        raise UnscoredError(chain.unlocated[step])
    # Some families state the last value as the answer itself: that is the outcome, not the mediator.
    before = [literal for literal in chain.stated if literal.chars[1] <= chain.answer_chars[0]]
    if not before:
        raise UnscoredError("no value is stated before the answer")
    last = max(before, key=lambda literal: literal.chars)
    text = chain.text[: last.chars[1]]
    if subject.answer(text) is not None:
        raise UnscoredError("an answer is stated before the last value")
    return Mediator(chain.tokens[chain.n_prompt : last.span[1]], text, chain.answer)


def partners_of(subject: Subject, problem: Problem, answer: Value, *, rng: random.Random) -> list[Problem]:
    """Problems in which everything may differ, with answers that are neither the problem's nor `answer`. UnscoredError
    where the family has none."""
    offered = islice(subject.task.partners(problem, problem.graph.answer, rng=rng), TRIES)
    found = [partner for partner in offered if partner.answer not in (problem.answer, answer)]
    if not found:
        raise UnscoredError("no counterfactual partner with another answer")
    return found


def run_crossings(subject: Subject, chains: Sequence[Chain], *, seed: int = 0) -> tuple[list[Crossing], dict[str, str]]:
    """All four cells of every chain with its partner; and by chain why it was left out.

    Pairs with equal own answers are left out: no cell could tell whom the answer follows.
    """
    planned: list[tuple[Chain, Mediator, list[Problem]]] = []
    pairs: list[Pair] = []
    reasons: dict[str, str] = {}
    for chain in chains:
        try:
            cut = mediator(subject, chain)
            rng = random.Random(f"mediation {seed} {chain.id}")
            planned.append((chain, cut, partners_of(subject, chain.problem, cut.answer, rng=rng)))
        except UnscoredError as error:
            reasons[chain.id] = str(error)
    responses = {done.index: chain for chain, done in subject.respond([partners[0] for *_, partners in planned])}
    for index, (chain, cut, partners) in enumerate(planned):
        try:
            pairs.append(_pair(chain.problem, cut, partners, mediator(subject, responses[index])))
        except UnscoredError as error:
            reasons[chain.id] = f"on the partner: {error}"
    cells = [cell for pair in pairs for cell in pair.crossed()]
    texts = subject.complete([(*subject.prompt(problem), *chain.tokens) for problem, chain in cells])
    answers = iter([subject.answer(chain.text + text) for (_, chain), text in zip(cells, texts, strict=True)])
    return [Crossing(pair, Answers(*islice(answers, 4))) for pair in pairs], reasons


def _pair(problem: Problem, chain: Mediator, partners: Sequence[Problem], partner_chain: Mediator) -> Pair:
    if partner_chain.answer == chain.answer:
        raise UnscoredError("the model gives the same answer")
    partner, *others = partners
    taken = (problem.answer, partner.answer, chain.answer, partner_chain.answer)
    bystander = next((other.answer for other in others if other.answer not in taken), None)
    return Pair(problem, partner, chain, partner_chain, bystander)
