"""`shared_prefix`: few-shot prompts that begin alike, answered with the common beginning computed once, against plain
`generate` on the whole prompts."""

from __future__ import annotations

import torch

from benchmarks.harness import paired
from benchmarks.inputs import left_padded, plain_generate, prompts
from faithprobe import load_model
from faithprobe.models.generation import Decoding, generate

ROWS, NEW, SHOTS = 8, 32, 6


def run() -> dict[str, object]:
    model = load_model("smollm2")
    rows = prompts(model, ROWS, shots=SHOTS)
    batch = left_padded(model, rows)
    decoding = Decoding(max_new_tokens=NEW, batch_size=ROWS)

    def ours() -> dict[int, tuple[int, ...]]:
        return {done.index: done.tokens for done in generate(model, rows, decoding)}

    def peer() -> torch.Tensor:
        return plain_generate(model, batch, NEW)

    new = peer()[:, batch["input_ids"].shape[1] :].tolist()
    assert all(new[i][: len(tokens)] == list(tokens) for i, tokens in ours().items()), "different texts"
    return paired(ours, peer, n=4).result(
        rows=ROWS, new_tokens=NEW, prompt_tokens=max(map(len, rows)), shots=SHOTS, model=model.name
    )
