"""Is the value there, since when, and against which control? Arrays in, records out."""

from faithprobe.probes.agreement import Agreement, agreement
from faithprobe.probes.chunks import Features
from faithprobe.probes.features import one_hot_by_slot
from faithprobe.probes.information import Information, cross_fitted, transfer
from faithprobe.probes.splits import Fold, connected_components, grouped_folds, operand_combinations
from faithprobe.probes.targets import MISSING, entropy_bits, labels_of, targets_for

__all__ = [
    "MISSING",
    "Agreement",
    "Features",
    "Fold",
    "Information",
    "agreement",
    "connected_components",
    "cross_fitted",
    "entropy_bits",
    "grouped_folds",
    "labels_of",
    "one_hot_by_slot",
    "operand_combinations",
    "targets_for",
    "transfer",
]
