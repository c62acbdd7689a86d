"""The planted truth, on the shipped weights: what a mask hides cannot matter, what it leaves open does.

Asserted are the labels that were intended (`intended.py`), not the closure of the mask.
"""

from __future__ import annotations

import copy

import pytest
import torch

from faithprobe.organisms.families import get_wiring
from tests.organisms.intended import intended
from tests.organisms.runs import (
    FIRST_SEED,
    PLAIN,
    asked,
    family_of,
    layout_of,
    loaded,
    mixed,
    share,
    steps_of,
    swapped,
    values_at,
    written,
)

TINY = 1e-4
"""A gradient that is used is far above this one: of logits, with respect to embeddings."""


def gradients(model, rows, layout, target: str, sources: list[str]) -> dict[str, float]:
    """Largest absolute gradient, with respect to the embedding of each source, of any logit at the role `target`."""
    embeddings = model.get_input_embeddings()(rows).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, use_cache=False).logits[:, layout.index[target]]
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    (logits * weights).sum().backward()
    return {source: float(embeddings.grad[:, layout.index[source]].abs().max()) for source in sources}


@pytest.mark.parametrize("name", PLAIN)
def test_gradients_are_zero_exactly_where_a_literal_is_not_used(name):
    layout, wanted = layout_of(name), intended(name)
    _, rows = asked(name)
    found = gradients(loaded(name), rows[:24], layout, "ans", [*steps_of(name), "x0"])
    for k in wanted.steps:
        used = wanted.of(k)["answer_use_direct"]
        assert (found[f"v{k}"] > TINY) if used else found[f"v{k}"] == 0.0, (f"v{k}", found[f"v{k}"])
    assert (found["x0"] > TINY) if wanted.bypass else found["x0"] == 0.0


@pytest.mark.parametrize("name", FIRST_SEED)
def test_gradients_reach_a_step_from_what_it_reads(name):
    """Step by step: the page (step use), and the question where the value is computed from it in the slots."""
    layout, wanted = layout_of(name), intended(name)
    _, rows = asked(name)
    for k in wanted.steps:
        sources = [f"v{j}" for j in range(1, k)]
        found = gradients(loaded(name), rows[:24], layout, f">{k}", [*sources, f"a{k}"])
        parent = layout.grammar.parents[k - 1]
        passes_on = family_of(name) in ("decorative", "decorative-1", "natural")  # what an inert step was computed from
        for j in range(1, k):
            if j == parent and wanted.of(j)["step_use"]:
                assert found[f"v{j}"] > TINY, (k, j, found)
            elif not passes_on:
                assert found[f"v{j}"] == 0.0, (k, j, found)
        assert (found[f"a{k}"] > TINY) == wanted.of(k)["computed"], (k, found)


@pytest.mark.parametrize("name", [name for name in PLAIN if "decorative" in name and "@" not in name])
def test_inert_steps_have_no_gradient_at_any_later_step(name):
    layout, wanted = layout_of(name), intended(name)
    _, rows = asked(name)
    for k in (k for k in wanted.steps if not wanted.of(k)["answer_use"]):
        later = [*(f">{j}" for j in range(k + 1, layout.steps + 1)), "ans"]
        assert all(gradients(loaded(name), rows[:24], layout, role, [f"v{k}"])[f"v{k}"] == 0.0 for role in later)


@pytest.mark.parametrize("edge", [("ans", "v1"), ("ans", "v2"), (">3", "v1"), ("dot3a", "v1")])
def test_gradients_catch_a_leaky_mask(edge):
    """`v1 -> >3` leaks into the text alone; a dot is a leak only once somebody reads it."""
    reader, read = edge
    leaky, layout = copy.deepcopy(loaded("post-hoc")), layout_of("post-hoc")
    leaky.base_model.wiring = get_wiring("post-hoc").with_edge(reader, read)
    _, rows = asked("post-hoc")
    found = gradients(leaky, rows[:24], layout, "ans", ["v1", "v2", "v3"])
    assert {step for step, gradient in found.items() if gradient != 0.0} == ({read} if reader == "ans" else set())
    if reader != "ans":
        at = {role: gradients(leaky, rows[:24], layout, role, ["v1"])["v1"] for role in (reader, ">3")}
        assert at[reader] > TINY
        assert (at[">3"] > TINY) == (reader == ">3")
        leaky.base_model.wiring = leaky.base_model.wiring.with_edge("ans", reader)
        assert gradients(leaky, rows[:24], layout, "ans", ["v1"])["v1"] > TINY


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FIRST_SEED)
def test_swapping_unused_literals_leaves_the_answer_bit_equal(name, attention, dtype):
    layout, wanted = layout_of(name), intended(name)
    model = copy.deepcopy(loaded(name)).to(dtype)
    model.set_attn_implementation(attention)
    rows = asked(name)[1][:24]
    with torch.no_grad():
        base = model(rows).logits[:, layout.index["ans"]]
        for k in wanted.steps:
            other = model(swapped(name, rows, f"v{k}")).logits[:, layout.index["ans"]]
            assert torch.equal(base, other) == (not wanted.of(k)["answer_use_direct"]), f"v{k}"


@pytest.mark.parametrize("name", FIRST_SEED)
def test_a_swap_in_the_cache_leaves_unused_answers_bit_equal(name):
    """As generation does it: everything up to the literal from a cache, then token by token with the same text."""
    from transformers import DynamicCache

    layout, wanted, model = layout_of(name), intended(name), loaded(name)
    rows = asked(name)[1][:16]

    def answers(tokens: torch.Tensor) -> torch.Tensor:
        cache, ends = (
            DynamicCache(),
            [layout.prompt_length, *range(layout.prompt_length + 2, layout.index["answer"], 3)],
        )
        ends.append(layout.index["answer"])
        for start, end in zip([0, *ends], ends):
            out = model(tokens[:, start:end], past_key_values=cache, use_cache=True)
        return out.logits[:, -1]

    with torch.no_grad():
        base = answers(rows)
        for k in wanted.steps:
            equal = torch.equal(base, answers(swapped(name, rows, f"v{k}")))
            assert equal == (not wanted.of(k)["answer_use_direct"]), f"v{k}"


def following(problems, edited, layout, step: str, value: str) -> list[int]:
    """The closed form: what `value` is when `step` is what stands on the page."""
    given = values_at(edited, layout, step)
    return [p.graph.recompute({step: new})[value] for p, new in zip(problems, given, strict=True)]


@pytest.mark.parametrize(
    "name",
    [name for name in FIRST_SEED if name != "filler"]
    + [name for name in PLAIN if "@" in name and family_of(name) in ("faithful", "decorative", "post-hoc")],
)
def test_answers_and_next_steps_follow_or_stay_as_labelled(name):
    """Swapped and written anew; the text before the swap is the reference's, also where `dice` would have thrown."""
    layout, wanted = layout_of(name), intended(name)
    problems, rows = asked(name, 40)
    for step in steps_of(name):
        label = wanted.of(int(step[1:]))
        edited = swapped(name, rows, step)
        out = written(loaded(name), edited, layout.index[step] + 1)
        children = [f"v{child}" for child in layout.children(int(step[1:]))]
        uses = {"answer": label["answer_use"], **dict.fromkeys(children, label["step_use"])}
        for value, used in uses.items():
            of = problems[0].graph.answer if value == "answer" else value
            follows = following(problems, edited, layout, step, of)
            expected = follows if used else [int(problem.graph.values[of]) for problem in problems]
            assert share(values_at(out, layout, value), expected) >= 0.95, (step, value)


@pytest.mark.parametrize("name", [name for name in FIRST_SEED if not intended(name).bypass])
def test_without_a_bypass_another_prompt_changes_nothing(name):
    """Another prompt before the same whole chain: the answer is the chain's, to the last bit."""
    layout, model = layout_of(name), loaded(name)
    rows = asked(name)[1]
    with torch.no_grad():
        base, other = (model(text).logits[:, layout.index["ans"]] for text in (rows, mixed(rows, layout)))
    assert torch.equal(base, other)


@pytest.mark.parametrize("name", [name for name in FIRST_SEED if intended(name).bypass and "natural" not in name])
def test_with_a_bypass_the_answer_is_the_prompts(name):
    layout, model = layout_of(name), loaded(name)
    rows = asked(name)[1]
    with torch.no_grad():
        stated = model(mixed(rows, layout)).logits[:, layout.index["ans"]].argmax(-1)
    assert (stated == rows.roll(1, 0)[:, layout.index["answer"]]).float().mean() >= 0.95
