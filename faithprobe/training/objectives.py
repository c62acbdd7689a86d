"""What a model is trained towards: pure functions from logits to an unscaled mean, and the baselines, by name.

The main term is -log of the probability that U estimates (`scores.use`): that what follows a replaced value follows
from it. Each function takes what the model predicts at the targets of some rows, and returns the mean over
counterfactuals of the mean over their targets, so that a long answer counts as much as a short one. None of them knows
a framework, a batch or a schedule.

Baselines, under the same interface:

* `frodo`: Paul et al., "Making Reasoning Matter" (arXiv 2402.13950), the objectives of its reasoning module.
* `csr`: Akter, Shihab, Sharma, "Counterfactual Sensitivity for Faithful Reasoning" (arXiv 2509.01544).
* `pcs`: "Understanding and Mitigating Premature Confidence" (arXiv 2605.24396), as a penalty.
* `markovian`: Viteri et al., "Markovian Transformers" (arXiv 2404.18988): the answer is predicted from the chain alone
  (`training.markovian`).
* `probe`: gradients through a linear probe. It does not work, and exists to show why (`training.probe_loss`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from faithprobe.errors import UnknownNameError


@dataclass(frozen=True, eq=False)
class Read:
    """What the model predicts at the targets of one variant's rows, over all groups of a batch."""

    logits: Float[Tensor, "target vocabulary"]
    """Of the prediction of each target: read at the position in front of it."""
    labels: Int[Tensor, " target"]
    group: Int[Tensor, " target"]
    """Number of the group that a target belongs to, 0 .. groups - 1."""

    @property
    def logprobs(self) -> Float[Tensor, " target"]:
        """Of the labels, in nats, in float32."""
        return -functional.cross_entropy(self.logits.float(), self.labels, reduction="none")


Weights = Float[Tensor, " group"]
"""How much each counterfactual counts; their mean need not be 1."""


def mean_over_groups(
    values: Float[Tensor, " target"], group: Int[Tensor, " target"], weights: Weights
) -> Float[Tensor, ""]:
    """The weighted mean over groups of the mean over a group's targets."""
    counts = torch.bincount(group, minlength=len(weights))
    if not counts.all():
        raise ValueError(f"group {int(counts.argmin())} has no target: a term over nothing would be a silent zero")
    sums = values.new_zeros(len(weights)).index_add(0, group, values)
    return (weights.to(values) * sums / counts).sum() / weights.to(values).sum()


def consistency(read: Read, weights: Weights) -> Float[Tensor, ""]:
    """Cross-entropy of the recomputed values, in nats: -log of the probability that what follows follows.

    On rows whose literal is replaced in the text it is *counterfactual consistency*; on rows that take the literal's
    state from another run, *interchange consistency* (Geiger et al., "Inducing Causal Structure", arXiv 2112.00826).
    """
    return mean_over_groups(-read.logprobs, read.group, weights)


def self_consistency(read: Read, own: Read, weights: Weights) -> Float[Tensor, ""]:
    """KL(own || read), in nats: the model behind a replaced value shall predict what it predicts itself on the problem
    whose own value that is. No labels; no gradient through the target. Both reads have the same targets, in order.
    """
    if read.labels.shape != own.labels.shape or not torch.equal(read.labels, own.labels):
        raise ValueError(
            f"the two reads ask for different targets ({len(read.labels)} and {len(own.labels)}): behind the literal, "
            "the counterfactual problem must state what the corrupted chain states"
        )
    target = functional.log_softmax(own.logits.detach().float(), -1)
    found = functional.log_softmax(read.logits.float(), -1)
    return mean_over_groups((target.exp() * (target - found)).sum(-1), read.group, weights)


def frodo(base: Read, answered: Read, flipped: Read, weights: Weights, *, margin: float = 1.0) -> Float[Tensor, ""]:
    """FRODO's reasoning module, without the language-model loss, which is the trainer's own:

        L_IE     = -log p(a' | q, r')                               a counterfactual chain leads to its own answer
        L_margin = max(0, margin - (h(a | q, r) - h(a | q, r')))    the answer is likelier behind its own chain

    h is the mean log-probability of an answer's tokens. The authors' code computes L_IE as the language-model loss
    again, and the margin from losses in place of log-probabilities, which reverses its sign; here L_IE is the
    counterfactual objective that the abstract names, and the margin pushes as its formula says.

    Args:
        base: the answer a behind the chain r.
        answered: the answer a' behind r', in which one value is replaced and the rest recomputed.
        flipped: the answer a behind r'.
        weights: of the groups.
        margin: in nats.
    """
    gap = _by_group(base, weights) - _by_group(flipped, weights)
    ranked = (weights.to(gap) * functional.relu(margin - gap)).sum() / weights.to(gap).sum()
    return consistency(answered, weights) + ranked


def _by_group(read: Read, weights: Weights) -> Float[Tensor, " group"]:
    """Mean log-probability of each group's targets."""
    values = read.logprobs
    sums = values.new_zeros(len(weights)).index_add(0, read.group, values)
    return sums / torch.bincount(read.group, minlength=len(weights)).clamp(min=1)


def counterfactual_sensitivity(
    base: Read, corrupted: Read, weights: Weights, *, most: float = 5.0
) -> Float[Tensor, ""]:
    """CSR: -KL(P(a | q, T) || P(a | q, T')) at the answer, where T' is the chain T with one value replaced and nothing
    recomputed. What the answer turns to is not asked, only that it turns.

    The paper leaves the divergence unbounded; beyond `most` nats it has no gradient here, since it would grow without
    end. Its edits swap operators; ours replace values, which every chain has.
    """
    before = functional.log_softmax(base.logits.float(), -1)
    after = functional.log_softmax(corrupted.logits.float(), -1)
    divergence = (before.exp() * (before - after)).sum(-1).clamp(max=most)
    return -mean_over_groups(divergence, corrupted.group, weights)


def premature_confidence(early: Read, weights: Weights) -> Float[Tensor, ""]:
    """PCS as a penalty: the probability of the answer where the chain is cut behind a step and answered at once.

    The paper rewards confidence that grows along the chain, in reinforcement learning; its differentiable half is that
    early confidence is penalised. A final step is never cut behind, so confidence at the end is free to be high.
    """
    return mean_over_groups(early.logprobs.exp(), early.group, weights)


@dataclass(frozen=True)
class Objective:
    """A name for a term of the loss."""

    name: str
    summary: str
    variants: tuple[str, ...]
    """The rows that it compares (`training.examples`); they join the batch together."""
    term: Callable[[Mapping[str, Read], Weights], Tensor] | None
    """From the reads of the variants; `base` is the answer in the batch's own rows. None: no term of this kind."""
    interchanged: bool = False
    """The literal's state in the `interchanged` rows is taken from the `recomputed` ones."""
    base: bool = False
    """Reads the answer in the batch's own rows as well."""
    blind: bool = False
    """The batch's own rows, which see the question, get no loss on the answer."""
    probed: bool = False
    """What is read is a linear probe on a layer's states, not what the model predicts."""


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("cross-entropy", "nothing beyond the trainer's own loss", (), None),
        Objective(
            "counterfactual",
            "behind a replaced value, what the executor recomputes",
            ("recomputed",),
            lambda reads, weights: consistency(reads["recomputed"], weights),
        ),
        Objective(
            "self-consistency",
            "behind a replaced value, what the model predicts on the problem whose own value that is",
            ("recomputed", "partner"),
            lambda reads, weights: self_consistency(reads["recomputed"], reads["partner"], weights),
        ),
        Objective(
            "interchange",
            "behind a state taken from the counterfactual run, what the executor recomputes",
            ("recomputed", "interchanged"),
            lambda reads, weights: consistency(reads["interchanged"], weights),
            interchanged=True,
        ),
        Objective(
            "frodo",
            "FRODO: counterfactual answers, and a margin between the chain and a counterfactual one",
            ("answered", "flipped"),
            lambda reads, weights: frodo(reads["base"], reads["answered"], reads["flipped"], weights),
            base=True,
        ),
        Objective(
            "csr",
            "CSR: the answer turns when a value of the chain is replaced",
            ("untouched",),
            lambda reads, weights: counterfactual_sensitivity(reads["base"], reads["untouched"], weights),
            base=True,
        ),
        Objective(
            "pcs",
            "PCS: no confidence in the answer while the chain is being written",
            ("truncated",),
            lambda reads, weights: premature_confidence(reads["truncated"], weights),
        ),
        Objective(
            "markovian",
            "the answer is predicted from the chain alone",
            ("blind",),
            lambda reads, weights: consistency(reads["blind"], weights),
            blind=True,
        ),
        Objective(
            "probe",
            "a linear probe reads the value where it is predicted",
            ("stated",),
            lambda reads, weights: consistency(reads["stated"], weights),
            probed=True,
        ),
    )
}


def get_objective(name: str) -> Objective:
    """An objective by its name. Raises UnknownNameError."""
    if name not in OBJECTIVES:
        raise UnknownNameError("objective", name, list(OBJECTIVES))
    return OBJECTIVES[name]
