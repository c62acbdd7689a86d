"""Teacher forcing against one full pass for each row."""

import pytest
import torch

from benchmarks.peers import full_pass
from faithprobe.errors import ModelError
from faithprobe.models.forcing import batches, force, keys_and_values
from faithprobe.models.generation import PrefixCache
from tests.tiny import FAMILIES, tiny_language_model

PREFIX = tuple(range(10, 24))
ROWS = [(*PREFIX, *range(30, 30 + own)) for own in (5, 2, 9, 1)]


def model_of(family, device="cpu", dtype=torch.float32, **options):
    model = tiny_language_model(family, **options)
    model.hf.to(device=device, dtype=dtype)
    return model


def close(a, b, tolerance=1e-5):
    return ((a - b).norm() / b.norm()).item() < tolerance


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("warm", [(), PREFIX[:12], PREFIX[:5]])
def test_a_batch_gives_the_log_probabilities_of_full_passes(family, warm, device):
    model = model_of(family, device)
    prefixes = PrefixCache(model)
    prefixes.get(warm, 1)
    forced = force(model, ROWS, prefixes=prefixes, read=None)
    assert forced.start == (12 if len(warm) == 12 else 14)
    assert forced.positions == tuple(range(forced.start, 23))
    for i, row in enumerate(ROWS):
        own = len(row) - forced.start
        expected = full_pass(model, row)[0].log_softmax(-1)
        assert close(forced.logprobs[i, :own], expected[forced.start :])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("read", [(20, 14), (13, 15), (3,), (0, 1)])
def test_any_position_can_be_read_also_a_shared_one(family, read):
    model = model_of(family)
    forced = force(model, [ROWS[0], ROWS[2], ROWS[2]], prefixes=PrefixCache(model), read=read)
    assert forced.positions == read
    for i, row in enumerate((ROWS[0], ROWS[2], ROWS[2])):
        there = [k for k, position in enumerate(read) if position < len(row)]
        expected = full_pass(model, row)[0].log_softmax(-1)
        assert close(forced.logprobs[i, there], expected[[read[k] for k in there]])


def test_what_is_computed_anew_begins_where_asked():
    model = model_of("llama")
    assert force(model, ROWS, prefixes=PrefixCache(model), start_at=6).start <= 6
    assert force(model, ROWS, prefixes=PrefixCache(model), start_at=0).start == 0
    assert force(model, ROWS, prefixes=PrefixCache(model), start_at=20).start == 14
    assert force(model, ROWS, prefixes=PrefixCache(model)).logprobs is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_literal_of_several_tokens_has_the_sum_of_its_tokens(family):
    model = model_of(family, dtype=torch.float64)
    forced = force(model, ROWS, prefixes=PrefixCache(model), read=[14, 15, 16, 17])
    for i in (0, 2):
        naive = 0.0
        for position in (15, 16, 17):
            naive += float(full_pass(model, ROWS[i][:position])[0][-1].log_softmax(-1)[ROWS[i][position]])
        assert forced.of_span(i, ROWS[i], (15, 18)) == pytest.approx(naive, abs=1e-9)
    assert forced.of_span(0, ROWS[0], (16, 16)) == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_donor_holds_every_key_of_a_row_also_behind_a_sliding_window(family):
    model = model_of(family, dtype=torch.float64)
    forced = force(model, ROWS, prefixes=PrefixCache(model))
    for i, row in enumerate(ROWS):
        donor = forced.donor.row(i, len(row))
        alone = PrefixCache(model).get(row, 1)
        assert donor.start == 14
        for layer, keys, values in zip(alone.layers, donor.keys, donor.values, strict=True):
            assert keys.shape[2] == len(row) - 14
            assert torch.allclose(keys, layer.keys[:, :, 14:], atol=1e-12)
            assert torch.allclose(values, layer.values[:, :, 14:], atol=1e-12)


def test_a_cache_that_has_evicted_keys_is_no_donor():
    from transformers import DynamicCache

    model = model_of("gemma")
    cache = DynamicCache(config=model.hf.config)
    with torch.no_grad():
        model.hf(input_ids=torch.tensor([ROWS[0]]), past_key_values=cache, use_cache=True)
    with pytest.raises(ModelError, match=r"layer \d keeps the keys of \d+ of \d+ positions only"):
        keys_and_values(cache, 0)
    with pytest.raises(ModelError, match="keeps no keys and values"):
        keys_and_values(DynamicCache(), 0)


def test_dropout_is_off():
    model = model_of("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    model.hf.train()
    forced = force(model, ROWS, prefixes=PrefixCache(model), read=[14])
    assert model.hf.training
    model.hf.eval()
    assert close(forced.logprobs[0, 0], full_pass(model, ROWS[0])[0][14].log_softmax(-1))


def test_batches_cover_everything_once():
    assert [(part.start, part.stop) for part in batches(range(5), 2)] == [(0, 2), (2, 4), (4, 5)]
    assert list(batches([], 3)) == []
