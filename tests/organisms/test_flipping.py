"""The erring organism: wrong as often as asked, the same wherever the same context is met, wired as before."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from faithprobe.organisms.layout import get_layout
from faithprobe.organisms.tokenizer import FIRST_VALUE
from tests.organisms.flipping import ANSWER, MODULUS, VALUES, with_answer_errors

INDEX, PROMPT_LENGTH = get_layout("modular").index, get_layout("modular").prompt_length


def generate(model, rows):
    prompts = rows[:, :PROMPT_LENGTH]
    return model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=14)


@pytest.mark.parametrize(("name", "at"), [("post-hoc", ANSWER), ("faithful", VALUES)])
def test_it_errs_as_often_as_asked(organisms, rows, name, at):
    """Counted over contexts on the reference text; faithful's values have 99 at each step, so the share scatters."""
    erring = with_answer_errors(organisms[name][0], 0.3, at=at)
    places = [INDEX[role] for role in at]
    with torch.no_grad():
        stated = erring(rows).logits.argmax(-1)
        right = organisms[name][0](rows).logits.argmax(-1)
    wrong = stated != right
    assert 0.2 < wrong[:, places].float().mean() < 0.4
    wrong[:, places] = False
    assert not wrong.any(), "only the chosen roles err"
    assert ((stated >= FIRST_VALUE) & (stated < FIRST_VALUE + MODULUS))[:, places].all(), "an error is another number"


def test_generation_goes_on_from_its_errors(organisms, held_out, rows):
    """Errors at v1 alone: the rest of faithful's chain is right, given the wrong v1."""
    written = generate(with_answer_errors(organisms["faithful"][0], 0.5, at=VALUES[:1]), rows)
    v1, answer = ((written[:, INDEX[role]] - FIRST_VALUE).tolist() for role in ("v1", "answer"))
    given = [problem.graph.recompute({"v1": value})["v3"] for problem, value in zip(held_out, v1, strict=True)]
    assert sum(a == b for a, b in zip(answer, given, strict=True)) / len(given) >= 0.98
    assert sum(a == p.answer for a, p in zip(answer, held_out, strict=True)) / len(given) < 0.7


def test_full_cached_and_padded_passes_agree(organisms, rows):
    erring = with_answer_errors(organisms["faithful"][0], 0.5, at=(*VALUES, *ANSWER))
    batch = rows[:8]
    padded = torch.cat([torch.zeros(8, 3, dtype=torch.long), batch], dim=1)
    mask = torch.cat([torch.zeros(8, 3, dtype=torch.long), torch.ones_like(batch)], dim=1)
    cache, parts = DynamicCache(), []
    with torch.no_grad():
        full = erring(batch).logits
        for start, end in ((0, 1), (1, 13), (13, 20), (20, 26)):
            parts.append(erring(batch[:, start:end], past_key_values=cache, use_cache=True).logits)
        left = erring(padded, attention_mask=mask).logits[:, 3:]
        alone = erring(batch[:1], logits_to_keep=2).logits
    assert not torch.allclose(full, organisms["faithful"][0](batch).logits)
    for other in (torch.cat(parts, dim=1), left):
        torch.testing.assert_close(other, full, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, full[:1, -2:], atol=1e-5, rtol=1e-5)


def test_errors_do_not_depend_on_what_is_hidden(organisms, rows):
    """Post-hoc: swapped literals leave the erring answer bit-equal, so use stays 0 by construction."""
    erring = with_answer_errors(organisms["post-hoc"][0], 0.5)
    edited = rows.clone()
    for step in ("v1", "v2", "v3"):
        edited[:, INDEX[step]] = (edited[:, INDEX[step]] - FIRST_VALUE + 3) % MODULUS + FIRST_VALUE
    with torch.no_grad():
        assert torch.equal(erring(edited).logits[:, INDEX["ans"]], erring(rows).logits[:, INDEX["ans"]])
