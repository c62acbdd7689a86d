"""`capture`: generating in a batch while every layer is recorded, against plain `generate` that records nothing.

Both sides get the same left-padded prompts, nothing is shared between the rows on either side, and both write the
same tokens. Ours also takes each chain's positions out of the recording; what it takes equals a full pass.
"""

from __future__ import annotations

import torch

from benchmarks.harness import paired
from benchmarks.inputs import left_padded, plain_generate, prompts
from benchmarks.peers import full_pass
from faithprobe import load_model
from faithprobe.chains.capture import Recorder, probe_sites
from faithprobe.models.generation import Decoding, PrefixCache, Tokens, generate

ROWS, NEW, READ = 8, 40, 24


class NothingShared(PrefixCache):
    """What a shared prefix saves is measured by `shared_prefix`, not here."""

    def choose(self, rows: list[Tokens] | tuple[Tokens, ...] | object, *, padding: str) -> int:
        return 0


def run() -> dict[str, object]:
    model = load_model("smollm2")
    rows = prompts(model, ROWS, shots=2)
    sites = probe_sites(range(model.n_layers))
    decoding = Decoding(max_new_tokens=NEW, batch_size=ROWS)

    def ours() -> list[torch.Tensor]:
        recorder = Recorder(model, sites)
        found = []
        for done in generate(model, rows, decoding, prefixes=NothingShared(model), watch=recorder):
            begin = len(rows[done.index]) - 1
            positions = range(begin, begin + min(READ, len(done.tokens)))
            found.append(recorder.at(done, positions))
        return found

    batch = left_padded(model, rows)

    def peer() -> torch.Tensor:
        return plain_generate(model, batch, NEW)

    written = {}
    worst = 0.0
    recorder = Recorder(model, sites)
    for done in generate(model, rows, decoding, prefixes=NothingShared(model), watch=recorder):
        written[done.index] = list(done.tokens)
        if done.index % 2 == 0:
            chain, begin = (*rows[done.index], *done.tokens), len(rows[done.index]) - 1
            positions = list(range(begin, begin + min(READ, len(done.tokens))))
            full = torch.stack(full_pass(model, chain)[1], dim=1)[positions]
            worst = max(worst, ((recorder.at(done, positions) - full).norm() / full.norm()).item())
    new = plain_generate(model, batch, NEW)[:, batch["input_ids"].shape[1] :].tolist()
    assert all(new[i][: len(tokens)] == tokens for i, tokens in written.items()), "the two sides wrote different texts"
    assert worst < 1e-5, f"recorded activations differ from a full pass by {worst:.1e}"
    return paired(ours, peer).result(
        "ours/peer", error=worst, tolerance=1e-5, rows=ROWS, new_tokens=NEW, sites=len(sites), model=model.name
    )
