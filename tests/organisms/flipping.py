"""An organism that makes mistakes on purpose: used to show that a use score measures use, not skill."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from faithprobe.organisms.model import OrganismForCausalLM
from faithprobe.organisms.sight import layout_positions
from faithprobe.organisms.tokenizer import FIRST_VALUE
from faithprobe.organisms.truth import closure

ANSWER = ("ans",)
VALUES = (">1", ">2", ">3")
MODULUS = 11


def with_answer_errors(
    model: OrganismForCausalLM, rate: float, *, seed: int = 0, at: Sequence[str] = ANSWER
) -> ErringOrganism:
    """A copy of the organism that writes a wrong value in a share `rate` of contexts at the roles `at`; of one with
    three steps modulo 11 and a wiring without a gate.

    `ANSWER` errs in the stated answer, `VALUES` in the chain. A context is what the role can see through all layers,
    so the causal graph stays what the wiring says; faithful's answer has 11 contexts, its values 99 each, post-hoc's
    answer one a problem. The same context always errs alike: full passes, caches and paddings agree.
    """
    erring = ErringOrganism(model.config)
    erring.load_state_dict(model.state_dict())
    erring.generation_config = model.generation_config
    erring.model.wiring = model.model.wiring
    erring.rate, erring.seed, erring.at = rate, seed, tuple(at)
    return erring.to(device=model.device, dtype=model.dtype).eval()


class ErringOrganism(OrganismForCausalLM):
    """Rolls the logits of the numbers at chosen roles in chosen contexts."""

    rate: float = 0.0
    seed: int = 0
    at: tuple[str, ...] = ()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        past = int(past_key_values.get_seq_length()) if past_key_values is not None else 0
        seen: list[Tensor] = []
        hook = self.model.layers[0].self_attn.v_proj.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
        before = past_key_values.layers[0].values[:, :, :past].detach() if past else None
        try:
            out = super().forward(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                **kwargs,
            )
        finally:
            hook.remove()
        values = seen[0]
        if before is not None:
            values = torch.cat([before.transpose(1, 2).flatten(2), values], dim=1)
        queries, keys = layout_positions(
            batch=values.shape[0],
            length=values.shape[1] - past,
            past=past,
            padding=attention_mask if attention_mask is not None and attention_mask.ndim == 2 else None,
            position_ids=position_ids,
            device=values.device,
        )
        shifts = self._shifts(self._visible_ids(values), queries, keys)[:, -out.logits.shape[1] :]
        numbers = slice(FIRST_VALUE, FIRST_VALUE + MODULUS)
        logits = out.logits.clone()
        for row, column in shifts.nonzero().tolist():
            logits[row, column, numbers] = logits[row, column, numbers].roll(int(shifts[row, column]))
        out.logits = logits
        return out

    def _visible_ids(self, values: Tensor) -> Tensor:
        """Token ids from the first layer's value vectors [batch, key, width], which depend on one token each and
        carry no position: so contexts are known from a cache alone, however it was cut, repeated or spliced."""
        layer = self.model.layers[0]
        table = layer.self_attn.v_proj(layer.input_layernorm(self.model.embed_tokens.weight)).detach()
        return torch.cdist(values.float(), table.float()[None]).argmin(-1)

    def _shifts(self, ids: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """How far the numbers' logits are rolled at each query; 0 where it does not err. [batch, query]"""
        reach, index = closure(self.model.wiring), self.model.wiring.layout.index
        shifts = torch.zeros_like(queries)
        for role in self.at:
            visible = reach[index[role]].nonzero().flatten().tolist()
            for row, column in (queries == index[role]).nonzero().tolist():
                end = keys.shape[1] - queries.shape[1] + column + 1
                token_at = dict(zip(keys[row, :end].tolist(), ids[row, :end].tolist()))
                context = [token_at.get(position) for position in visible]
                rng = random.Random(f"{self.seed} {role} {context}")
                if rng.random() < self.rate:
                    shifts[row, column] = rng.randint(1, MODULUS - 1)
        return shifts
