"""The model that training must not leave: a frozen copy, or the model itself with its adapters off.

The penalty is KL(model || reference), the one of reinforcement learning from preferences (Ziegler et al., arXiv
1909.08593), exact over the vocabulary, at every token of the responses that the batch holds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from faithprobe.errors import ModelError
from faithprobe.models.hooks import evaluating
from faithprobe.models.sites import unwrapped


@dataclass(frozen=True, eq=False)
class Reference:
    """Where reference logits come from."""

    model: Any
    adapters_off: bool

    @classmethod
    def of(cls, model: Any, given: Any = None) -> Reference:
        """`given`, frozen; else the model with its adapters off where it has some, else a frozen copy of it."""
        if given is model and given is not None:
            raise ModelError("the reference is the model that is trained: give a copy of it, or leave reference out")
        if type(model).__name__ == "DistributedDataParallel":
            model = model.module
        if given is None and hasattr(model, "disable_adapter"):
            return cls(model, adapters_off=True)
        if given is None and "forward" in vars(unwrapped(model)):
            raise ModelError(
                "the model's forward was replaced, as TRL's trainers do, and a copy of it would call this model's own: "
                "make the FaithfulnessLoss before the trainer, or give reference="
            )
        try:
            frozen = copy.deepcopy(model) if given is None else given
        except AssertionError as error:  # of FSDP2
            raise ModelError(
                "a sharded model cannot be copied: make the FaithfulnessLoss before fully_shard, or give reference="
            ) from error
        for parameter in frozen.parameters():
            parameter.requires_grad_(False)
        return cls(frozen.eval(), adapters_off=False)

    def logits(
        self, batch: Mapping[str, Tensor], rows: Int[Tensor, " place"], positions: Int[Tensor, " place"]
    ) -> Float[Tensor, "place vocabulary"]:
        """At some places of a batch, without gradient; the model keeps its mode."""
        off: AbstractContextManager[Any] = self.model.disable_adapter() if self.adapters_off else nullcontext()
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with evaluating(self.model), off:
            return self.model(**inputs, use_cache=False).logits[rows, positions]


def divergence(
    logits: Float[Tensor, "place vocabulary"], reference: Float[Tensor, "place vocabulary"]
) -> Float[Tensor, ""]:
    """Mean KL(model || reference) over places, in nats."""
    ours, theirs = (functional.log_softmax(given.float(), -1) for given in (logits, reference))
    return (ours.exp() * (ours - theirs)).sum(-1).mean()
