"""Faithfulness as a term of anyone's training loss: `FaithfulnessLoss`, its data, its adapters and its guards."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faithprobe.training.batches import BatchError, Collator, StackedBatch
    from faithprobe.training.callback import GoodhartCallback, Guard
    from faithprobe.training.evaluate import Evaluation, evaluate_training
    from faithprobe.training.examples import training_example, training_examples
    from faithprobe.training.lightning import FaithfulnessModule, FaithfulnessModuleMixin
    from faithprobe.training.loss import FaithfulnessLoss
    from faithprobe.training.markovian import MarkovianSubject
    from faithprobe.training.objectives import OBJECTIVES
    from faithprobe.training.probe_loss import ProbeLossWarning
    from faithprobe.training.reward import (
        ConfidenceTrajectoryReward,
        CounterfactualSensitivityReward,
        FaithfulnessReward,
    )
    from faithprobe.training.stop_rule import StopRule
    from faithprobe.training.trainer import FaithfulnessTrainerMixin

_HOMES = {
    "batches": ("BatchError", "Collator", "StackedBatch"),
    "callback": ("GoodhartCallback", "Guard"),
    "evaluate": ("Evaluation", "evaluate_training"),
    "examples": ("training_example", "training_examples"),
    "lightning": ("FaithfulnessModule", "FaithfulnessModuleMixin"),
    "loss": ("FaithfulnessLoss",),
    "objectives": ("OBJECTIVES",),
    "reward": ("FaithfulnessReward", "CounterfactualSensitivityReward", "ConfidenceTrajectoryReward"),
    "stop_rule": ("StopRule",),
    "markovian": ("MarkovianSubject",),
    "probe_loss": ("ProbeLossWarning",),
    "trainer": ("FaithfulnessTrainerMixin",),
}
__all__ = [
    "OBJECTIVES",
    "BatchError",
    "Collator",
    "ConfidenceTrajectoryReward",
    "CounterfactualSensitivityReward",
    "Evaluation",
    "FaithfulnessLoss",
    "FaithfulnessModule",
    "FaithfulnessModuleMixin",
    "FaithfulnessReward",
    "FaithfulnessTrainerMixin",
    "GoodhartCallback",
    "Guard",
    "MarkovianSubject",
    "ProbeLossWarning",
    "StackedBatch",
    "StopRule",
    "evaluate_training",
    "training_example",
    "training_examples",
]


def __getattr__(name: str) -> object:
    """Adapters load the framework that they adapt to only when they are asked for."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"faithprobe.training.{module}"), name)
    raise AttributeError(f"module 'faithprobe.training' has no attribute {name!r}")
