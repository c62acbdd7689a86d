"""Going on from a text with a state that its own run does not have: one literal is seen as another run has it.

In a causal decoder a later position sees an earlier one only through that position's keys and values. A cache that has
those of another run at the literal, and the text's own everywhere else, is therefore an interchange in all layers
(`interventions.splice`), and the model can write on from it: the first token that sees the other state is given, so
that it is the text's own, and the rest is generated in ordinary batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache

from faithprobe.chains.records import Span
from faithprobe.chains.subject import Subject
from faithprobe.chains.tokens import decode
from faithprobe.interventions.runs import clean_runs
from faithprobe.interventions.splice import Interchange, spliced
from faithprobe.models.forcing import Donor, batches
from faithprobe.models.generation import generate
from faithprobe.models.language_model import LanguageModel
from faithprobe.models.prefixes import PrefixCache, Tokens

TOGETHER = 32
"""Continuations whose runs are held at once: what they take of memory does not grow with the number of chains."""


@dataclass(frozen=True)
class State:
    """A text, and a run whose keys and values are seen at one of its literals."""

    row: tuple[int, ...]
    """Prompt and response, up to the token behind the literal: the first that sees the other state."""
    source: tuple[int, ...]
    """The other run, up to the end of its literal."""
    span: Span
    """Of the literal, in both."""


def continued(subject: Subject, states: Sequence[State]) -> list[str]:
    """What the model writes behind the literal of each, the token that is given included, up to the stop string.

    Raises ModelError where the model's past is more than keys and values.
    """
    texts: list[str] = []
    for part in batches(states, TOGETHER):
        chosen = states[part]
        rows = [row for state in chosen for row in (state.row[: state.span[1]], state.source)]
        runs = clean_runs(subject.model, rows, prefixes=subject.prefixes, batch_size=subject.batch_size)
        start = runs[0].start
        seen = []
        for state, base, source in zip(chosen, runs[::2], runs[1::2], strict=True):
            taken = Interchange(base.tokens, source.tokens, tuple(range(*state.span)))
            seen.append(spliced(base.donor, source.donor, taken).mixed())
        shared = _Shared(subject.model, start)
        new: list[tuple[int, ...]] = [()] * len(chosen)
        for group in _groups([state.row for state in chosen], together=shared.pads_in_the_middle):
            past = _Seen([chosen[i].row for i in group], [seen[i] for i in group], subject.prefixes)
            decoding = replace(subject.decoding, must_fit=False)
            for done in generate(subject.model, past.rows, decoding, prefixes=shared, past=past):
                new[group[done.index]] = done.tokens
        tokenizer = subject.model.tokenizer
        texts += [subject.cut(decode(tokenizer, (s.row[-1], *tail))) for s, tail in zip(chosen, new, strict=True)]
    return texts


def _groups(rows: Sequence[Tokens], *, together: bool) -> list[list[int]]:
    """Rows that may share a batch: all, or those of one length where no padding may stand in the middle."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_length[0 if together else len(row)].append(i)
    return list(by_length.values())


class _Shared(PrefixCache):
    """Shares the beginning that the clean runs share, and no more: rows of the same tokens see different states."""

    def __init__(self, model: LanguageModel, start: int) -> None:
        super().__init__(model)
        self.start = start

    def choose(self, rows: Sequence[Tokens], *, padding: str) -> int:
        return self.start


class _Seen:
    """The `Past` of rows of which all but the last token is seen as it was put together."""

    def __init__(self, rows: Sequence[tuple[int, ...]], seen: Sequence[Donor], prefixes: PrefixCache) -> None:
        self.rows, self.seen, self.prefixes = rows, seen, prefixes

    def held(self, index: int) -> int:
        return len(self.rows[index]) - 1

    def order(self, indices: Sequence[int]) -> list[int]:
        return sorted(indices, key=lambda index: len(self.rows[index]))

    def cache(self, batch: Sequence[int], lengths: Sequence[int], *, prefix: int) -> DynamicCache:
        cache = self.prefixes.get(self.rows[batch[0]][:prefix], len(batch))
        donors = [self.seen[i] for i in batch]
        for layer in range(len(donors[0].keys)):
            keys = _right_aligned([donor.keys[layer][0] for donor in donors])
            values = _right_aligned([donor.values[layer][0] for donor in donors])
            cache.update(keys, values, layer)
        return cache


def _right_aligned(pieces: Sequence[Tensor]) -> Float[Tensor, "piece head position d_head"]:
    """Tensors [head, _, d_head] as one, zeros in front of the shorter ones."""
    longest = max(piece.shape[1] for piece in pieces)
    return torch.stack([nn.functional.pad(piece, (0, 0, longest - piece.shape[1], 0)) for piece in pieces])
