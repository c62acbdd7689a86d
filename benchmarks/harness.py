"""Ratios that hold on a busy machine: both sides run in turn, in one process, on the same inputs.

A time alone says something about a machine; the ratio of two times taken one after the other says something about
two programs. `paired` alternates ours, peer, ours, peer, ... after a warm-up, takes the ratio of every pair, and
reports the median, so that a slow minute of the machine falls on both sides.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Literal

_PACKAGES = ("faithprobe", "torch", "transformers", "transformer-lens", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Paired:
    """Times of two programs that were run in turn."""

    ours: tuple[float, ...]
    """Seconds, one a pair."""
    peer: tuple[float, ...]
    """Seconds, one a pair; `peer[i]` ran right after `ours[i]`."""

    def result(self, over: Literal["peer/ours", "ours/peer"] = "peer/ours", **extra: object) -> dict[str, object]:
        """The numbers of a benchmark file. `over` says which way the ratio goes: how many times faster we are
        (`peer/ours`), or how much we cost (`ours/peer`). `extra` joins them (`tolerance`, `seed`, sizes)."""
        pairs = list(zip(self.ours, self.peer, strict=True))
        ratios = [peer / ours if over == "peer/ours" else ours / peer for ours, peer in pairs]
        return {
            "ratio": median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "over": over,
            "ours_s": median(self.ours),
            "peer_s": median(self.peer),
            "n": len(pairs),
            **extra,
        }


def paired(ours: Callable[[], object], peer: Callable[[], object], n: int = 5, *, warmup: int = 1) -> Paired:
    """Runs both `warmup` times unmeasured, then `n` times in turn. Neither may reuse what an earlier call computed."""
    if n < 1 or warmup < 0:
        raise ValueError(f"paired needs n >= 1 and warmup >= 0, not n={n}, warmup={warmup}")
    for _ in range(warmup):
        ours()
        peer()
    times = [(seconds(ours), seconds(peer)) for _ in range(n)]
    return Paired(tuple(a for a, _ in times), tuple(b for _, b in times))


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call; on a GPU, until the device has finished."""
    _synchronize()
    begin = time.perf_counter()
    work()
    _synchronize()
    return time.perf_counter() - begin


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> str:
    """Processor, cores and accelerator: `Intel Xeon @ 2.60GHz, 2 cores`. No host names."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    parts = [name, f"{os.cpu_count()} cores"]
    import torch

    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def versions() -> dict[str, str]:
    """What the numbers depend on, besides the machine."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
