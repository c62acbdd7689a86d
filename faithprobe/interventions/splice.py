"""Interchange of a window of positions in all layers, as a splice of key-value caches.

In a causal decoder a later position sees an earlier one only through that position's keys and values. Setting the
embeddings and every layer's output at the positions of a window to those of another run is therefore *exactly* the
same as taking the window's keys and values from the other run's cache, layer by layer, and letting everything behind
it be computed anew. The splice needs no hook and never recomputes what stands in front of the window.

Keys carry their absolute position (rotary or learned embeddings), so both runs must have the same length and the
window is taken at equal positions. All keys of both runs are kept, also in layers with a sliding window (nothing is
evicted); models whose layers hold a state instead of keys and values are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from faithprobe.errors import FaithprobeError
from faithprobe.models.generation import PrefixCache, Tokens
from faithprobe.models.language_model import LanguageModel


class SpliceError(FaithprobeError):
    """An interchange that is not defined: runs of unequal length, an empty window, a model without keys and values."""


@dataclass(frozen=True)
class Donor:
    """Keys and values of one or more runs, from position `start` on; one entry per layer."""

    keys: tuple[Float[Tensor, "batch head position d_head"], ...]
    values: tuple[Float[Tensor, "batch head position d_head"], ...]
    start: int

    def row(self, index: int, length: int) -> Donor:
        """One run alone, up to its own length."""
        cut = slice(None, length - self.start)
        return Donor(
            tuple(k[index : index + 1, :, cut] for k in self.keys),
            tuple(v[index : index + 1, :, cut] for v in self.values),
            self.start,
        )


class SplicedLayer(DynamicLayer):
    """A cache layer that gives the donor's keys and values at the positions of a mask, whatever was computed there."""

    def __init__(self, keys: Tensor, values: Tensor, mask: Bool[Tensor, "batch position"], start: int) -> None:
        super().__init__()
        self.donor = (keys, values)
        self.mask, self.start = rearrange(mask, "batch position -> batch 1 position 1"), start

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        super().update(key_states, value_states)
        self.keys = self._splice(self.keys, self.donor[0])
        self.values = self._splice(self.values, self.donor[1])
        return self.keys, self.values

    def _splice(self, computed: Tensor, donor: Tensor) -> Tensor:
        tail = computed[:, :, self.start :]
        length = tail.shape[2]
        spliced = torch.where(self.mask[:, :, :length], donor[:, :, :length], tail)
        return torch.cat([computed[:, :, : self.start], spliced], dim=2)


@dataclass(frozen=True)
class Forced:
    """What a teacher-forced pass over some rows gave."""

    logprobs: Float[Tensor, "batch read vocabulary"] | None
    """Log-probabilities of the next token after each position of `positions`."""
    positions: tuple[int, ...]
    donor: Donor

    def of_span(self, row: int, tokens: Tokens, span: tuple[int, int]) -> float:
        """Log-probability of `tokens[span]` as a whole string, in nats."""
        assert self.logprobs is not None
        column = {position: i for i, position in enumerate(self.positions)}
        return sum(float(self.logprobs[row, column[p - 1], tokens[p]]) for p in range(*span))


def keys_and_values(cache: DynamicCache, start: int) -> Donor:
    """The cache's tensors from position `start` on, or SpliceError where a layer holds something else."""
    for i, layer in enumerate(cache.layers):
        if not isinstance(layer, DynamicLayer):
            raise SpliceError(
                f"layer {i} keeps a {type(layer).__name__}, not keys and values: a window cannot be interchanged there; "
                "models with recurrent or compressed states are not supported"
            )
    return Donor(
        tuple(layer.keys[:, :, start:] for layer in cache.layers),
        tuple(layer.values[:, :, start:] for layer in cache.layers),
        start,
    )


def right_pad(rows: Sequence[Tokens], start: int, pad_id: int) -> Int[Tensor, "batch position"]:
    """The rows' tokens from `start` on, as one tensor. Padding behind a row changes nothing in front of it."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row[start:], *[pad_id] * (longest - len(row))] for row in rows])


def force(
    model: LanguageModel,
    rows: Sequence[Tokens],
    *,
    prefixes: PrefixCache,
    read: Sequence[int] | None = (),
    splices: Sequence[tuple[Donor, Bool[Tensor, " position"]]] | None = None,
) -> Forced:
    """One teacher-forced pass over a batch of rows, their shared beginning taken from a cache.

    `read` lists the positions after which log-probabilities are wanted (None: all that are not shared). With
    `splices`, row i sees, at the positions of its mask (counted from the donor's start), its donor's keys and values
    in all layers instead of its own.
    """
    start = prefixes.choose(rows, padding="right")
    first = min((*(read or ()), *([splices[0][0].start] if splices else ())), default=start)
    if first < start:
        start = 0 if first == 0 else prefixes.choose([row[: first + 1] for row in rows], padding="right")
    ids = right_pad(rows, start, model.pad_id).to(model.device)
    cache = prefixes.get(rows[0][:start], len(rows)) if start else DynamicCache()
    if splices is not None:
        cache = _spliced_cache(model, cache, splices, start, ids.shape[1])
    length = start + ids.shape[1]
    wanted = tuple(range(start, length)) if read is None else tuple(read)
    keep = torch.tensor([position - start for position in wanted], device=model.device) if wanted else 1
    with torch.no_grad():
        out = model.hf(
            input_ids=ids,
            attention_mask=torch.ones(len(rows), length, dtype=torch.long, device=model.device),
            position_ids=torch.arange(start, length, device=model.device).expand(len(rows), -1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
    logprobs = out.logits.float().log_softmax(-1) if wanted else None
    return Forced(logprobs, wanted, keys_and_values(cache, start))


def _spliced_cache(
    model: LanguageModel,
    cache: DynamicCache,
    splices: Sequence[tuple[Donor, Bool[Tensor, " position"]]],
    start: int,
    length: int,
) -> DynamicCache:
    """A cache whose every layer splices; `cache` holds the shared beginning."""
    offset = splices[0][0].start - start
    mask = torch.zeros(len(splices), length, dtype=torch.bool, device=model.device)
    for row, (donor, window) in enumerate(splices):
        if donor.start != start + offset:
            raise SpliceError("donors of one batch must start at the same position")
        mask[row, offset : offset + len(window)] = window.to(model.device)
    spliced = DynamicCache()
    layers = []
    for i in range(len(splices[0][0].keys)):
        keys = _stack([donor.keys[i] for donor, _ in splices], offset, length)
        values = _stack([donor.values[i] for donor, _ in splices], offset, length)
        layer = SplicedLayer(keys, values, mask, start)
        if start:
            held = cache.layers[i]
            layer.lazy_initialization(held.keys, held.values)
            layer.keys, layer.values = held.keys, held.values
        layers.append(layer)
    spliced.layers = layers
    return spliced


def _stack(tensors: Sequence[Tensor], offset: int, length: int) -> Tensor:
    """Donors of several rows as one tensor of `length` positions, zeros where a donor has none (never under a mask)."""
    first = tensors[0]
    out = first.new_zeros(len(tensors), first.shape[1], length, first.shape[3])
    for row, tensor in enumerate(tensors):
        out[row, :, offset : offset + tensor.shape[2]] = tensor[0]
    return out


@dataclass(frozen=True)
class Interchange:
    """Base run, source run, the window that is taken from the source, the positions that keep the base's state."""

    base: tuple[int, ...]
    source: tuple[int, ...]
    window: tuple[int, ...]
    keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.base) != len(self.source):
            raise SpliceError(
                f"base has {len(self.base)} tokens and source {len(self.source)}: keys carry absolute positions, so "
                "both runs must have the same length"
            )
        if not self.window:
            raise SpliceError("the window is empty: an interchange that changes nothing measures nothing")
        if set(self.window) & set(self.keep):
            raise SpliceError(f"positions {sorted(set(self.window) & set(self.keep))} are both taken and kept")
        if max((*self.window, *self.keep)) >= len(self.base):
            raise SpliceError(f"position {max((*self.window, *self.keep))} lies behind the run's {len(self.base)} tokens")


def mixed_donor(base: Donor, source: Donor, interchange: Interchange) -> tuple[Donor, Bool[Tensor, " position"]]:
    """The donor of an interchange: the source's keys and values in the window, the base's where they are kept."""
    length = base.keys[0].shape[2]
    taken = torch.zeros(length, dtype=torch.bool)
    for position in interchange.window:
        if position >= base.start:  # positions in front are shared by both runs, so nothing can differ there
            taken[position - base.start] = True
    kept = torch.zeros(length, dtype=torch.bool)
    kept[[position - base.start for position in interchange.keep if position >= base.start]] = True
    at = taken.to(base.keys[0].device)[None, None, :, None]
    keys = tuple(torch.where(at, s, b) for s, b in zip(source.keys, base.keys, strict=True))
    values = tuple(torch.where(at, s, b) for s, b in zip(source.values, base.values, strict=True))
    return Donor(keys, values, base.start), taken | kept


def batches(items: Sequence[object], size: int) -> Iterator[slice]:
    for begin in range(0, len(items), size):
        yield slice(begin, min(begin + size, len(items)))


def splice(
    model: LanguageModel, interchanges: Sequence[Interchange], *, prefixes: PrefixCache | None = None, batch_size: int = 32
) -> list[Float[Tensor, "position vocabulary"]]:
    """Log-probabilities of every base run under its interchange, from the first
    position that the runs do not share.

    Equal, to rounding, to setting embeddings and all layers' outputs at the window to the source's by hooks.
    """
    prefixes = prefixes or PrefixCache(model)
    results: list[Tensor] = []
    for part in batches(interchanges, batch_size):
        chosen = interchanges[part]
        rows = [row for item in chosen for row in (item.base, item.source)]
        clean = force(model, rows, prefixes=prefixes)
        donors = [
            mixed_donor(clean.donor.row(2 * i, len(item.base)), clean.donor.row(2 * i + 1, len(item.base)), item)
            for i, item in enumerate(chosen)
        ]
        patched = force(model, [item.base for item in chosen], prefixes=prefixes, splices=donors, read=None)
        assert patched.logprobs is not None
        results += [patched.logprobs[i, : len(item.base) - patched.positions[0]] for i, item in enumerate(chosen)]
    return results
