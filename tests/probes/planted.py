"""Items whose information is known: sums on a page, and states into which a signal is planted."""

import numpy as np

from faithprobe.probes import labels_of, one_hot_by_slot, operand_combinations

WIDTH = 24


def sums(n: int, *, seed: int, largest: int = 19) -> tuple[np.ndarray, np.ndarray, tuple, np.ndarray]:
    """Operands (n, 2), their sums, groups (problem, combination) and the text control."""
    operands = np.random.default_rng(seed).integers(1, largest + 1, (n, 2))
    groups = (np.arange(n), operand_combinations(operands.tolist()))
    (text,) = one_hot_by_slot([{"a": int(a), "b": int(b)} for a, b in operands])
    return operands, operands.sum(1), groups, text


def parity(values: np.ndarray) -> np.ndarray:
    return labels_of("parity", [int(v) for v in values])


def planted(signal: np.ndarray, *, seed: int, noise: float = 1.0, width: int = WIDTH) -> np.ndarray:
    """(n, width): a random linear map of `signal` (n,) or (n, k), plus noise."""
    rng = np.random.default_rng(seed)
    signal = signal.reshape(len(signal), -1).astype(float)
    return signal @ rng.normal(size=(signal.shape[1], width)) + noise * rng.normal(size=(len(signal), width))
