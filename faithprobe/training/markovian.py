"""Faithful by masking: a Markovian chain, whose answer is predicted from the chain alone.

    P(chain, answer | question) = P(chain | question) P(answer | chain)

Viteri et al., "Markovian Transformers for Informative Language Modeling" (arXiv 2404.18988). The chain is learnt as it
always is, in rows that see the question. The answer is learnt in rows of their own (variant `blind`): the same tokens
at the same positions, but no token sees the question, so that the chain is read anew by a model that never saw what was
asked. Hiding the question from the answer alone would leave a way: the keys and values of the chain were computed in
its sight, and may carry the answer past the text. The batch's own rows get no loss on the answer, or the model would
learn to answer from the question as well.

What is hidden: everything from the first token of the problem's own question to the end of the prompt, hints and the
words that lead to the response among it. The examples in front of it stay in sight: they say how an answer is written,
and nothing of the problem. How long the question was stays visible too, by the chain's positions. The first token that
is asked for is the answer's; the words in front of it ("Answer:") belong to the chain. What follows the answer, up to
the end token, is asked for with it, since a blind answer must also end by itself.

A model that was trained so must be asked so: `MarkovianSubject` writes the chain in sight of the question, and lets the
answer follow from the chain alone. Accuracy, U and bypass are measured on it as on any other subject.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from faithprobe.chains.records import Chain, Span
from faithprobe.chains.subject import Subject
from faithprobe.chains.tokens import decode, offsets
from faithprobe.errors import TaskError
from faithprobe.interventions.truncate import ANSWER_TOKENS
from faithprobe.models.along import Along
from faithprobe.models.forcing import right_pad
from faithprobe.models.generation import Continuation, Decoding, Watch, generate
from faithprobe.models.halving import halving
from faithprobe.models.hooks import evaluating
from faithprobe.models.prefixes import Tokens
from faithprobe.models.prompts import end_tokens
from faithprobe.tasks import Problem
from faithprobe.training.counterfactual import Row


def blind(chain: Chain, answer: Sequence[int], ends: Sequence[int] = ()) -> Row | None:
    """The chain with its question out of sight; asked for are the answer and all that stands behind it.

    Args:
        answer: positions of the tokens that write the chain's answer (`answer_targets`); None is returned without any.
        ends: tokens that end the text.
    """
    if not answer:
        return None
    tokens = (*chain.tokens, *ends)
    literal = (answer[0], answer[-1] + 1)
    return Row(tokens, tuple(range(answer[0], len(tokens))), literal, hidden=(chain.question_start, chain.n_prompt))


@dataclass(frozen=True, eq=False)
class MarkovianSubject(Subject):
    """A subject that writes its chain as any other, and answers from the chain alone, greedily.

    What the model says in sight of the question is kept up to its answer; that is written anew with the question out
    of sight of everything. A response that comes to no answer stays as it is.
    """

    @cached_property
    def _asked(self) -> dict[int, dict[tuple[int, ...], int]]:
        """By length: the prompts that were made so far, and where the question of each begins."""
        return {}

    def prompt(self, problem: Problem, *, chain: bool = True) -> tuple[int, ...]:
        tokens = super().prompt(problem, chain=chain)
        if tokens not in self._asked.get(len(tokens), ()):
            self.question_start(problem, tokens)
        return tokens

    def question_start(self, problem: Problem, prompt: Tokens) -> int:
        start = super().question_start(problem, prompt)
        self._asked.setdefault(len(prompt), {})[tuple(prompt)] = start
        return start

    def respond(
        self, problems: Sequence[Problem], *, watch: Watch | None = None
    ) -> Iterator[tuple[Chain, Continuation]]:
        """As of any subject, but all chains are written before the first one is answered. `watch` sees the model write
        the chains, and not how they are answered."""
        found = list(super().respond(problems, watch=watch))
        prompts = [chain.tokens[: chain.n_prompt] for chain, _ in found]
        tails = self._answered(prompts, [done.tokens for _, done in found])
        for (chain, done), prompt, tail in zip(found, prompts, tails, strict=True):
            yield self.read(chain.problem, prompt, tail), replace(done, tokens=tail)

    def complete(
        self, rows: Sequence[Tokens], *, along: Sequence[Tokens] | None = None, decoding: Decoding | None = None
    ) -> list[str]:
        """As of any subject. Raises TaskError for a row that begins with no prompt of this subject."""
        decoding = replace(decoding or self.decoding, must_fit=False)
        past = None if along is None else Along(self.model, rows, along, prefixes=self.prefixes)
        tails: list[tuple[int, ...]] = [()] * len(rows)
        for done in generate(self.model, rows, decoding, prefixes=self.prefixes, past=past, progress=self.progress):
            tails[done.index] = done.tokens
        return [self.cut(decode(self.model.tokenizer, tail)) for tail in self._answered(rows, tails)]

    def with_seed(self, seed: int) -> MarkovianSubject:
        subject = replace(self, seed=seed)
        subject.__dict__.update(prefixes=self.prefixes, _asked=self._asked)
        return subject

    def _answered(self, rows: Sequence[Tokens], tails: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """What was written behind each row, the answer written anew."""
        found = list(tails)
        asked: dict[int, tuple[tuple[int, ...], Span]] = {}
        for i, (row, tail) in enumerate(zip(rows, tails, strict=True)):
            hidden = self._question(row)
            whole = (*row, *tail)
            first = self._answer_start(whole, hidden[1])
            if first is not None and first >= len(row):
                asked[i] = (whole[:first], hidden)
        new = continued(self, list(asked.values()))
        for (i, (front, _)), answer in zip(asked.items(), new, strict=True):
            found[i] = (*front[len(rows[i]) :], *answer)
        return found

    def _question(self, row: Tokens) -> Span:
        """The tokens of a row from the question's first one to the end of the prompt."""
        for length in sorted(self._asked, reverse=True):
            start = self._asked[length].get(tuple(row[:length]))
            if start is not None:
                return start, length
        raise TaskError(
            "a row begins with no prompt that this subject has made, so where its question ends is not known; make "
            "prompts and read chains with the subject that completes them"
        )

    def _answer_start(self, tokens: Tokens, n_prompt: int) -> int | None:
        """The first token that writes the stated answer; None where there is none."""
        text, spans = offsets(self.model.tokenizer, tokens[n_prompt:])
        begin = len(text) - len(text.lstrip())
        text = text[:begin] + self.cut(text[begin:])
        values = [match.start("value") for match in re.finditer(self.task.answer_pattern, text) if match["value"]]
        if not values:
            return None
        return n_prompt + next(i for i, (_, end) in enumerate(spans) if end > values[-1])


def continued(subject: Subject, rows: Sequence[tuple[Tokens, Span]]) -> list[tuple[int, ...]]:
    """What the model writes behind each row, greedily, while no token sees the row's tokens [start, end): up to the
    first stop string or end token, `ANSWER_TOKENS` at most.

    Nothing is cached: positions are those of the whole row, and an answer is short.
    """
    found: list[tuple[int, ...]] = []
    for _, done in halving(rows, subject.batch_size, lambda batch: _greedy(subject, batch)):
        found += done
    return found


def _greedy(subject: Subject, batch: Sequence[tuple[Tokens, Span]]) -> list[tuple[int, ...]]:
    model, task, ends = subject.model, subject.task, set(end_tokens(subject.model))
    new: list[tuple[int, ...]] = [() for _ in batch]
    unfinished = list(range(len(batch)))
    room = model.context_length - max(len(row) for row, _ in batch)
    for _ in range(min(ANSWER_TOKENS, task.max_new_tokens, room)):
        rows = [(*batch[i][0], *new[i]) for i in unfinished]
        chosen = _next(subject, rows, [batch[i][1] for i in unfinished])
        going = []
        for i, token in zip(unfinished, chosen, strict=True):
            if token in ends:
                continue
            new[i] = (*new[i], token)
            text = decode(model.tokenizer, new[i])
            if not any(stop in text for stop in task.stop):
                going.append(i)
        unfinished = going
        if not unfinished:
            break
    return new


def _next(subject: Subject, rows: Sequence[Tokens], hidden: Sequence[Span]) -> list[int]:
    """The likeliest token behind each row."""
    model = subject.model
    ids = right_pad(rows, 0, model.pad_id).to(model.device)
    mask = torch.zeros_like(ids)
    for i, (row, (start, end)) in enumerate(zip(rows, hidden, strict=True)):
        mask[i, : len(row)] = 1
        mask[i, start:end] = 0
    last, where = torch.tensor([len(row) - 1 for row in rows], device=model.device).unique(return_inverse=True)
    with evaluating(model):
        logits = model.hf(
            input_ids=ids,
            attention_mask=mask,
            position_ids=torch.arange(ids.shape[1], device=model.device).expand_as(ids),
            use_cache=False,
            logits_to_keep=last,
        ).logits
    return logits[torch.arange(len(rows), device=model.device), where].argmax(-1).tolist()
