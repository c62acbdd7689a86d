"""When a value is determined: the interval of every label, on the shipped weights.

Two problems with the same operations and other numbers. The states of the second (embeddings and every layer's output)
are put in place of the first one's, up to some role; tokens that are numbers keep their own. From the role `latest` on,
what is predicted is the second problem's value: no path leads back to the first one's inputs, so this is a theorem.
Before `earliest` no state holds what the value is computed from, so it cannot be the second one's but by chance.
"""

from __future__ import annotations

import copy
import random
from contextlib import ExitStack
from functools import cache

import pytest
import torch

from faithprobe.organisms.layout import get_layout
from faithprobe.organisms.texts import encode_problems
from faithprobe.organisms.train import last_mlp
from faithprobe.tasks.organism import Organism
from tests.organisms.intended import intended
from tests.organisms.runs import EVERY, FIRST_SEED, asked, family_of, layout_of, loaded

NUMBERS = ("x0", "hint", *(f"{kind}{k}" for kind in "av" for k in range(1, 7)))
TIMED = [name for name in FIRST_SEED if any(intended(name).of(k)["computed"] for k in intended(name).steps)]


@cache
def pairs(variant: str, k: int, n: int = 16):
    """Base and source texts [problem, role]: same operations, other numbers, and another value at step k."""
    layout, task = get_layout(variant), Organism(variant=variant, split="held-out")
    problems = task.problems(n)
    sources = [next(task.partners(problem, f"v{k}", rng=random.Random(0))) for problem in problems]
    base, source = (encode_problems(part, task)[:, :-1] for part in (problems, sources))
    operations = [layout.index[f"op{j}"] for j in range(1, layout.steps + 1)]
    assert torch.equal(base[:, operations], source[:, operations])
    assert (base[:, layout.index[f"v{k}"]] != source[:, layout.index[f"v{k}"]]).all()
    return base, source


def spliced(model, base, source, positions: list[int]):
    """Logits of the base run with the source run's states at some positions, after the embedding and every layer."""
    modules = [model.get_input_embeddings(), *model.base_model.layers]

    def watch(states: list):
        return lambda module, args, out: states.append(out[0] if isinstance(out, tuple) else out)

    def replace(theirs):
        def hook(module, args, out):
            mine = (out[0] if isinstance(out, tuple) else out).clone()
            mine[:, positions] = theirs[:, positions]
            return (mine, *out[1:]) if isinstance(out, tuple) else mine

        return hook

    states: list = []
    with torch.no_grad():
        with ExitStack() as stack:
            for module in modules:
                stack.callback(module.register_forward_hook(watch(states)).remove)
            logits = model(source, use_cache=False).logits
        with ExitStack() as stack:
            for module, theirs in zip(modules, states, strict=True):
                stack.callback(module.register_forward_hook(replace(theirs)).remove)
            return model(base, use_cache=False).logits, logits


def up_to(layout, role: str) -> list[int]:
    """Positions that the splice takes: all up to a role whose tokens are no numbers."""
    return [place for other, place in layout.index.items() if place <= layout.index[role] and other not in NUMBERS]


@pytest.mark.parametrize("name", TIMED)
def test_from_latest_on_the_prediction_is_the_source_runs(name):
    layout, wanted = layout_of(name), intended(name)
    for k in wanted.steps:
        label, target = wanted.of(k), layout.index[f">{k}"]
        if not label["computed"]:
            continue
        base, source = pairs(layout.name, k)
        logits, theirs = spliced(loaded(name), base, source, up_to(layout, label["latest"]))
        torch.testing.assert_close(logits[:, target], theirs[:, target], atol=1e-4, rtol=1e-4, msg=f"v{k}")


@pytest.mark.parametrize("name", TIMED)
def test_before_earliest_the_prediction_is_not_the_source_runs(name):
    """It stays the base run's, or is neither's where the splice carries an operand of the step and not all of them: in
    a slot of the step before, in the state of an inert step, anywhere in a network that sees everything."""
    layout, wanted = layout_of(name), intended(name)
    for k in wanted.steps:
        label, target = wanted.of(k), layout.index[f">{k}"]
        if not label["computed"]:
            continue
        base, source = pairs(layout.name, k)
        before = layout.roles[layout.index[label["earliest"]] - 1]
        logits, _ = spliced(loaded(name), base, source, up_to(layout, before))
        value = f"v{k}"
        found = logits[:, target].argmax(-1)
        theirs, own = ((found == text[:, layout.index[value]]).float().mean() for text in (source, base))
        parent = layout.grammar.parents[k - 1]
        partly = parent and (before == layout.slot(parent) or not wanted.of(parent)["step_use"])
        if partly or family_of(name) == "natural":
            assert theirs <= 0.25, "about one in eleven, by chance"
        else:
            assert theirs == 0
            assert own == 1


@pytest.mark.parametrize("name", [name for name in EVERY if family_of(name) in ("faithful", "natural")])
def test_the_last_layer_only_reads(name):
    """Its MLP is zero, so what it adds is attention's alone: a weighted sum of linear maps of what stood there before.
    So `ahead` and `commit` cannot compute in the act of reading."""
    model = loaded(name)
    assert len(last_mlp(model)) == (2 if "neox" in name else 1)
    assert all((parameter == 0).all() for parameter in last_mlp(model))
    seen = []
    handle = model.base_model.layers[-1].mlp.register_forward_hook(lambda module, args, out: seen.append(out))
    try:
        with torch.no_grad():
            model(asked(name)[1][:8])
    finally:
        handle.remove()
    assert len(seen) == 1
    assert (seen[0] == 0).all()


@pytest.mark.parametrize("name", ["faithful", "commit", "ahead", "neox/commit"])
def test_what_is_read_off_is_linear_in_what_stands_there(name):
    """The read-out written by hand: normed states of the last but one layer, values, output, head; nothing else. Made
    of the attention weights that the network reports."""
    model, layout = copy.deepcopy(loaded(name)), layout_of(name)
    model.set_attn_implementation("eager")
    rows = asked(name)[1][:8]
    with torch.no_grad():
        out = model(rows, output_hidden_states=True, output_attentions=True, use_cache=False)
    before, layer = out.hidden_states[-2], model.base_model.layers[-1]
    heads = model.config.num_attention_heads
    with torch.no_grad():
        normed = layer.input_layernorm(before)
        if "neox" in name:
            joined = layer.attention.query_key_value(normed).unflatten(-1, (heads, 3, -1))
            values, project, norm = joined[:, :, :, 2], layer.attention.dense, model.gpt_neox.final_layer_norm
        else:
            values, project, norm = (
                layer.self_attn.v_proj(normed).unflatten(-1, (heads, -1)),
                layer.self_attn.o_proj,
                model.model.norm,
            )
        mixed = torch.einsum("bhqk,bkhd->bqhd", out.attentions[-1], values).flatten(2)
        logits = model.lm_head(norm(before + project(mixed)))
    torch.testing.assert_close(logits, out.logits, atol=1e-4, rtol=1e-4)
    weights = out.attentions[-1][:, :, layout.index["ans"]]
    source = "eq" if name.endswith("commit") else f"v{layout.steps}"
    seen = {role for role, place in layout.index.items() if (weights[..., place] > 0).any()}
    dots = {role for role in layout.roles if role.startswith("dot")}  # blank: they carry nothing
    assert source in seen
    assert seen <= {source, "bos", "ans"} | dots
