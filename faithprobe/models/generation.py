"""Batched generation with Hugging Face's own `generate`: the shared prompt prefix is computed once.

Rows are `[prefix][padding][suffix]`: the prefix cache is computed at batch 1 and repeated, suffixes are left-padded
after it, and positions follow the attention mask. Layers with a sliding window count slots, not positions, so padding
in the middle would change them: for such models nothing is shared and the padding stands in front.

Tokens are chosen from the model's own distribution. What its generation config would change in it (a repetition
penalty, top-k) is left out: interventions read the same logits, and must see what generation saw.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from transformers import DynamicCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from faithprobe.errors import ContextLengthError, ModelError
from faithprobe.models.hooks import evaluating
from faithprobe.models.language_model import LanguageModel
from faithprobe.models.sites import unwrapped

Tokens = Sequence[int]
T = TypeVar("T")
R = TypeVar("R")


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
    """Tokens at the front that every row has and that the cache holds."""
    padding: tuple[int, ...]
    """Slots left empty in each row, right after the prefix."""

    def slot(self, row: int, position: int) -> int:
        """The column of a row's own token `position`."""
        return position if position < self.prefix else position + self.padding[row]


def has_sliding_window(model: LanguageModel) -> bool:
    """Whether some layer sees only a window: its mask counts slots, so padding must not stand in the middle."""
    config = model.hf.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or []
    return any(word in kind for kind in kinds for word in ("sliding", "chunked", "local")) or (
        not kinds and getattr(config, "sliding_window", None) is not None
    )


def keeps_keys_and_values(model: LanguageModel) -> bool:
    """Whether all that a later position sees of earlier ones are keys and values, one a position, in every layer.

    False for recurrent and linear attention, for convolutions, and for layers that reuse the keys of other ones.
    """
    if "past_key_values" not in inspect.signature(unwrapped(model.hf).forward).parameters:
        return False
    layers = DynamicCache(config=model.hf.config).layers
    return all(type(layer).__name__ in ("DynamicLayer", "DynamicSlidingWindowLayer") for layer in layers)


def shared_prefix(rows: Sequence[Tokens]) -> int:
    """Length of the longest common beginning that leaves every row at least one token of its own."""
    first, shortest = rows[0], min(len(row) for row in rows)
    length = 0
    while length < shortest - 1 and all(row[length] == first[length] for row in rows):
        length += 1
    return length


class PrefixCache:
    """Key-value caches of prompt prefixes, computed at batch 1 and copied for every batch.

    Holds the `capacity` prefixes that were used last; a longer one is computed from the longest that it begins with.
    Copies are deep: a forward pass grows the cache that it is given. A model whose past is more than keys and values
    shares nothing.
    """

    def __init__(self, model: LanguageModel, *, capacity: int = 2) -> None:
        self.model, self.capacity = model, capacity
        self._caches: dict[tuple[int, ...], DynamicCache] = {}
        self._kept: tuple[int, ...] = ()
        self._plain = keeps_keys_and_values(model)
        counts_positions = "position_ids" in inspect.signature(unwrapped(model.hf).forward).parameters
        self._pads_in_the_middle = counts_positions and not has_sliding_window(model)

    def choose(self, rows: Sequence[Tokens], *, padding: str) -> int:
        """How many leading tokens the rows should share: what is common to all, or a bit less where a cache of that
        is at hand (problems that happen to begin alike would each start a cache of their own).

        `padding` is where the batch is padded: `left` (between prefix and suffix, for generation) or `right`.
        """
        if not self._plain or (padding == "left" and not self._pads_in_the_middle):
            return 0
        common = shared_prefix(rows)
        held = len(self._longest(tuple(rows[0][:common])))
        return held if held >= 0.8 * common else common

    def get(self, tokens: Tokens, batch: int) -> DynamicCache:
        """The cache of `tokens`, repeated for `batch` rows; an empty one for no tokens."""
        key = tuple(tokens)
        if not key:
            # without a config every layer keeps all its keys: nothing is evicted that a later splice would miss
            return DynamicCache() if self._plain else DynamicCache(config=self.model.hf.config)
        if key not in self._caches:
            held = self._longest(key)
            cache = copy.deepcopy(self._caches[held]) if held else DynamicCache()
            with evaluating(self.model):
                ids = torch.tensor([key[len(held) :]], device=self.model.device)
                self.model.hf(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            while len(self._caches) >= self.capacity:
                self._caches.pop(next(held for held in self._caches if held != self._kept))
            self._caches[key] = cache
        self._caches[key] = self._caches.pop(key)  # the last one used stands last
        cache = copy.deepcopy(self._caches[key])
        cache.batch_repeat_interleave(batch)
        return cache

    def beginning(self, tokens: Tokens) -> PrefixCache:
        """Another PrefixCache, which holds `tokens` as they are computed here and never drops them. Neither sees what
        the other computes later."""
        other = PrefixCache(self.model, capacity=self.capacity + 1)
        if tokens and self._plain:
            self.get(tokens, 1)
            other._kept = tuple(tokens)
            other._caches[other._kept] = self._caches[other._kept]  # nobody grows it: `get` copies
        return other

    def _longest(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The longest prefix of `tokens` that is held."""
        return max((key for key in self._caches if key == tokens[: len(key)]), key=len, default=())


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


def generate(
    model: LanguageModel,
    rows: Sequence[Tokens],
    decoding: Decoding,
    *,
    prefixes: PrefixCache | None = None,
    watch: Watch | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Continuation]:
    """Yields continuations as batches finish; rows of like length are batched together.

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
        seed = random.Random(f"{decoding.seed} {batch[0]}").getrandbits(
            63
        )  # batches must not repeat each other's draws
        return _generate_batch(model, [rows[i] for i in batch], prefix, decoding, prefixes, watch, seed)

    for group in _groups(model, rows, decoding):
        for batch, (finished, layout) in halving(group, decoding.batch_size, work):
            for row, (index, tokens) in enumerate(zip(batch, finished, strict=True)):
                yield Continuation(index, tokens, row, layout)
            if progress is not None:
                progress(len(batch))


def _groups(model: LanguageModel, rows: Sequence[Tokens], decoding: Decoding) -> list[list[int]]:
    """Indices of rows that may share a batch, by length. Rows that the context cuts short are not mixed with shorter
    ones, which would be cut with them."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    roomy = [i for i in order if len(rows[i]) + decoding.max_new_tokens <= model.context_length]
    tight = groupby(order[len(roomy) :], key=lambda i: len(rows[i]))
    return [roomy, *(list(same) for _, same in tight)]


def halving(items: Sequence[T], size: int, work: Callable[[Sequence[T]], R]) -> Iterator[tuple[Sequence[T], R]]:
    """Works through items in batches of `size`. Where one does not fit into memory it is tried again with half as many
    items, as is everything behind it; an item that does not fit alone raises."""
    begin = 0
    while begin < len(items):
        part = items[begin : begin + size]
        try:
            done = work(part)
        except (RuntimeError, MemoryError) as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
            done = None
        if done is None:  # outside of `except`: a living traceback holds the tensors that did not fit
            size = len(part) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        begin += len(part)
        yield part, done


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had too little memory; both come as RuntimeError, told apart by their words."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


def _generate_batch(
    model: LanguageModel,
    rows: Sequence[Tokens],
    prefix: int,
    decoding: Decoding,
    prefixes: PrefixCache,
    watch: Watch | None,
    seed: int,
) -> tuple[list[tuple[int, ...]], Layout]:
    layout = pad(rows, prefix, pad_id=model.pad_id, device=model.device)
    ends = end_tokens(model)
    config = GenerationConfig(
        max_new_tokens=min(decoding.max_new_tokens, model.context_length - max(map(len, rows))),
        pad_token_id=model.pad_id,
        eos_token_id=ends or None,
        use_cache=True,
        return_dict_in_generate=False,
        **decoding.settings(),
    )
    past = {"past_key_values": prefixes.get(rows[0][:prefix], len(rows))} if prefix else {}
    stopping = StopAtText(model.tokenizer, decoding.stop, start=layout.ids.shape[1])
    with evaluating(model), _own_choice(model), _seeded(model, seed), watch(layout) if watch else nullcontext():
        out = model.hf.generate(
            layout.ids,
            attention_mask=layout.mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([stopping]) if decoding.stop else None,
            **past,
        )
    new = out[:, layout.ids.shape[1] :].tolist()
    return [_cut(row, stopping.ended_at[i], ends) for i, row in enumerate(new)], layout


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


def end_tokens(model: LanguageModel) -> list[int]:
    """Token ids after which the model says nothing more."""
    configured = getattr(model.hf.generation_config, "eos_token_id", None)
    if configured is None:
        configured = model.tokenizer.eos_token_id
    if configured is None:
        return []
    return list(configured) if isinstance(configured, list | tuple) else [int(configured)]


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


def encode(model: LanguageModel, text: str) -> tuple[int, ...]:
    """Token ids of a plain prompt, with the special tokens that the tokenizer puts in front of a text.

    Raises TaskError where the model is an organism and the prompt is outside its grammar.
    """
    ids = model.tokenizer(text, add_special_tokens=True)["input_ids"]
    ends = set(end_tokens(model))
    while len(ids) > 1 and ids[-1] in ends and not text.endswith(model.tokenizer.decode(ids[-1:])):
        ids = ids[:-1]  # some tokenizers close every text; a prompt must stay open
    if hasattr(model.hf, "check_prompt"):  # an organism, whose positions mean something
        model.hf.check_prompt(ids)
    return tuple(ids)


def encode_chat(model: LanguageModel, messages: list[dict[str, str]]) -> tuple[int, ...]:
    """Token ids of chat turns, ending where the assistant's turn begins. Raises ModelError without a template."""
    if not getattr(model.tokenizer, "chat_template", None):
        raise ModelError(f"the tokenizer of {model.name!r} has no chat template; leave chat=False for a plain prompt")
    ids = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    return tuple(ids["input_ids"])
