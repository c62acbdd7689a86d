"""Probes that are scikit-learn estimators, on numpy arrays and on torch tensors of any device.

    from faithprobe.probes.estimators import LinearProbe
    probe = LinearProbe().fit(activations, labels, groups=problems)
    probe.score(others, their_labels)

All of them keep what they learn as numpy arrays, and answer in kind: arrays for arrays, tensors for tensors (`arrays`).
"""

from faithprobe.probes.estimators.linear import LinearProbe
from faithprobe.probes.estimators.means import DifferenceOfMeans
from faithprobe.probes.estimators.pooled import AttentionPooledProbe, MaxPooledProbe
from faithprobe.probes.estimators.ridge import RidgeProbe

__all__ = ["AttentionPooledProbe", "DifferenceOfMeans", "LinearProbe", "MaxPooledProbe", "RidgeProbe"]
