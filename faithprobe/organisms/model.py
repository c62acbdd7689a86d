"""A Llama whose attention mask is a function of token roles; everything else is Hugging Face's.

A role is a position of the fixed layout, so it follows from the position ids. The mask is made in the inner model's
`forward`, in every call: full passes, cached generation, a prefix given in any pieces, padding on either side or
between prefix and suffix. Importing this module registers the model with transformers' Auto classes.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Cache, LlamaForCausalLM, LlamaModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from faithprobe.errors import ModelError
from faithprobe.organisms import wiring as wirings
from faithprobe.organisms.config import OrganismConfig
from faithprobe.organisms.wiring import LAYOUT, Wiring


class OrganismModel(LlamaModel):
    """The Llama body under its wiring. `wiring` may be replaced: one set of weights under many masks."""

    config_class = OrganismConfig
    # other kernels take no mask of our own
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: OrganismConfig) -> None:
        super().__init__(config)
        if config.layout is not None and tuple(config.layout) != LAYOUT:
            raise ModelError(
                f"this organism was trained on the layout {' '.join(config.layout)}, not {' '.join(LAYOUT)}"
            )
        self.wiring: Wiring = wirings.get_wiring(config.wiring)

    def forward(
        self,
        input_ids: Int[Tensor, "batch query"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "_ query"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As LlamaModel. `attention_mask` is 2D over past and present (0: padding) or 4D, boolean or additive; a 4D
        mask can only take sight away. Raises ModelError for a mask of another shape and for a static cache."""
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise ModelError("an organism needs input_ids or inputs_embeds")
        if past_key_values is not None and getattr(past_key_values, "is_compileable", False):
            raise ModelError("an organism's mask needs a cache that grows: use DynamicCache, not a static one")
        past = int(past_key_values.get_seq_length()) if past_key_values is not None else 0
        padding = attention_mask if attention_mask is not None and attention_mask.ndim == 2 else None
        queries, keys = layout_positions(
            batch=given.shape[0],
            length=given.shape[1],
            past=past,
            padding=padding,
            position_ids=position_ids,
            device=given.device,
        )
        allowed = sight(self.wiring, queries, keys)
        if attention_mask is not None and padding is None:
            allowed = allowed & _as_allowed(attention_mask, allowed)
        return super().forward(
            input_ids=input_ids,
            attention_mask=_additive(allowed, self.embed_tokens.weight.dtype),
            position_ids=queries,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )


class OrganismForCausalLM(LlamaForCausalLM):
    """An organism with its unembedding; module names are Llama's (`model.layers`, `model.norm`, `lm_head`)."""

    config_class = OrganismConfig
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: OrganismConfig) -> None:
        super().__init__(config)
        self.model = OrganismModel(config)
        self.post_init()
        # tools look here for the family whose module names they know
        config.architectures = ["LlamaForCausalLM"]


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
    wiring: Wiring, queries: Int[Tensor, "batch query"], keys: Int[Tensor, "batch key"]
) -> Bool[Tensor, "batch 1 query key"]:
    """Which keys each query sees. Past the layout's end a position sees `bos` and itself only."""
    roles = len(LAYOUT)
    table = torch.zeros(roles + 1, roles + 1, dtype=torch.bool, device=queries.device)
    table[:roles, :roles] = wirings.attention_mask(wiring).to(queries.device)
    table[roles, [0, roles]] = True
    allowed = table[queries.clamp(0, roles)[:, :, None], keys.clamp(0, roles)[:, None, :]]
    # order in the sequence, not of positions: padding and positions past the end share a role
    order = torch.arange(keys.shape[1], device=keys.device)
    causal = order[None, :] <= order[-queries.shape[1] :, None]
    return (allowed & causal & (keys >= 0)[:, None, :])[:, None]


def _as_allowed(mask: Tensor, allowed: Tensor) -> Tensor:
    """A caller's 4D mask as booleans. Raises ModelError where it does not broadcast to batch, heads, query, key."""
    if mask.ndim != 4 or mask.shape[-2:] != allowed.shape[-2:]:
        raise ModelError(
            f"attention_mask has shape {tuple(mask.shape)}; an organism takes [batch, past + new] or "
            f"[batch, 1, new, past + new], here [.., {allowed.shape[-2]}, {allowed.shape[-1]}]"
        )
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where seen, the lowest number elsewhere: `exp` of it is exactly 0, and eager and sdpa both take it."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


AutoConfig.register(OrganismConfig.model_type, OrganismConfig, exist_ok=True)
AutoModelForCausalLM.register(OrganismConfig, OrganismForCausalLM, exist_ok=True)
