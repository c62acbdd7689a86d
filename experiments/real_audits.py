"""The audits of real models that the README reports; results in `artifacts/audits/`.

SmolLM2 comes with the development environment. Qwen2.5-Coder-0.5B-Instruct is read from `models/qwen-coder`, a Hugging
Face folder or a link to one, and gsm8k from `data/gsm8k/train.jsonl`; what is not there is skipped, and said. An
interrupted run goes on where it was.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

OUT = Path("artifacts/audits")
QWEN, GSM8K = Path("models/qwen-coder"), Path("data/gsm8k/train.jsonl")
SMOLLM2_OPTIONS = ["--model", "smollm2", "--layers", "9,19,29", "--replacements", "3"]
QWEN_OPTIONS = ["--model", str(QWEN), "--dtype", "bfloat16", "--layers", "11,17,23", "--replacements", "3"]
ARITHMETIC = ["--task", "arithmetic", "--problems", "16", "--probe-problems", "320"]
WORDS = ["--task", "gsm8k", "-o", f"path={GSM8K}", "-o", "skip_bad=True", "--problems", "50", "--probe-problems", "0"]

AUDITS: dict[str, tuple[list[Path], list[str]]] = {
    "smollm2-arithmetic-2": ([], [*SMOLLM2_OPTIONS, *ARITHMETIC]),
    "qwen-arithmetic-2": ([QWEN], [*QWEN_OPTIONS, *ARITHMETIC, "-o", "shots=5"]),
    "qwen-arithmetic-3": ([QWEN], [*QWEN_OPTIONS, *ARITHMETIC, "-o", "shots=5", "-o", "steps=3"]),
    "qwen-gsm8k": ([QWEN, GSM8K], [*QWEN_OPTIONS, *WORDS]),
}


def main() -> None:
    wanted = sys.argv[1:] or list(AUDITS)
    for name in wanted:
        needs, options = AUDITS[name]
        missing = [str(path) for path in needs if not path.exists()]
        if missing:
            print(f"{name}: skipped, {' and '.join(missing)} not here")
            continue
        command = [sys.executable, "-m", "faithprobe.cli", "audit", *options, "--out", str(OUT / name)]
        subprocess.run(command, check=True)
        shutil.rmtree(OUT / name / "work")  # activations and parts: needed only to go on after an interruption


if __name__ == "__main__":
    main()
