"""`splice`: one window of another run in all layers, by a splice of key-value caches, against hooks that set the
embeddings and every layer's output in a full pass.

Both sides are given the two runs: their caches to ours, their activations to the peer. The window ends in front of the
last position, where the literal is predicted; `early` ends 12 positions before it, which are then computed anew, and
`batched` is eight windows of the same pair at once, on both sides.
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

    window, early = tuple(range(CHANGED, LENGTH - 1)), tuple(range(CHANGED, LENGTH - 13))
    several = [window[4 * k :] for k in range(8)]
    prefixes = PrefixCache(model)
    clean = force(model, [base, source], prefixes=prefixes, start_at=0)
    donors = [clean.donor.row(i, LENGTH) for i in (0, 1)]
    activations = full_pass(model, source)[1]
    last = LENGTH - 1

    def ours(windows: list[tuple[int, ...]]) -> torch.Tensor:
        spliced = [mixed_donor(donors[0], donors[1], Interchange(base, source, window)) for window in windows]
        logprobs = force_spliced(model, [base] * len(windows), spliced, prefixes=prefixes, read=[last]).logprobs
        assert logprobs is not None
        return logprobs[:, 0]

    @torch.no_grad()
    def peer(windows: list[tuple[int, ...]]) -> torch.Tensor:
        with interchanged(model, windows, [activations] * len(windows)):
            ids = torch.tensor([base] * len(windows), device=model.device)
            return model.hf(input_ids=ids, logits_to_keep=1).logits[:, -1].log_softmax(-1)

    error = max((ours(given) - peer(given)).abs().max().item() for given in (several, [early]))
    assert error < 5e-5, f"the splice differs from the hooks by {error:.1e}"
    unpatched = full_pass(model, base)[0][last].log_softmax(-1)
    effect = (ours([window])[0] - unpatched).abs().max().item()
    assert effect > 100 * error, "the interchange changes nothing, so equality shows nothing"
    return paired(lambda: ours([window]), lambda: peer([window]), n=15).result(
        error=error,
        tolerance=5e-5,
        effect=effect,
        tokens=LENGTH,
        window=len(window),
        early=paired(lambda: ours([early]), lambda: peer([early])).result(),
        batched=paired(lambda: ours(several), lambda: peer(several)).result(),
        model=model.name,
    )
