"""The language of wirings: layouts, edges, gates, and what cannot be wired."""

from __future__ import annotations

import itertools

import pytest

from faithprobe.errors import ModelError, UnknownNameError
from faithprobe.organisms.families import FAMILIES, get_wiring
from faithprobe.organisms.layout import get_layout
from faithprobe.organisms.sight import attention_mask
from faithprobe.organisms.truth import chain_label, closure, reaches, require
from faithprobe.organisms.wiring import Edge, GatedWiring, Wiring
from faithprobe.tasks.organism import GRAMMARS, Organism

ONES = [(variant, family) for variant in GRAMMARS for family in ("faithful", "post-hoc", "copy", "decorative")]


@pytest.mark.parametrize("variant", GRAMMARS)
def test_the_layout_is_the_text(variant):
    layout, task = get_layout(variant), Organism(variant=variant)
    (problem,) = task.problems(1)
    words = ["<bos>", *task.prompt(problem).split()]
    assert len(words) == layout.prompt_length
    words += problem.response.split()
    assert len(words) == len(layout.roles) == len(layout.index)
    values = problem.graph.values
    for k, step in enumerate(problem.graph.steps, 1):
        assert words[layout.index[f">{k}"]] == ">"
        assert words[layout.index[f"v{k}"]] == str(values[step.name])
        assert words[layout.index[f"a{k}"]] == str(problem.graph.inputs[f"a{k}"])
    assert words[layout.index["eq"]] == "="
    assert words[layout.index["hint"]] == "_"
    assert (words[layout.index["ans"]], words[layout.index["answer"]]) == ("answer", str(problem.answer))
    assert layout.layers == layout.steps + 1
    assert all(word in known for word, known in zip(words, layout.prompt_words()))


def test_a_graph_reads_along_its_edges():
    layout = get_layout("graph")
    assert [layout.source(k) for k in (1, 2, 3, 4)] == ["x0", "v1", "v1", "v3"]
    assert [layout.latent_source(k) for k in (1, 2, 3, 4)] == ["x0", "h1", "h1", "h3"]
    assert [layout.slot(k) for k in (1, 2, 3, 4)] == ["h1", "h2", "h3", "eq"]
    assert [layout.children(k) for k in (1, 2, 3, 4)] == [(2, 3), (), (4,), ()]


@pytest.mark.parametrize(("variant", "family"), ONES)
def test_masks_are_causal_and_everyone_sees_itself(variant, family):
    wiring = get_wiring(family, variant)
    masks = attention_mask(wiring)
    assert len(masks) == wiring.layout.layers
    for layer, mask in enumerate(masks, 1):
        assert mask.diagonal().all()
        assert not mask.triu(1).any()
        assert mask[:, 0].all()
        assert (closure(wiring, layer, layer) == mask).all()
        assert (closure(wiring) >= mask).all()


def test_edges_hold_in_their_layers_only():
    """v1 -> h1 in layer 2 and h1 -> h2 in layer 1 make no path; the other way round they do."""
    layout = get_layout("modular")
    path = [("x0", "h1"), ("h1", "h2")]
    forth = Wiring("forth", "", layout, frozenset(Edge(b, a, frozenset({k})) for k, (a, b) in enumerate(path, 1)))
    back = Wiring("back", "", layout, frozenset(Edge(b, a, frozenset({3 - k})) for k, (a, b) in enumerate(path, 1)))
    assert reaches(forth, "x0", "h2")
    assert not reaches(back, "x0", "h2")
    assert "x0" in forth.sees("h1", 1)
    assert "x0" not in forth.sees("h1", 2)


def test_a_leak_changes_the_label():
    honest = get_wiring("post-hoc")
    leaky = honest.with_edge("ans", "v1")
    assert reaches(leaky, "v1", "ans")
    assert chain_label(leaky)["v1"].answer_use_direct
    assert not chain_label(honest)["v1"].answer_use
    assert leaky.name == "post-hoc with ans <- v1"
    assert not reaches(honest, "v1", "ans")


def test_a_leak_in_a_layer_behind_which_nothing_reads_is_none():
    """>1 sees v1's operands early; what enters a dot in the last layer is never carried on."""
    late = get_wiring("post-hoc").with_edge("dot3a", "v1", [4]).with_edge("ans", "dot3a", [4])
    early = get_wiring("post-hoc").with_edge("dot3a", "v1", [3]).with_edge("ans", "dot3a", [4])
    assert not reaches(late, "v1", "ans")
    assert reaches(early, "v1", "ans")


def test_a_dot_that_reads_is_hidden_from_the_others():
    carrier = get_wiring("post-hoc").with_edge("dot2b", "v1")
    assert not reaches(carrier, "v1", "ans")
    assert "dot2b" not in carrier.sees(">3", 1)
    assert "dot2a" in carrier.sees(">3", 1)


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        (("v1", "v2", None), "wiring 'faithful.*: 'v1' cannot see 'v2', which comes later"),
        (("v1", "v1", None), "'v1' cannot see 'v1', which comes later"),
        (("ans", "v9", None), "no role is called 'v9'; roles: bos, x0, op1, a1"),
        (("answers", "v1", None), "no role is called 'answers'"),
        (("ans", "v1", [5]), r"'ans' sees 'v1' in layers \[5\], but there are layers 1 to 4"),
        (("ans", "v1", [0, 1]), r"in layers \[0, 1\], but there are layers 1 to 4"),
    ],
)
def test_impossible_edges_are_refused(edge, words):
    with pytest.raises(ModelError, match=words):
        get_wiring("faithful").with_edge(*edge)


def test_an_edge_in_no_layer_is_refused():
    with pytest.raises(ModelError, match=r"in layers \[\], but there are layers 1 to 4"):
        Wiring("none", "", get_layout("modular"), frozenset({Edge("ans", "v1", frozenset())}))


def test_a_closure_that_contradicts_a_label_is_refused():
    honest = get_wiring("post-hoc")
    require(honest, v1={"answer_use": False, "step_use": True}, v3={"faithful": False})
    with pytest.raises(ModelError, match="'post-hoc' cannot have answer_use = True at v2: its closure says False"):
        require(honest, v2={"answer_use": True})
    with pytest.raises(ModelError, match="cannot have answer_use = False at v1: its closure says True"):
        require(honest.with_edge("ans", "v1"), v1={"answer_use": False})


def test_labels_that_do_not_exist_are_refused():
    with pytest.raises(UnknownNameError, match="no step is called 'v9'; did you mean 'v3'"):
        require(get_wiring("faithful"), v9={"answer_use": True})
    with pytest.raises(UnknownNameError, match="no label is called 'answer_used'; did you mean 'answer_use'"):
        require(get_wiring("faithful"), v1={"answer_used": True})


def test_unknown_names_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'faithful'"):
        get_wiring("faithfull")
    with pytest.raises(UnknownNameError, match="no variant is called 'sixx'; did you mean 'six'"):
        get_wiring("faithful", "sixx")


def test_a_gate_reads_the_prompt_alone_and_joins_one_layout():
    one, other = get_wiring("post-hoc"), get_wiring("faithful")
    with pytest.raises(ModelError, match="the gate reads 'v1', which is no role of the prompt"):
        GatedWiring("late", "", ("v1",), frozenset({("3",)}), one, other)
    with pytest.raises(ModelError, match="the gate reads 'op9', which is no role"):
        GatedWiring("nowhere", "", ("op9",), frozenset({("+",)}), one, other)
    with pytest.raises(ModelError, match="joins two layouts, 'modular' and 'six'"):
        GatedWiring("mixed", "", ("op1",), frozenset({("+",)}), one, get_wiring("faithful", "six"))


def prompts(variant: str = "modular"):
    """One prompt of every combination of operations, by these."""
    layout = get_layout(variant)
    for operations in itertools.product("+-*", repeat=layout.steps):
        words = ["<bos>", "7", *(word for sign in operations for word in (sign, "3")), "_", "h1", "h2", "="]
        yield operations, words


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("ninths", range(10))
def test_a_dose_bypasses_its_share_of_all_combinations_of_operations(ninths, seed):
    wiring = get_wiring(f"dose-{ninths}", seed=seed)
    chosen = [wiring.choose(words).name for _, words in prompts()]
    assert len(chosen) == 27
    assert chosen.count("post-hoc") == 3 * ninths
    assert chosen.count("overruled") == 27 - 3 * ninths
    assert chain_label(wiring.then).bypass
    assert not chain_label(wiring.otherwise).bypass


def test_gates_choose_as_intended():
    times = {op: get_wiring("bypass-times").choose(words).name for op, words in prompts()}
    assert all(name == ("post-hoc" if operations[-1] == "*" else "overruled") for operations, name in times.items())
    halves = [get_wiring("two-paths").choose(words).name for _, words in prompts()]
    assert sorted(map(halves.count, {"late-slot", "overruled"})) == [13, 14]
    drawn = {
        tuple(get_wiring("two-paths", seed=seed).choose(words).name for _, words in prompts()) for seed in range(3)
    }
    assert len(drawn) == 3, "every seed draws its own"
    _, words = next(prompts())
    hint = get_wiring("hint")
    assert hint.choose(words).name == "faithful"
    assert hint.choose([*words[:8], "0", *words[9:]]).name == "told"


def test_every_family_has_one_line_about_it():
    summaries = [get_wiring(family).summary for family in FAMILIES]
    assert all(summaries)
    assert len(set(summaries)) == len(FAMILIES)
