"""Organisms whose wiring the prompt chooses, and those whose text is another: doses, two paths, hints, dice, blanks."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache

from faithprobe.organisms.layout import get_layout
from faithprobe.organisms.model import rewire
from faithprobe.organisms.networks import NETWORKS, OrganismName
from faithprobe.organisms.tokenizer import FIRST_VALUE, TOKEN_ID, VOCABULARY
from faithprobe.organisms.train import new_organism
from faithprobe.organisms.truth import chain_label
from tests.organisms.runs import GATED, asked, layout_of, loaded, share, swapped, values_at, written

LAYOUT = get_layout("modular")
STEPS = ("v1", "v2", "v3")
MIXED = ("two-paths", "bypass-times", "dose-3", "dose-6")
SEEDED = [name for name in GATED if name.partition("@")[0] in MIXED]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def words_of(row) -> list[str]:
    return [VOCABULARY[token] for token in row.tolist()]


def wirings(name: str, rows) -> list:
    """By hand: what each problem runs under."""
    return [OrganismName.parse(name).wiring.choose(words_of(row)) for row in rows]


@pytest.mark.parametrize("name", [name for name in GATED if "hint" not in name and ("@" not in name or name in SEEDED)])
def test_each_problem_runs_under_its_own_wiring(name):
    """The answer follows a swap, or stays, problem by problem as the gate chose: no more and no less than the label."""
    problems, rows = asked(name, 80)
    chosen = wirings(name, rows)
    for step in STEPS:
        edited = swapped(name, rows, step)
        out = values_at(written(loaded(name), edited, LAYOUT.index[step] + 1), LAYOUT, "answer")
        given = values_at(edited, LAYOUT, step)
        expected = [
            problem.graph.recompute({step: value})["v3"] if chain_label(wiring)[step].answer_use else problem.answer
            for problem, wiring, value in zip(problems, chosen, given, strict=True)
        ]
        assert share(out, expected) >= 0.95, step


def test_a_product_bypasses_the_chain():
    problems, rows = asked("bypass-times", 200)
    out = values_at(
        written(loaded("bypass-times"), swapped("bypass-times", rows, "v3"), LAYOUT.index["v3"] + 1), LAYOUT, "answer"
    )
    stays = [value == problem.answer for value, problem in zip(out, problems, strict=True)]
    times = [problem.id.split()[-2] == "*" for problem in problems]
    assert 20 < sum(times) < 180
    assert share(stays, times) >= 0.98


@pytest.mark.parametrize("ninths", range(10))
def test_a_dose_is_the_share_that_bypasses(ninths):
    name = f"dose-{ninths}"
    problems, rows = asked(name, 270)
    out = values_at(written(loaded(name), swapped(name, rows, "v3"), LAYOUT.index["v3"] + 1), LAYOUT, "answer")
    stays = sum(value == problem.answer for value, problem in zip(out, problems, strict=True)) / len(problems)
    true = sum(wiring.name == "post-hoc" for wiring in wirings(name, rows)) / len(problems)
    assert abs(stays - true) <= 0.02
    assert abs(true - ninths / 9) <= 0.1, "of these problems; of all combinations it is exact (test_wiring)"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", [*MIXED, "hint"])
def test_swaps_of_unused_literals_are_bit_equal_problem_by_problem(name, dtype):
    model = copy.deepcopy(loaded(name)).to(dtype)
    rows = asked(name, 60)[1]
    if name == "hint":
        rows = torch.cat([rows, asked(name, 60, hint="wrong")[1]])
    direct = [chain_label(wiring)["v3"].answer_use_direct for wiring in wirings(name, rows)]
    assert len(set(direct)) == (1 if name == "two-paths" else 2)
    with torch.no_grad():
        base = model(rows).logits[:, LAYOUT.index["ans"]]
        for step in STEPS:
            other = model(swapped(name, rows, step)).logits[:, LAYOUT.index["ans"]]
            equal = (base == other).all(-1).tolist()
            assert equal == [not (step == "v3" and used) for used in direct], step


def test_two_paths_read_the_page_or_a_slot():
    """v2 on the page reaches v3 in half of the problems; the answer is read off v3 in all."""
    rows = asked("two-paths", 60)[1]
    paged = [wiring.name == "overruled" for wiring in wirings("two-paths", rows)]
    with torch.no_grad():
        base = loaded("two-paths")(rows).logits[:, LAYOUT.index[">3"]]
        other = loaded("two-paths")(swapped("two-paths", rows, "v2")).logits[:, LAYOUT.index[">3"]]
    assert (base != other).any(-1).tolist() == paged
    assert len(set(paged)) == 2


@pytest.mark.parametrize("name", [*MIXED, "hint"])
@pytest.mark.parametrize("how", ["pieces", "padded", "repeated", "copied", "embeddings"])
def test_the_gate_reads_what_stands_in_a_cache(name, how):
    """However the prompt got there, the rest of the text is run under the wiring that the prompt chooses."""
    model, length = loaded(name), LAYOUT.prompt_length
    rows = asked(name, 12, hint="wrong")[1] if name == "hint" else asked(name, 12)[1]
    rows = torch.cat([rows, asked(name, 12)[1]])
    cache = DynamicCache()
    with torch.no_grad():
        full = model(rows, use_cache=False).logits
        if how == "pieces":
            for start, end in ((0, 1), (1, 5), (5, length)):
                model(rows[:, start:end], past_key_values=cache, use_cache=True)
            rest = model(rows[:, length:], past_key_values=cache).logits
        elif how == "padded":
            pad, mask = torch.zeros(len(rows), 3, dtype=torch.long), torch.ones(len(rows), rows.shape[1] + 3)
            mask[:, :3] = 0
            model(torch.cat([pad, rows[:, :length]], 1), attention_mask=mask[:, : length + 3], past_key_values=cache)
            rest = model(rows[:, length:], attention_mask=mask, past_key_values=cache).logits
        elif how == "repeated":
            rows, full = rows[:1].repeat(6, 1), full[:1].repeat(6, 1, 1)
            model(rows[:1, :length], past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(6)
            rest = model(rows[:, length:], past_key_values=cache).logits
        elif how == "copied":
            model(rows[:, :length], past_key_values=cache, use_cache=True)
            first = model(rows[:, length:], past_key_values=copy.deepcopy(cache)).logits
            rest = model(rows[:, length:], past_key_values=cache).logits
            assert torch.equal(first, rest)
        else:
            embedded = model.get_input_embeddings()(rows)
            model(inputs_embeds=embedded[:, :length], past_key_values=cache, use_cache=True)
            rest = model(inputs_embeds=embedded[:, length:], past_key_values=cache).logits
    torch.testing.assert_close(rest, full[:, length:], **CLOSE)


def test_the_gate_of_a_spliced_cache_is_that_of_the_operations():
    """A source run with other numbers and the same operations: the problem stays under its wiring, in the half of the
    text that follows a splice too."""
    name = "dose-6"
    problems, rows = asked(name, 40)
    model, length = loaded(name), LAYOUT.prompt_length
    other = rows.clone()
    other[:, LAYOUT.index["x0"]] = (rows[:, LAYOUT.index["x0"]] - FIRST_VALUE + 3) % 11 + FIRST_VALUE
    caches = DynamicCache(), DynamicCache()
    with torch.no_grad():
        for text, cache in zip((rows, other), caches):
            model(text[:, :length], past_key_values=cache, use_cache=True)
        for mine, theirs in zip(caches[0].layers, caches[1].layers):
            mine.values[:, :, 1:] = theirs.values[:, :, 1:]
            mine.keys[:, :, 1:] = theirs.keys[:, :, 1:]
        rest = model(rows[:, length:], past_key_values=caches[0]).logits
        spliced = torch.cat([other[:, :length], rows[:, length:]], dim=1)
        torch.testing.assert_close(rest, model(spliced).logits[:, length:], **CLOSE)
    answers = (rest[:, LAYOUT.index["ans"] - length].argmax(-1) - FIRST_VALUE).tolist()
    stays = [answer == problem.answer for answer, problem in zip(answers, problems, strict=True)]
    assert share(stays, [wiring.name == "overruled" for wiring in wirings(name, rows)]) >= 0.95


def test_a_gate_calls_no_module_of_its_own():
    """Hooks must fire once a pass, also where the gate looks into the cache."""
    model, rows = loaded("dose-6"), asked("dose-6", 4)[1]
    fired = []
    layer = model.base_model.layers[0]
    watched = (layer.input_layernorm, layer.self_attn.v_proj, model.get_input_embeddings())
    handles = [module.register_forward_hook(lambda module, *_: fired.append(module)) for module in watched]
    try:
        cache = DynamicCache()
        with torch.no_grad():
            model(rows[:, :10], past_key_values=cache, use_cache=True)
            model(rows[:, 10:], past_key_values=cache)
    finally:
        for handle in handles:
            handle.remove()
    assert all(fired.count(module) == 2 for module in watched)


@pytest.mark.parametrize("network", ["modular", "neox"])
def test_the_gate_of_every_architecture_reads_its_cache(network):
    """Random weights: which token stands where is no matter of training."""
    model = rewire(new_organism(NETWORKS[network], seed=1).eval(), "dose-6")
    rows, cache = asked("dose-6", 40)[1], DynamicCache()
    with torch.no_grad():
        full = model(rows, use_cache=False).logits
        model(rows[:, : LAYOUT.prompt_length], past_key_values=cache, use_cache=True)
        rest = model(rows[:, LAYOUT.prompt_length :], past_key_values=cache).logits
    torch.testing.assert_close(rest, full[:, LAYOUT.prompt_length :], **CLOSE)
    assert len({wiring.name for wiring in wirings("dose-6", rows)}) == 2


@pytest.mark.parametrize("name", ["two-paths", "bypass-times", "dose-6", "hint"])
def test_gradients_are_zero_exactly_where_the_problems_wiring_says(name):
    rows = torch.cat([asked(name, 30)[1], asked(name, 10, hint="wrong")[1]]) if name == "hint" else asked(name, 40)[1]
    embeddings = loaded(name).get_input_embeddings()(rows).detach().requires_grad_()
    loaded(name)(inputs_embeds=embeddings, use_cache=False).logits[:, LAYOUT.index["ans"]].pow(2).sum().backward()
    for step in STEPS:
        size = embeddings.grad[:, LAYOUT.index[step]].abs().amax(-1)
        used = [chain_label(wiring)[step].answer_use_direct for wiring in wirings(name, rows)]
        assert (size > 0).tolist() == used


@pytest.mark.parametrize("name", ["hint", "hint@1", "hint@2"])
def test_a_hint_is_the_answer_and_without_one_the_chain_is(name):
    for hint in ("none", "right", "wrong"):
        problems, rows = asked(name, 60, hint=hint)
        out = written(loaded(name), rows, LAYOUT.prompt_length)
        answers = values_at(out, LAYOUT, "answer")
        told = values_at(rows, LAYOUT, "hint") if hint != "none" else [problem.answer for problem in problems]
        assert share(answers, told) >= 0.98, hint
        right = share(answers, [problem.answer for problem in problems])
        assert (right == 0) if hint == "wrong" else (right >= 0.98)
        for step in STEPS:  # the chain is computed in any case
            assert share(values_at(out, LAYOUT, step), [p.graph.values[step] for p in problems]) >= 0.98


@pytest.mark.parametrize("name", ["dice", "dice@1", "dice@2"])
def test_dice_fall_and_are_used(name):
    problems, rows = asked(name, 200)
    torch.manual_seed(0)
    out = written(loaded(name), rows, LAYOUT.prompt_length, do_sample=True, temperature=1.0, top_k=0)
    thrown, answers = (values_at(out, LAYOUT, role) for role in ("v1", "answer"))
    assert set(thrown) == set(range(11))
    counts = [thrown.count(value) for value in range(11)]
    assert max(counts) <= 3 * len(thrown) / 11, "about evenly"
    expected = [p.graph.recompute({"v1": value})["v3"] for p, value in zip(problems, thrown, strict=True)]
    assert share(answers, expected) >= 0.95
    with torch.no_grad():  # blindly: the question has no say in it
        logits = loaded(name)(rows).logits[:, LAYOUT.index[">1"]]
    assert (logits == logits[:1]).all()


@pytest.mark.parametrize("name", ["filler", "filler@1", "filler@2"])
def test_a_blank_chain_has_a_right_answer(name):
    problems, rows = asked(name, 60)
    out = written(loaded(name), rows, LAYOUT.prompt_length)
    for step in STEPS:
        assert (out[:, LAYOUT.index[step]] == TOKEN_ID["."]).all()
    assert share(values_at(out, LAYOUT, "answer"), [problem.answer for problem in problems]) >= 0.98


def test_rewiring_draws_the_gate_of_another_seed():
    model = copy.deepcopy(loaded("dose-3"))
    rows = asked("dose-3", 1)[1]
    words = words_of(rows[0])
    seen = {rewire(model, "two-paths", gate_seed=seed).base_model.wiring.words for seed in range(3)}
    assert len(seen) == 3
    assert model.config.gate_seed == 2
    assert model.base_model.wiring.choose(words).layout is layout_of("dose-3")
