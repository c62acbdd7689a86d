"""The loss in Hugging Face's `Trainer` and in TRL's trainers: one mixin over `compute_loss`.

class FaithfulSFTTrainer(FaithfulnessTrainerMixin, SFTTrainer):
    pass

FaithfulSFTTrainer(..., faithfulness=FaithfulnessLoss(model, every=4), train_dataset=Dataset.from_list(examples))

The trainer's own loss L comes from the trainer, whatever it is; the term T is added as a mean over a micro-batch, and
an optimiser's step follows the mean of both over its M micro-batches:

    step = 1/M sum_m (L_m + T_m)    or    sum_m L_m + 1/M sum_m T_m    where L is divided by all tokens of the step

Trainers whose batches are `input_ids` and `labels` (`Trainer`, `SFTTrainer`) run the counterfactual rows in their own
forward pass. Others (`DPOTrainer`: pairs of responses, concatenated) run them in a second one. No framework is imported
here.
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from faithprobe.models.sites import unwrapped
from faithprobe.training.batches import GROUPS, PADDED, BatchError, Collator, Plan, StackedBatch
from faithprobe.training.examples import COLUMNS, IN_PLACE, Example
from faithprobe.training.loss import FaithfulnessLoss

_Trainer: Any = object
"""What stands behind the mixin, for the type checker: any trainer."""

BESIDE = "faithfulness_batch"
"""The key under which a batch of another kind holds the one of a `Collator`."""
LOGGED = {"kl": "faithfulness_kl"}
"""Names in the trainer's log, where they are not those of `FaithfulnessLoss.logs`."""


class FaithfulnessTrainerMixin(_Trainer):
    """Adds a `FaithfulnessLoss` to a trainer; stands in front of it: `class Mine(FaithfulnessTrainerMixin, Trainer)`.

    The training data are `training_examples`; for a trainer of another kind, its own columns and theirs. In evaluation
    nothing is stacked, and the data need none of these columns. The log shows `faithfulness`, `counterfactual_rows` (of
    a batch) and `faithfulness_kl`: means over the steps that had them since the last log, and over processes.
    """

    faithfulness: FaithfulnessLoss
    data_collator: Any
    _own_columns: tuple[str, ...]
    _signature_columns: Any

    def __init__(self, *args: Any, faithfulness: FaithfulnessLoss, **kwargs: Any) -> None:
        """
        Args:
            args, kwargs: of the trainer. The default `data_collator` is a `Collator` with the trainer's tokenizer.
            faithfulness: the loss, made on the trainer's model.

        Raises:
            BatchError: the training data lack a column, or the trainer would cut or pack their texts.
            ValueError: the loss was made on another model, or does not fit the trainer.
        """
        given = {**inspect.signature(super().__init__).bind_partial(*args, **kwargs).arguments, **kwargs}
        super().__init__(*args, **kwargs)
        self.faithfulness = faithfulness
        self._set_signature_columns_if_needed()
        self._beside = "input_ids" not in self._own_columns
        self._terms: defaultdict[str, list[float]] = defaultdict(list)
        self._require_fit()
        self._require_columns()
        self._require_whole_texts(given.get("train_dataset"))
        if given.get("data_collator") is None:
            if self.processing_class is None:
                raise BatchError("give processing_class=tokenizer, or data_collator=Collator(tokenizer)")
            examples = Collator(
                getattr(self.processing_class, "tokenizer", self.processing_class),
                max_length=getattr(self.args, "max_length", None),
            )
            self.data_collator = TrainerCollator(self.data_collator, examples, beside=self._beside)

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The trainer's loss, and while the model trains the term. The outputs are the trainer's: in training they hold
        the counterfactual rows behind the batch's own."""
        inputs = dict(inputs)
        beside = inputs.pop(BESIDE, None)
        if not self.model.training:
            inputs.pop(GROUPS, None)
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        now, faithful = self.state.global_step, self.faithfulness
        if self._beside:
            with faithful.taps.sleeping():
                found = super().compute_loss(
                    model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
                )
            if beside is None:
                raise BatchError(
                    f"the batch has no {BESIDE!r}: keep the columns of training_examples, and use no other"
                )
            batch = stacked_beside(faithful, beside, step=now, unlike=tuple(inputs["input_ids"].shape))
            if batch.plan is not None:
                asked = {name: value for name, value in batch.items() if name != "labels"}
                # one position of logits: those that are needed are computed from the state behind the last norm
                model(**asked, use_cache=False, logits_to_keep=1)
        else:
            batch = faithful.stack(inputs, step=now)
            # a copy: trainers write into their inputs
            found = super().compute_loss(
                model, dict(batch), return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        term = self._share(num_items_in_batch) * faithful.term(None, batch)
        self._measure()
        return (found[0] + term, found[1]) if return_outputs else found + term

    def _share(self, num_items_in_batch: Tensor | int | None) -> float:
        """Of the term in this micro-batch's loss. As `Trainer.training_step`, which divides what `compute_loss` returns
        by the number of micro-batches unless it is divided by the items of them all; that is not so of the term."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            by_items = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            scaled = by_items or self.compute_loss_func is not None
        # no factor for the number of processes: gradients are averaged over them, and so is the term
        return 1 / self.current_gradient_accumulation_steps if scaled else 1.0

    def _measure(self) -> None:
        logs = self.faithfulness.logs
        if not logs:
            return
        mine = torch.tensor([list(logs.values())], dtype=torch.float32, device=self.accelerator.device)
        for name, value in zip(logs, self.accelerator.gather(mine).mean(0).tolist(), strict=True):
            self._terms[LOGGED.get(name, name)].append(value)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As of the trainer, with the terms beside the loss."""
        if self.model.training:
            logs |= {name: sum(values) / len(values) for name, values in self._terms.items()}
            self._terms.clear()
        super().log(logs, *args, **kwargs)

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """As of `DPOTrainer`, which calls the model with all that its collator gives."""
        return super().compute_ref_log_probs(model, {name: inputs[name] for name in inputs if name != BESIDE})

    def _set_signature_columns_if_needed(self) -> None:
        """Columns that are kept: the trainer's own, and those of the examples."""
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            columns: Any = self._signature_columns
            self._own_columns = tuple(columns)
            columns += [name for name in COLUMNS if name not in self._own_columns]

    def _require_fit(self) -> None:
        if self.faithfulness.taps.hf is not unwrapped(self.model):
            raise ValueError(
                "the FaithfulnessLoss was made on another model than the one that is trained: load the model first, "
                "and give FaithfulnessLoss and the trainer the same object, not its name"
            )
        if self.args.n_gpu > 1:
            raise ValueError(
                "nn.DataParallel trains copies of the model, and what the loss reads is the model itself: start with "
                "torchrun or accelerate launch, or set CUDA_VISIBLE_DEVICES to one GPU"
            )
        if not self._beside:
            return
        if self.faithfulness.objective.blind:
            raise ValueError(
                f"{self.faithfulness.objective.name!r} takes the answers out of the trainer's own loss, and "
                f"{type(self).__name__} has batches of another kind: choose another objective"
            )
        options = [
            getattr(self.args, f"{name}_checkpointing_kwargs", None) or {} for name in ("gradient", "activation")
        ]
        if self.accelerator.num_processes > 1 and any(given.get("use_reentrant") for given in options):
            raise ValueError(
                "counterfactual rows need a second forward pass here, and reentrant gradient checkpointing in several "
                "processes allows one only: gradient_checkpointing_kwargs={'use_reentrant': False}"
            )

    def _require_columns(self) -> None:
        """Of the data as the trainer has prepared them."""
        data = self.train_dataset
        names: Sequence[str] | None = getattr(data, "column_names", None)
        if names is None and hasattr(data, "__len__") and len(data):
            names = list(data[0])
        missing = [name for name in COLUMNS if name not in names] if names is not None else []
        if getattr(self.args, "packing", False) or getattr(self, "padding_free", False):
            raise BatchError(
                "packing and padding_free put several texts into one row, where the places of literals are lost: set "
                "packing=False, padding_free=False"
            )
        if names is not None and missing:
            raise BatchError(
                f"the training data have no column {missing[0]!r}, only {', '.join(names)}: make them with "
                "Dataset.from_list(training_examples(...)), and keep every column"
            )

    def _require_whole_texts(self, data: Any) -> None:
        """Of the data as they were given: `SFTTrainer` cuts texts while it prepares them."""
        limit = getattr(self.args, "max_length", None)
        if limit is None or data is None or self._beside:
            return
        longest = max(map(len, data["input_ids"])) if hasattr(data, "__len__") else math.inf
        if longest > limit:
            raise BatchError(
                f"a text has {longest} tokens, and the trainer cuts it at max_length={limit}: a literal or the answer "
                "would be lost; raise max_length (None for data that are streamed), or leave such problems out"
            )


class TrainerCollator:
    """A `Collator` in a trainer. Data with none of our columns, as for evaluation, go to the trainer's own one."""

    def __init__(self, own: Callable[[Any], Any], examples: Collator, *, beside: bool) -> None:
        """`beside`: batches are the trainer's own, and what `examples` makes stands in them under `BESIDE`."""
        self.own, self.examples, self.beside = own, examples, beside

    def __call__(self, examples: Sequence[Example]) -> Any:
        if not any(name in examples[0] for name in COLUMNS[2:]):
            return self.own(examples)
        batch = self.examples(examples)
        return {**self.own(examples), BESIDE: batch} if self.beside else batch


def stacked_beside(
    faithful: FaithfulnessLoss, batch: Mapping[str, Any], *, step: int, unlike: tuple[int, ...]
) -> StackedBatch:
    """As `faithful.stack`, for a forward pass of its own beside another one: without the batch's own rows where nothing
    is compared with them.

    Args:
        unlike: rows and positions of the other pass. Under gradient checkpointing it runs again during the backward
            pass, when the hooks know it by its shape only; so this one gets another shape.
    """
    whole, objective = faithful.stack(batch, step=step), faithful.objective
    if whole.plan is None:
        return whole
    compared = objective.base or faithful.reference is not None or not IN_PLACE.isdisjoint(objective.variants)
    first = 0 if compared else whole.plan.own
    rows, length = (int(n) for n in whole["input_ids"][first:].shape)
    longer = int((rows, length) == unlike)
    fills = {name: faithful._pad if fill is None else fill for name, fill in PADDED.items()}
    tensors = {name: functional.pad(value[first:], (0, longer), value=fills[name]) for name, value in whole.items()}
    places = tuple({variant: row - first for variant, row in found.items()} for found in whole.plan.places)
    planned, capture = faithful.taps.interchange, faithful.taps.capture
    if planned is not None:
        planned = replace(planned, rows=planned.rows - first, source_rows=planned.source_rows - first)
    faithful.taps.expect((rows, length + longer), planned, capture=capture)
    return StackedBatch(tensors, Plan(whole.plan.own - first, whole.plan.groups, places))
