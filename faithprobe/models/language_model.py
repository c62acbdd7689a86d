"""A language model as faithprobe uses one: the user's Hugging Face model, untouched, with named sites."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from faithprobe.models.sites import Sites

_CONTEXT_FIELDS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
)
# Fields of a config that say how or where a model was loaded, not what it computes.
_LOADING_FIELDS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
_SAMPLE = 256


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model, its tokenizer and its sites. Made by `load_model`, which has validated it.

    The model keeps the mode (train or eval) in which it came; measure inside `faithprobe.models.hooks.evaluating`.
    """

    hf: PreTrainedModel
    """Called as Hugging Face calls it; never rewritten, in eval mode while faithprobe uses it. Of a
    `TransformerBridge`, the model that it has wrapped: the same call, through the bridge's hook points."""
    tokenizer: PreTrainedTokenizerBase
    name: str
    """As the user asked for it; printed in reports."""
    sites: Sites
    """Resolves `blocks.3.hook_resid_post` to a module and which of its tensors."""
    fingerprint: str
    """Hash of the configuration and of the weights: artifacts made with another model are refused."""

    def __repr__(self) -> str:
        """One line: the modules and weights of a model fill pages."""
        kind = f"{type(self.hf).__name__}, {self.n_layers} layers of width {self.d_model}"
        return f"LanguageModel({self.name!r}: {kind}, {str(self.dtype).removeprefix('torch.')} on {self.device})"

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def n_layers(self) -> int:
        return self.sites.n_layers

    @property
    def d_model(self) -> int:
        return self.sites.d_model

    @property
    def context_length(self) -> int:
        """The most tokens that the model can read; where its config sets no limit (ALiBi), the tokenizer's."""
        config = self.hf.config.get_text_config(decoder=True)
        for name in _CONTEXT_FIELDS:
            length = getattr(config, name, None)
            if isinstance(length, int) and length > 0:
                return length
        return int(self.tokenizer.model_max_length)

    @property
    def pad_id(self) -> int:
        """The token to pad with: the tokenizer's own, else its end of sequence, else 0. Padding is always masked."""
        for candidate in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if candidate is not None:
                return int(candidate)
        return 0

    @cached_property
    def tokenizer_hash(self) -> str:
        """16 hex digits over the vocabulary, the merges, the special tokens and the chat template."""
        tokenizer: Any = self.tokenizer
        parts: dict[str, Any] = {
            "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
            "chat": tokenizer.chat_template,
        }
        if getattr(tokenizer, "backend_tokenizer", None) is not None:
            parts["backend"] = json.loads(tokenizer.backend_tokenizer.to_str())
            # Set by the last call with padding=True or truncation=True, so no property of the tokenizer.
            for state in ("padding", "truncation"):
                parts["backend"].pop(state, None)
        else:
            parts["vocabulary"] = tokenizer.get_vocab()
        return _digest(json.dumps(parts, sort_keys=True, default=str).encode())


def model_fingerprint(hf: PreTrainedModel) -> str:
    """16 hex digits over the configuration and a sample of up to 256 entries of every weight tensor.

    The sample makes it cheap (a second for a billion parameters) and equal on every device; any training step changes
    it, an edit of a few entries may not. It does not depend on where the model was loaded from. The same weights in
    another dtype, or inside a `TransformerBridge`, are another model: their activations differ.
    """
    import torch

    config = {name: value for name, value in hf.config.to_dict().items() if name not in _LOADING_FIELDS}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(hf.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        picked = torch.linspace(0, max(flat.numel() - 1, 0), min(_SAMPLE, flat.numel()), dtype=torch.float64).long()
        sample = flat[picked.to(flat.device)].cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes() if sample.numel() else b"")
    return digest.hexdigest()[:16]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
