"""Batched generation with Hugging Face's own `generate`: what is known of a row's beginning is not computed again.

Rows are `[prefix][padding][suffix]`: the prefix cache is computed at batch 1 and repeated, suffixes are left-padded
after it, and positions follow the attention mask. Where more of a row's keys and values are known (a `Past`, such as
`models.along`), the cache reaches further, `[prefix][padding][own part]`, and one column where it ends serves the
whole batch. Layers with a sliding window count slots, not positions, so padding in the middle would change them: for
such models nothing is shared and the padding stands in front.

Tokens are chosen from the model's own distribution. What its generation config would change in it (a repetition
penalty, top-k) is left out: interventions read the same logits, and must see what generation saw.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from jaxtyping import Int
from transformers import DynamicCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from faithprobe.errors import ContextLengthError, is_out_of_memory
from faithprobe.models.halving import halving
from faithprobe.models.hooks import evaluating
from faithprobe.models.language_model import LanguageModel
from faithprobe.models.prefixes import (
    PrefixCache,
    Tokens,
    has_sliding_window,
    keeps_keys_and_values,
    shared_prefix,
)
from faithprobe.models.prompts import encode, encode_chat, end_tokens

__all__ = [
    "Continuation",
    "Decoding",
    "Layout",
    "Past",
    "PrefixCache",
    "StopAtText",
    "Tokens",
    "Watch",
    "check_context",
    "encode",
    "encode_chat",
    "end_tokens",
    "generate",
    "halving",
    "has_sliding_window",
    "is_out_of_memory",
    "keeps_keys_and_values",
    "pad",
    "shared_prefix",
]


@dataclass(frozen=True)
class Decoding:
    """How a continuation is chosen and when it ends."""

    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    """The continuation ends after the first token that completes one of these."""
    temperature: float = 0.0
    """0: greedy."""
    seed: int = 0
    batch_size: int = 32
    must_fit: bool = True
    """Raise where `max_new_tokens` do not fit into the context; False: go on as far as the context reaches."""

    def settings(self) -> dict[str, Any]:
        if self.temperature <= 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}


@dataclass(frozen=True)
class Layout:
    """Where a batch of token rows lies in its padded tensors."""

    ids: Int[torch.Tensor, "batch position"]
    mask: Int[torch.Tensor, "batch position"]
    prefix: int
    """Tokens at the front that every row has and that the cache holds (with a `Past`, it holds more)."""
    padding: tuple[int, ...]
    """Slots left empty in each row, right after the prefix."""

    def slot(self, row: int, position: int) -> int:
        """The column of a row's own token `position`."""
        return position if position < self.prefix else position + self.padding[row]


def pad(rows: Sequence[Tokens], prefix: int, *, pad_id: int, device: Any) -> Layout:
    """Rows as one tensor, suffixes right-aligned after the prefix."""
    longest = max(len(row) for row in rows)
    padding = tuple(longest - len(row) for row in rows)
    ids = [[*row[:prefix], *[pad_id] * empty, *row[prefix:]] for row, empty in zip(rows, padding, strict=True)]
    mask = [[1] * prefix + [0] * empty + [1] * (longest - prefix - empty) for empty in padding]
    return Layout(torch.tensor(ids, device=device), torch.tensor(mask, device=device), prefix, padding)


def check_context(model: LanguageModel, rows: Sequence[Tokens], room: int) -> None:
    """Raises ContextLengthError where a row and `room` further tokens do not fit into the model's context."""
    if not all(rows):
        raise ContextLengthError("a prompt without any token has no place to continue from; give it at least one")
    longest = max(len(row) for row in rows)
    if longest + room > model.context_length:
        raise ContextLengthError(
            f"the longest prompt has {longest} tokens and {room} are to follow, but the context of {model.name!r} is "
            f"{model.context_length}; use fewer examples (shots), a shorter max_new_tokens or another model"
        )


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after one row, and where the row stood in its batch."""

    index: int
    """Of the row, in the order in which rows were given."""
    tokens: tuple[int, ...]
    """New tokens: up to the one that completes a stop string, or before the end-of-sequence token."""
    row: int
    layout: Layout


Watch = Callable[[Layout], AbstractContextManager[Any]]
"""Opens a context around one batch's generation, such as hooks that record activations."""


class Past(Protocol):
    """Keys and values of the beginnings of rows, besides the prefix that all share. Rows are named by their index."""

    def held(self, index: int) -> int:
        """How many leading tokens of a row need not be computed; less than all."""

    def order(self, indices: Sequence[int]) -> list[int]:
        """Rows in the order in which they are batched."""

    def cache(self, batch: Sequence[int], lengths: Sequence[int], *, prefix: int) -> DynamicCache:
        """The first `lengths[i]` tokens of every row, at least the prefix, as `[prefix][padding][own part]`."""


def generate(
    model: LanguageModel,
    rows: Sequence[Tokens],
    decoding: Decoding,
    *,
    prefixes: PrefixCache | None = None,
    past: Past | None = None,
    watch: Watch | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Continuation]:
    """Yields continuations as batches finish; rows of like length are batched together, or as `past` orders them.

    A batch that does not fit into memory is halved, down to one row, and nothing that was finished is lost. Sampling
    is repeatable: the same seed, rows and batch size give the same tokens, whatever the caller's random state, which
    is not touched.
    """
    if not rows:
        return
    check_context(model, rows, decoding.max_new_tokens if decoding.must_fit else 1)
    prefixes = prefixes or PrefixCache(model)
    prefix = prefixes.choose(rows, padding="left")

    def work(batch: Sequence[int]) -> tuple[list[tuple[int, ...]], Layout]:
        layout = pad([rows[i] for i in batch], prefix, pad_id=model.pad_id, device=model.device)
        lengths = _held(rows, batch, prefix, past)
        if past is not None and max(lengths) > prefix:
            cache = past.cache(batch, lengths, prefix=prefix)
        else:
            cache = prefixes.get(rows[batch[0]][:prefix], len(batch)) if prefix else None
        # batches must not repeat each other's draws
        seed = random.Random(f"{decoding.seed} {batch[0]}").getrandbits(63)
        return _generate_batch(model, layout, cache, decoding, watch, seed), layout

    for group in _groups(model, rows, decoding, prefix, past):
        for batch, (finished, layout) in halving(group, decoding.batch_size, work):
            for row, (index, tokens) in enumerate(zip(batch, finished, strict=True)):
                yield Continuation(index, tokens, row, layout)
            if progress is not None:
                progress(len(batch))


def _held(rows: Sequence[Tokens], batch: Sequence[int], prefix: int, past: Past | None) -> list[int]:
    """How much of every row the cache holds. All are computed from one column on, so a row that could skip more than
    the others computes as many tokens as they do."""
    if past is None:
        return [prefix] * len(batch)
    suffix = max(len(rows[i]) - max(prefix, past.held(i)) for i in batch)
    return [max(prefix, len(rows[i]) - suffix) for i in batch]


def _groups(
    model: LanguageModel, rows: Sequence[Tokens], decoding: Decoding, prefix: int, past: Past | None
) -> list[list[int]]:
    """Indices of rows that may share a batch, by length. Rows that the context cuts short are not mixed with shorter
    ones, which would be cut with them; rows with a past not with those that have none."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    roomy = [i for i in order if len(rows[i]) + decoding.max_new_tokens <= model.context_length]
    tight = groupby(order[len(roomy) :], key=lambda i: len(rows[i]))
    known = [] if past is None else [i for i in roomy if past.held(i) > prefix]
    new = sorted(set(roomy) - set(known), key=roomy.index) if known else roomy
    return [past.order(known) if past and known else [], new, *(list(same) for _, same in tight)]


def _generate_batch(
    model: LanguageModel,
    layout: Layout,
    cache: DynamicCache | None,
    decoding: Decoding,
    watch: Watch | None,
    seed: int,
) -> list[tuple[int, ...]]:
    ends = end_tokens(model)
    start = layout.ids.shape[1]
    config = GenerationConfig(
        max_new_tokens=min(decoding.max_new_tokens, model.context_length - start),
        pad_token_id=model.pad_id,
        eos_token_id=ends or None,
        use_cache=True,
        return_dict_in_generate=False,
        **decoding.settings(),
    )
    stopping = StopAtText(model.tokenizer, decoding.stop, start=start)
    with evaluating(model), _own_choice(model), _seeded(model, seed), watch(layout) if watch else nullcontext():
        out = model.hf.generate(
            layout.ids,
            attention_mask=layout.mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([stopping]) if decoding.stop else None,
            **({} if cache is None else {"past_key_values": cache}),
        )
    return [_cut(row, stopping.ended_at[i], ends) for i, row in enumerate(out[:, start:].tolist())]


@contextmanager
def _own_choice(model: LanguageModel) -> Iterator[None]:
    """Without the model's generation config: `generate` would fill in from it whatever ours leaves open."""
    kept = model.hf.generation_config
    model.hf.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.hf.generation_config = kept


@contextmanager
def _seeded(model: LanguageModel, seed: int) -> Iterator[None]:
    """Seeds the generator that sampling draws from, and gives it back as it was."""
    cuda = model.device.type == "cuda"
    with torch.random.fork_rng(devices=[model.device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(model.device):
                torch.cuda.manual_seed(seed)
        yield


def _cut(row: list[int], stopped: int | None, ends: list[int]) -> tuple[int, ...]:
    row = row if stopped is None else row[:stopped]
    for i, token in enumerate(row):
        if token in ends:
            return tuple(row[:i])
    return tuple(row)


class StopAtText(StoppingCriteria):
    """Stops each row at the first token that completes one of the strings. (`stop_strings` of transformers compares
    against its whole vocabulary first, which takes longer than a small model's chain.)"""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...], *, start: int) -> None:
        self.tokenizer, self.stop, self.start = tokenizer, stop, start
        self.window = max((len(text) for text in stop), default=0) + 4
        self.ended_at: defaultdict[int, int | None] = defaultdict(lambda: None)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        length = input_ids.shape[1] - self.start
        tails = input_ids[:, max(self.start, input_ids.shape[1] - self.window) :].tolist()
        for row, tail in enumerate(tails):
            if self.ended_at[row] is None:
                text = self.tokenizer.decode(tail, skip_special_tokens=False, clean_up_tokenization_spaces=False)
                if any(stop in text for stop in self.stop):
                    self.ended_at[row] = length
        done = [self.ended_at[row] is not None for row in range(len(tails))]
        return torch.tensor(done, device=input_ids.device)
