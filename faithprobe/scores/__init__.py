"""Definitions, statistics and verdicts: records and arrays in, records out; nothing here touches a model."""

from faithprobe.scores.evidence import Evidence, Measurement
from faithprobe.scores.statistics import Interval, clustered_mean, share_interval
from faithprobe.scores.use import Use, classify, use_score
from faithprobe.scores.verdict import ChainScore, Thresholds, Verdict, chain_score, judge, length_matched_null

__all__ = [
    "ChainScore",
    "Evidence",
    "Interval",
    "Measurement",
    "Thresholds",
    "Use",
    "Verdict",
    "chain_score",
    "classify",
    "clustered_mean",
    "judge",
    "length_matched_null",
    "share_interval",
    "use_score",
]
