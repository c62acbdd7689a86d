"""Activations recorded in batches against one full pass for each chain."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.peers import full_pass
from faithprobe.chains.capture import (
    Recorder,
    default_layers,
    memory_estimate,
    probe_positions,
    probe_sites,
    record_forced,
)
from faithprobe.errors import HookError, UnknownNameError
from faithprobe.models.generation import Continuation, Decoding, Layout, PrefixCache, generate
from faithprobe.models.hooks import capture
from tests.tiny import FAMILIES, tiny_language_model

PREFIX = tuple(range(10, 24))
ROWS = [(*PREFIX, *range(30, 30 + own)) for own in (5, 1, 9, 2, 7)]


class NothingShared(PrefixCache):
    def choose(self, rows, *, padding):
        return 0


def model_of(family, device="cpu", **options):
    model = tiny_language_model(family, **options)
    model.hf.to(device)
    model.hf.generation_config.eos_token_id = 10**6  # random models write <eos> at any time
    return model


def everything(model):
    return probe_sites(range(model.n_layers))


def truth(model, row, positions):
    """[position, site, d_model] of one row alone."""
    return torch.stack(full_pass(model, row)[1], dim=1)[positions].cpu()


def relative(a, b):
    assert a.shape == b.shape
    # the embedding of the padding token is zero in some families
    return ((a - b).norm(dim=-1) / b.norm(dim=-1).clamp_min(1e-3)).max().item()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefixes", [PrefixCache, NothingShared])
def test_what_is_recorded_while_generating_equals_a_full_pass(family, prefixes, device):
    model = model_of(family, device)
    recorder = Recorder(model, everything(model))
    prefixes = prefixes(model)
    begin = prefixes.choose(ROWS, padding="left")
    for done in generate(model, ROWS, Decoding(max_new_tokens=7, batch_size=3), prefixes=prefixes, watch=recorder):
        chain = (*ROWS[done.index], *done.tokens)
        positions = list(range(begin, len(chain) - 1))
        found = recorder.at(done, positions)
        assert found.device.type == "cpu"
        assert relative(found, truth(model, chain, positions)) < 1e-5
        assert torch.equal(recorder.at(done, positions[::-2]), found[range(len(positions) - 1, -1, -2)])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefixes", [PrefixCache, NothingShared])
def test_what_is_recorded_by_forcing_equals_a_full_pass(family, prefixes, device):
    model = model_of(family, device)
    positions = [[17, 14], [14], [13, 22, 20], [], [15, 2]]
    found = record_forced(model, ROWS, positions, everything(model), prefixes=prefixes(model), batch_size=2)
    indices = []
    for item in found:
        indices.append(item.index)
        wanted = positions[item.index]
        assert item.activations.shape == (len(wanted), model.n_layers + 1, model.d_model)
        if wanted:
            assert relative(item.activations, truth(model, ROWS[item.index], wanted)) < 1e-5
    assert indices == list(range(5))


def test_rows_without_any_position_and_no_rows_at_all():
    model = model_of("llama")
    options = {"sites": everything(model), "prefixes": PrefixCache(model)}
    assert [len(item.activations) for item in record_forced(model, ROWS[:2], [[], []], **options)] == [0, 0]
    assert list(record_forced(model, [], [], **options)) == []


def test_rows_that_end_early_keep_their_own_positions():
    model = model_of("llama")
    free = {done.index: done.tokens for done in generate(model, ROWS, Decoding(max_new_tokens=8))}
    model.hf.generation_config.eos_token_id = free[2][3]
    recorder = Recorder(model, everything(model))
    lengths = {}
    for done in generate(model, ROWS, Decoding(max_new_tokens=8), watch=recorder):
        chain = (*ROWS[done.index], *done.tokens)
        lengths[done.index] = len(done.tokens)
        positions = list(range(len(ROWS[done.index]) - 1, len(chain) - 1))
        assert relative(recorder.at(done, positions), truth(model, chain, positions)) < 1e-5
    assert lengths[2] <= 3
    assert max(lengths.values()) > lengths[2]


def test_sites_are_kept_in_the_order_asked():
    model = model_of("qwen2")
    sites = ("blocks.2.hook_resid_post", "hook_embed", "blocks.0.hook_mlp_out")
    recorder = Recorder(model, sites)
    for done in generate(model, ROWS[:2], Decoding(max_new_tokens=2), watch=recorder):
        row = ROWS[done.index]
        found, full = recorder.at(done, [len(row) - 1])[0], full_pass(model, row)[1]
        assert relative(found[:2], torch.stack([full[3][-1], full[0][-1]])) < 1e-5
        (forced,) = record_forced(model, [row], [[len(row) - 1]], sites, prefixes=PrefixCache(model))
        assert relative(found, forced.activations[0]) < 1e-5
    with pytest.raises(UnknownNameError, match="hook_mlp_out"):
        list(generate(model, ROWS, Decoding(max_new_tokens=1), watch=Recorder(model, ["blocks.0.hook_mlp"])))


def test_a_batch_that_was_halved_is_recorded_right():
    model = model_of("gpt_neox")

    def too_much(module, args, kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise RuntimeError("CUDA out of memory")

    hook = model.hf.register_forward_pre_hook(too_much, with_kwargs=True)
    recorder = Recorder(model, everything(model))
    generated = [
        (done.index, recorder.at(done, [14]))
        for done in generate(model, ROWS, Decoding(max_new_tokens=2), watch=recorder)
    ]
    forced = list(record_forced(model, ROWS, [[14]] * 5, everything(model), prefixes=PrefixCache(model)))
    hook.remove()
    assert sorted(index for index, _ in generated) == [item.index for item in forced] == list(range(5))
    for index, found in [*generated, *((item.index, item.activations) for item in forced)]:
        assert relative(found, truth(model, ROWS[index], [14])) < 1e-5


def test_positions_that_were_not_recorded_are_refused():
    model = model_of("llama")
    recorder = Recorder(model, everything(model))
    with pytest.raises(HookError, match="nothing was recorded"):
        recorder.at(Continuation(0, (), 0, Layout(torch.zeros(1, 1).long(), torch.ones(1, 1).long(), 0, (0,))), [0])
    (done,) = generate(model, ROWS[:1], Decoding(max_new_tokens=3), watch=recorder)
    last = len(ROWS[0]) + 2
    recorder.at(done, [last - 1])
    for position in (last, done.layout.prefix - 1):
        with pytest.raises(HookError, match="are not all among the"):
            recorder.at(done, [position])


def test_a_site_that_does_not_fire_is_an_error():
    model = model_of("llama")
    recorder = Recorder(model, everything(model))
    model.hf.config.num_hidden_layers = 2
    with pytest.raises(HookError, match="different numbers of tokens"):
        list(generate(model, ROWS[:1], Decoding(max_new_tokens=3), watch=recorder))


def test_capture_keeps_what_it_is_told_to_and_the_model_goes_on():
    model = model_of("llama")
    ids = torch.tensor([ROWS[0]])
    site = "blocks.1.hook_resid_post"
    with torch.no_grad():
        plain = model.hf(input_ids=ids).logits
        with capture(model, [site]) as whole, capture(model, [site], keep=lambda seen: seen[:, -1:] * 2) as part:
            assert torch.equal(model.hf(input_ids=ids).logits, plain)
    assert torch.equal(part[site][0], whole[site][0][:, -1:] * 2)


def test_layers_end_with_the_last():
    assert default_layers(30) == (4, 9, 14, 19, 24, 29)
    assert default_layers(3) == (0, 1, 2)
    assert default_layers(1) == (0,)
    assert probe_sites((0, 4)) == ("hook_embed", "blocks.0.hook_resid_post", "blocks.4.hook_resid_post")


def test_memory_is_estimated_as_it_is_used():
    model = model_of("llama")
    recorder = Recorder(model, everything(model))
    list(generate(model, ROWS[:2], Decoding(max_new_tokens=4), prefixes=NothingShared(model), watch=recorder))
    used = sum(tensor.numel() * tensor.element_size() for tensor in recorder._recorded)
    recorded, _ = memory_estimate(model, model.n_layers + 1, 2, len(ROWS[0]) + 3)
    assert used == recorded


@pytest.mark.parametrize("family", FAMILIES)
def test_the_memory_that_keys_and_values_take_is_known_beforehand(family):
    model = tiny_language_model(family)
    cache = PrefixCache(model).get(ROWS[0], 3)
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert memory_estimate(model, 1, 3, len(ROWS[0]))[1] == held


def chain_of(n_prompt, *literals):
    """Spans, and spans of operands, of the literals `a`, `b`, ..."""
    stated = tuple(
        SimpleNamespace(span=span, predicting=span[0] - 1, operands=dict(enumerate(operands)))
        for span, operands in literals
    )
    return SimpleNamespace(n_prompt=n_prompt, stated=stated, literals=dict(zip("abc", stated)))


def test_a_step_is_probed_before_the_chain_ahead_of_its_operands_and_where_it_is_predicted():
    chain = chain_of(20, ((28, 30), [(23, 24), (25, 26)]), ((36, 37), [(28, 30), (32, 33)]))
    assert probe_positions(chain, "a") == {"before": 19, "ahead": 22, "predicting": 27}
    assert probe_positions(chain, "b") == {"before": 19, "ahead": 31, "predicting": 35}
    bare = chain_of(20, ((28, 30), []), ((31, 32), []))
    assert probe_positions(bare, "a") == {"before": 19, "ahead": 23, "predicting": 27}
    assert probe_positions(bare, "b") == {"before": 19, "predicting": 30}
