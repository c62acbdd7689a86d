"""`python -m benchmarks [NAME...]`: runs each `benchmarks/bench_NAME.py` and writes `artifacts/bench/NAME.json`.

A benchmark is a module with `run() -> dict`, made by `paired(...).result(...)`: at least `ratio`, `ours_s`, `peer_s`
and `n`. Name, command, machine and versions are added here.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path

from benchmarks.harness import machine, versions

_HERE = Path(__file__).parent
_OUT = _HERE.parent / "artifacts" / "bench"
_REQUIRED = ("ratio", "ours_s", "peer_s", "n")


def names() -> list[str]:
    """Every benchmark there is."""
    return sorted(path.stem.removeprefix("bench_") for path in _HERE.glob("bench_*.py"))


def run(name: str, out: Path = _OUT) -> dict[str, object]:
    """Runs one benchmark and writes its file."""
    found = dict(import_module(f"benchmarks.bench_{name}").run())
    missing = [key for key in _REQUIRED if key not in found]
    if missing:
        raise KeyError(f"benchmarks/bench_{name}.py: run() must return {', '.join(_REQUIRED)}; it lacks {missing}")
    result = {
        "name": name,
        **found,
        "command": f"make bench BENCH={name}",
        "machine": machine(),
        "versions": versions(),
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.replace(path)
    return result


def main(asked: list[str]) -> int:
    known = names()
    unknown = [name for name in asked if name not in known]
    if unknown:
        print(f"no benchmark is called {unknown[0]!r}; there are: {', '.join(known) or 'none yet'}", file=sys.stderr)
        return 2
    import torch

    # The environment's number of threads, so that a ratio can be repeated.
    print(f"{machine()}; torch uses {torch.get_num_threads()} threads")
    for name in asked or known:
        begin = time.perf_counter()
        result = run(name)
        spread = f"{result['ratio_min']:.2f} to {result['ratio_max']:.2f}" if "ratio_min" in result else "one pair"
        print(
            f"{name:18} {result.get('over', 'peer/ours')} = {result['ratio']:.2f} ({spread}, n={result['n']}); "
            f"ours {result['ours_s']:.3f} s, peer {result['peer_s']:.3f} s; took {time.perf_counter() - begin:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
