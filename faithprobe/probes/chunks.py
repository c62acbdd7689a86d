"""Features that need not fit into memory: whatever has a shape and hands out a slice of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

CHUNK = 256
"""Items whose features are held at once."""


class Features(Protocol):
    """(items, features), read by `x[begin:end]`: a numpy array, a memory map, activations in a trace store.

    Probes never ask for more than `CHUNK` items at a time, and read every item several times.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


def chunks(x: Features) -> Iterator[tuple[int, np.ndarray]]:
    """The items in order, at most `CHUNK` at a time: number of the first one, (items of the chunk, features)."""
    for begin in range(0, x.shape[0], CHUNK):
        yield begin, np.asarray(x[begin : begin + CHUNK], dtype=np.float64)
