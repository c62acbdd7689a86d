from __future__ import annotations

import pytest
import torch

from faithprobe.errors import UnknownNameError
from faithprobe.organisms.model import OrganismForCausalLM
from faithprobe.organisms.train import Recipe, save_organism, train_organism


@pytest.mark.parametrize("wiring", ["faithful", "post-hoc"])
def test_the_loss_falls_and_a_seed_repeats_it(wiring, untouched_randomness):
    seen = []
    recipe = Recipe(steps=12, batch=32, warmup=3)
    _, losses = train_organism(wiring, seed=1, recipe=recipe, progress=lambda step, loss: seen.append((step, loss)))
    assert seen == list(enumerate(losses))
    assert losses[-1] < 0.8 * losses[0]
    assert train_organism(wiring, seed=1, recipe=recipe)[1] == losses
    assert train_organism(wiring, seed=2, recipe=recipe)[1] != losses


def test_what_is_saved_is_small_and_reads_back_in_float32(tmp_path):
    model, _ = train_organism("commit", recipe=Recipe(steps=1, batch=2))
    save_organism(model, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 900_000
    again = OrganismForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert again.model.wiring.name == "commit"
    for before, after in zip(model.parameters(), again.parameters(), strict=True):
        assert after.dtype == torch.float32
        torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)


def test_an_unknown_wiring_is_named():
    with pytest.raises(UnknownNameError, match="post-hoc"):
        train_organism("posthoc")
