"""From a wiring to attention masks: where queries and keys stand in the layout, and who of them may look at whom.

A role is a position of the fixed layout, so it follows from the position ids: full passes, cached generation, a prefix
given in any pieces, padding on either side or between prefix and suffix.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from faithprobe.errors import ModelError
from faithprobe.organisms.wiring import Wiring


@lru_cache(maxsize=256)
def attention_mask(wiring: Wiring) -> Bool[Tensor, "layer role role"]:
    """Row: the role that looks; column: the role that is seen. Shared: copy before writing into it."""
    layout = wiring.layout
    mask = torch.zeros(layout.layers, len(layout.roles), len(layout.roles), dtype=torch.bool)
    for layer in range(layout.layers):
        for role, position in layout.index.items():
            mask[layer, position, [layout.index[seen] for seen in wiring.sees(role, layer + 1)]] = True
    return mask


def layout_positions(
    *,
    batch: int,
    length: int,
    past: int,
    padding: Shaped[Tensor, "batch key"] | None,
    position_ids: Int[Tensor, "_ query"] | None,
    device: torch.device,
) -> tuple[Int[Tensor, "batch query"], Int[Tensor, "batch key"]]:
    """Where the queries and all keys (past, then present) stand in the layout; keys that are padding: -1.

    Without position ids they are counted: from the mask's ones, or from the length of the past. Positions of past keys
    follow the mask; without one they count back from the first query.
    """
    if padding is not None:
        if tuple(padding.shape) != (batch, past + length):
            raise ModelError(
                f"attention_mask has shape {tuple(padding.shape)}, but {past} cached and {length} new tokens in "
                f"{batch} rows need {(batch, past + length)}"
            )
        padding = padding.to(device).bool()
        counted = (padding.long().cumsum(-1) - 1).clamp(min=0)
        queries = counted[:, past:] if position_ids is None else position_ids.to(device).expand(batch, length)
        keys = torch.cat([counted[:, :past], queries], dim=-1).masked_fill(~padding, -1)
        return queries, keys
    if position_ids is None:
        position_ids = torch.arange(past, past + length, device=device)[None]
    queries = position_ids.to(device).expand(batch, length)
    before = queries[:, :1] - torch.arange(past, 0, -1, device=device)
    return queries, torch.cat([before, queries], dim=-1)


def sight(
    wirings: list[Wiring], queries: Int[Tensor, "batch query"], keys: Int[Tensor, "batch key"]
) -> Bool[Tensor, "batch layer query key"]:
    """Which keys each query sees, in each layer; one wiring for all rows, or one a row.

    Past the layout's end a position sees `bos` and itself only.
    """
    masks = torch.stack([attention_mask(wiring) for wiring in wirings]).to(queries.device)
    kinds, layers, roles, _ = masks.shape
    table = torch.zeros(kinds, layers, roles + 1, roles + 1, dtype=torch.bool, device=queries.device)
    table[:, :, :roles, :roles] = masks
    table[:, :, roles, [0, roles]] = True
    row = torch.arange(len(queries) if kinds > 1 else 1, device=queries.device)[:, None, None, None]
    layer = torch.arange(layers, device=queries.device)[None, :, None, None]
    allowed = table[row, layer, queries.clamp(0, roles)[:, None, :, None], keys.clamp(0, roles)[:, None, None, :]]
    # order in the sequence, not of positions: padding and positions past the end share a role
    order = torch.arange(keys.shape[1], device=keys.device)
    causal = order[None, :] <= order[-queries.shape[1] :, None]
    return allowed & causal & (keys >= 0)[:, None, None, :]


def as_allowed(mask: Tensor, allowed: Bool[Tensor, "batch layer query key"]) -> Bool[Tensor, "_ _ query key"]:
    """A caller's 4D mask as booleans. Raises ModelError where it does not broadcast to batch, layer, query, key."""
    batch, layers, queries, keys = allowed.shape
    fits = mask.ndim == 4 and mask.shape[-2:] == allowed.shape[-2:]
    if not fits or mask.shape[0] not in (1, batch) or mask.shape[1] not in (1, layers):
        raise ModelError(
            f"attention_mask has shape {tuple(mask.shape)}; an organism takes [batch, past + new], or "
            f"[batch, 1 or {layers} layers, new, past + new], here [1 or {batch}, 1 or {layers}, {queries}, {keys}]"
        )
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def additive(
    allowed: Bool[Tensor, "batch layer query key"], dtype: torch.dtype
) -> Float[Tensor, "batch layer query key"]:
    """0 where seen, the lowest number elsewhere: `exp` of it is exactly 0, and eager and sdpa both take it."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)
