"""What the loss does inside a forward pass, and reads of it: interchange, outputs without logits, checkpointing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from faithprobe.training.batches import GROUPS
from faithprobe.training.loss import FaithfulnessLoss
from tests.tiny import FAMILIES
from tests.training.material import assert_same, batch, gradients, small


def layers_of(model):
    return FaithfulnessLoss(model).taps.layers


def patched(model, layer: int, target: torch.Tensor, source: torch.Tensor, span: tuple[int, int]) -> torch.Tensor:
    """Logits of one row whose literal has another row's state behind a layer, in two passes of their own."""
    module, held = layers_of(model)[layer], []

    def keep(_, __, output):
        held.append((output[0] if isinstance(output, tuple) else output)[:, slice(*span)])

    def put(_, __, output):
        stream = (output[0] if isinstance(output, tuple) else output).clone()
        stream[:, slice(*span)] = held[0]
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    for hook, row in ((keep, source), (put, target)):
        handle = module.register_forward_hook(hook)
        logits = model(row[None]).logits[0]
        handle.remove()
    return logits


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_interchange_is_what_two_passes_make_of_it(family, layer):
    model = small(family)
    faithful = FaithfulnessLoss(model, objective="interchange", layers=[layer], share=1.0)
    whole = faithful.stack(batch(8, "interchange"))
    out = model(**whole)
    found = faithful.term(out, whole)
    faithful.close()
    expected = []
    for group, places in zip(whole.plan.groups, whole.plan.places, strict=True):
        row = group.rows["interchanged"]
        target, source = (whole["input_ids"][places[name]] for name in ("interchanged", "recomputed"))
        assert (target != source).nonzero().flatten().tolist() == list(range(*row.literal))
        n = len(row.tokens)
        logits = patched(model, layer, target[:n], source[:n], row.literal)
        torch.testing.assert_close(out.logits[places["interchanged"], :n], logits, rtol=0, atol=1e-4)
        logprobs = logits.log_softmax(-1)
        expected.append(-sum(logprobs[t - 1, row.tokens[t]] for t in row.targets) / len(row.targets))
    torch.testing.assert_close(found, sum(expected) / len(expected), rtol=1e-4, atol=0)


def test_interchanging_identical_states_changes_nothing():
    model, given = small(), batch(8, "interchange")
    groups = [replace(group, rows=dict.fromkeys(group.rows, group.rows["interchanged"])) for group in given[GROUPS]]
    faithful = FaithfulnessLoss(model, objective="interchange")
    whole = faithful.stack({**given, GROUPS: groups})
    hooked = model(**whole).logits
    assert faithful.taps.fired == 1
    faithful.close()
    torch.testing.assert_close(hooked, model(**whole).logits, rtol=0, atol=1e-6)


def test_the_gradient_of_an_interchange_reaches_the_source_up_to_its_literal():
    """By finite differences, and nowhere behind the literal: nothing there was taken."""
    model = small()
    faithful = FaithfulnessLoss(model, objective="interchange", layers=[1])
    whole = faithful.stack(batch(8, "interchange"))
    inputs = {name: value for name, value in whole.items() if name != "input_ids"}
    embedded = model.get_input_embeddings()(whole["input_ids"]).detach()

    def term(states):
        return faithful.term(model(inputs_embeds=states, **inputs), whole)

    states = embedded.clone().requires_grad_()
    (slope,) = torch.autograd.grad(term(states), states)
    for group, places in zip(whole.plan.groups, whole.plan.places, strict=True):
        end = group.rows["recomputed"].literal[1]
        assert slope[places["recomputed"], :end].abs().max() > 1e-4
        assert not slope[places["recomputed"], end:].any()
    assert not slope[: whole.plan.own].any()
    direction = torch.zeros_like(embedded)
    sources = [places["recomputed"] for places in whole.plan.places]
    direction[sources] = slope[sources] / slope[sources].norm()
    ahead, back = (term(embedded + e * direction).detach() for e in (1e-2, -1e-2))
    torch.testing.assert_close((ahead - back) / 2e-2, (slope * direction).sum(), rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "options"), [*((family, {}) for family in FAMILIES), ("gemma", {"final_logit_softcapping": 3.0})]
)
def test_an_output_without_logits_gives_the_same_term(family, options):
    """As from trainers whose head is fused with the loss."""
    found, slopes, given = [], [], batch()
    for keep in (True, False):
        model = small(family, **options)
        faithful = FaithfulnessLoss(model)
        whole = faithful.stack(given)
        out = model(**whole)
        term = faithful.term(out if keep else {"loss": out.loss}, whole)
        term.backward()
        found.append(term.detach())
        slopes.append(gradients(model))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=0)
    assert_same(slopes[1], slopes[0])


@pytest.mark.parametrize(
    ("family", "options"), [("cohere", {"logit_scale": 0.25}), ("granite", {"logits_scaling": 4.0})]
)
def test_heads_that_scale_their_logits(family, options):
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CONFIG_MAPPING[family](
        vocab_size=320, num_key_value_heads=2, pad_token_id=0, bos_token_id=2, eos_token_id=1, **sizes, **options
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    faithful = FaithfulnessLoss(model)
    whole = faithful.stack(batch())
    out = model(**whole)
    torch.testing.assert_close(faithful.term({}, whole), faithful.term(out, whole), rtol=1e-5, atol=0)


def test_logits_of_some_positions_only_are_not_taken_for_all():
    model, given = small(), batch()
    faithful = FaithfulnessLoss(model)
    whole = faithful.stack(given)
    full = faithful.term(model(**whole), whole)
    last = {name: value for name, value in whole.items() if name != "labels"}
    torch.testing.assert_close(faithful.term(model(**last, logits_to_keep=1), whole), full, rtol=1e-5, atol=0)


@pytest.mark.parametrize("logits", [True, False])
def test_half_precision_gives_a_term_close_to_the_full_one(logits):
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = small().to(dtype)
        faithful = FaithfulnessLoss(model)
        whole = faithful.stack(batch())
        out = model(**whole)
        term = faithful.term(out if logits else {}, whole)
        term.backward()
        assert term.dtype == torch.float32
        assert all(gradient.dtype == dtype for gradient in gradients(model).values())
        found.append(float(term.detach()))
    assert found[1] == pytest.approx(found[0], rel=0.02)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("objective", ["counterfactual", "interchange"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradient_checkpointing_of_both_kinds_changes_nothing(family, objective, reentrant):
    given, found = batch(8, objective), []
    for checkpointing in (False, True):
        model = small(family)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        faithful = FaithfulnessLoss(model, objective=objective)
        whole = faithful.stack(given)
        faithful({"loss": model(**whole, use_cache=False).loss}, whole).backward()
        found.append(gradients(model))
    assert_same(found[1], found[0])
