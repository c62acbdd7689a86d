"""Bypass: the prompt says one problem, the chain so far another. Whom does the answer follow?

The prompt of a partner q' is followed by the model's own chain on q up to its k-th literal, and the rest is
regenerated. An answer equal to the model's own answer to q' follows the prompt, past what the chain says; one equal
to its answer to q follows the chain. With the whole chain kept, only the answer line is regenerated: *readout*.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from faithprobe.chains.records import Chain
from faithprobe.chains.subject import Subject
from faithprobe.tasks import Problem, Value


@dataclass(frozen=True)
class Exchange:
    """One replay: a partner's prompt, then the chain up to and with its first `cut` literals."""

    chain: str
    cut: int
    partner: Problem
    tokens: tuple[int, ...]
    """The partner's prompt and the kept part of the chain."""
    text: str
    """The kept part of the chain."""
    readout: bool
    """Every stated step was kept."""


@dataclass(frozen=True)
class ExchangeOutcome:
    """What the answer of one replay followed."""

    exchange: Exchange
    prompt_answer: Value | None
    """The model's own answer to the partner."""
    chain_answer: Value | None
    """The model's own answer to the chain's problem."""
    answer: Value | None

    @property
    def follows_prompt(self) -> bool:
        return self.answer is not None and self.answer == self.prompt_answer

    @property
    def follows_chain(self) -> bool:
        return self.answer is not None and self.answer == self.chain_answer


def exchanges(subject: Subject, chain: Chain, *, rng: random.Random, tries: int = 40) -> list[Exchange]:
    """One exchange for every cut of a chain, from 1 kept literal to all; none where the family has no partners.

    The partner of cut k differs in what enters up to the k-th step and agrees in what enters later, so that both
    problems ask for the same continuation.
    """
    steps = [literal for literal in chain.stated if not literal.overruled and literal.step in chain.reference]
    found = []
    for k, literal in enumerate(steps, 1):
        reference = chain.reference[literal.step]
        partners = subject.task.partners(chain.problem, reference, rng=rng)
        for _, partner in zip(range(tries), partners, strict=False):
            if partner.answer in (chain.problem.answer, chain.answer):
                continue
            kept = chain.tokens[chain.n_prompt : literal.span[1]]
            text = chain.text[: literal.chars[1]]
            found.append(
                Exchange(chain.id, k, partner, (*subject.prompt(partner), *kept), text, readout=k == len(steps))
            )
            break
    return found


def run_exchanges(subject: Subject, chains: Sequence[Chain], *, seed: int = 0) -> list[ExchangeOutcome]:
    """Every cut of every chain. Pairs on which the model's own answers do not differ are left out: nothing could be
    told from them."""
    planned = [
        (chain, exchange)
        for chain in chains
        if chain.answer is not None
        for exchange in exchanges(subject, chain, rng=random.Random(f"bypass {seed} {chain.id}"))
    ]
    own = subject.complete([subject.prompt(exchange.partner) for _, exchange in planned])
    usable = [
        (chain, exchange, answer)
        for (chain, exchange), answer in zip(planned, map(subject.answer, own), strict=True)
        if answer is not None and answer != chain.answer
    ]
    texts = subject.complete([exchange.tokens for _, exchange, _ in usable])
    return [
        ExchangeOutcome(exchange, answer, chain.answer, subject.answer(exchange.text + text))
        for (chain, exchange, answer), text in zip(usable, texts, strict=True)
    ]
