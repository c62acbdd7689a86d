"""Fixed inputs of the benchmarks with a real model: few-shot arithmetic, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from faithprobe.models.generation import Tokens, encode, end_tokens
from faithprobe.models.language_model import LanguageModel
from faithprobe.tasks.arithmetic import Arithmetic


def prompts(model: LanguageModel, n: int, *, shots: int) -> list[tuple[int, ...]]:
    """Token ids of n two-step problems with their examples."""
    task = Arithmetic(steps=2, shots=shots)
    return [encode(model, task.prompt(problem)) for problem in task.problems(n, seed=0)]


def left_padded(model: LanguageModel, rows: Sequence[Tokens]) -> dict[str, torch.Tensor]:
    """Prompts as `generate` of transformers takes them."""
    longest = max(map(len, rows))
    ids = [[model.pad_id] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }


@torch.no_grad()
def plain_generate(model: LanguageModel, batch: dict[str, torch.Tensor], new_tokens: int) -> torch.Tensor:
    """Greedy, as one would write it."""
    return model.hf.generate(
        **batch,
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=model.pad_id,
        eos_token_id=end_tokens(model),
    )
