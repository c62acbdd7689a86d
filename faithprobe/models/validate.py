"""What is checked once when a model is loaded (the habit is nnterp's): that its sites are what their names say.

Two forward passes over a few tokens. A model that fails is refused, because every later number would be wrong
without a sign of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from faithprobe.errors import HookError, ModelError
from faithprobe.models.hooks import capture, edit, evaluating, require_fired
from faithprobe.models.language_model import LanguageModel

N_TOKENS = 6


def validate_model(model: LanguageModel) -> None:
    """Checks the residual stream after every layer. Leaves modes, hooks and random state as they were.

    * each layer fires exactly once in a forward pass, with a tensor of shape [batch, position, d_model];
    * all of these, and the logits, are finite;
    * each is bit-equal to `output_hidden_states` (except the last layer, whose entry is after the final norm);
    * an edit after a middle layer changes the logits.

    Raises:
        ModelError: naming the hook, its layer, and the shapes or values in hand.
    """
    ids = _some_tokens(model)
    names = model.sites.resid_post()
    if not names:
        raise ModelError(f"{model.name}: the model has no layers")
    with evaluating(model), _hooks_kept(model.hf):
        with capture(model, names) as seen:
            out = model.hf(input_ids=ids, output_hidden_states=True, use_cache=False)
        try:
            require_fired(seen)
        except HookError as error:
            raise ModelError(f"{model.name}: {error}") from error
        _check_tensors(model, seen, (*ids.shape, model.d_model))
        _check_finite(model, "the logits", out.logits)
        _check_hidden_states(model, seen, out.hidden_states)
        _check_edit(model, ids, out.logits)


def _check_tensors(model: LanguageModel, seen: dict[str, list[Tensor]], shape: tuple[int, ...]) -> None:
    for name, (tensor,) in seen.items():
        if tuple(tensor.shape) != shape:
            raise ModelError(f"{model.name}: {name} has shape {list(tensor.shape)}, where {list(shape)} was expected")
        _check_finite(model, name, tensor)


def _check_finite(model: LanguageModel, what: str, tensor: Tensor) -> None:
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise ModelError(
            f"{model.name}: {bad} of {tensor.numel()} entries of {what} are NaN or infinite in {tensor.dtype}; "
            "the weights are damaged, or need a dtype of wider range (bfloat16, float32)"
        )


def _check_hidden_states(
    model: LanguageModel, seen: dict[str, list[Tensor]], hidden_states: tuple[Tensor, ...] | None
) -> None:
    # hidden_states[0] is the embedding, hidden_states[i + 1] the output of layer i.
    if hidden_states is None:
        return
    if len(hidden_states) != model.n_layers + 1:
        raise ModelError(
            f"{model.name}: {model.n_layers} layers have sites, but the model returns {len(hidden_states)} hidden "
            f"states where {model.n_layers + 1} were expected"
        )
    for (name, (tensor,)), hidden in zip(list(seen.items())[:-1], hidden_states[1:-1], strict=True):
        if not torch.equal(tensor, hidden):
            difference = "shapes differ" if tensor.shape != hidden.shape else float((tensor - hidden).abs().max())
            raise ModelError(
                f"{model.name}: {name} (shape {list(tensor.shape)}) is not the hidden state of its layer "
                f"(shape {list(hidden.shape)}): {difference}"
            )


def _check_edit(
    model: LanguageModel, ids: Int[Tensor, "batch position"], logits: Float[Tensor, "batch position vocabulary"]
) -> None:
    name = model.sites.resid_post()[model.n_layers // 2 if model.n_layers > 1 else 0]
    # One random direction: the same number in every entry would vanish in a LayerNorm.
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0)).to(model.device, model.dtype)
    with edit(model, {name: lambda tensor: tensor + direction * tensor.norm(dim=-1, keepdim=True)}):
        edited = model.hf(input_ids=ids, use_cache=False).logits
    if torch.equal(edited, logits):
        raise ModelError(
            f"{model.name}: an edit at {name} does not change the logits (shape {list(logits.shape)}); the hook does "
            "not sit on the path of the forward pass (is the model compiled?)"
        )


def _some_tokens(model: LanguageModel) -> Int[Tensor, "batch position"]:
    """A few token ids, spread over the vocabulary."""
    size = model.hf.get_input_embeddings().weight.shape[0]
    length = min(N_TOKENS, model.context_length)
    return torch.tensor([[(1 + i * size // (length + 1)) % size for i in range(length)]], device=model.device)


@contextmanager
def _hooks_kept(hf: nn.Module) -> Iterator[None]:
    """Takes away the hooks that transformers leaves in a model after its first `output_hidden_states=True`."""
    mark = "_output_capturing_hooks_installed"
    before = [(part, set(part._forward_hooks), mark in vars(part)) for part in hf.modules()]
    try:
        yield
    finally:
        for part, hooks, marked in before:
            for key in set(part._forward_hooks) - hooks:
                del part._forward_hooks[key]
            if not marked:
                vars(part).pop(mark, None)
