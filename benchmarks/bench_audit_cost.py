"""`audit_cost`: what a whole audit of three-step arithmetic chains takes on SmolLM2, by stage, and how it grows.

Audits of 25, 100 and 400 chains, each from nothing, with everything that `faithprobe audit` measures by default.
`ratio` is seconds per chain of the largest audit over seconds per chain of the smallest, without reading the probe
problems, whose number does not follow the chains: at most 1 means that the cost grows at most linearly.

All three take over two hours on two cores, alone on the machine. A run that was cut goes on where it was: an audit
keeps its finished parts and what they took in `runs/bench/`, and one that is done is not made again. The file that is
written says which sizes it holds. `total` is the sum of the stages.

    python -m benchmarks.bench_audit_cost 25 100    # these sizes only
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import versions
from faithprobe import audit, load_model
from faithprobe.files import write_text
from faithprobe.tasks.arithmetic import Arithmetic

SIZES = (25, 100, 400)
PROBE_PROBLEMS, REPLACEMENTS, LAYERS = 320, 3, (9, 19, 29)
FIXED = "reading probe problems"
DONE = Path("runs/bench")


def run(sizes: Sequence[int] = SIZES) -> dict[str, object]:
    found = {size: audit_seconds(size) for size in sorted(sizes)}
    growing = {size: (of["total"] - of[FIXED]) / size for size, of in found.items()}
    few, many = min(found), max(found)
    return {
        "ratio": growing[many] / growing[few],
        "over": "ours/peer",
        "ours_s": growing[many],
        "peer_s": growing[few],
        "n": 1,
        "chains": list(found),
        "seconds": {str(size): of for size, of in found.items()},
        "seconds_per_chain": {
            str(size): {stage: round(value / size, 3) for stage, value in of.items()} for size, of in found.items()
        },
        "seconds_per_chain_without_the_fixed_stage": {str(size): value for size, value in growing.items()},
        "probe_problems": PROBE_PROBLEMS,
        "replacements": REPLACEMENTS,
        "layers": list(LAYERS),
        "model": "smollm2",
    }


def audit_seconds(chains: int) -> dict[str, float]:
    """Of one audit, by stage and in all: as it was measured with these versions, or from a new one."""
    path = DONE / f"audit_cost-{chains}.json"
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["versions"] == versions():
            return kept["seconds"]
    work = DONE / f"audit_cost-{chains}"
    made = audit(
        load_model("smollm2"),
        Arithmetic(steps=3),
        problems=chains,
        probe_problems=PROBE_PROBLEMS,
        replacements=REPLACEMENTS,
        layers=LAYERS,
        out=work,
    )
    stages = made.info["seconds_by_stage"]
    taken = {**stages, "total": round(sum(stages.values()), 2)}
    print(f"{chains} chains: {taken}", flush=True)
    write_text(path, json.dumps({"seconds": taken, "versions": versions()}, indent=1) + "\n")
    shutil.rmtree(work)
    return taken


if __name__ == "__main__":
    for size in map(int, sys.argv[1:]) if sys.argv[1:] else SIZES:
        audit_seconds(size)
