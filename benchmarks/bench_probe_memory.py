"""`probe_memory`: peak memory of `faithprobe probe` on 20,000 problems over that on 2,000.

The command as people run it, each time in a process of its own: an organism answers, and what is probed is added to
moments and forgotten. The peak is what the kernel counted (`ru_maxrss`), Python and its libraries included; `extra_mb`
is by how much the longer run takes more. Ours are the 20,000 problems, the peer is the same with 2,000.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FEW, MANY = 2000, 20_000
ORGANISM = "graph/faithful"
"""Of a language with 72,171 problems."""
LIMIT = 1.1


def run() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        few_mb, few_s = peak(FEW, Path(folder) / "few")
        many_mb, many_s = peak(MANY, Path(folder) / "many")
    return {
        "ratio": many_mb / few_mb,
        "over": "ours/peer",
        "ours_s": many_s,
        "peer_s": few_s,
        "n": 1,
        "ours_mb": many_mb,
        "peer_mb": few_mb,
        "extra_mb": many_mb - few_mb,
        "limit": LIMIT,
        "problems": [MANY, FEW],
        "model": f"organism:{ORGANISM}",
    }


def peak(problems: int, out: Path) -> tuple[float, float]:
    """MB at most, and seconds, of one run."""
    model = ["--model", f"organism:{ORGANISM}", "--task", "organism", "--task-option", "variant=graph"]
    options = ["--problems", str(problems), "--layers", "1,3", "--shuffles", "5", "--no-report", "--out", str(out)]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "faithprobe", "probe", *model, *options], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"faithprobe probe on {problems} problems ended with {process.returncode}")
    return usage.ru_maxrss / (1 if sys.platform == "linux" else 1024) / 1024, time.perf_counter() - begin
