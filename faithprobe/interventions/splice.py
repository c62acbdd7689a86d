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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from faithprobe.errors import FaithprobeError
from faithprobe.models.forcing import Donor, Forced, force, force_behind
from faithprobe.models.generation import PrefixCache, Tokens, halving
from faithprobe.models.language_model import LanguageModel


class SpliceError(FaithprobeError):
    """An interchange that is not defined: runs of unequal length, an empty window, a model without keys and values."""


Splice = tuple[Donor, Bool[Tensor, "_"]]
"""What a row sees at the positions of the mask, counted from the donor's start, instead of what it would compute."""


class SplicedLayer(DynamicLayer):
    """A cache layer that gives the donor's keys and values at the positions of a mask, whatever is computed there.

    Donor and mask begin right behind what the layer holds already.
    """

    def __init__(
        self,
        keys: Float[Tensor, "batch head position d_head"],
        values: Float[Tensor, "batch head position d_head"],
        mask: Bool[Tensor, "batch position"],
    ) -> None:
        super().__init__()
        self.donor_keys, self.donor_values = keys, values
        self.mask = rearrange(mask, "batch position -> batch 1 position 1")

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return super().update(
            self._spliced(key_states, self.donor_keys), self._spliced(value_states, self.donor_values)
        )

    def _spliced(self, computed: Tensor, donor: Tensor) -> Tensor:
        length = donor.shape[2]
        return torch.cat([torch.where(self.mask, donor, computed[:, :, :length]), computed[:, :, length:]], dim=2)


class SplicedCache(DynamicCache):
    """A cache that was put together from several runs, or (placebos) from what no run computed."""

    spliced = True


def force_spliced(
    model: LanguageModel,
    rows: Sequence[Tokens],
    splices: Sequence[Splice],
    *,
    prefixes: PrefixCache,
    read: Sequence[int] | None = (),
) -> Forced:
    """A teacher-forced pass in which row i sees its donor's keys and values in all layers, at its mask's positions.

    What all masks cover from the donors' start on is not computed at all, so the pass starts behind it (`Forced.start`;
    earlier where `read` asks for it). Log-probabilities at a covered position are the row's own tokens' and follow no
    run; read them from the run that gave the keys.
    """
    begin = splices[0][0].start
    if any(donor.start != begin for donor, _ in splices) or any(row[:begin] != rows[0][:begin] for row in rows):
        raise SpliceError(
            f"donors of one batch must start at the same position, and its rows agree in front of it (here {begin}): "
            "run base and source rows of the batch in one pass"
        )
    if read and min(read) < begin:
        raise SpliceError(
            f"position {min(read)} cannot be read: the donors start at {begin}, and nothing changes before"
        )
    covered = min(int(mask.long().cumprod(0).sum()) for _, mask in splices)
    first = min(begin + covered, *(len(row) - 1 for row in rows), *(read or ()))
    cache = _spliced_cache(prefixes.get(rows[0][:begin], len(rows)), splices, first - begin)
    return force_behind(model, rows, cache, first, read=read)


def _spliced_cache(shared: DynamicCache, splices: Sequence[Splice], covered: int) -> DynamicCache:
    """The cache of the shared beginning, then `covered` positions of the donors, then layers that splice."""
    donors = [donor for donor, _ in splices]
    masks = [mask.to(donors[0].keys[0].device)[:, None] for _, mask in splices]
    mask = rearrange(_stack(masks)[:, covered:], "batch position 1 -> batch position")
    layers = []
    for i in range(len(donors[0].keys)):
        keys, values = _stack([donor.keys[i][0] for donor in donors]), _stack([donor.values[i][0] for donor in donors])
        layer = SplicedLayer(keys[:, :, covered:], values[:, :, covered:], mask) if mask.any() else DynamicLayer()
        given_keys, given_values = keys[:, :, :covered], values[:, :, :covered]
        layer.lazy_initialization(given_keys, given_values)
        held = shared.layers[i] if shared.layers else None
        layer.keys = given_keys if held is None else torch.cat([held.keys, given_keys], dim=2)
        layer.values = given_values if held is None else torch.cat([held.values, given_values], dim=2)
        layers.append(layer)
    spliced = SplicedCache()
    spliced.layers = layers
    return spliced


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors [.., position, width] of several rows as one, zeros where a row has no such position."""
    longest = max(tensor.shape[-2] for tensor in tensors)
    return torch.stack([nn.functional.pad(tensor, (0, 0, 0, longest - tensor.shape[-2])) for tensor in tensors])


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
        outside = [position for position in (*self.window, *self.keep) if not 0 <= position < len(self.base)]
        if outside:
            raise SpliceError(f"positions {outside} are not among the run's {len(self.base)} tokens")


def mixed_donor(base: Donor, source: Donor, interchange: Interchange) -> Splice:
    """The donor of an interchange, and the positions at which it is seen: the source's keys and values in the window,
    the base's where they are kept and in front of the window, where nothing changes.

    Both runs must agree in front of their donors: a position there is the same in both, taken or not.
    """
    length = base.keys[0].shape[2]
    if source.start != base.start or source.keys[0].shape != base.keys[0].shape:
        raise SpliceError(
            f"the donors hold {length} positions from {base.start} and {source.keys[0].shape[2]} from {source.start}: "
            "take both from one pass, cut to the same length"
        )
    window = [position - base.start for position in interchange.window if position >= base.start]
    taken = torch.zeros(length, dtype=torch.bool)
    taken[window] = True
    seen = taken.clone()
    seen[[position - base.start for position in interchange.keep if position >= base.start]] = True
    seen[: min(window, default=0)] = True
    at = rearrange(taken, "position -> 1 1 position 1").to(base.keys[0].device)
    keys = tuple(torch.where(at, s, b) for s, b in zip(source.keys, base.keys, strict=True))
    values = tuple(torch.where(at, s, b) for s, b in zip(source.values, base.values, strict=True))
    return Donor(keys, values, base.start), seen


def splice(
    model: LanguageModel,
    interchanges: Sequence[Interchange],
    *,
    prefixes: PrefixCache | None = None,
    batch_size: int = 32,
) -> list[Float[Tensor, "_ vocabulary"]]:
    """Log-probabilities of every base run under its interchange, from the window's first position on (in front of it
    they are the base run's own).

    Equal, to rounding, to setting embeddings and all layers' outputs by hooks: to the source's at the window, to the
    base's at the kept positions; so the log-probabilities *at* these positions are the source's and the base's.
    """
    prefixes = prefixes or PrefixCache(model)

    def work(chosen: Sequence[Interchange]) -> list[Tensor]:
        runs = list(dict.fromkeys(run for item in chosen for run in (item.base, item.source)))
        row = {run: i for i, run in enumerate(runs)}
        first = min(min(item.window) for item in chosen)
        clean = force(model, runs, prefixes=prefixes, read=range(first, max(map(len, runs))))
        donor = clean.donor
        spliced = [
            mixed_donor(donor.row(row[item.base], len(item.base)), donor.row(row[item.source], len(item.base)), item)
            for item in chosen
        ]
        patched = force_spliced(model, [item.base for item in chosen], spliced, prefixes=prefixes, read=None)
        assert clean.logprobs is not None
        assert patched.logprobs is not None
        results = []
        for i, (item, (_, seen)) in enumerate(zip(chosen, spliced, strict=True)):
            result = clean.logprobs[row[item.base], : len(item.base) - first].clone()
            free = [p for p in range(patched.start, len(item.base)) if not seen[p - clean.start]]
            result[[p - first for p in free]] = patched.logprobs[i, [p - patched.start for p in free]]
            window = [p - first for p in item.window]
            result[window] = clean.logprobs[row[item.source], window]
            results.append(result[min(item.window) - first :])
        return results

    return [result for _, results in halving(interchanges, max(1, batch_size // 2), work) for result in results]
