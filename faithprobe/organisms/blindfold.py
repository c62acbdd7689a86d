"""A mask at inference time on any Hugging Face decoder: chosen positions cannot see chosen others, in any layer.

What a position cannot see through any path of attention cannot matter to it: not to its logits, not to their gradient,
to the last bit. A rule hides the keys [start, end) from the queries of a range. Both are token positions of the row,
not slots, so it is the same rule in a full pass, in cached generation, in teacher forcing and in a splice, whatever is
padded where. All rows of a batch are under the same rules.

One path is no attention: what a position predicts depends on its own token. Where the last token of a literal is
hidden from all that follow, it would still choose the next token; `says` fixes what is predicted there.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from faithprobe.errors import HookError, ModelError
from faithprobe.models.generation import keeps_keys_and_values
from faithprobe.models.language_model import LanguageModel
from faithprobe.models.sites import unwrapped
from faithprobe.organisms.sight import layout_positions

MASKED_ATTENTION = ("sdpa", "eager")
"""Attention implementations that take a mask with an entry for every query and key."""


@dataclass(frozen=True)
class Rule:
    """Queries at positions [start, end) do not see the keys at positions `keys`."""

    keys: tuple[int, int]
    """[start, end)."""
    start: int
    end: int | None = None
    """None: every later position."""

    def __post_init__(self) -> None:
        if not 0 <= self.keys[0] < self.keys[1]:
            raise ModelError(f"{self} hides no position: `keys` is [start, end) with 0 <= start < end")
        if self.end is not None and self.end <= self.start:
            raise ModelError(f"{self} is about no query: `end` must be greater than `start`, or None")
        if self.start < self.keys[1]:
            raise ModelError(
                f"{self} is about the future: a position sees itself always and later ones never, so queries must "
                f"begin at position {self.keys[1]} or later"
            )


@dataclass(eq=False)
class Blindfold:
    """What the hooks of one `blindfold` share."""

    rules: tuple[Rule, ...]
    says: Mapping[int, int]
    n_layers: int
    hidden: list[int] = field(default_factory=list)
    """For each rule, the pairs of query and key that it has hidden so far, over all rows and passes."""
    _now: Bool[Tensor, "batch 1 query key"] | None = None
    _queries: Int[Tensor, "batch query"] | None = None
    _keys: Int[Tensor, "batch key"] | None = None
    _fired: int = 0
    _computed: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.hidden = [0] * len(self.rules)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Of the whole model: where queries and keys stand in this pass, and what is hidden."""
        given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        tokens = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
        cache, padding = given.get("past_key_values"), given.get("attention_mask")
        if tokens is None:
            raise ModelError("a blindfolded model needs input_ids or inputs_embeds")
        if cache is not None and getattr(cache, "is_compileable", False):
            raise ModelError("a blindfold needs a cache that grows: use DynamicCache, not a static one")
        if padding is not None and padding.ndim != 2:
            raise ModelError(
                f"attention_mask has shape {tuple(padding.shape)}; under a blindfold give the 2D mask [batch, past + "
                "new], and put everything that is to be hidden into the blindfold's rules"
            )
        past = int(cache.get_seq_length()) if cache is not None else 0
        self._queries, self._keys = layout_positions(
            batch=tokens.shape[0],
            length=tokens.shape[1],
            past=past,
            padding=padding,
            position_ids=given.get("position_ids"),
            device=tokens.device,
        )
        if past and not getattr(cache, "spliced", False):  # an intervention's own states stand there on purpose
            self._check_past(cache, self._keys[:, :past])
        self._now = self._hide(self._queries, self._keys)
        self._fired = 0

    def on_layer(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Of a decoder layer: takes sight away from the mask that the layer was given, full or sliding."""
        call = inspect.signature(module.forward).bind(*args, **kwargs)
        states = call.arguments["hidden_states"]
        if self._now is None or states.shape[:2] != (self._now.shape[0], self._now.shape[2]):
            raise HookError(
                "a layer runs in a pass that the blindfold did not see begin; call the whole model, not its body, and "
                "without gradient checkpointing"
            )
        self._fired += 1
        call.arguments["attention_mask"] = _narrowed(call.arguments.get("attention_mask"), self._now, states)
        return call.args, call.kwargs

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Of the whole model: every layer was masked; remembers what was computed; says what is fixed."""
        self._now = None
        if self._fired != self.n_layers:
            raise HookError(f"{self._fired} of {self.n_layers} layers were masked; is the model compiled?")
        assert self._queries is not None
        assert self._keys is not None
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            self._computed.update(self._states(cache, self._keys, new=self._queries.shape[1]))
        if self.says:
            given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
            output.logits = self._said(output.logits, given.get("logits_to_keep", 0))
        return output

    def _hide(
        self, queries: Int[Tensor, "batch query"], keys: Int[Tensor, "batch key"]
    ) -> Bool[Tensor, "batch 1 query key"]:
        hidden = torch.zeros(*queries.shape, keys.shape[1], dtype=torch.bool, device=queries.device)
        for i, rule in enumerate(self.rules):
            blind = queries >= rule.start
            if rule.end is not None:
                blind &= queries < rule.end
            out_of_sight = (keys >= rule.keys[0]) & (keys < rule.keys[1])
            pairs = blind[:, :, None] & out_of_sight[:, None, :]
            self.hidden[i] += int(pairs.sum())
            hidden |= pairs
        return hidden[:, None]

    def _check_past(self, cache: Any, keys: Int[Tensor, "batch past"]) -> None:
        """What a rule changes in a cache must have been computed under this blindfold. It is told by its content,
        which stays the same where a cache is copied, cut or put together from others."""
        foreign = [state for state in self._states(cache, keys, new=keys.shape[1]) if state not in self._computed]
        if foreign:
            raise ModelError(
                f"{len(foreign)} cached states behind position {self._first} were not computed under this blindfold, "
                "whose rules change them; use a PrefixCache (a Subject) that is made inside and used nowhere else"
            )

    def _states(self, cache: Any, keys: Int[Tensor, "batch key"], *, new: int) -> list[bytes]:
        """The last layer's keys of the `new` last slots, where some rule can change them."""
        if self._first is None:
            return []
        full = [layer for layer in cache.layers if not getattr(layer, "is_sliding", False)]
        held = (full or cache.layers)[-1].keys
        new = min(new, held.shape[-2])
        at = (keys[:, keys.shape[1] - new :] >= self._first).nonzero().tolist()
        if not at:
            return []
        states = held[:, 0, held.shape[-2] - new :].detach().contiguous().view(torch.uint8).cpu().numpy()
        return [states[row, slot].tobytes() for row, slot in at]

    @property
    def _first(self) -> int | None:
        """The first position whose state depends on the rules."""
        return min((rule.start for rule in self.rules), default=None)

    def _said(self, logits: Float[Tensor, "batch kept vocabulary"], keep: Any) -> Float[Tensor, ...]:
        queries = self._queries
        assert queries is not None
        queries = queries[:, keep] if isinstance(keep, Tensor) else queries[:, -keep:] if keep else queries
        for position, token in self.says.items():
            fixed = torch.full_like(logits[0, 0], torch.finfo(logits.dtype).min)
            fixed[token] = 0
            logits = torch.where((queries == position)[..., None], fixed, logits)
        return logits


@contextmanager
def blindfold(
    model: LanguageModel, rules: Sequence[Rule], *, says: Mapping[int, int] | None = None
) -> Iterator[Blindfold]:
    """Runs `model` under `rules` in every forward pass of the body; afterwards it is as it was.

    Caches that are made inside belong inside: a prefix that was computed under a rule and is used outside would be
    wrong without a sign of it. The other way round is caught: what a rule changes in a cache must have been computed
    under the same blindfold. Only what an intervention splices in is not checked: it is meant to be foreign.

    Args:
        model: a Hugging Face decoder whose layers keep keys and values; sliding windows are fine.
        rules: what is hidden from whom; by token position of the row, the same for all rows.
        says: position -> token id: the logits there are the lowest number for every other token.

    Raises:
        ModelError: flash attention, recurrent layers, compiled models and bridges; in a pass, a static cache, a mask
            that is not 2D, and a cache that was computed otherwise. HookError: a layer that was not masked.
    """
    layers = [_maskable(model, i) for i in range(model.n_layers)]
    _check(model)
    if not rules and not says:
        raise ModelError("a blindfold without rules hides nothing; use the plain model")
    hf = unwrapped(model.hf)
    fold = Blindfold(tuple(rules), dict(says or {}), len(layers))
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(fold.on_layer, with_kwargs=True).remove)
        stack.callback(hf.register_forward_pre_hook(fold.before, with_kwargs=True).remove)
        stack.callback(hf.register_forward_hook(fold.after, with_kwargs=True).remove)
        yield fold


def _check(model: LanguageModel) -> None:
    config = model.hf.config.get_text_config(decoder=True)
    kind = getattr(config, "_attn_implementation", None)
    if kind not in MASKED_ATTENTION:
        raise ModelError(
            f"{model.name}: attention {kind!r} takes no mask of queries and keys; call "
            "model.hf.set_attn_implementation('sdpa') first"
        )
    if hasattr(model.hf, "_orig_mod"):
        raise ModelError(f"{model.name} is compiled, so hooks do not fire; blindfold the plain model")
    if not keeps_keys_and_values(model):
        raise ModelError(
            f"{model.name} has layers that keep something else than keys and values (recurrent, linear or "
            "convolutional ones): a mask does not say what they see"
        )


def _maskable(model: LanguageModel, i: int) -> nn.Module:
    layer = model.sites.layer(i)
    parameters = inspect.signature(layer.forward).parameters
    if not {"hidden_states", "attention_mask"} <= set(parameters):
        raise ModelError(
            f"{model.name}: layer {i} ({type(layer).__name__}) takes no attention mask; blindfold the plain Hugging "
            "Face model, not a TransformerBridge"
        )
    return layer


def _narrowed(mask: Tensor | None, hidden: Bool[Tensor, "batch 1 query key"], states: Tensor) -> Tensor:
    """A layer's own mask without what is hidden. None stands for a causal mask without padding."""
    length, total = hidden.shape[2:]
    if mask is None:
        order = torch.arange(total, device=hidden.device)
        unseen = hidden | (order[None, :] > order[total - length :, None])
        return torch.zeros_like(unseen, dtype=states.dtype).masked_fill(unseen, torch.finfo(states.dtype).min)
    if mask.ndim != 4 or mask.shape[2] != length or mask.shape[3] > total:
        raise ModelError(f"a layer has a mask of shape {tuple(mask.shape)} where {length} queries see {total} keys")
    hidden = hidden[..., total - mask.shape[3] :]  # a sliding window has dropped its oldest keys
    return mask & ~hidden if mask.dtype == torch.bool else mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
