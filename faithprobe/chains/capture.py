"""Activations of chains: recorded while a model generates, or by teacher forcing; only chosen positions are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faithprobe.chains.records import Chain
from faithprobe.errors import HookError
from faithprobe.models.forcing import force
from faithprobe.models.generation import Continuation, Layout, PrefixCache, Tokens, halving
from faithprobe.models.hooks import capture
from faithprobe.models.language_model import LanguageModel

BEFORE, AHEAD, PREDICTING = "before", "ahead", "predicting"
PLACES = (BEFORE, AHEAD, PREDICTING)
"""Where a step is probed: the last token of the prompt; between the previous literal and pi; pi itself."""


def probe_positions(chain: Chain, step: str) -> dict[str, int]:
    """Token position of each place of a step; *ahead* is missing where nothing lies between.

    *Ahead* stands right in front of the restated operands, so that the page does not yet say them again; where the
    family restates none, it is half-way from the previous literal to pi.
    """
    literal = chain.literals[step]
    earlier = [other.span[1] for other in chain.stated if other.span[1] <= literal.predicting]
    begin = max(earlier, default=chain.n_prompt)
    operands = [span[0] for span in literal.operands.values() if span[0] > begin]
    ahead = min(operands) - 1 if operands else (begin + literal.predicting) // 2
    places = {BEFORE: chain.n_prompt - 1, PREDICTING: literal.predicting}
    if begin <= ahead < literal.predicting:
        places[AHEAD] = ahead
    return places


def default_layers(n_layers: int, *, at_most: int = 6) -> tuple[int, ...]:
    """Evenly spaced layers that end with the last one."""
    count = min(at_most, n_layers)
    return tuple(round((i + 1) * n_layers / count) - 1 for i in range(count))


def probe_sites(layers: Sequence[int]) -> tuple[str, ...]:
    """The token embedding, a control, and the residual stream after each layer."""
    return ("hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in layers))


def memory_estimate(model: LanguageModel, n_sites: int, batch: int, positions: int) -> tuple[int, int]:
    """Bytes that a batch takes while it is generated: recorded activations (in host memory, behind the shared prefix at
    most `positions` each), and keys and values (on the model's device)."""
    config, size = model.hf.config.get_text_config(), torch.finfo(model.dtype).bits // 8
    query_heads = int(getattr(config, "num_attention_heads", None) or 1)
    heads = int(getattr(config, "num_key_value_heads", None) or query_heads)
    width = int(getattr(config, "head_dim", None) or model.d_model // query_heads)
    rows = batch * positions * size
    return n_sites * rows * model.d_model, 2 * model.n_layers * heads * width * rows


def to_host(tensor: Tensor) -> Tensor:
    """A copy in host memory that does not stall the device: pinned, non-blocking (synchronise before reading)."""
    if tensor.device.type != "cuda":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


class Recorder:
    """Watches a batch's generation at some sites, then hands out the activations of single rows.

    Give it to `generate(..., watch=recorder)`; read a row before the next batch starts. The very last token of a
    response is never run by generation, so its position has no activation.
    """

    def __init__(self, model: LanguageModel, sites: Sequence[str]) -> None:
        self.model, self.sites = model, tuple(sites)
        self._recorded: list[Float[Tensor, "batch slot d_model"]] = []

    @contextmanager
    def __call__(self, layout: Layout) -> Iterator[None]:
        self._recorded = []
        with capture(self.model, self.sites, keep=to_host) as seen:
            yield
        _wait_for(self.model)
        lengths = {site: sum(tensor.shape[1] for tensor in tensors) for site, tensors in seen.items()}
        if len(set(lengths.values())) != 1 or not all(lengths.values()):
            raise HookError(f"sites saw different numbers of tokens while the model generated: {lengths}")
        # popped: otherwise everything is in memory twice
        self._recorded = [torch.cat(seen.pop(site), dim=1) for site in self.sites]

    def at(self, done: Continuation, positions: Sequence[int]) -> Float[Tensor, "position site d_model"]:
        """Activations of one row at its own token positions (none of them in the shared prefix)."""
        if not self._recorded:
            raise HookError("nothing was recorded: pass this recorder as `watch` and read rows as they are yielded")
        slots = [done.layout.slot(done.row, position) - done.layout.prefix for position in positions]
        recorded = self._recorded[0].shape[1]
        if min(slots, default=0) < 0 or max(slots, default=0) >= recorded:
            raise HookError(
                f"positions {list(positions)} are not all among the {recorded} recorded ones behind the shared prefix "
                f"of {done.layout.prefix} tokens"
            )
        return torch.stack([tensor[done.row, slots] for tensor in self._recorded], dim=1).float()


@dataclass(frozen=True)
class ForcedActivations:
    """Activations of one teacher-forced row."""

    index: int
    activations: Float[Tensor, "position site d_model"]


def record_forced(
    model: LanguageModel,
    rows: Sequence[Tokens],
    positions: Sequence[Sequence[int]],
    sites: Sequence[str],
    *,
    prefixes: PrefixCache,
    batch_size: int = 32,
) -> Iterator[ForcedActivations]:
    """Activations at chosen positions of given rows, batch by batch; one that does not fit into memory is halved."""

    def work(batch: Sequence[int]) -> tuple[list[Float[Tensor, "batch slot d_model"]], int]:
        """Of each site; and the position at which they begin."""
        first = min((position for i in batch for position in positions[i]), default=None)
        with capture(model, sites, keep=to_host) as seen:
            forced = force(model, [rows[i] for i in batch], prefixes=prefixes, start_at=first)
        _wait_for(model)
        return [seen[site][-1] for site in sites], forced.start  # in front of it: the shared beginning, if it was new

    for batch, (recorded, start) in halving(range(len(rows)), batch_size, work):
        for row, index in enumerate(batch):
            columns = [position - start for position in positions[index]]
            yield ForcedActivations(index, torch.stack([tensor[row, columns] for tensor in recorded], dim=1).float())


def _wait_for(model: LanguageModel) -> None:
    """Until copies to the host are complete."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
