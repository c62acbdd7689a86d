"""What a user would otherwise write, in plain Hugging Face and torch: peers of the benchmarks, truths of tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithprobe.models.language_model import LanguageModel

Tokens = Sequence[int]
Activations = list[Float[Tensor, "position d_model"]]
"""Of one run: the token embeddings, then the output of every layer."""


def parts(model: LanguageModel) -> list[nn.Module]:
    """The embedding and every layer."""
    names = ("hook_embed", *(f"blocks.{i}.hook_resid_post" for i in range(model.n_layers)))
    return [model.sites[name].module for name in names]


@torch.no_grad()
def full_pass(model: LanguageModel, row: Tokens) -> tuple[Float[Tensor, "position vocabulary"], Activations]:
    """Logits and activations of one row alone: no batch, no padding, no cache."""
    seen: Activations = []

    def record(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output)[0])

    hooks = [part.register_forward_hook(record) for part in parts(model)]
    try:
        logits = model.hf(input_ids=torch.tensor([list(row)], device=model.device), use_cache=False).logits[0]
    finally:
        for hook in hooks:
            hook.remove()
    return logits, seen


@contextmanager
def interchanged(
    model: LanguageModel, windows: Sequence[Sequence[int]], sources: Sequence[Activations]
) -> Iterator[None]:
    """Sets row i's embeddings and all layers' outputs at its window to those of its source run."""

    def replace(part: int) -> Callable[..., object]:
        def change(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> object:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            for row, (window, source) in enumerate(zip(windows, sources, strict=True)):
                hidden[row, list(window)] = source[part][list(window)]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return change

    hooks = [part.register_forward_hook(replace(i)) for i, part in enumerate(parts(model))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def interchange_by_hooks(
    model: LanguageModel,
    base: Tokens,
    source: Tokens,
    window: Sequence[int],
    keep: Sequence[int] = (),
) -> Float[Tensor, "position vocabulary"]:
    """Logits of the base run with the source's state at the window and the base's own at the kept positions."""
    given, own = full_pass(model, source)[1], full_pass(model, base)[1]
    mixed = [s.clone() for s in given]
    for part, kept in zip(mixed, own, strict=True):
        part[list(keep)] = kept[list(keep)]
    with interchanged(model, [[*window, *keep]], [mixed]):
        return model.hf(input_ids=torch.tensor([list(base)], device=model.device), use_cache=False).logits[0]


@torch.no_grad()
def greedy(model: LanguageModel, row: Tokens, n: int) -> tuple[list[int], Float[Tensor, "step vocabulary"]]:
    """n tokens and the logits that chose them, each from a full pass over everything before it."""
    tokens, logits = list(row), []
    for _ in range(n):
        logits.append(full_pass(model, tokens)[0][-1])
        tokens.append(int(logits[-1].argmax()))
    return tokens[len(row) :], torch.stack(logits)
