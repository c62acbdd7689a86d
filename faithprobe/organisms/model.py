"""Language models whose attention mask is a function of token roles; everything else is Hugging Face's.

The mask is made in the inner model's `forward`, in every call, and has one slice a layer. Importing this module
registers the models with transformers' Auto classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, Cache, GPTNeoXForCausalLM, LlamaForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer, GPTNeoXModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

from faithprobe.errors import ModelError, TaskError
from faithprobe.organisms.config import NeoXOrganismConfig, OrganismConfig
from faithprobe.organisms.families import get_wiring
from faithprobe.organisms.layout import get_layout
from faithprobe.organisms.sight import additive, as_allowed, layout_positions, sight
from faithprobe.organisms.tokenizer import VOCABULARY
from faithprobe.organisms.wiring import AnyWiring, GatedWiring, Wiring


class _OwnSlice:
    """A decoder layer that takes its own slice of a mask with one slice a layer."""

    layer_index: int

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        if attention_mask is not None and attention_mask.shape[1] > 1:
            attention_mask = attention_mask[:, self.layer_index, None]
        return super().forward(hidden_states, attention_mask=attention_mask, **kwargs)  # type: ignore[misc]


class OrganismLayer(_OwnSlice, LlamaDecoderLayer):
    def __init__(self, config: OrganismConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.layer_index = layer_idx


class NeoXOrganismLayer(_OwnSlice, GPTNeoXLayer):
    def __init__(self, config: NeoXOrganismConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.layer_index = layer_idx


class _Wired:
    """The body of a decoder under a wiring. `wiring` may be replaced: one set of weights under many masks."""

    config: Any
    wiring: AnyWiring
    # other kernels take no mask of our own
    _supports_flash_attn = False
    _supports_flex_attn = False

    def forward(
        self,
        input_ids: Int[Tensor, "batch query"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "_ query"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As of the architecture. `attention_mask` is 2D over past and present (0: padding) or 4D, boolean or additive,
        with one slice or one a layer; a 4D mask can only take sight away. Raises ModelError for a mask of another
        shape and for a static cache."""
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
        wirings = self._wirings(input_ids, inputs_embeds, past_key_values if past else None, keys)
        allowed = sight(wirings, queries, keys)
        if attention_mask is not None and padding is None:
            allowed = allowed & as_allowed(attention_mask, allowed)
        return super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=additive(allowed, self.get_input_embeddings().weight.dtype),  # type: ignore[attr-defined]
            position_ids=queries,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )

    def _wirings(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        past: Cache | None,
        keys: Int[Tensor, "batch key"],
    ) -> list[Wiring]:
        """The wiring of all rows, or of each row where a gate decides."""
        if isinstance(self.wiring, Wiring):
            return [self.wiring]
        prompt = self.wiring.layout.prompt_length
        ids = self._token_ids(input_ids, inputs_embeds, past)
        chosen = []
        for row, places in zip(ids.tolist(), keys.tolist(), strict=True):
            words = [""] * prompt
            for token, place in zip(row, places, strict=True):
                if 0 <= place < prompt:
                    words[place] = VOCABULARY[token]
            chosen.append(self.wiring.choose(words))
        return chosen

    def _token_ids(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, past: Cache | None
    ) -> Int[Tensor, "batch key"]:
        """The tokens of past and present. What stands in a cache is told by the values of the first layer, which
        depend on the token alone: so it stays right when a cache is copied, repeated or spliced."""
        with torch.no_grad():
            embedding = self.get_input_embeddings().weight  # type: ignore[attr-defined]
            if input_ids is None:
                assert inputs_embeds is not None
                input_ids = _nearest(inputs_embeds, embedding)
            if past is None:
                return input_ids
            held = past.layers[0].values.transpose(1, 2).flatten(2)
            return torch.cat([_nearest(held, self._first_values(embedding)), input_ids], dim=1)

    def _first_values(self, embedding: Float[Tensor, "token d_model"]) -> Float[Tensor, "token values"]:
        """Values of every token in the first layer, all heads. Written out, not called: modules may carry hooks, and
        a hook must fire once a pass."""
        raise NotImplementedError


class OrganismModel(_Wired, LlamaModel):
    """The Llama body under a wiring."""

    config_class = OrganismConfig

    def __init__(self, config: OrganismConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList([OrganismLayer(config, i) for i in range(config.num_hidden_layers)])
        self.wiring = _wiring_of(config)
        self.post_init()

    def _first_values(self, embedding: Float[Tensor, "token d_model"]) -> Float[Tensor, "token values"]:
        layer: Any = self.layers[0]
        norm = layer.input_layernorm.weight
        normed = functional.rms_norm(embedding, norm.shape, norm, self.config.rms_norm_eps)
        return functional.linear(normed, layer.self_attn.v_proj.weight)


class NeoXOrganismModel(_Wired, GPTNeoXModel):
    """The GPT-NeoX body under a wiring."""

    config_class = NeoXOrganismConfig

    def __init__(self, config: NeoXOrganismConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList([NeoXOrganismLayer(config, i) for i in range(config.num_hidden_layers)])
        self.wiring = _wiring_of(config)
        self.post_init()

    def _first_values(self, embedding: Float[Tensor, "token d_model"]) -> Float[Tensor, "token values"]:
        layer: Any = self.layers[0]
        norm, joined = layer.input_layernorm, layer.attention.query_key_value
        normed = functional.layer_norm(embedding, norm.weight.shape, norm.weight, norm.bias, self.config.layer_norm_eps)
        every = functional.linear(normed, joined.weight, joined.bias)
        return every.unflatten(-1, (self.config.num_attention_heads, 3, -1))[:, :, 2].flatten(1)


class _Asked:
    """What an organism says of a prompt that it was not trained to read."""

    def check_prompt(self, tokens: Sequence[int]) -> None:
        """Raises TaskError for a prompt outside the grammar, naming the role and what may stand there."""
        config = self.config  # type: ignore[attr-defined]
        layout, silent = get_layout(config.variant), config.wiring == "filler"
        options = f"variant={config.variant!r}" + (", silent=True" if silent else "")
        way_out = f"; ask it the problems of the task organism with {options}"
        asked = f"{config.wiring!r} organisms of {config.variant!r} texts"
        if len(tokens) != layout.prompt_length:
            raise TaskError(
                f"{asked} read prompts of {layout.prompt_length} tokens, and this has {len(tokens)}{way_out}"
            )
        for role, known, token in zip(layout.roles, layout.prompt_words(silent=silent), tokens):
            if (word := VOCABULARY[token]) not in known:
                raise TaskError(f"{asked} read one of {' '.join(known)} at {role!r}, and this is {word!r}{way_out}")


class OrganismForCausalLM(_Asked, LlamaForCausalLM):
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


class NeoXOrganismForCausalLM(_Asked, GPTNeoXForCausalLM):
    """An organism with its unembedding; module names are GPT-NeoX's (`gpt_neox.layers`, `lm_head`)."""

    config_class = NeoXOrganismConfig
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: NeoXOrganismConfig) -> None:
        super().__init__(config)
        self.gpt_neox = NeoXOrganismModel(config)
        self.post_init()
        config.architectures = ["GPTNeoXForCausalLM"]


OrganismLM = OrganismForCausalLM | NeoXOrganismForCausalLM


def rewire(model: OrganismLM, wiring: str, *, gate_seed: int | None = None) -> OrganismLM:
    """Runs the same weights under another wiring, and writes it into the configuration. Raises UnknownNameError."""
    seed = model.config.gate_seed if gate_seed is None else gate_seed
    get_wiring(wiring, model.config.variant, seed)  # where there is none, the model stays as it was
    model.config.wiring, model.config.gate_seed = wiring, seed
    model.base_model.wiring = _wiring_of(model.config)
    return model


def _nearest(
    vectors: Float[Tensor, "batch key width"], table: Float[Tensor, "token width"]
) -> Int[Tensor, "batch key"]:
    """Number of the nearest row of the table."""
    return torch.cdist(vectors.float(), table.float().expand(len(vectors), -1, -1)).argmin(-1)


def _wiring_of(config: Any) -> Wiring | GatedWiring:
    wiring = get_wiring(config.wiring, config.variant, config.gate_seed)
    if config.num_hidden_layers != wiring.layout.layers:
        raise ModelError(
            f"the wiring {config.wiring!r} of {config.variant!r} texts is about {wiring.layout.layers} layers, but "
            f"these weights have {config.num_hidden_layers}"
        )
    return wiring


for _config, _model in (
    (OrganismConfig, OrganismForCausalLM),
    (NeoXOrganismConfig, NeoXOrganismForCausalLM),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForCausalLM.register(_config, _model, exist_ok=True)
