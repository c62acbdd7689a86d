"""`splice`: one window of another run in all layers, by a splice of key-value caches, against hooks that set the
embeddings and every layer's output in a full pass.

Both sides are given the two runs: their caches to ours, their activations to the peer. `batched` is eight windows of
the same pair at once, on both sides.
"""

from __future__ import annotations

import torch

from benchmarks.harness import paired
from benchmarks.inputs import prompts
from benchmarks.peers import full_pass, interchanged
from faithprobe import load_model
from faithprobe.interventions.splice import Interchange, force_spliced, mixed_donor
from faithprobe.models.forcing import force
from faithprobe.models.generation import PrefixCache

LENGTH, CHANGED = 91, 40
"""Tokens of base and source; the position at which they differ."""


def run() -> dict[str, object]:
    model = load_model("smollm2")
    base = prompts(model, 1, shots=3)[0][-LENGTH:]
    other = next(token for token in model.tokenizer("0123456789")["input_ids"] if token != base[CHANGED])
    source = (*base[:CHANGED], other, *base[CHANGED + 1 :])
    assert len(base) == LENGTH

    # one window that ends at 3/4 of what follows the difference; eight that end at different places
    windows = [tuple(range(CHANGED, end)) for end in (78, 50, 55, 60, 65, 70, 75, 85)]
    prefixes = PrefixCache(model)
    clean = force(model, [base, source], prefixes=prefixes, start_at=0)
    donors = [clean.donor.row(i, LENGTH) for i in (0, 1)]
    activations = full_pass(model, source)[1]
    last = LENGTH - 1

    def ours(n: int) -> torch.Tensor:
        spliced = [mixed_donor(donors[0], donors[1], Interchange(base, source, window)) for window in windows[:n]]
        logprobs = force_spliced(model, [base] * n, spliced, prefixes=prefixes, read=[last]).logprobs
        assert logprobs is not None
        return logprobs[:, 0]

    @torch.no_grad()
    def peer(n: int) -> torch.Tensor:
        with interchanged(model, windows[:n], [activations] * n):
            ids = torch.tensor([base] * n, device=model.device)
            return model.hf(input_ids=ids, logits_to_keep=1).logits[:, -1].log_softmax(-1)

    error = (ours(8) - peer(8)).abs().max().item()
    assert error < 5e-5, f"the splice differs from the hooks by {error:.1e}"
    unpatched = full_pass(model, base)[0][last].log_softmax(-1)
    effect = (ours(1)[0] - unpatched).abs().max().item()
    assert effect > 100 * error, "the interchange changes nothing, so equality shows nothing"
    batched = paired(lambda: ours(8), lambda: peer(8)).result()
    return paired(lambda: ours(1), lambda: peer(1), n=15).result(
        error=error,
        tolerance=5e-5,
        effect=effect,
        tokens=LENGTH,
        window=len(windows[0]),
        batched=batched,
        model=model.name,
    )
