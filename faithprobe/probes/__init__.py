"""Is the value there, since when, and against which control? Arrays in, records out."""

from faithprobe.probes.agreement import Agreement, agreement
from faithprobe.probes.chunks import Features
from faithprobe.probes.control_task import control_labels
from faithprobe.probes.description_length import Codelength, DescriptionLength, online_codelength
from faithprobe.probes.features import one_hot_by_slot
from faithprobe.probes.information import cross_fitted, transfer
from faithprobe.probes.permutation import PermutationNull, permutation_test
from faithprobe.probes.record import Information
from faithprobe.probes.splits import Fold, connected_components, grouped_folds, operand_combinations
from faithprobe.probes.stream import Batch
from faithprobe.probes.sweep import Site, Swept, sweep
from faithprobe.probes.targets import MISSING, entropy_bits, labels_of, targets_for
from faithprobe.probes.unneeded import Contrast, contrast, depth_of, depths, matched

__all__ = [
    "MISSING",
    "Agreement",
    "Batch",
    "Codelength",
    "Contrast",
    "DescriptionLength",
    "Features",
    "Fold",
    "Information",
    "PermutationNull",
    "Site",
    "Swept",
    "agreement",
    "connected_components",
    "contrast",
    "control_labels",
    "cross_fitted",
    "depth_of",
    "depths",
    "entropy_bits",
    "grouped_folds",
    "labels_of",
    "matched",
    "one_hot_by_slot",
    "online_codelength",
    "operand_combinations",
    "permutation_test",
    "sweep",
    "targets_for",
    "transfer",
]
