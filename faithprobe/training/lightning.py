"""The loss in Lightning: a mixin for one's own `LightningModule`, and a small module that is ready to be trained.

class Mine(FaithfulnessModuleMixin, LightningModule):           # or FaithfulnessModule(model, faithfulness)
    def __init__(self, model):
        super().__init__()
        self.model = model.train()
        self.faithfulness = FaithfulnessLoss(model, every=4)

Lightning divides what `training_step` returns by the number of batches that it accumulates, and averages gradients over
processes: the term is a mean over its batch and needs nothing else. The step that `every`, `warmup` and the draws count
is the optimiser's, `trainer.global_step`. Validation, test and prediction are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from faithprobe.errors import FaithprobeError
from faithprobe.training.batches import GROUPS
from faithprobe.training.loss import FaithfulnessLoss

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule as _Module
else:
    _Module = object

try:
    from lightning.pytorch import LightningModule
except ImportError:

    class LightningModule:  # type: ignore[no-redef]
        """Stands in for Lightning's, where it is not installed."""

        def __init__(self) -> None:
            raise FaithprobeError("Lightning is not installed: pip install 'faithprobe[trainers]'")


class FaithfulnessModuleMixin(_Module):
    """A training step with the term; stands in front of a `LightningModule` that has a `model` and a `faithfulness`.

    Batches are those of a `Collator`. Override `training_step` where it does not fit, and keep its order: stack, run
    the model, add the term, log the terms.
    """

    model: Any
    """A Hugging Face causal language model, in train mode: Lightning leaves modes as they are."""
    faithfulness: FaithfulnessLoss

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The model's own loss and the term, both logged."""
        stacked = self.faithfulness.stack(batch, step=self.trainer.global_step)
        out = self.model(**stacked)
        loss = self.faithfulness(out, stacked)
        self.log_terms(loss=loss.detach(), cross_entropy=out.loss.detach())
        return loss

    def log_terms(self, **beside: Tensor | float) -> None:
        """Logs `faithfulness`, `counterfactual_rows`, `kl` and what stands `beside` them, as means over processes. At
        steps without the term its last values are logged again: a logger asks at steps of its own."""
        self._terms = {**getattr(self, "_terms", {}), **self.faithfulness.logs}
        self.log_dict({**beside, **self._terms}, sync_dist=True, batch_size=1)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """As of Lightning; counterfactual groups hold no tensors and stay as they are."""
        if not isinstance(batch, Mapping) or GROUPS not in batch:
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        tensors = {name: value for name, value in batch.items() if name != GROUPS}
        moved = super().transfer_batch_to_device(tensors, device, dataloader_idx)
        return {**moved, GROUPS: batch[GROUPS]}


def _adamw(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-5)


class FaithfulnessModule(FaithfulnessModuleMixin, LightningModule):
    """A causal language model that is trained by its own loss and the term."""

    def __init__(
        self,
        model: Any,
        faithfulness: FaithfulnessLoss,
        *,
        optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = _adamw,
    ) -> None:
        """
        Args:
            model: is put into train mode; Hugging Face loads models in eval mode.
            faithfulness: made on this model. Strategies that pickle the module (`ddp_spawn`) lose its hooks.
            optimizer: makes one for the parameters that are trained; default: AdamW with a learning rate of 1e-5.

        Raises:
            FaithprobeError: Lightning is not installed.
        """
        super().__init__()
        self.model, self.faithfulness, self.make_optimizer = model.train(), faithfulness, optimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer([weight for weight in self.model.parameters() if weight.requires_grad])
