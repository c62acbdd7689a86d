"""Faithfulness as one term of anyone's loss.

examples = training_examples(subject, problems)
faithful = FaithfulnessLoss(model, weight=1.0, every=4)
for batch in DataLoader(examples, batch_size=16, collate_fn=Collator(tokenizer)):
    batch = faithful.stack(batch)               # counterfactual rows join the same forward pass
    out = model(**batch)
    faithful(out, batch).backward()             # cross-entropy and faithfulness
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from faithprobe.errors import HookError
from faithprobe.training.batches import GROUPS, BatchError, Group, Plan, StackedBatch, stacked, unanswered
from faithprobe.training.examples import IGNORED, IN_PLACE
from faithprobe.training.objectives import Read, get_objective
from faithprobe.training.probe_loss import OnlineProbe
from faithprobe.training.reference import Reference, divergence
from faithprobe.training.step_weights import StepWeights, step_weights_of
from faithprobe.training.taps import Interchange, Taps


class FaithfulnessLoss:
    """Makes a model use what it writes: stacks counterfactual rows onto batches, and scores what it predicts there.

    Attributes:
        logs: what the last call measured, as floats: the unscaled `faithfulness`, `kl`, `counterfactual_rows`.
    """

    def __init__(
        self,
        model: Any,
        *,
        objective: str = "counterfactual",
        weight: float = 1.0,
        every: int = 1,
        warmup: int = 0,
        share: float = 0.5,
        steps: Collection[str] | None = None,
        step_weights: StepWeights = None,
        layers: Collection[int] | None = None,
        kl: float = 0.0,
        reference: Any = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            model: the Hugging Face model that is trained, with its wrappers or without; before `torch.compile`.
            objective: a name of `OBJECTIVES`; examples are made for the same one.
            weight: of the term, beside a loss of weight 1.
            every: the term is there at every so many steps, with its whole weight.
            warmup: steps over which the weight rises linearly.
            share: at most so many counterfactual rows as this share of the batch.
            steps: of the chain, to be corrupted; default: all that the examples hold.
            step_weights: how much each step counts: a mapping, or an `Audit`, whose low-scored steps count more.
            layers: at which states are interchanged, one of them drawn at each step; default: all but the last. The
                probe of the objective "probe" reads behind the middle one of them.
            kl: weight of the KL divergence to the reference, on the batch's own responses.
            reference: a frozen model to stay close to; default with `kl`: the model with its adapters off (LoRA), else
                a frozen copy of it as it is now.
            seed: draws which examples are corrupted.

        Raises:
            UnknownNameError: no such objective.
            ValueError: a number out of its range.
            ModelError: the model is compiled already, or its layers cannot be found.
        """
        for name, value, low in (("weight", weight, 0), ("every", every, 1), ("warmup", warmup, 0), ("kl", kl, 0)):
            if value < low:
                raise ValueError(f"{name} must be at least {low}, not {value}")
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], not {share}")
        self.objective = get_objective(objective)
        self.weight, self.every, self.warmup, self.share, self.kl, self.seed = weight, every, warmup, share, kl, seed
        self.steps = None if steps is None else frozenset(steps)
        self.step_weights = step_weights_of(step_weights)
        self.reference = Reference.of(model, reference) if kl else None
        self.taps = Taps.on(model)
        self.layers = self._checked(layers)
        self.probe = (
            OnlineProbe(self.taps.hf.get_output_embeddings().weight.shape[0]) if self.objective.probed else None
        )
        self.step = 0
        self.logs: dict[str, float] = {}
        self._now, self._part = -1, 0

    def _checked(self, layers: Collection[int] | None) -> tuple[int, ...]:
        n = len(self.taps.layers)
        chosen = tuple(range(n - 1)) if layers is None else tuple(layers)
        outside = [layer for layer in chosen if not 0 <= layer < n - 1]
        if outside or ((self.objective.interchanged or self.objective.probed) and not chosen):
            raise ValueError(
                f"states can be interchanged after layers 0 to {n - 2} of {n}, not after {outside or 'none'}: behind "
                "the last layer no later position sees them"
            )
        return chosen

    def active(self, step: int) -> bool:
        """Whether the term is there at a step, counted from 0."""
        return step % self.every == 0 and (self.objective.term is not None or self.kl > 0)

    def stack(self, batch: Mapping[str, Any], *, step: int | None = None) -> StackedBatch:
        """The batch with counterfactual rows behind its own, ready for `model(**batch)`.

        Args:
            batch: of a `Collator`.
            step: number of the optimiser's step; default: counted by calls. Pass it under gradient accumulation, so
                that all parts of one step are alike.

        Raises:
            BatchError: no counterfactual columns, or no room for a single group.
        """
        if self.objective.blind:
            batch = unanswered(batch)
        now = self.step if step is None else step
        self._part = self._part + 1 if now == self._now else 0
        self.step, self._now, self.logs = now + 1, now, {}
        if not self.active(now):
            self.taps.expect(None)
            return StackedBatch({name: value for name, value in batch.items() if name != GROUPS}, None)
        rng = random.Random(f"faithful {self.seed} {now} {self._part}")
        groups = self._choose(batch, rng) if self.objective.term is not None else []
        # examples that were made for another objective may hold more variants than there is room for
        groups = [replace(group, rows={name: group.rows[name] for name in self.objective.variants}) for group in groups]
        whole = stacked(batch, groups, pad=self._pad)
        assert whole.plan is not None
        shape = (whole["input_ids"].shape[0], whole["input_ids"].shape[1])
        self.taps.expect(
            shape,
            self._interchange(whole.plan, rng) if self.objective.interchanged else None,
            capture=None if self.probe is None else self.layers[len(self.layers) // 2],
        )
        return whole

    @property
    def _pad(self) -> int:
        config = self.taps.hf.config.get_text_config(decoder=True)
        found = (getattr(config, name, None) for name in ("pad_token_id", "eos_token_id"))
        first = next((token for token in found if token is not None), 0)
        return int(first[0] if isinstance(first, list | tuple) else first)

    def _choose(self, batch: Mapping[str, Any], rng: random.Random) -> list[Group]:
        """Groups of different examples, as many as there is room for."""
        if GROUPS not in batch:
            raise BatchError(
                f"the batch has no {GROUPS!r}, only {', '.join(batch)}: make examples with training_examples and "
                "batches with Collator; in a Hugging Face trainer use the mixin, which keeps the columns"
            )
        held_steps = {group.step for group in batch[GROUPS]}
        if self.step_weights and held_steps and held_steps.isdisjoint(self.step_weights):
            raise BatchError(
                f"step_weights names {', '.join(sorted(self.step_weights))}, and the batch's chains have "
                f"{', '.join(sorted(held_steps))}: none of them would count as you mean"
            )
        by_example: dict[int, list[Group]] = {}
        for group in batch[GROUPS]:
            if (self.steps is None or group.step in self.steps) and self.step_weights.get(group.step, 1.0) > 0:
                by_example.setdefault(group.example, []).append(group)
        if not by_example:
            asked = "any step" if self.steps is None else " or ".join(sorted(self.steps))
            raise BatchError(f"no example of the batch has a counterfactual of {asked}")
        held = [group.rows for groups in by_example.values() for group in groups]
        missing = [variant for variant in self.objective.variants if any(variant not in rows for rows in held)]
        if missing:
            raise BatchError(
                f"the examples hold {', '.join(held[0]) or 'no rows'}, and {self.objective.name!r} compares "
                f"{missing[0]!r}: make them with training_examples(..., objective={self.objective.name!r})"
            )
        own, each = len(batch["input_ids"]), len(set(self.objective.variants) - IN_PLACE)
        if not each:
            return [group for example in sorted(by_example) for group in by_example[example]]
        room = int(self.share * own) // each
        if not room:
            raise BatchError(
                f"{own} rows have no room for one counterfactual of {each} rows within share={self.share}: raise the "
                "batch size, or share"
            )
        examples = sorted(by_example)
        rng.shuffle(examples)
        return [rng.choice(by_example[example]) for example in sorted(examples[:room])]

    def _interchange(self, plan: Plan, rng: random.Random) -> Interchange:
        """Of every group, the literal's state: from the row with the replaced literal into the row with the own one."""
        places = [
            (places["interchanged"], position, places["recomputed"], position)
            for group, places in zip(plan.groups, plan.places, strict=True)
            for position in range(*group.rows["interchanged"].literal)
        ]
        columns = torch.tensor(places, dtype=torch.long, device=self.taps.hf.device).T
        return Interchange(rng.choice(self.layers), *columns)

    def __call__(self, out: Any, batch: StackedBatch) -> Float[Tensor, ""]:
        """The model's own loss and the weighted term. Errors: `term`."""
        own = out.get("loss") if isinstance(out, Mapping) else getattr(out, "loss", None)
        if own is None:
            raise BatchError("the model returned no loss: the batch needs labels; or add faithful.term(out, batch)")
        return own + self.term(out, batch)

    def term(self, out: Any, batch: StackedBatch) -> Float[Tensor, ""]:
        """The weighted term alone, to be added to any loss; 0 at a step without it.

        Args:
            out: what the model returned for the stacked batch; without logits, the state behind its last norm is read.
            batch: of `stack`.

        Raises:
            BatchError: the batch was not stacked.
            HookError: the model is in eval mode, what is read has no gradient, or an interchange did not happen.
        """
        if not isinstance(batch, StackedBatch):
            raise BatchError("this batch was not stacked: batch = faithful.stack(batch), then model(**batch)")
        plan = batch.plan
        if plan is None:
            return batch["input_ids"].new_zeros((), dtype=torch.float32)
        self._require_training()
        total: Tensor | None = None
        if plan.groups and self.objective.term is not None:
            names = (*self.objective.variants, *(("base",) if self.objective.base else ()))
            reads = {name: self._read(out, batch, plan, name) for name in names}
            weights = torch.tensor([self.step_weights.get(group.step, 1.0) for group in plan.groups])
            found = self.objective.term(reads, weights.to(batch["input_ids"].device))
            self.logs |= {"faithfulness": float(found.detach()), "counterfactual_rows": plan.rows - plan.own}
            total = self._weight() * found
        if self.reference is not None:
            found = self._divergence(out, batch, plan)
            self.logs["kl"] = float(found.detach())
            total = self.kl * found if total is None else total + self.kl * found
        assert total is not None
        if not total.requires_grad:
            raise HookError(
                "the term has no gradient: the forward pass ran under torch.no_grad, or every parameter is frozen"
            )
        return total

    def _weight(self) -> float:
        return self.weight * min(1.0, (self._now + 1) / self.warmup) if self.warmup else self.weight

    def _require_training(self) -> None:
        if not self.taps.hf.training:
            raise HookError("the model is in eval mode: call model.train() before the forward pass")
        planned = self.taps.interchange
        if planned is not None and not self.taps.fired:
            raise HookError(
                f"layer {planned.layer} was not captured, so no state was interchanged: the stacked batch did not go "
                "through this model, or the model was compiled before the FaithfulnessLoss was made"
            )

    def _read(self, out: Any, batch: StackedBatch, plan: Plan, variant: str) -> Read:
        targets = plan.targets(variant, batch["input_ids"])
        if self.probe is not None:
            states = self.taps.states(targets.rows, targets.positions)
            return Read(self.probe(states, targets.labels), targets.labels, targets.group)
        return Read(self._logits(out, batch, targets.rows, targets.positions), targets.labels, targets.group)

    def _logits(self, out: Any, batch: StackedBatch, rows: Tensor, positions: Tensor) -> Tensor:
        given = out.get("logits") if isinstance(out, Mapping) else getattr(out, "logits", None)
        if given is None or tuple(given.shape[:2]) != tuple(batch["input_ids"].shape):
            given = None
        logits = self.taps.logits(rows, positions) if given is None else given[rows, positions]
        if not logits.requires_grad:
            raise HookError(
                "what the model predicts has no gradient: call it with gradients on, and with a parameter to train"
            )
        return logits

    def _divergence(self, out: Any, batch: StackedBatch, plan: Plan) -> Tensor:
        """KL(model || reference) on the batch's own responses."""
        assert self.reference is not None
        if not self.reference.adapters_off:  # trainers move a model to its device after the loss was made
            self.reference.model.to(batch["input_ids"].device)
        own = {name: value[: plan.own] for name, value in batch.items()}
        if "labels" not in own or not (own["labels"][:, 1:] != IGNORED).any():
            raise BatchError("the KL divergence is taken on the batch's own responses, and it has no labels there")
        rows, positions = (own["labels"][:, 1:] != IGNORED).nonzero(as_tuple=True)
        with self.taps.sleeping():
            theirs = self.reference.logits(own, rows, positions)
        return divergence(self._logits(out, batch, rows, positions), theirs)

    def close(self) -> None:
        """Takes the hooks off the model."""
        self.taps.close()
